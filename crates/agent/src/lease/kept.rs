//! What a host must not forget of leases and fences: `lease.json` in the state directory.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use gantry_ha::{FenceLedger, Lease};
use gantry_types::{Fence, Members, Name};
use serde::{Deserialize, Serialize};

use crate::durable;

/// Of the datacenter that the host has joined.
pub(crate) const LEASE_FILE: &str = "lease.json";

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    pub members: Option<Members>,
    /// Against this host.
    pub fence: Option<Fence>,
    pub lifted: u64,
    /// Against others.
    pub records: Vec<Fence>,
    pub records_lifted: BTreeMap<Name, u64>,
}

impl Kept {
    /// # Errors
    /// Also if it can't be understood: without it this host could give a word that it must not give.
    pub(super) fn load(state_dir: &Path) -> io::Result<Self> {
        match durable::read(&state_dir.join(LEASE_FILE)) {
            Ok(text) => serde_json::from_slice(&text).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn of(lease: &Lease, ledger: &FenceLedger) -> Self {
        Self {
            members: lease.members().cloned(),
            fence: lease.fence().cloned(),
            lifted: lease.lifted(),
            records: ledger.recorded().cloned().collect(),
            records_lifted: ledger.lifted(),
        }
    }

    pub(super) fn save(&self, state_dir: &Path) -> io::Result<()> {
        durable::replace(&state_dir.join(LEASE_FILE), &serde_json::to_vec_pretty(self)?)
    }
}
