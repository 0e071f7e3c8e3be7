//! Which labs there are on this machine, and which index each has.
//!
//! A lab is a directory with a `lab.json`. The index is chosen under one lock for the whole machine, and claimed by
//! making the switch's namespace before the lock is given back: two `lab up` at once get different ones, also with
//! different base directories.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use gantry_types::Name;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::{
    layout::{INDEX_MAX, Layout},
    namespace,
};

const LOCK: &str = "/run/gantry-lab.lock";

/// What is written down about a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabRecord {
    pub name: Name,
    pub index: u8,
    pub hosts: u8,
    /// `lab down` leaves the directory.
    pub keep: bool,
    #[serde(skip)]
    pub directory: PathBuf,
}

fn base_directory() -> PathBuf {
    std::env::var_os("GANTRY_LAB_DIR").map_or_else(|| PathBuf::from("/var/lib/gantry/lab"), PathBuf::from)
}

impl LabRecord {
    pub fn save(&self) -> Result<()> {
        let path = self.directory.join("lab.json");
        let temporary = self.directory.join("lab.json.new");
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().with_context(|| format!("could not write {}", path.display()))
    }

    fn load(directory: &Path) -> Result<Self> {
        let path = directory.join("lab.json");
        let text = fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
        let mut record: Self =
            serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?;
        record.directory = directory.to_owned();
        if record.index > INDEX_MAX {
            bail!("{} is damaged: index {} is out of range", path.display(), record.index);
        }
        Ok(record)
    }
}

/// All labs of this machine, by name.
pub fn list() -> Result<Vec<LabRecord>> {
    let base = base_directory();
    if !base.exists() {
        return Ok(Vec::new());
    }
    let mut labs = Vec::new();
    for entry in fs::read_dir(&base).with_context(|| format!("could not list {}", base.display()))? {
        let directory = entry?.path();
        if directory.join("lab.json").exists() {
            labs.push(LabRecord::load(&directory)?);
        }
    }
    labs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(labs)
}

/// The lab called `name`, or the only one there is.
pub fn find(name: Option<&Name>) -> Result<LabRecord> {
    let mut labs = list()?;
    if let Some(name) = name {
        return labs
            .into_iter()
            .find(|lab| lab.name == *name)
            .with_context(|| format!("there is no lab '{name}' on this machine; see: gantry lab list"));
    }
    match labs.len() {
        0 => bail!("there is no lab on this machine; start one: gantry lab up"),
        1 => Ok(labs.remove(0)),
        _ => {
            let names: Vec<_> = labs.iter().map(|lab| lab.name.as_str()).collect();
            bail!("there are several labs; choose one with --name: {}", names.join(", "))
        }
    }
}

/// The lab called `name`: as it was, or new with a free index.
pub fn reserve(name: &Name, hosts: u8, keep: bool) -> Result<LabRecord> {
    let base = base_directory();
    fs::create_dir_all(&base).with_context(|| format!("could not make {} (are you root?)", base.display()))?;
    let lock_file = File::create(LOCK).with_context(|| format!("could not open {LOCK} (are you root?)"))?;
    let _lock = Flock::lock(lock_file, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("could not lock {LOCK}"))?;
    let labs = list()?;
    if let Some(mut lab) = labs.iter().find(|lab| lab.name == *name).cloned() {
        if hosts < lab.hosts {
            bail!("lab '{name}' has {} hosts and can't shrink to {hosts}; end it first: gantry lab down", lab.hosts);
        }
        (lab.hosts, lab.keep) = (hosts, keep || lab.keep);
        lab.save()?;
        return Ok(lab);
    }
    let index = (0..=INDEX_MAX)
        .find(|index| {
            let claimed = namespace::exists(&Layout::new(*index).switch_namespace());
            !claimed && labs.iter().all(|lab| lab.index != *index)
        })
        .with_context(|| format!("there are already {} labs on this machine", labs.len()))?;
    let directory = base.join(name.as_str());
    fs::create_dir_all(directory.join("logs")).with_context(|| format!("could not make {}", directory.display()))?;
    let lab = LabRecord { name: name.clone(), index, hosts, keep, directory };
    lab.save()?;
    namespace::create(&Layout::new(index).switch_namespace())?;
    Ok(lab)
}
