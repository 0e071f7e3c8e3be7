//! A start in its parts, for whoever simulates what lies between them; and guests that end.

use gantry_api::agent::VmObservation;
use gantry_types::{Name, Problem};
use uuid::Uuid;

use super::{
    FakeWorld, State,
    guest::Guest,
    host::{handed_over, stale},
    mirror::expect_alone,
};

impl FakeWorld {
    /// From here on no disk in a pool is locked by the QEMU that has it open: whoever adopts it takes it away, as an NFS
    /// server lets him.
    pub fn unlock_disks(&self) {
        self.lock().unlocked = true;
    }

    /// From here on nobody looks whose a disk in a pool is.
    pub fn forget_disk_leases(&self) {
        self.lock().hosts.values_mut().for_each(|host| host.unleased = true);
    }

    /// A start up to where its process would be made: the disk is this VM's, at this epoch.
    ///
    /// # Errors
    /// As of a start.
    pub fn prepare_start(&self, host: &Name, vm: Uuid, epoch: Option<u64>) -> Result<VmObservation, Problem> {
        let mut state = self.lock();
        let host = state.host(host)?;
        let known = host.vm(vm)?;
        let epoch = epoch.unwrap_or(known.assignment.epoch);
        stale(known, epoch)?;
        handed_over(known)?;
        if known.arrived.is_some() {
            return Err(Problem::conflict("vm-arrived", "it is not said to be this host's VM yet"));
        }
        if matches!(known.guest, Guest::Off { .. }) {
            expect_alone(known)?;
            // What this QEMU has noted goes with it.
            known.pairing.shown.since = None;
        }
        known.assignment.epoch = epoch;
        let (assignment, observation) = (known.assignment.clone(), known.observe());
        host.claim_disk(&assignment)?;
        Ok(observation)
    }

    /// The guest executes from here on, whatever anybody thinks of that.
    pub fn guest_starts(&self, host: &Name, vm: Uuid) {
        let mut state = self.lock();
        state.change_guest(host, vm, Guest::Running);
        state.check();
    }

    /// The guest executes no more.
    pub fn guest_ends(&self, host: &Name, vm: Uuid, why: &str) {
        self.lock().change_guest(host, vm, Guest::Off { failed: true, reason: Some(why.to_owned()) });
    }
}

impl State {
    fn change_guest(&mut self, host: &Name, vm: Uuid, guest: Guest) {
        let known = self.hosts.get_mut(host).and_then(|host| host.vms.get_mut(&vm));
        if let Some(known) = known {
            known.guest = guest;
        }
    }
}
