//! `controller.toml`: what an installation was told when it was made.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use gantry_types::{Name, Problem};
use serde::{Deserialize, Serialize};

/// Written by `gantry controller init`, read by `gantry controller run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub datacenter: Name,
    pub listen: SocketAddr,
    /// Addresses and DNS names in the controller's certificate, besides its name.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    #[serde(default)]
    pub dns_names: Vec<String>,
}

impl Settings {
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("controller.toml")
    }

    pub fn load(data_dir: &Path) -> Result<Self, Problem> {
        let path = Self::path(data_dir);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let remedy = format!("make a controller first: gantry controller init --data {}", data_dir.display());
            Problem::invalid("no-controller", format!("{} can't be read: {error}", path.display())).remedy(remedy)
        })?;
        toml::from_str(&text).map_err(|error| {
            Problem::invalid("invalid-settings", format!("{} is not valid: {error}", path.display()))
                .remedy("repair the file; its fields are datacenter, listen, addresses, dns_names")
        })
    }

    /// In one step: either the whole file is there or none.
    pub fn save(&self, data_dir: &Path) -> Result<(), Problem> {
        let path = Self::path(data_dir);
        let write = || -> std::io::Result<()> {
            let temporary = path.with_extension("toml.new");
            let text = toml::to_string(self).map_err(std::io::Error::other)?;
            std::fs::write(&temporary, text)?;
            std::fs::File::open(&temporary)?.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            std::fs::File::open(data_dir)?.sync_all()
        };
        write().map_err(|error| directory_problem(&path, &error))
    }
}

pub fn directory_problem(path: &Path, error: &std::io::Error) -> Problem {
    Problem::permanent("data-directory", format!("{} can't be written: {error}", path.display()))
        .remedy("check the data directory's owner, permissions and free space")
}
