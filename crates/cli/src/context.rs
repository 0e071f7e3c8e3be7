//! The user's configuration: which controllers there are and how to reach them.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use gantry_types::Problem;
use serde::{Deserialize, Serialize};

use crate::client::Client;

/// `~/.config/gantry/config.toml`, or the file that `GANTRY_CONFIG` names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contexts {
    /// The context used when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// How to reach one controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    pub url: String,
    /// The CA's certificate, PEM. Nothing else is trusted.
    pub ca: String,
    pub token: String,
}

fn path() -> Result<PathBuf, Problem> {
    if let Some(path) = std::env::var_os("GANTRY_CONFIG") {
        return Ok(path.into());
    }
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".config")));
    let base = base.ok_or_else(|| {
        Problem::invalid("no-config", "neither HOME nor GANTRY_CONFIG is set").remedy("set GANTRY_CONFIG to a file")
    })?;
    Ok(base.join("gantry/config.toml"))
}

fn failed(path: &Path, what: &str, error: &dyn std::fmt::Display) -> Problem {
    Problem::invalid("config-file", format!("the configuration {} {what}: {error}", path.display()))
        .remedy("repair or remove the file, or name another with GANTRY_CONFIG")
}

impl Contexts {
    pub fn load() -> Result<Self, Problem> {
        Self::load_from(&path()?)
    }

    /// From another file than the user's; one that does not exist is empty.
    pub fn load_from(path: &Path) -> Result<Self, Problem> {
        match fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map_err(|error| failed(path, "is not valid", &error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(failed(path, "can't be read", &error)),
        }
    }

    /// Replaces the file in one step, readable by its owner only: it holds tokens.
    pub fn save(&self) -> Result<(), Problem> {
        self.save_to(&path()?)
    }

    fn save_to(&self, path: &Path) -> Result<(), Problem> {
        let write = || -> std::io::Result<()> {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            create_owned(parent)?;
            // A new file of a name that nobody can foresee, mode 0600: a link planted in its place would be followed.
            let mut file = tempfile::NamedTempFile::new_in(parent)?;
            let text = toml::to_string(self).map_err(std::io::Error::other)?;
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            if rustix::process::geteuid().is_root() {
                let owner = fs::metadata(parent)?;
                std::os::unix::fs::fchown(file.as_file(), Some(owner.uid()), Some(owner.gid()))?;
            }
            file.persist(path)?;
            Ok(())
        };
        write().map_err(|error| failed(path, "can't be written", &error))
    }

    /// The context called `name`, or the current one.
    pub fn choose(&self, name: Option<&str>) -> Result<(&str, &Context), Problem> {
        let name = name.or(self.current.as_deref()).ok_or_else(|| {
            let names: Vec<_> = self.contexts.keys().map(String::as_str).collect();
            match names[..] {
                [] => Problem::invalid("no-context", "no controller is configured")
                    .remedy("start a lab with 'gantry lab up', or make a controller with 'gantry controller init'"),
                _ => Problem::invalid("no-context", "no context is chosen")
                    .remedy(format!("choose one: gantry context use NAME; there are: {}", names.join(", "))),
            }
        })?;
        let (name, context) = self
            .contexts
            .get_key_value(name)
            .ok_or_else(|| Problem::not_found("context", name).remedy("see which there are: gantry context list"))?;
        Ok((name, context))
    }

    pub fn client(&self, name: Option<&str>) -> Result<Client, Problem> {
        let (name, context) = self.choose(name)?;
        context.client(name)
    }

    /// The first one is the current one.
    ///
    /// # Errors
    /// A conflict if there is one of that name: its token may be stored nowhere else.
    pub fn add(&mut self, name: &str, context: Context) -> Result<(), Problem> {
        if self.contexts.contains_key(name) {
            return Err(Problem::conflict("already-exists", format!("context '{name}' exists already"))
                .remedy(format!("choose another name, or remove it first: gantry context delete {name}")));
        }
        self.contexts.insert(name.to_owned(), context);
        self.current.get_or_insert_with(|| name.to_owned());
        Ok(())
    }

    pub fn remove(&mut self, name: &str) -> Result<(), Problem> {
        self.choose(Some(name))?;
        self.contexts.remove(name);
        self.current.take_if(|current| current == name);
        Ok(())
    }
}

impl Context {
    /// Nothing is sent yet. `name` is for the problem.
    pub fn client(&self, name: &str) -> Result<Client, Problem> {
        Client::new(&self.url, &self.ca, &self.token).map_err(|error| {
            Problem::invalid("invalid-context", format!("context '{name}' can't be used: {error}"))
                .remedy("see it: gantry context show")
        })
    }
}

/// Under sudo with the user's HOME, what is made there is the user's and not root's.
fn create_owned(directory: &Path) -> std::io::Result<()> {
    if directory.as_os_str().is_empty() || directory.exists() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        create_owned(parent)?;
    }
    fs::create_dir(directory)?;
    let Some(parent) = directory.parent().filter(|parent| rustix::process::geteuid().is_root() && parent.exists())
    else {
        return Ok(());
    };
    let owner = fs::metadata(parent)?;
    std::os::unix::fs::lchown(directory, Some(owner.uid()), Some(owner.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_types::ErrorClass;
    use std::os::unix::fs::PermissionsExt;

    fn contexts() -> Contexts {
        let context = Context { url: "https://10.0.0.1:7443".into(), ca: "PEM\nPEM\n".into(), token: "gat1.x".into() };
        Contexts { current: Some("main".into()), contexts: [("main".to_owned(), context)].into() }
    }

    #[test]
    fn what_is_saved_is_loaded_and_only_its_owner_can_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/on/the/way/config.toml");
        assert_eq!(Contexts::load_from(&path).unwrap(), Contexts::default(), "no file is no contexts");
        contexts().save_to(&path).unwrap();
        contexts().save_to(&path).unwrap();
        assert_eq!(Contexts::load_from(&path).unwrap(), contexts());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "current = 3").unwrap();
        let damaged = Contexts::load_from(&path).unwrap_err();
        assert!(damaged.class == ErrorClass::Invalid && damaged.detail.contains("config.toml"), "{damaged}");
    }

    #[test]
    fn contexts_are_added_and_removed_and_none_is_overwritten() {
        let context = |url: &str| Context { url: url.into(), ca: String::new(), token: "t".into() };
        let mut contexts = Contexts::default();
        contexts.add("a", context("https://a")).unwrap();
        contexts.add("b", context("https://b")).unwrap();
        assert_eq!(contexts.current.as_deref(), Some("a"));
        assert_eq!(contexts.add("a", context("https://c")).unwrap_err().class, ErrorClass::Conflict);
        assert_eq!(contexts.contexts["a"].url, "https://a");
        contexts.remove("b").unwrap();
        assert_eq!(contexts.current.as_deref(), Some("a"));
        contexts.remove("a").unwrap();
        assert_eq!(contexts.current, None);
        assert_eq!(contexts.remove("a").unwrap_err().class, ErrorClass::NotFound);
    }

    #[test]
    fn the_named_context_wins_over_the_current_one() {
        let mut contexts = contexts();
        assert_eq!(contexts.choose(None).unwrap().0, "main");
        assert_eq!(contexts.choose(Some("other")).unwrap_err().class, ErrorClass::NotFound);
        contexts.current = None;
        assert_eq!(contexts.choose(Some("main")).unwrap().0, "main");
        let unchosen = contexts.choose(None).unwrap_err();
        assert_eq!(unchosen.code(), "no-context");
        assert!(unchosen.remedy.unwrap().contains("gantry context use NAME; there are: main"));
    }
}
