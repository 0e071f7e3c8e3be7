//! The user's configuration: which controllers there are and how to reach them.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
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
            if let Some(parent) = path.parent() {
                create_owned(parent)?;
            }
            let temporary = path.with_extension("toml.new");
            let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            let text = toml::to_string(self).map_err(std::io::Error::other)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            belong_to_parents_owner(&temporary)?;
            fs::rename(&temporary, path)
        };
        write().map_err(|error| failed(path, "can't be written", &error))
    }

    /// The context called `name`, or the current one.
    pub fn choose(&self, name: Option<&str>) -> Result<(&str, &Context), Problem> {
        let name = name.or(self.current.as_deref()).ok_or_else(|| {
            Problem::invalid("no-context", "no controller is configured")
                .remedy("start a lab with 'gantry lab up', or make a controller with 'gantry controller init'")
        })?;
        let (name, context) = self
            .contexts
            .get_key_value(name)
            .ok_or_else(|| Problem::not_found("context", name).remedy("see which there are: gantry context list"))?;
        Ok((name, context))
    }

    pub fn client(&self, name: Option<&str>) -> Result<Client, Problem> {
        let (name, context) = self.choose(name)?;
        Client::new(&context.url, &context.ca, &context.token).map_err(|error| {
            Problem::invalid("invalid-context", format!("context '{name}' can't be used: {error}"))
                .remedy("see it: gantry context show")
        })
    }
}
/// Under sudo with the user's HOME, what is made there is the user's and not root's.
fn belong_to_parents_owner(path: &Path) -> std::io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    let owner = fs::metadata(parent)?;
    std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid()))
}

fn create_owned(directory: &Path) -> std::io::Result<()> {
    if directory.as_os_str().is_empty() || directory.exists() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        create_owned(parent)?;
    }
    fs::create_dir(directory)?;
    belong_to_parents_owner(directory)
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
    fn the_named_context_wins_over_the_current_one() {
        let mut contexts = contexts();
        assert_eq!(contexts.choose(None).unwrap().0, "main");
        assert_eq!(contexts.choose(Some("other")).unwrap_err().class, ErrorClass::NotFound);
        contexts.current = None;
        assert_eq!(contexts.choose(Some("main")).unwrap().0, "main");
        assert_eq!(contexts.choose(None).unwrap_err().code(), "no-context");
    }
}
