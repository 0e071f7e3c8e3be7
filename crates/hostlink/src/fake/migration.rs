//! Moves between fake hosts.
//!
//! ```text
//!  source: sending --rounds over, destination there--> committing --verdict--> moved | failed
//!                                                        committed, post-copy --rounds over--> moved
//! ```

use gantry_api::agent::{MigrationEndpoint, MigrationState, ReceiveMigration, Verdict};
use gantry_types::{Name, Problem};
use uuid::Uuid;

use super::{
    HostState, State,
    faults::When,
    guest::{FakeDisk, FakeVm, Guest},
};

impl HostState {
    /// The destination's one decision: whoever asks first makes it.
    pub(super) fn decide(&mut self, vm: Uuid, migration: Uuid, wanted: Verdict) -> Verdict {
        if let Some(verdict) = self.verdicts.get(&migration) {
            return *verdict;
        }
        let receiving = self.vms.get_mut(&vm).filter(|vm| is_receiving(vm, migration));
        let verdict = match (receiving, wanted) {
            (Some(vm), Verdict::Committed) => {
                if let Some(migration) = &mut vm.migration {
                    migration.state = MigrationState::Committed;
                    vm.guest = if migration.paused { Guest::Paused } else { Guest::Running };
                }
                let assignment = vm.assignment.clone();
                // A disk in a pool comes along; nobody else can have claimed it, because its source had it until now.
                let claimed = self.claim_disk(&assignment);
                debug_assert!(claimed.is_ok(), "{claimed:?}");
                Verdict::Committed
            }
            (Some(_), Verdict::Aborted) => {
                self.vms.remove(&vm);
                Verdict::Aborted
            }
            // Nothing that arrives late can commit it any more.
            (None, _) => Verdict::Aborted,
        };
        self.verdicts.insert(migration, verdict);
        verdict
    }
}

pub(super) fn is_receiving(vm: &FakeVm, id: Uuid) -> bool {
    vm.migration.as_ref().is_some_and(|migration| migration.id == id && migration.state == MigrationState::Receiving)
}

impl State {
    pub(super) fn receive(
        &mut self,
        name: &Name,
        vm: Uuid,
        request: &ReceiveMigration,
    ) -> Result<MigrationEndpoint, Problem> {
        let disk = self.disk_in_pool(&request.assignment).filter(|_| !request.assignment.disk.travels());
        let host = self.host(name)?;
        let endpoint = host.receive(name, vm, request)?;
        if let (Some(disk), Some(vm)) = (disk, host.vms.get_mut(&vm)) {
            vm.disk = disk;
            vm.points.clone_from(&request.recovery_points);
        }
        Ok(endpoint)
    }

    /// One step for every migration; whether anything changed.
    pub(super) fn advance_all(&mut self) -> bool {
        let sources: Vec<(Name, Uuid)> =
            self.hosts.iter().flat_map(|(name, host)| host.vms.keys().map(|vm| (name.clone(), *vm))).collect();
        let mut changed = false;
        for (host, vm) in sources {
            changed |= self.advance(&host, vm);
        }
        changed
    }

    /// One step for the migration that this host sends; whether anything changed.
    pub(super) fn advance(&mut self, source: &Name, vm: Uuid) -> bool {
        let Some(host) = self.hosts.get(source) else { return false };
        let source_cut = host.cut;
        let Some(migration) = host.vms.get(&vm).and_then(|vm| vm.migration.clone()) else { return false };
        let Some(request) = migration.request else { return false };
        let reachable = !source_cut && self.hosts.get(&request.destination).is_some_and(|host| !host.cut);
        match migration.state {
            MigrationState::Sending => {
                let there = reachable
                    && self
                        .hosts
                        .get(&request.destination)
                        .and_then(|host| host.vms.get(&vm))
                        .is_some_and(|vm| is_receiving(vm, migration.id));
                self.send_on(source, vm, there);
                self.carry_disk(source, &request.destination, vm);
                true
            }
            MigrationState::Committing if reachable => {
                let Some(verdict) = self.ask_commit(&request.destination, vm, migration.id) else { return false };
                self.conclude(source, vm, verdict);
                true
            }
            _ => false,
        }
    }

    fn send_on(&mut self, source: &Name, vm: Uuid, destination_there: bool) {
        let Some(vm) = self.hosts.get_mut(source).and_then(|host| host.vms.get_mut(&vm)) else { return };
        let Some(migration) = &mut vm.migration else { return };
        if !destination_there {
            // QEMU's own behaviour: the guest goes on here.
            migration.state = MigrationState::Failed;
            migration.error = Some(Problem::transient("stream-lost", "the destination does not answer"));
        } else if migration.rounds_left > 0 {
            migration.rounds_left -= 1;
        } else {
            migration.state = MigrationState::Committing;
            vm.guest = Guest::HandedOver;
        }
    }

    /// What the guest has written until it was handed over is there.
    fn carry_disk(&mut self, source: &Name, destination: &Name, vm: Uuid) {
        let Some(left) = self.hosts.get(source).and_then(|host| host.vms.get(&vm)) else { return };
        if left.guest == Guest::HandedOver {
            self.bring_disk(source, destination, vm);
        }
    }

    pub(super) fn bring_disk(&mut self, source: &Name, destination: &Name, vm: Uuid) {
        let Some(left) = self.hosts.get(source).and_then(|host| host.vms.get(&vm)) else { return };
        let travels = left.assignment.disk.travels();
        let snapshots = if travels { Default::default() } else { left.disk.snapshots.clone() };
        let disk = FakeDisk { content: left.disk.content, snapshots };
        if let Some(arriving) = self.hosts.get_mut(destination).and_then(|host| host.vms.get_mut(&vm)) {
            arriving.disk = disk;
        }
    }

    /// The source's call to the destination; `None` if the answer did not come.
    fn ask_commit(&mut self, destination: &Name, vm: Uuid, migration: Uuid) -> Option<Verdict> {
        let fault = self.faults.arrive(destination, "commit_migration").map(|(when, _)| when);
        if fault == Some(When::Before) {
            return None;
        }
        let verdict = self.hosts.get_mut(destination)?.decide(vm, migration, Verdict::Committed);
        self.check();
        (fault != Some(When::After)).then_some(verdict)
    }

    fn conclude(&mut self, source: &Name, vm: Uuid, verdict: Verdict) {
        let Some(vm) = self.hosts.get_mut(source).and_then(|host| host.vms.get_mut(&vm)) else { return };
        let Some(migration) = &mut vm.migration else { return };
        match verdict {
            // The destination still fetches memory from here.
            Verdict::Committed if migration.post_copy_rounds_left > 0 => migration.post_copy_rounds_left -= 1,
            Verdict::Committed => migration.state = MigrationState::Moved,
            Verdict::Aborted => {
                migration.state = MigrationState::Failed;
                migration.error = Some(Problem::transient("migration-aborted", "the destination gave it up"));
                vm.guest = if migration.paused { Guest::Paused } else { Guest::Running };
            }
        }
        self.check();
    }

    /// Destinations notice that their source is gone.
    pub(super) fn streams_lost(&mut self) {
        let sending: Vec<Uuid> = self
            .hosts
            .values()
            .filter(|host| !host.cut)
            .flat_map(|host| host.vms.values())
            .filter_map(|vm| vm.migration.as_ref())
            .filter(|migration| matches!(migration.state, MigrationState::Sending | MigrationState::Committing))
            .map(|migration| migration.id)
            .collect();
        for host in self.hosts.values_mut() {
            let orphans: Vec<(Uuid, Uuid)> = host
                .vms
                .iter()
                .filter_map(|(vm, state)| state.migration.as_ref().map(|migration| (*vm, migration)))
                .filter(|(_, migration)| migration.state == MigrationState::Receiving && migration.rounds_left == 0)
                .filter(|(_, migration)| !sending.contains(&migration.id))
                .map(|(vm, migration)| (vm, migration.id))
                .collect();
            for (vm, migration) in orphans {
                host.decide(vm, migration, Verdict::Aborted);
            }
        }
    }
}
