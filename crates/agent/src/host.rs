//! What all VM tasks of a host share.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use gantry_storage::{Claim, DirPool};
use gantry_trust::LiveIdentity;
use gantry_types::Problem;

use crate::config::AgentConfig;
use crate::copies::CopyServers;
use crate::counting::Counted;
use crate::health::Health;
use crate::inventory::QemuHost;
use crate::lease::LeaseKeeper;
use crate::links::Links;
use crate::losses::Losses;
use crate::migration::Verdicts;
use crate::networks::Networks;
use crate::pools::Pools;
use crate::records::Records;
use crate::resources::Resources;
use crate::services::ServicesNamespaces;

/// More VMs than a host can hold.
const UID_RANGE: u32 = 60_000;

pub(crate) struct Host {
    pub config: AgentConfig,
    pub identity: LiveIdentity,
    pub qemu_identity: LiveIdentity,
    pub records: Records,
    pub verdicts: Verdicts,
    pub pool: DirPool,
    pub pools: Pools,
    pub copies: CopyServers,
    pub networks: Networks,
    pub resources: Arc<Resources>,
    pub lease: Arc<LeaseKeeper>,
    pub services: ServicesNamespaces,
    pub health: Health,
    pub counted: Counted,
    pub links: Links,
    pub losses: Losses,
    pub qemu: QemuHost,
    pub uids: Uids,
}

impl Host {
    /// What this host says to whom a disk is: its own for a VM at this epoch.
    pub fn claim(&self, epoch: u64) -> Claim {
        Claim { host: self.config.name.clone(), epoch }
    }

    /// For work on a pool that is about no VM's disk: it gets none.
    pub fn no_claim(&self) -> Claim {
        self.claim(0)
    }
}

/// The unprivileged users of this host's VMs.
pub(crate) struct Uids {
    first: u32,
    taken: Mutex<BTreeSet<u32>>,
}

impl Uids {
    pub fn new(first: u32, taken: BTreeSet<u32>) -> Self {
        Self { first, taken: Mutex::new(taken) }
    }

    /// The lowest free one. It is given back by [`Self::release`].
    pub fn take(&self) -> Result<u32, Problem> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let free = (self.first..self.first.saturating_add(UID_RANGE)).find(|uid| !taken.contains(uid));
        let uid = free.ok_or_else(|| {
            Problem::conflict("host-full", format!("all {UID_RANGE} user ids for VMs of this host are taken"))
                .remedy("use another host, or remove VMs from this one")
        })?;
        taken.insert(uid);
        Ok(uid)
    }

    /// Takes the one a VM has already.
    pub fn claim(&self, uid: u32) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(uid);
    }

    pub fn release(&self, uid: u32) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_vms_get_one_user() {
        let uids = Uids::new(200_000, [200_000, 200_002].into());
        assert_eq!(uids.take().unwrap(), 200_001);
        assert_eq!(uids.take().unwrap(), 200_003);
        uids.release(200_002);
        assert_eq!(uids.take().unwrap(), 200_002);
    }
}
