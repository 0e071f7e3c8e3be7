//! A start and a move in their parts, for whoever simulates what lies between them; and guests that end.

use gantry_api::agent::{MigrationEndpoint, MigrationState, ReceiveMigration, SendMigration, VmObservation};
use gantry_types::{Name, Problem};
use uuid::Uuid;

use super::{
    FakeWorld, State,
    guest::{FakeVm, Guest},
    host::{handed_over, stale},
    migration::is_receiving,
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

    /// The guest stands still, in a QEMU that goes on.
    pub fn guest_halts(&self, host: &Name, vm: Uuid) {
        self.lock().change_guest(host, vm, Guest::Paused);
    }

    /// The guest executes no more. One that is on its way here, or was handed over, did not anyway.
    pub fn guest_ends(&self, host: &Name, vm: Uuid, why: &str) {
        let mut state = self.lock();
        let known = state.hosts.get(host).and_then(|host| host.vms.get(&vm));
        if known.is_some_and(|known| matches!(known.guest, Guest::Running | Guest::Paused)) {
            state.change_guest(host, vm, Guest::Off { failed: true, reason: Some(why.to_owned()) });
        }
    }

    /// The VM is to come here by a move.
    ///
    /// # Errors
    /// As of the call for it.
    pub fn guest_comes(&self, host: &Name, vm: Uuid, request: &ReceiveMigration) -> Result<MigrationEndpoint, Problem> {
        self.lock().receive(host, vm, request)
    }

    /// The VM is to leave by a move.
    ///
    /// # Errors
    /// As of the call for it.
    pub fn guest_goes(&self, host: &Name, vm: Uuid, request: &SendMigration) -> Result<(), Problem> {
        self.lock().host(host)?.send(host, vm, request)
    }

    /// What a host has on record of a VM's move from here on; and whether it has a QEMU of it.
    pub fn note_move(&self, host: &Name, vm: Uuid, state: MigrationState, has_qemu: bool) {
        let mut world = self.lock();
        let Some(known) = world.hosts.get_mut(host).and_then(|host| host.vms.get_mut(&vm)) else { return };
        if let Some(migration) = &mut known.migration {
            migration.state = state;
        }
        let was_away = matches!(known.guest, Guest::HandedOver | Guest::Incoming);
        match state {
            MigrationState::Committing | MigrationState::Moved => known.guest = Guest::HandedOver,
            _ if was_away && has_qemu => known.guest = Guest::Paused,
            _ if was_away => known.guest = Guest::Off { failed: true, reason: Some("its QEMU ended".to_owned()) },
            _ => {}
        }
    }

    /// All that the guest has written is where this move takes it. Whether it is awaited there.
    pub fn disk_arrives(&self, from: &Name, to: &Name, vm: Uuid, migration: Uuid) -> bool {
        let mut state = self.lock();
        let is_awaited = |known: &FakeVm| is_receiving(known, migration);
        let awaited = state.hosts.get(to).and_then(|host| host.vms.get(&vm)).is_some_and(is_awaited);
        if awaited {
            state.bring_disk(from, to, vm);
        }
        awaited
    }

    /// The VM's disk in a pool is this host's, at the VM's epoch.
    ///
    /// # Errors
    /// `disk-elsewhere`, and of its pool.
    pub fn claim_disk(&self, host: &Name, vm: Uuid) -> Result<(), Problem> {
        let mut state = self.lock();
        let host = state.host(host)?;
        let assignment = host.vm(vm)?.assignment.clone();
        host.claim_disk(&assignment)
    }

    /// Nothing of a VM that was on its way, or has left, is here any more; a disk that both hosts reach is the other's.
    pub fn guest_leaves(&self, host: &Name, vm: Uuid) {
        self.with(host, |host| match host.vms.get(&vm).map(|known| &known.guest) {
            Some(Guest::Incoming) => drop(host.vms.remove(&vm)),
            _ => host.forget(vm, u64::MAX),
        });
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
