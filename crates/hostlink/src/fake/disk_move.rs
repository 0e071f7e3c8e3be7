//! A fake host's VMs' own disks on their way from one of its pools to another.
//!
//! As with a real host, what the VM has in a place that is not its disk's is worth nothing, and stays until it is cleared.

use gantry_api::storage::{LeftDisk, MoveDisk, PoolAssignment, VolumeMoveReport};
use gantry_types::{Name, Problem};
use uuid::Uuid;

use super::{FakeWorld, HostState, guest::Guest, storage::may_change};

/// How often a move says that it copies before it has moved.
const ROUNDS: u32 = 2;

fn id(pool: Option<&PoolAssignment>) -> Option<Uuid> {
    pool.map(|pool| pool.uuid)
}

impl HostState {
    /// Goes one step further each time it is asked for.
    pub(super) fn move_disk(&mut self, vm: Uuid, request: &MoveDisk) -> Result<VolumeMoveReport, Problem> {
        let known = self.vm(vm)?;
        may_change(known, request.epoch)?;
        let from = known.assignment.disk.pool.clone();
        if id(from.as_ref()) == id(request.to.as_ref()) {
            return Ok(VolumeMoveReport::Moved);
        }
        if let Some(image) = request.image.as_ref().filter(|image| !self.images.contains(&image.digest)) {
            return Err(Problem::conflict("image-not-here", format!("image {} is not here", image.digest)));
        }
        let rounds = match self.moves.get(&vm) {
            Some(rounds) => *rounds,
            None => {
                self.put_disk(vm, request.to.as_ref(), request.epoch)?;
                ROUNDS
            }
        };
        if rounds > 0 {
            self.moves.insert(vm, rounds - 1);
            return Ok(VolumeMoveReport::Copying { done_bytes: 1, total_bytes: 2 });
        }
        self.put_disk(vm, request.to.as_ref(), request.epoch)?;
        self.moves.remove(&vm);
        if from.is_none() {
            self.own_copies.insert(vm);
        } else if request.to.is_none() {
            self.own_copies.remove(&vm);
        }
        let known = self.vm(vm)?;
        known.assignment.disk.pool.clone_from(&request.to);
        if !matches!(known.guest, Guest::Off { .. }) {
            // What the guest sees comes along, and nothing else.
            known.disk.snapshots.clear();
            known.points.clear();
        }
        Ok(VolumeMoveReport::Moved)
    }

    fn put_disk(&mut self, vm: Uuid, pool: Option<&PoolAssignment>, epoch: u64) -> Result<(), Problem> {
        let Some(pool) = pool else {
            self.own_copies.insert(vm);
            return Ok(());
        };
        let mut content = self.pool(pool)?.content();
        let lease = content.disks.entry(vm).or_insert(epoch);
        if *lease > epoch {
            return Err(Problem::conflict("disk-elsewhere", format!("it was given away at epoch {lease}")));
        }
        *lease = epoch;
        Ok(())
    }

    pub(super) fn cancel_disk_move(&mut self, vm: Uuid, request: &MoveDisk) -> Result<VolumeMoveReport, Problem> {
        let known = self.vm(vm)?;
        may_change(known, request.epoch)?;
        if id(known.assignment.disk.pool.as_ref()) == id(request.to.as_ref()) {
            return Ok(VolumeMoveReport::Moved);
        }
        self.moves.remove(&vm);
        self.take_disk(vm, request.to.as_ref())?;
        Ok(VolumeMoveReport::Cancelled)
    }

    pub(super) fn clear_left_disk(&mut self, vm: Uuid, request: &LeftDisk) -> Result<(), Problem> {
        let known = self.vm(vm)?;
        super::host::stale(known, request.epoch)?;
        if id(known.assignment.disk.pool.as_ref()) == id(request.from.as_ref()) {
            return Err(Problem::conflict("disk-in-use", "the VM has its disk there"));
        }
        self.take_disk(vm, request.from.as_ref())
    }

    fn take_disk(&mut self, vm: Uuid, pool: Option<&PoolAssignment>) -> Result<(), Problem> {
        match pool {
            Some(pool) => drop(self.pool(pool)?.content().disks.remove(&vm)),
            None => drop(self.own_copies.remove(&vm)),
        }
        Ok(())
    }
}

impl FakeWorld {
    /// The pools in which a host has a disk of this VM, whether it is used or not; `None` is the host's own.
    pub fn disks_of(&self, host: &Name, vm: Uuid) -> Vec<Option<Uuid>> {
        let all = |state: &mut HostState| {
            let uses_own = state.vms.get(&vm).is_some_and(|vm| vm.assignment.disk.pool.is_none());
            let own = (uses_own || state.own_copies.contains(&vm)).then_some(None);
            let pools = state.pools.iter().filter(|(_, pool)| pool.content().disks.contains_key(&vm));
            own.into_iter().chain(pools.map(|(id, _)| Some(*id))).collect()
        };
        self.with(host, all).unwrap_or_default()
    }

    /// The pool in which a host's VM uses its disk; `None` is the host's own.
    pub fn disk_place(&self, host: &Name, vm: Uuid) -> Option<Uuid> {
        self.with(host, |state| id(state.vms.get(&vm)?.assignment.disk.pool.as_ref())).flatten()
    }
}
