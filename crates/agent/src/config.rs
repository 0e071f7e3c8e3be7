//! What the agent knows about itself: written when the host joins, read at every start.
//!
//! ```text
//! <state>/agent.toml        this
//! <state>/identity/         the host's key and certificate (agent API, controller)
//! <state>/qemu-identity/    the key and certificate of its QEMU processes' streams
//! <state>/networks.json     the data plane last applied
//! <state>/lease.json        its lease and the records against other hosts
//! <state>/warden.json       what the warden has stopped (and warden.sock, warden.lock, warden.log)
//! <state>/resources.json    how processors and memory are divided, as the controller said last
//! <state>/pool/             images and disks (gantry-storage)
//! <state>/vms/<uuid>/       record.json, qemu.log, console.log, seed.img, uefi-vars.fd, tls/, run/ (sockets)
//! <state>/verdicts/         one file for each migration this host decided about as its destination
//! <state>/inventory.json    what the probes found since the host booted
//! ```
//! Directories on the way to a VM's files are passable but not listable for the VM's unprivileged user.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gantry_types::Name;
use serde::{Deserialize, Serialize};

use crate::durable;

pub const DEFAULT_STATE_DIR: &str = "/var/lib/gantry/agent";
/// Unprivileged users of QEMU processes start here; system and login users end far below.
const FIRST_UID: u32 = 200_000;
pub(crate) const PASSABLE_MODE: u32 = 0o711;

/// The settings of a joined host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    pub name: Name,
    /// Where the agent's API listens; also what the controller and other hosts connect to.
    pub agent_address: SocketAddr,
    /// For VXLAN and migrations.
    pub underlay_address: IpAddr,
    /// `https://ADDRESS:PORT`
    pub controller_url: String,
    /// VM number n runs as the user `first_uid + n`.
    #[serde(default = "first_uid")]
    pub first_uid: u32,
    /// Where everything is; not in the file.
    #[serde(skip)]
    pub state_dir: PathBuf,
    /// How the warden is started, program and arguments; as `gantry agent warden` of this program if not given.
    #[serde(skip)]
    pub warden: Option<Vec<OsString>>,
}

fn first_uid() -> u32 {
    FIRST_UID
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "this host has not joined a datacenter ({} does not exist): run gantry host join URL TOKEN, \
         with a token from gantry token create HOST --role join",
        path.display()
    )]
    NotJoined { path: PathBuf },
    #[error("{} is not a valid agent configuration", path.display())]
    Invalid {
        path: PathBuf,
        #[source]
        source: toml::de::Error,
    },
    #[error("the agent's configuration cannot be written as TOML")]
    Encode(#[source] toml::ser::Error),
}

impl AgentConfig {
    /// Settings for a host that is about to join.
    pub fn new(
        name: Name,
        agent_address: SocketAddr,
        underlay_address: IpAddr,
        controller_url: String,
        state_dir: PathBuf,
    ) -> Self {
        Self { name, agent_address, underlay_address, controller_url, first_uid: FIRST_UID, state_dir, warden: None }
    }

    pub fn load(state_dir: &Path) -> Result<Self, ConfigError> {
        let path = state_dir.join("agent.toml");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ConfigError::NotJoined { path }),
            Err(source) => return Err(ConfigError::File { action: "read", path, source }),
        };
        let mut config: Self = toml::from_str(&text).map_err(|source| ConfigError::Invalid { path, source })?;
        config.state_dir = state_dir.to_owned();
        Ok(config)
    }

    pub fn save(&self) -> Result<(), ConfigError> {
        create_state_dir(&self.state_dir)?;
        let path = self.state_dir.join("agent.toml");
        let text = toml::to_string(self).map_err(ConfigError::Encode)?;
        durable::replace(&path, text.as_bytes()).map_err(|source| ConfigError::File { action: "write", path, source })
    }

    pub(crate) fn warden_program(&self) -> Vec<OsString> {
        self.warden.clone().unwrap_or_else(|| {
            // Also right when the file it was started from has been replaced.
            let program = ["/proc/self/exe", "agent", "warden", "--state"].map(OsString::from);
            program.into_iter().chain([self.state_dir.clone().into_os_string()]).collect()
        })
    }
    pub(crate) fn identity_dir(&self) -> PathBuf {
        self.state_dir.join("identity")
    }
    pub(crate) fn qemu_identity_dir(&self) -> PathBuf {
        self.state_dir.join("qemu-identity")
    }
    pub(crate) fn pool_dir(&self) -> PathBuf {
        self.state_dir.join("pool")
    }
}

/// The state directory, passable for the VMs' users.
pub(crate) fn create_state_dir(path: &Path) -> Result<(), ConfigError> {
    create_passable(path).map_err(|source| ConfigError::File { action: "create", path: path.to_owned(), source })
}

pub(crate) fn create_passable(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, Permissions::from_mode(PASSABLE_MODE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_a_host_that_has_not_joined_is_told_so() {
        let directory = tempfile::tempdir().unwrap();
        let error = AgentConfig::load(directory.path()).unwrap_err();
        assert!(matches!(error, ConfigError::NotJoined { .. }));
        assert!(error.to_string().contains("gantry host join URL TOKEN"), "{error}");
        let config = AgentConfig::new(
            "host-1".parse().unwrap(),
            "10.0.0.1:7443".parse().unwrap(),
            "10.0.0.1".parse().unwrap(),
            "https://10.0.0.9:7440".to_owned(),
            directory.path().to_owned(),
        );
        config.save().unwrap();
        assert_eq!(AgentConfig::load(directory.path()).unwrap(), config);
        fs::write(directory.path().join("agent.toml"), "name = \"host-1\"\nsurprise = 1").unwrap();
        assert!(matches!(AgentConfig::load(directory.path()), Err(ConfigError::Invalid { .. })));
    }
}
