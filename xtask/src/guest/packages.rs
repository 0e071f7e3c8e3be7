//! Which Debian packages the guest is made of, and getting them.
//!
//! Versions are whatever the machine's apt would install; `apt-get download` verifies the archives. When apt knows
//! nothing of a package the message says to run `apt-get update`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::process;

/// `guest/packages.toml`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    kernel_meta_package: String,
    /// Package name → why it is needed.
    packages: BTreeMap<String, String>,
    pub modules: Modules,
}

/// Kernel modules by when the guest loads them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Modules {
    pub early: Vec<String>,
    pub late: Vec<String>,
    pub demand: Vec<String>,
}

impl Recipe {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("cannot understand {}", path.display()))
    }
}

/// One package archive in the version that apt would take.
pub struct Archive {
    pub package: String,
    pub version: String,
    pub sha256: String,
}

/// Asks apt for the exact archives; touches no network.
pub fn resolve(recipe: &Recipe) -> Result<Vec<Archive>> {
    let meta = show(&[recipe.kernel_meta_package.as_str()])?;
    let kernel = meta
        .first()
        .and_then(|stanza| stanza.get("Depends"))
        .and_then(|depends| depends.split([',', ' ']).find(|word| word.starts_with("linux-image-")))
        .with_context(|| format!("package {} depends on no kernel", recipe.kernel_meta_package))?
        .to_owned();
    let names: Vec<&str> = recipe.packages.keys().map(String::as_str).chain([kernel.as_str()]).collect();
    let stanzas = show(&names)?;
    names
        .iter()
        .map(|name| {
            let stanza = stanzas
                .iter()
                .find(|stanza| stanza.get("Package").is_some_and(|package| package == name))
                .with_context(|| format!("apt has no archive of package {name}: run `apt-get update`"))?;
            let field =
                |key: &str| stanza.get(key).cloned().with_context(|| format!("apt names no {key} of package {name}"));
            Ok(Archive { package: (*name).to_owned(), version: field("Version")?, sha256: field("SHA256")? })
        })
        .collect()
}

fn show(names: &[&str]) -> Result<Vec<BTreeMap<String, String>>> {
    let text = process::output(process::command("apt-cache").args(["show", "--no-all-versions"]).args(names))
        .context("apt does not know a package of the guest: run `apt-get update` first")?;
    Ok(stanzas(&text))
}

/// Splits apt's paragraphs into fields; continuation lines are dropped, nothing here needs them.
fn stanzas(text: &str) -> Vec<BTreeMap<String, String>> {
    text.split("\n\n")
        .map(|paragraph| {
            paragraph
                .lines()
                .filter(|line| !line.starts_with(' '))
                .filter_map(|line| line.split_once(": "))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect()
        })
        .filter(|stanza: &BTreeMap<String, String>| !stanza.is_empty())
        .collect()
}

/// Downloads what is not in `debs` yet and unpacks everything into an empty `unpacked`.
pub fn fetch_and_unpack(archives: &[Archive], debs: &Path, unpacked: &Path) -> Result<()> {
    fs::create_dir_all(debs).with_context(|| format!("cannot create {}", debs.display()))?;
    let missing: Vec<String> = archives
        .iter()
        .filter(|archive| file_of(debs, archive).is_none())
        .map(|archive| format!("{}={}", archive.package, archive.version))
        .collect();
    if !missing.is_empty() {
        process::output(
            process::command("apt-get")
                .args(["download", "-qq"])
                // apt's own download user may not write below a private checkout.
                .args(["-o", "APT::Sandbox::User=root"])
                .args(&missing)
                .current_dir(debs),
        )
        .context("cannot download the guest's packages: run `apt-get update` and try again")?;
    }
    if unpacked.exists() {
        fs::remove_dir_all(unpacked).with_context(|| format!("cannot clear {}", unpacked.display()))?;
    }
    for archive in archives {
        let Some(file) = file_of(debs, archive) else {
            bail!("apt downloaded no archive of {} {}", archive.package, archive.version);
        };
        process::output(process::command("dpkg-deb").arg("-x").arg(&file).arg(unpacked))?;
    }
    Ok(())
}

/// apt writes an epoch's colon as `%3a` in file names.
fn file_of(debs: &Path, archive: &Archive) -> Option<PathBuf> {
    let start = format!("{}_{}_", archive.package, archive.version.replace(':', "%3a"));
    fs::read_dir(debs)
        .ok()?
        .flatten()
        .find(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.starts_with(&start) && name.ends_with(".deb")
        })
        .map(|entry| entry.path())
}

/// The unpacked kernel image.
pub fn kernel_image(unpacked: &Path) -> Result<PathBuf> {
    let boot = unpacked.join("boot");
    fs::read_dir(&boot)
        .with_context(|| format!("cannot list {}", boot.display()))?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("vmlinuz-"))
        .map(|entry| entry.path())
        .with_context(|| format!("no kernel in {}", boot.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_split_at_blank_lines_and_skip_continuations() {
        let text = "Package: a\nVersion: 1:2\nDescription: short\n long: text\n\nPackage: b\n\n";
        let parsed = stanzas(text);
        assert_eq!(parsed.len(), 2);
        assert_eq!(parsed[0]["Version"], "1:2");
        assert!(!parsed[0].contains_key(" long"));
        assert_eq!(parsed[1]["Package"], "b");
    }

    #[test]
    fn an_archive_is_found_under_apts_spelling_of_its_epoch() {
        let debs = tempfile::tempdir().unwrap();
        let archive = Archive { package: "busybox".into(), version: "1:2-3".into(), sha256: String::new() };
        fs::write(debs.path().join("busybox_2-3_amd64.deb"), "").unwrap();
        assert!(file_of(debs.path(), &archive).is_none());
        fs::write(debs.path().join("busybox_1%3a2-3_amd64.deb"), "").unwrap();
        assert!(file_of(debs.path(), &archive).is_some());
    }
}
