//! What every implementation of [`StorageApi`](gantry_api::StorageApi) must do, as the rest of the conformance suite.

use gantry_api::{
    AgentApi,
    agent::{AdoptVm, Assignment, DiskAssignment, PowerAction, RevertVm, TakeSnapshot},
    storage::{AttachVolume, LeftDisk, MoveDisk, PoolAssignment, VolumeAssignment, VolumeMoveReport},
};
use std::time::Duration;

use gantry_types::{ByteSize, Problem};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::conformance::{power, refused, worked};

pub(crate) fn volume(pool: &PoolAssignment) -> Result<VolumeAssignment, String> {
    Ok(VolumeAssignment {
        uuid: Uuid::new_v4(),
        name: "data".parse().map_err(|_| "no name".to_owned())?,
        pool: pool.clone(),
        size: ByteSize::mib(4),
        limits: Default::default(),
        cache: Default::default(),
        discard: true,
        slot: 0,
    })
}

fn fails<T: std::fmt::Debug>(what: &str, result: Result<T, Problem>) -> Result<(), String> {
    match result {
        Err(_) => Ok(()),
        Ok(done) => Err(format!("{what} should be refused, but: {done:?}")),
    }
}

/// Pools open and close again and again; volumes come, grow and go in them, and are not deleted while a VM has them.
pub(crate) async fn volumes_repeat(agent: &dyn AgentApi, vm: &Assignment, pool: &PoolAssignment) -> Result<(), String> {
    let data = volume(pool)?;
    fails("a volume in a pool that was not opened", agent.create_volume(&data).await)?;
    for _ in 0..2 {
        worked("open", agent.open_pool(pool).await)?;
    }
    for _ in 0..2 {
        worked("create", agent.create_volume(&data).await)?;
    }
    let other_size = VolumeAssignment { size: ByteSize::mib(8), ..data.clone() };
    fails("another size under the same id", agent.create_volume(&other_size).await)?;
    refused("closing a pool with volumes", "pool-not-empty", agent.close_pool(pool).await)?;
    for _ in 0..2 {
        worked("grow", agent.grow_volume(&other_size).await)?;
    }
    worked("a smaller size changes nothing", agent.grow_volume(&data).await)?;
    worked("create with the size it has", agent.create_volume(&other_size).await)?;

    worked("define", agent.define_vm(vm).await)?;
    let attach = AttachVolume { epoch: vm.epoch, volume: other_size.clone() };
    let older = AttachVolume { epoch: vm.epoch - 1, ..attach.clone() };
    refused("attach at an older epoch", "stale-epoch", agent.attach_volume(vm.uuid, &older).await)?;
    let stranger = AttachVolume { volume: volume(pool)?, ..attach.clone() };
    fails("attach of what is not there", agent.attach_volume(vm.uuid, &stranger).await)?;
    for _ in 0..2 {
        worked("attach", agent.attach_volume(vm.uuid, &attach).await)?;
    }
    refused("delete of what a VM has", "volume-in-use", agent.delete_volume(pool, data.uuid).await)?;
    let larger = VolumeAssignment { size: ByteSize::mib(16), ..other_size };
    let larger = AttachVolume { volume: larger, ..attach };
    worked("attach, larger", agent.attach_volume(vm.uuid, &larger).await)?;
    power(agent, vm, PowerAction::Kill).await?;
    for _ in 0..2 {
        worked("detach", agent.detach_volume(vm.uuid, vm.epoch, data.uuid).await)?;
    }
    worked("remove", agent.remove_vm(vm.uuid, vm.epoch).await)?;
    worked("create with the size it grew to", agent.create_volume(&larger.volume).await)?;
    for _ in 0..2 {
        worked("delete", agent.delete_volume(pool, data.uuid).await)?;
    }
    for _ in 0..2 {
        worked("close", agent.close_pool(pool).await)?;
    }
    Ok(())
}

/// A disk in a pool stays when its VM is given to a later epoch, and goes with its VM.
pub(crate) async fn adoptions_repeat(
    agent: &dyn AgentApi,
    vm: &Assignment,
    pool: &PoolAssignment,
) -> Result<(), String> {
    let adopt = |vm: &Assignment| AdoptVm { assignment: vm.clone(), recovery_points: Vec::new() };
    let in_pool = DiskAssignment { pool: Some(pool.clone()), ..vm.disk.clone() };
    let vm = Assignment { disk: in_pool, ..vm.clone() };
    fails("a disk in a pool that was not opened", agent.define_vm(&vm).await)?;
    worked("remove what was not made", agent.remove_vm(vm.uuid, vm.epoch).await)?;
    worked("open", agent.open_pool(pool).await)?;
    for _ in 0..2 {
        worked("join what is open here", agent.join_pool(pool).await)?;
    }
    fails("adopting what nobody made", agent.adopt_vm(vm.uuid, &adopt(&vm)).await)?;
    for _ in 0..2 {
        worked("define", agent.define_vm(&vm).await)?;
    }
    refused("closing a pool with a VM's disk", "pool-not-empty", agent.close_pool(pool).await)?;
    let own = Assignment { disk: DiskAssignment { pool: None, ..vm.disk.clone() }, epoch: vm.epoch + 1, ..vm.clone() };
    fails("adopting with a disk of the host's own", agent.adopt_vm(vm.uuid, &adopt(&own)).await)?;
    let later = Assignment { epoch: vm.epoch + 1, ..vm.clone() };
    for _ in 0..2 {
        let adopted = worked("adopt", agent.adopt_vm(vm.uuid, &adopt(&later)).await)?;
        if adopted.epoch != later.epoch {
            return Err(format!("adopted at epoch {}, not {}", adopted.epoch, later.epoch));
        }
    }
    refused("adopting at an older epoch", "stale-epoch", agent.adopt_vm(vm.uuid, &adopt(&vm)).await)?;
    for _ in 0..2 {
        worked("remove", agent.remove_vm(vm.uuid, later.epoch).await)?;
    }
    for _ in 0..2 {
        worked("close", agent.close_pool(pool).await)?;
    }
    Ok(())
}

/// Snapshots of a VM that has a volume, while it is off and while it runs; gone back to with it, and deleted with it.
pub(crate) async fn states_are_of_volumes(
    agent: &dyn AgentApi,
    vm: &Assignment,
    pool: &PoolAssignment,
) -> Result<(), String> {
    let data = volume(pool)?;
    worked("open", agent.open_pool(pool).await)?;
    worked("create", agent.create_volume(&data).await)?;
    worked("define", agent.define_vm(vm).await)?;
    let back = |to, memory| RevertVm { epoch: vm.epoch, command: 0, revert: Uuid::new_v4(), to, memory, keep_as: None };
    let take = async |memory| {
        let request = TakeSnapshot { epoch: vm.epoch, snapshot: Uuid::new_v4(), memory, quiesce: false };
        let seen = worked("take", agent.take_snapshot(vm.uuid, &request).await)?;
        let again = worked("take", agent.take_snapshot(vm.uuid, &request).await)?;
        if again.volumes != seen.volumes {
            return Err(format!("it is said to be of {:?}, then of {:?}", seen.volumes, again.volumes));
        }
        Ok((request.snapshot, seen.volumes))
    };
    power(agent, vm, PowerAction::Start).await?;
    let (before, of) = take(true).await?;
    if !of.is_empty() {
        return Err(format!("it has no volume, but a snapshot is of {of:?}"));
    }
    let attach = AttachVolume { epoch: vm.epoch, volume: data.clone() };
    worked("attach", agent.attach_volume(vm.uuid, &attach).await)?;
    refused("memory without the volume", "volumes-changed", agent.revert_vm(vm.uuid, &back(before, true)).await)?;
    let mut states = Vec::new();
    for memory in [false, true] {
        let (snapshot, of) = take(memory).await?;
        if of != [data.uuid] {
            return Err(format!("a snapshot is of {of:?}, not of the volume that the VM has"));
        }
        states.push(snapshot);
    }
    for _ in 0..2 {
        worked("going back with memory", agent.revert_vm(vm.uuid, &back(states[1], true)).await)?;
    }
    let replaced = RevertVm { keep_as: Some(Uuid::new_v4()), ..back(states[0], false) };
    let seen = worked("going back", agent.revert_vm(vm.uuid, &replaced).await)?;
    let kept: Vec<_> = seen.recovery_points.iter().map(|point| point.volumes.clone()).collect();
    if kept != [[data.uuid]] {
        return Err(format!("what was replaced is not said to be of the volume: {kept:?}"));
    }
    worked("take while it is off", take(false).await.map_err(|told| Problem::permanent("told", told)))?;
    for snapshot in states {
        for _ in 0..2 {
            worked("delete", agent.delete_snapshot(vm.uuid, vm.epoch, snapshot).await)?;
        }
    }
    // Nobody goes back to a volume that the VM has no longer, and nothing of its states stays in it.
    worked("detach", agent.detach_volume(vm.uuid, vm.epoch, data.uuid).await)?;
    let undo = back(replaced.keep_as.unwrap_or_default(), false);
    refused("undo without the volume", "volumes-changed", agent.revert_vm(vm.uuid, &undo).await)?;
    worked("remove", agent.remove_vm(vm.uuid, vm.epoch).await)?;
    worked("delete", agent.delete_volume(pool, data.uuid).await)?;
    worked("close", agent.close_pool(pool).await)
}

const MOVE_LIMIT: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

async fn until_moved(agent: &dyn AgentApi, vm: Uuid, request: &MoveDisk) -> Result<(), String> {
    let until = Instant::now() + MOVE_LIMIT;
    while worked("move", agent.move_disk(vm, request).await)? != VolumeMoveReport::Moved {
        if Instant::now() >= until {
            return Err("the disk has not moved".to_owned());
        }
        sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// A VM's own disk goes to a pool while it is off and back while it runs; it is in one place, and nothing is left in another.
pub(crate) async fn disk_moves_repeat(
    agent: &dyn AgentApi,
    vm: &Assignment,
    pool: &PoolAssignment,
) -> Result<(), String> {
    let to =
        |pool: Option<&PoolAssignment>| MoveDisk { epoch: vm.epoch, to: pool.cloned(), image: vm.disk.image.clone() };
    let left = |pool: Option<&PoolAssignment>| LeftDisk { epoch: vm.epoch, from: pool.cloned() };
    worked("define", agent.define_vm(vm).await)?;
    fails("a move to a pool that was not opened", agent.move_disk(vm.uuid, &to(Some(pool))).await)?;
    worked("open", agent.open_pool(pool).await)?;
    let older = MoveDisk { epoch: vm.epoch - 1, ..to(Some(pool)) };
    refused("a move at an older epoch", "stale-epoch", agent.move_disk(vm.uuid, &older).await)?;
    if worked("move", agent.move_disk(vm.uuid, &to(None)).await)? != VolumeMoveReport::Moved {
        return Err("a disk moves to where it is".to_owned());
    }
    for (place, former, action) in [(Some(pool), None, PowerAction::Start), (None, Some(pool), PowerAction::Kill)] {
        worked("begin", agent.move_disk(vm.uuid, &to(place)).await)?;
        for _ in 0..2 {
            let cancelled = worked("cancel", agent.cancel_disk_move(vm.uuid, &to(place)).await)?;
            if cancelled != VolumeMoveReport::Cancelled {
                return Err(format!("a move was not given up: {cancelled:?}"));
            }
        }
        for _ in 0..2 {
            until_moved(agent, vm.uuid, &to(place)).await?;
        }
        let late = worked("cancel", agent.cancel_disk_move(vm.uuid, &to(place)).await)?;
        if late != VolumeMoveReport::Moved {
            return Err(format!("what has moved was cancelled: {late:?}"));
        }
        refused("clearing where it is", "disk-in-use", agent.clear_left_disk(vm.uuid, &left(place)).await)?;
        for _ in 0..2 {
            worked("clear", agent.clear_left_disk(vm.uuid, &left(former)).await)?;
        }
        power(agent, vm, action).await?;
    }
    worked("close", agent.close_pool(pool).await)?;
    worked("remove", agent.remove_vm(vm.uuid, vm.epoch).await)
}
