//! VMs' disks in pools of fake hosts, and whose they are.
//!
//! The lease of a disk is the epoch of the VM that has it: whoever comes with a lower one has lost it.

use gantry_api::agent::{AdoptVm, Assignment, VmObservation};
use gantry_types::{Name, Problem};
use uuid::Uuid;

use super::{
    HostState, State,
    guest::{FakeDisk, FakeVm, Guest},
    host::{handed_over, stale},
};

fn elsewhere(assignment: &Assignment, lease: u64) -> Problem {
    let detail = format!("the disk of VM '{}' was given away at epoch {lease}", assignment.name);
    Problem::conflict("disk-elsewhere", detail)
}

impl HostState {
    /// The lease of a disk that is in a pool becomes the assignment's; nothing for a disk of the host's own.
    pub(super) fn claim_disk(&mut self, assignment: &Assignment) -> Result<(), Problem> {
        self.expect_volumes(&assignment.volumes)?;
        let Some(pool) = &assignment.disk.pool else { return Ok(()) };
        let unleased = self.unleased;
        let mut content = self.pool(pool)?.content();
        let lease = content.disks.entry(assignment.uuid).or_insert(assignment.epoch);
        if *lease > assignment.epoch && !unleased {
            return Err(elsewhere(assignment, *lease));
        }
        *lease = assignment.epoch;
        Ok(())
    }

    /// A disk in a pool that the VM is to come to is there.
    pub(super) fn expect_disk(&mut self, assignment: &Assignment) -> Result<(), Problem> {
        let Some(pool) = assignment.disk.pool.as_ref().filter(|_| !assignment.disk.travels()) else { return Ok(()) };
        let there = self.pool(pool)?.content().disks.contains_key(&assignment.uuid);
        let missing = || Problem::permanent("disk-missing", format!("the disk of VM '{}' is gone", assignment.name));
        if there { Ok(()) } else { Err(missing()) }
    }

    /// The VM is no longer this host's; its disk goes too, unless it was given to another, or is to be.
    pub(super) fn forget(&mut self, vm: Uuid, epoch: u64) {
        let Some(gone) = self.vms.remove(&vm) else { return };
        // One that it keeps for another host stays: the VM may only have been about to come.
        if self.taken_copy(vm).is_some() {
            self.copies.remove(&vm);
        }
        let Some(pool) = gone.assignment.disk.pool.as_ref().and_then(|pool| self.pools.get_mut(&pool.uuid)) else {
            return;
        };
        let mut content = pool.content();
        let is_its_own = content.disks.get(&vm) == Some(&gone.assignment.epoch) && epoch <= gone.assignment.epoch;
        if is_its_own || gone.assignment.disk.travels() {
            content.disks.remove(&vm);
        }
    }
}

impl HostState {
    /// What is on a disk in a mirrored pool, as this host has it.
    fn disk_here(&self, disk: Uuid) -> FakeDisk {
        let taken = self.taken_copy(disk).filter(|_| !self.vms.contains_key(&disk));
        taken.or_else(|| self.vms.get(&disk).map(|vm| vm.disk.clone())).unwrap_or_default()
    }
}

impl State {
    /// What is on a disk in a pool, as the host that had it last knows it.
    pub(super) fn disk_in_pool(&self, assignment: &Assignment) -> Option<FakeDisk> {
        assignment.disk.pool.as_ref()?;
        let had = self.hosts.values().filter_map(|host| host.vms.get(&assignment.uuid));
        had.max_by_key(|vm| vm.assignment.epoch).map(|vm| vm.disk.clone())
    }

    pub(super) fn adopt(&mut self, name: &Name, uuid: Uuid, request: &AdoptVm) -> Result<VmObservation, Problem> {
        let assignment = &request.assignment;
        let mirrored = assignment.disk.pool.as_ref().is_some_and(|pool| pool.is_mirrored());
        let disk = match mirrored {
            true => self.host(name)?.disk_here(uuid),
            false => self.disk_in_pool(assignment).unwrap_or_default(),
        };
        let opened = |(other, host): (&Name, &HostState)| {
            // A QEMU whose guest has left, or has not come yet, does not lock it.
            other != name && host.vms.get(&uuid).is_some_and(|vm| matches!(vm.guest, Guest::Running | Guest::Paused))
        };
        let in_use = !mirrored && !self.unlocked && self.hosts.iter().any(opened);
        let host = self.host(name)?;
        if assignment.disk.pool.is_none() {
            return Err(Problem::invalid("disk-not-shared", "only a disk in a pool can be adopted"));
        }
        host.expect_disk(assignment)?;
        let is_left_behind = |known: &&FakeVm| {
            !mirrored && known.guest == Guest::HandedOver && assignment.epoch > known.assignment.epoch + 1
        };
        if let Some(known) = host.vms.get(&uuid).filter(|known| !is_left_behind(known)) {
            stale(known, assignment.epoch)?;
            handed_over(known)?;
            if known.assignment.epoch == assignment.epoch {
                return host.define(assignment);
            }
            if !matches!(known.guest, Guest::Off { .. }) {
                return Err(Problem::conflict("vm-running", "it is adopted while it is stopped"));
            }
        }
        let lease =
            assignment.disk.pool.as_ref().and_then(|pool| host.pool(pool).ok()?.content().disks.get(&uuid).copied());
        if let Some(lease) = lease.filter(|lease| *lease >= assignment.epoch) {
            return Err(elsewhere(assignment, lease));
        }
        if in_use {
            let detail = format!("a QEMU has the disk of VM '{}' open", assignment.name);
            return Err(Problem::transient("disk-in-use", detail));
        }
        host.claim_disk(assignment)?;
        let known = host.vms.get(&uuid).map(|known| known.owner_uid);
        let owner_uid = known.unwrap_or_else(|| host.next_uid());
        let points = request.recovery_points.clone();
        let vm = FakeVm { disk, points, ..FakeVm::new(assignment.clone(), owner_uid) };
        let observation = vm.observe();
        host.vms.insert(uuid, vm);
        Ok(observation)
    }
}
