//! Pools and volumes of a fake host.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use gantry_api::{
    StorageApi,
    storage::{
        AttachVolume, CopyVolume, FillVolume, LeftDisk, MoveDisk, MoveVolume, PoolAssignment, PoolReport,
        VolumeAssignment, VolumeMoveReport, VolumePlace, VolumeReport,
    },
};
use gantry_types::{ByteSize, PoolHealth, PoolSpace, Problem};
use uuid::Uuid;

use super::{
    FakeHost, HostState,
    guest::{FakeVm, Guest},
    host::{handed_over, stale},
    mirror,
};

/// How often a move says that it copies before it has moved.
const MOVE_ROUNDS: u32 = 2;
const CAPACITY: ByteSize = ByteSize::gib(100);

/// A host's way to a pool, which may be broken.
#[derive(Debug, Clone, Default)]
pub(super) struct FakePool {
    /// The same for all hosts that reach the pool.
    content: Arc<Mutex<Content>>,
    /// What is wrong with the place, and what it has left.
    pub health: Option<PoolHealth>,
    pub free: Option<ByteSize>,
    /// What volumes take, if a test wants that.
    pub taken: BTreeMap<Uuid, ByteSize>,
}

#[derive(Debug, Default)]
pub(super) struct Content {
    /// With their sizes.
    pub volumes: BTreeMap<Uuid, ByteSize>,
    /// VMs' own disks, with their leases: the epoch of the VM that each was given to last.
    pub disks: BTreeMap<Uuid, u64>,
}

impl FakePool {
    pub(super) fn content(&self) -> MutexGuard<'_, Content> {
        // Each holder makes plain assignments.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, pool: Uuid) -> PoolReport {
        let report = |(volume, _): (&Uuid, &ByteSize)| VolumeReport {
            volume: *volume,
            allocated: self.taken.get(volume).copied().unwrap_or(ByteSize::mib(1)),
            io_bytes_per_s: 0,
        };
        PoolReport {
            pool,
            health: self.health.unwrap_or(PoolHealth::Healthy),
            reason: self.health.map(|_| "so it was asked".to_owned()),
            busy_percent: None,
            space: Some(PoolSpace { capacity: CAPACITY, free: self.free.unwrap_or(CAPACITY) }),
            volumes: self.content().volumes.iter().map(report).collect(),
            copies: Vec::new(),
        }
    }
}

impl FakePool {
    fn is_empty(&self) -> bool {
        let content = self.content();
        content.volumes.is_empty() && content.disks.is_empty()
    }

    fn grow(&self, volume: &VolumeAssignment) -> Result<(), Problem> {
        let mut content = self.content();
        let size = content.volumes.get_mut(&volume.uuid);
        let size = size.ok_or_else(|| Problem::not_found("volume", volume.name.as_str()))?;
        *size = (*size).max(volume.size);
        Ok(())
    }
}

impl HostState {
    pub(super) fn pool(&mut self, pool: &PoolAssignment) -> Result<&mut FakePool, Problem> {
        let missing = || Problem::permanent("pool-missing", format!("pool '{}' is not open here", pool.name));
        self.pools.get_mut(&pool.uuid).filter(|pool| pool.health.is_none()).ok_or_else(missing)
    }

    fn create_volume(&mut self, volume: &VolumeAssignment) -> Result<(), Problem> {
        let size = *self.pool(&volume.pool)?.content().volumes.entry(volume.uuid).or_insert(volume.size);
        if size == volume.size {
            return Ok(());
        }
        Err(Problem::conflict("volume-not-made", format!("volume '{}' is there with {size}", volume.name)))
    }

    pub(super) fn user_of(&self, is_it: impl Fn(VolumePlace) -> bool) -> Option<&FakeVm> {
        self.vms.values().find(|vm| vm.assignment.volumes.iter().any(|has| is_it(has.place())))
    }

    /// The volume as the VM has it.
    fn moving(&mut self, vm: Uuid, request: &MoveVolume) -> Result<&mut VolumeAssignment, Problem> {
        let vm = self.vms.get_mut(&vm).ok_or_else(|| Problem::not_found("vm", &vm.to_string()))?;
        may_change(vm, request.epoch)?;
        let has = vm.assignment.volumes.iter_mut().find(|has| has.uuid == request.volume);
        has.ok_or_else(|| Problem::not_found("volume", &request.volume.to_string()))
    }

    /// Goes one step further each time it is asked for.
    fn move_volume(&mut self, vm: Uuid, request: &MoveVolume) -> Result<VolumeMoveReport, Problem> {
        if self.moving(vm, request)?.pool.uuid == request.to.uuid {
            return Ok(VolumeMoveReport::Moved);
        }
        if self.vms.get(&vm).is_some_and(|vm| matches!(vm.guest, Guest::Off { .. })) {
            return Err(Problem::conflict("vm-not-running", "the VM does not run"));
        }
        if !self.pool(&request.to)?.content().volumes.contains_key(&request.volume) {
            return Err(Problem::not_found("volume", &request.volume.to_string()));
        }
        let rounds = self.moves.entry(request.volume).or_insert(MOVE_ROUNDS);
        if *rounds > 0 {
            *rounds -= 1;
            return Ok(VolumeMoveReport::Copying { done_bytes: 1, total_bytes: 2 });
        }
        self.moves.remove(&request.volume);
        self.moving(vm, request)?.pool = request.to.clone();
        Ok(VolumeMoveReport::Moved)
    }

    fn attach(&mut self, vm: Uuid, request: &AttachVolume) -> Result<(), Problem> {
        let wanted = &request.volume;
        let known = self.vms.get(&vm).ok_or_else(|| Problem::not_found("vm", &vm.to_string()))?;
        may_change(known, request.epoch)?;
        if let Some(other) =
            self.user_of(|place| place.volume == wanted.uuid).filter(|other| other.assignment.uuid != vm)
        {
            let detail = format!("volume '{}' is attached to VM '{}'", wanted.name, other.assignment.name);
            return Err(Problem::conflict("volume-in-use", detail));
        }
        if let Some(vm) = self.vms.get_mut(&vm) {
            mirror::expect_to_change(vm, wanted)?;
        }
        self.pool(&wanted.pool)?.grow(wanted)?;
        let Some(vm) = self.vms.get_mut(&vm) else { return Ok(()) };
        vm.assignment.volumes.retain(|has| has.uuid != wanted.uuid);
        vm.assignment.volumes.push(wanted.clone());
        vm.assignment.volumes.sort_by_key(|volume| volume.slot);
        Ok(())
    }
}

pub(super) fn may_change(vm: &FakeVm, epoch: u64) -> Result<(), Problem> {
    stale(vm, epoch)?;
    handed_over(vm)?;
    if vm.is_moving() {
        return Err(Problem::conflict("vm-migrating", "the VM is being migrated"));
    }
    Ok(())
}

#[async_trait]
impl StorageApi for FakeHost {
    async fn open_pool(&self, pool: &PoolAssignment) -> Result<(), Problem> {
        self.on_host("open_pool", |host| {
            host.pools.entry(pool.uuid).or_default();
            host.pool(pool).map(drop)
        })
    }

    async fn join_pool(&self, pool: &PoolAssignment) -> Result<(), Problem> {
        self.call("join_pool", |state| {
            let opened =
                state.hosts.values().find_map(|host| host.pools.get(&pool.uuid)).map(|pool| pool.content.clone());
            let host = state.host(&self.name)?;
            if let Some(content) = opened.filter(|_| !host.pools.contains_key(&pool.uuid)) {
                host.pools.insert(pool.uuid, FakePool { content, ..FakePool::default() });
            }
            host.pool(pool).map(drop)
        })
    }

    async fn close_pool(&self, pool: &PoolAssignment) -> Result<(), Problem> {
        self.on_host("close_pool", |host| {
            if host.pools.get(&pool.uuid).is_some_and(|pool| !pool.is_empty()) {
                return Err(Problem::conflict("pool-not-empty", format!("pool '{}' has volumes", pool.name)));
            }
            host.pools.remove(&pool.uuid);
            Ok(())
        })
    }

    async fn create_volume(&self, volume: &VolumeAssignment) -> Result<(), Problem> {
        self.on_host("create_volume", |host| host.create_volume(volume))
    }

    async fn grow_volume(&self, volume: &VolumeAssignment) -> Result<(), Problem> {
        self.on_host("grow_volume", |host| host.pool(&volume.pool)?.grow(volume))
    }

    async fn delete_volume(&self, pool: &PoolAssignment, volume: Uuid) -> Result<(), Problem> {
        self.on_host("delete_volume", |host| {
            let here = VolumePlace { volume, pool: pool.uuid };
            if let Some(user) = host.user_of(|place| place == here) {
                let detail = format!("the volume is attached to VM '{}'", user.assignment.name);
                return Err(Problem::conflict("volume-in-use", detail));
            }
            host.pool(pool)?.content().volumes.remove(&volume);
            Ok(())
        })
    }

    async fn attach_volume(&self, vm: Uuid, request: &AttachVolume) -> Result<(), Problem> {
        self.on_host("attach_volume", |host| host.attach(vm, request))
    }

    async fn move_volume(&self, vm: Uuid, request: &MoveVolume) -> Result<VolumeMoveReport, Problem> {
        self.on_host("move_volume", |host| host.move_volume(vm, request))
    }

    async fn cancel_volume_move(&self, vm: Uuid, request: &MoveVolume) -> Result<VolumeMoveReport, Problem> {
        self.on_host("cancel_volume_move", |host| {
            if host.moving(vm, request)?.pool.uuid == request.to.uuid {
                return Ok(VolumeMoveReport::Moved);
            }
            host.moves.remove(&request.volume);
            Ok(VolumeMoveReport::Cancelled)
        })
    }

    async fn fill_volume(&self, request: &FillVolume) -> Result<(), Problem> {
        self.on_host("fill_volume", |host| {
            let there = host.pool(&request.volume.pool)?.content().volumes.contains_key(&request.volume.uuid);
            match (there, host.images.contains(&request.image.digest)) {
                (true, true) => Ok(()),
                (false, _) => Err(Problem::not_found("volume", request.volume.name.as_str())),
                (_, false) => Err(Problem::not_found("image", &request.image.digest)),
            }
        })
    }

    async fn move_disk(&self, vm: Uuid, request: &MoveDisk) -> Result<VolumeMoveReport, Problem> {
        self.on_host("move_disk", |host| host.move_disk(vm, request))
    }

    async fn cancel_disk_move(&self, vm: Uuid, request: &MoveDisk) -> Result<VolumeMoveReport, Problem> {
        self.on_host("cancel_disk_move", |host| host.cancel_disk_move(vm, request))
    }

    async fn clear_left_disk(&self, vm: Uuid, request: &LeftDisk) -> Result<(), Problem> {
        self.on_host("clear_left_disk", |host| host.clear_left_disk(vm, request))
    }

    async fn copy_volume(&self, request: &CopyVolume) -> Result<(), Problem> {
        self.on_host("copy_volume", |host| {
            for (pool, volume) in [(&request.from.pool, request.from.uuid), (&request.to, request.target())] {
                if !host.pool(pool)?.content().volumes.contains_key(&volume) {
                    return Err(Problem::not_found("volume", request.from.name.as_str()));
                }
            }
            Ok(())
        })
    }

    async fn detach_volume(&self, vm: Uuid, epoch: u64, volume: Uuid) -> Result<(), Problem> {
        self.on_host("detach_volume", |host| {
            let vm = host.vms.get_mut(&vm).ok_or_else(|| Problem::not_found("vm", &vm.to_string()))?;
            may_change(vm, epoch)?;
            vm.assignment.volumes.retain(|has| has.uuid != volume);
            Ok(())
        })
    }
}

impl super::FakeWorld {
    /// What a host would tell of its pools.
    pub fn pool_reports(&self, host: &gantry_types::Name) -> Vec<PoolReport> {
        let reports = |state: &mut HostState| {
            let report =
                |(id, pool): (&Uuid, &FakePool)| PoolReport { copies: state.copies_in(*id), ..pool.report(*id) };
            state.pools.iter().map(report).collect()
        };
        self.with(host, reports).unwrap_or_default()
    }

    /// What a volume takes in its pool from now on.
    pub fn fill_volume(&self, host: &gantry_types::Name, volume: Uuid, taken: ByteSize) {
        self.with(host, |state| {
            let its = |pool: &&mut FakePool| pool.content().volumes.contains_key(&volume);
            if let Some(pool) = state.pools.values_mut().find(its) {
                pool.taken.insert(volume, taken);
            }
        });
    }

    /// Something happens to a pool: it breaks, or it fills up.
    pub fn change_pool(
        &self,
        host: &gantry_types::Name,
        pool: Uuid,
        health: Option<PoolHealth>,
        free: Option<ByteSize>,
    ) {
        self.with(host, |state| {
            if let Some(pool) = state.pools.get_mut(&pool) {
                (pool.health, pool.free) = (health, free);
            }
        });
    }

    /// The volumes that a host keeps in its pools, with their sizes.
    pub fn volumes_on(&self, host: &gantry_types::Name) -> BTreeMap<Uuid, ByteSize> {
        let all =
            |state: &mut HostState| state.pools.values().flat_map(|pool| pool.content().volumes.clone()).collect();
        self.with(host, all).unwrap_or_default()
    }

    /// The volumes that a VM has on a host.
    pub fn attached_on(&self, host: &gantry_types::Name, vm: Uuid) -> Vec<VolumeAssignment> {
        let of_vm = |state: &mut HostState| state.vms.get(&vm).map(|vm| vm.assignment.volumes.clone());
        self.with(host, of_vm).flatten().unwrap_or_default()
    }
}
