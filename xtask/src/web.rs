//! `cargo xtask web`: the web UI, from `web/` into `web/dist`.
//!
//! Owns when npm is called: packages are installed as `package-lock.json` has them, and nothing is built that is newer
//! than all it is made of. The build itself is `web/package.json`'s.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::process;
use crate::setup;
use crate::workspace;

/// What `web/dist` is made of, besides `docs/openapi.json`.
const SOURCES: [&str; 8] = [
    "index.html",
    "package-lock.json",
    "package.json",
    "public",
    "scripts",
    "src",
    "svelte.config.js",
    "vite.config.ts",
];

/// `cargo xtask web`
pub fn run() -> Result<()> {
    setup::install_packages()?;
    install()?;
    npm(&["run", "check"])?;
    npm(&["run", "build"])
}

/// Only the build, and only if something has changed since the last one.
pub fn build() -> Result<()> {
    if is_built()? {
        return Ok(());
    }
    install()?;
    npm(&["run", "build"])
}

/// The stage of `cargo xtask test`: types, build, component tests.
pub fn test() -> Result<()> {
    install()?;
    npm(&["run", "check"])?;
    npm(&["run", "build"])?;
    npm(&["run", "test"])
}

fn directory() -> PathBuf {
    workspace::root().join("web")
}

/// npm notes in `node_modules` what it has installed; it is as new as the last complete installation.
fn install() -> Result<()> {
    let installed = modified(&directory().join("node_modules/.package-lock.json"));
    if installed.is_some() && installed >= modified(&directory().join("package-lock.json")) {
        return Ok(());
    }
    npm(&["ci"]).context("cannot install the web UI's packages")
}

fn npm(arguments: &[&str]) -> Result<()> {
    process::run(npm_command().args(arguments))
}

fn npm_command() -> Command {
    let mut command = process::command("npm");
    command.current_dir(directory());
    command
}

fn is_built() -> Result<bool> {
    let Some(built) = modified(&directory().join("dist/index.html")) else { return Ok(false) };
    let sources = SOURCES.iter().map(|name| directory().join(name));
    for source in sources.chain([workspace::root().join("docs/openapi.json")]) {
        if newest(&source)? > built {
            return Ok(false);
        }
    }
    Ok(true)
}

/// When anything at or below the path was last changed.
fn newest(path: &Path) -> Result<SystemTime> {
    let metadata = fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    let mut newest_yet = metadata.modified()?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
            newest_yet = newest_yet.max(newest(&entry?.path())?);
        }
    }
    Ok(newest_yet)
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_change_deep_in_a_folder_is_the_folders_newest() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        let file = fs::File::create(deep.join("c.ts")).unwrap();
        let later = SystemTime::now() + Duration::from_secs(60);
        file.set_modified(later).unwrap();
        assert_eq!(newest(root.path()).unwrap(), later);
    }

    #[test]
    fn what_is_not_there_was_never_modified() {
        assert_eq!(modified(Path::new("/nowhere/at/all")), None);
        assert!(newest(Path::new("/nowhere/at/all")).is_err());
    }
}
