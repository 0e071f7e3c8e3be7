//! The conformance suite's part about copies of disks: the host is its own peer, with a copy of a disk that it does not have.

use std::time::{Duration, Instant};

use gantry_api::{
    AgentApi,
    agent::{AdoptVm, Assignment, DiskAssignment, PowerAction, PowerRequest},
    mirror::{
        CopyEndpoint, CopyObservation, CopyProgress, CopyServing, DropCopy, DropLeftVolume, GoAlone, JoinCopy,
        ServeCopy, ServedCopy, SettleCopy, TakeCopy,
    },
    storage::{AttachVolume, PoolAssignment, VolumeAssignment},
};
use gantry_types::{ByteSize, ErrorClass, Name, PoolType, Problem};
use uuid::Uuid;

use crate::{
    conformance::{expect, find, power, refused, worked},
    storage_conformance::volume,
};

const CATCH_UP_LIMIT: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

async fn copies(agent: &dyn AgentApi, vm: &Assignment) -> Result<CopyObservation, String> {
    let found = find(agent, vm.uuid).await?.and_then(|vm| vm.copies);
    found.ok_or_else(|| "the host does not say how the VM's disk stands".to_owned())
}

/// Served to this host itself, by the name that it answers with.
async fn serve(agent: &dyn AgentApi, request: &ServeCopy) -> Result<(CopyEndpoint, Name), String> {
    let first = worked("serve a copy", agent.serve_copy(request).await)?;
    let name: Name = first.tls_name.parse().map_err(|_| format!("{} is no host's name", first.tls_name))?;
    let request = ServeCopy { source: name.clone(), ..request.clone() };
    Ok((worked("serve a copy to this host", agent.serve_copy(&request).await)?, name))
}

async fn paired(agent: &dyn AgentApi, vm: Uuid, join: &JoinCopy) -> Result<(), String> {
    let until = Instant::now() + CATCH_UP_LIMIT;
    while worked("join", agent.join_copy(vm, join).await)? != CopyProgress::Paired {
        expect(Instant::now() < until, "the copy has not caught up")?;
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

fn waits<T: std::fmt::Debug>(what: &str, code: &str, result: Result<T, Problem>) -> Result<(), String> {
    match result {
        Err(problem) if problem.class == ErrorClass::Transient && problem.code() == code => Ok(()),
        other => Err(format!("{what} should have to wait as '{code}', but: {other:?}")),
    }
}

/// A VM's disk is paired with a copy and parted from it, and a copy is taken over only when it is current.
pub(crate) async fn copies_repeat(
    agent: &dyn AgentApi,
    vm: &Assignment,
    pool: &PoolAssignment,
    source: &Name,
) -> Result<(), String> {
    let pool = PoolAssignment { kind: PoolType::Mirrored, ..pool.clone() };
    worked("open", agent.open_pool(&pool).await)?;
    let disk = DiskAssignment { pool: Some(pool.clone()), ..vm.disk.clone() };
    let vm = Assignment { disk, ..vm.clone() };
    worked("define", agent.define_vm(&vm).await)?;
    power(agent, &vm, PowerAction::Start).await?;
    let copy = Uuid::new_v4();
    let wanted = ServeCopy {
        pool: pool.clone(),
        disk: copy,
        size: vm.disk.size,
        image: None,
        source: source.clone(),
        since: None,
    };
    let (endpoint, peer) = serve(agent, &wanted).await?;
    expect(endpoint.fresh, "a new copy is not said to be empty")?;
    let serving = endpoint.serving;
    let copies_of = vec![ServedCopy { disk: vm.uuid, endpoint }];
    let join = JoinCopy { epoch: vm.epoch, generation: 1, peer: peer.clone(), copies: copies_of };
    let older = JoinCopy { epoch: vm.epoch - 1, ..join.clone() };
    refused("an older order to join", "stale-epoch", agent.join_copy(vm.uuid, &older).await)?;
    paired(agent, vm.uuid, &join).await?;
    let again = worked("join again", agent.join_copy(vm.uuid, &join).await)?;
    expect(again == CopyProgress::Paired, "what is paired is joined again")?;
    let shown = copies(agent, &vm).await?;
    let servings = vec![CopyServing { disk: vm.uuid, serving }];
    let is_paired = CopyObservation { generation: 1, peer: Some(peer), servings, ..CopyObservation::default() };
    expect(shown == is_paired, format!("a paired disk is {shown:?}"))?;
    take_over(agent, &vm, &pool, (copy, serving)).await?;
    alone_again(agent, &vm).await?;
    of_volumes(agent, &vm, &wanted).await?;
    worked("remove", agent.remove_vm(vm.uuid, vm.epoch).await)?;
    for _ in 0..2 {
        worked("close", agent.close_pool(&pool).await)?;
    }
    Ok(())
}

/// Of a copy that is behind as yet.
async fn take_over(
    agent: &dyn AgentApi,
    vm: &Assignment,
    pool: &PoolAssignment,
    (copy, serving): (Uuid, Uuid),
) -> Result<(), String> {
    let take = TakeCopy { pool: pool.clone(), disk: copy, from: 1, generation: 2 };
    refused("taking a copy that is behind", "copy-stale", agent.take_copy(&take).await)?;
    let settle = SettleCopy { pool: pool.clone(), disk: copy, generation: 1, serving };
    let other = SettleCopy { serving: Uuid::new_v4(), ..settle.clone() };
    refused("settling another serving", "copy-stale", agent.settle_copy(&other).await)?;
    for _ in 0..2 {
        worked("settle", agent.settle_copy(&settle).await)?;
    }
    let other = TakeCopy { from: 2, generation: 3, ..take.clone() };
    refused("taking a copy of another generation", "copy-stale", agent.take_copy(&other).await)?;
    let unknown = TakeCopy { disk: Uuid::new_v4(), ..take.clone() };
    refused("taking what is not there", "copy-stale", agent.take_copy(&unknown).await)?;
    for _ in 0..2 {
        worked("take", agent.take_copy(&take).await)?;
    }
    worked("drop what was taken", agent.drop_copy(&DropCopy { pool: pool.clone(), disk: copy }).await)?;
    let other = Assignment { uuid: copy, epoch: vm.epoch + 1, ..vm.clone() };
    let adopt = AdoptVm { assignment: other.clone(), recovery_points: Vec::new() };
    worked("adopt what was taken", agent.adopt_vm(copy, &adopt).await)?;
    worked("remove what was taken", agent.remove_vm(copy, other.epoch).await)?;
    for _ in 0..2 {
        worked("drop what is gone", agent.drop_copy(&DropCopy { pool: pool.clone(), disk: copy }).await)?;
    }
    Ok(())
}

/// A VM whose disk is paired, or was when it ended, does not start before it is alone.
async fn alone_again(agent: &dyn AgentApi, vm: &Assignment) -> Result<(), String> {
    power(agent, vm, PowerAction::Kill).await?;
    let start = PowerRequest { epoch: vm.epoch, command: 0, action: PowerAction::Start };
    let early = agent.power(vm.uuid, &start).await;
    waits("a start beside a copy that may be current", "copy-not-alone", early)?;
    expect(copies(agent, vm).await?.wants_alone, "it is not said that it waits")?;
    let alone = GoAlone { epoch: vm.epoch, generation: 2 };
    let older = GoAlone { epoch: vm.epoch - 1, ..alone.clone() };
    refused("an older order to go alone", "stale-epoch", agent.go_alone(vm.uuid, &older).await)?;
    for _ in 0..2 {
        worked("go alone", agent.go_alone(vm.uuid, &alone).await)?;
    }
    let shown = copies(agent, vm).await?;
    let is_alone = shown.generation == 2 && shown.peer.is_none() && !shown.wants_alone;
    expect(is_alone, format!("a disk that is alone is {shown:?}"))?;
    power(agent, vm, PowerAction::Start).await?;
    power(agent, vm, PowerAction::Kill).await
}

/// A volume is joined and parted together with its VM's own disk, and is its host's alone when it comes.
async fn of_volumes(agent: &dyn AgentApi, vm: &Assignment, copy: &ServeCopy) -> Result<(), String> {
    let pool = &copy.pool;
    let (data, other) = (volume(pool)?, VolumeAssignment { slot: 1, ..volume(pool)? });
    for made in [&data, &other] {
        worked("create", agent.create_volume(made).await)?;
    }
    let copy_of_it = ServeCopy { disk: data.uuid, size: data.size, ..copy.clone() };
    let kept = agent.serve_copy(&copy_of_it).await;
    expect(kept.is_err(), format!("a host that has a volume keeps a copy of it: {kept:?}"))?;
    let attach = |volume: &VolumeAssignment| AttachVolume { epoch: vm.epoch, volume: volume.clone() };
    for _ in 0..2 {
        worked("attach", agent.attach_volume(vm.uuid, &attach(&data)).await)?;
    }
    power(agent, vm, PowerAction::Start).await?;
    let (of_disk, of_data) = (Uuid::new_v4(), Uuid::new_v4());
    let (first, peer) = serve(agent, &ServeCopy { disk: of_disk, ..copy.clone() }).await?;
    let (second, _) = serve(agent, &ServeCopy { disk: of_data, size: data.size, ..copy.clone() }).await?;
    let both = vec![ServedCopy { disk: vm.uuid, endpoint: first }, ServedCopy { disk: data.uuid, endpoint: second }];
    let join = JoinCopy { epoch: vm.epoch, generation: 2, peer, copies: both.clone() };
    let one = JoinCopy { copies: both[..1].to_vec(), ..join.clone() };
    waits("joining one of two", "copy-disks-changed", agent.join_copy(vm.uuid, &one).await)?;
    paired(agent, vm.uuid, &join).await?;
    waits("a volume beside copies", "copy-not-alone", agent.attach_volume(vm.uuid, &attach(&other)).await)?;
    let larger = VolumeAssignment { size: ByteSize::mib(8), ..data.clone() };
    refused("growing while it runs", "volume-mirrored", agent.attach_volume(vm.uuid, &attach(&larger)).await)?;
    let left = DropLeftVolume { pool: pool.clone(), volume: data.uuid, generation: 2 };
    refused("dropping what a VM has", "volume-in-use", agent.drop_left_volume(&left).await)?;

    power(agent, vm, PowerAction::Kill).await?;
    worked("detach", agent.detach_volume(vm.uuid, vm.epoch, data.uuid).await)?;
    let alone = GoAlone { epoch: vm.epoch, generation: 3 };
    worked("go alone", agent.go_alone(vm.uuid, &alone).await)?;
    for _ in 0..2 {
        worked("drop what others have", agent.drop_left_volume(&left).await)?;
    }
    let missing = agent.attach_volume(vm.uuid, &attach(&data)).await;
    expect(missing.is_err(), format!("what was dropped is attached: {missing:?}"))?;
    worked("delete", agent.delete_volume(pool, other.uuid).await)?;
    for disk in [of_disk, of_data] {
        worked("drop", agent.drop_copy(&DropCopy { pool: pool.clone(), disk }).await)?;
    }
    Ok(())
}
