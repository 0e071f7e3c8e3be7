//! What every implementation of [`AgentApi`] must do, as a suite: the host in memory passes it in this crate's tests,
//! the real agent end to end. Each check leaves the host as it was.
//!
//! A check that fails says what it expected; nothing here panics.

use gantry_api::{
    AgentApi,
    agent::{
        Assignment, PowerAction, PowerRequest, ReceiveMigration, RevertVm, TakeSnapshot, Verdict, VmObservation,
        VmRunState,
    },
    storage::PoolAssignment,
};
use gantry_types::{CpuPart, ErrorClass, HostPool, HostResources, MemoryPart, Name, Problem, ResourceWishes};
use uuid::Uuid;

use crate::{
    backup_conformance::backups_repeat,
    mirror_conformance::copies_repeat,
    relocation_conformance::expectations_repeat,
    storage_conformance::{adoptions_repeat, disk_moves_repeat, states_are_of_volumes, volumes_repeat},
};

/// The checks, in the order in which [`run`] makes them.
pub const CHECKS: [&str; 17] = [
    "define can be repeated",
    "power can be repeated",
    "a lower epoch is refused",
    "remove can be repeated",
    "an abort is final",
    "a migration nobody knows is aborted for ever",
    "a snapshot can be taken and deleted again and again",
    "going back is done once",
    "a volume can be made, attached, grown, detached and deleted again and again",
    "a host is divided again and again",
    "a VM is adopted with its disk, by a later epoch only",
    "a stopped VM is expected again and again, and sent by who has it",
    "a VM is backed up and another one filled from that, again and again",
    "a VM's own disk goes to a pool and back, again and again",
    "a VM's disks are paired with copies and parted from them, and a current copy is taken over",
    "a state is of all volumes that the VM has, and leaves none that it has no longer",
    "a command that comes late does nothing to what was decided since",
];

/// Runs all checks with a VM like this one, which must need no image and no network, in a pool that can be opened, and with a
/// repository that can be made.
///
/// # Errors
/// The first check that failed, and why.
pub async fn run(
    agent: &dyn AgentApi,
    template: &Assignment,
    pool: &PoolAssignment,
    repository: &str,
) -> Result<(), String> {
    let fresh = |epoch: u64| Assignment { uuid: Uuid::new_v4(), epoch, ..template.clone() };
    named(CHECKS[0], define_repeats(agent, &fresh(1)).await)?;
    named(CHECKS[1], power_repeats(agent, &fresh(1)).await)?;
    named(CHECKS[2], lower_epochs_are_refused(agent, &fresh(5)).await)?;
    named(CHECKS[3], remove_repeats(agent, &fresh(1)).await)?;
    named(CHECKS[4], aborts_are_final(agent, &fresh(2)).await)?;
    named(CHECKS[5], unknown_migrations_are_over(agent, &fresh(2)).await)?;
    named(CHECKS[6], snapshots_repeat(agent, &fresh(2)).await)?;
    named(CHECKS[7], reverts_happen_once(agent, &fresh(1)).await)?;
    named(CHECKS[8], volumes_repeat(agent, &fresh(2), pool).await)?;
    named(CHECKS[9], divisions_repeat(agent, &fresh(1)).await)?;
    named(CHECKS[10], adoptions_repeat(agent, &fresh(2), pool).await)?;
    named(CHECKS[11], expectations_repeat(agent, &fresh(2), &source()?).await)?;
    named(CHECKS[12], backups_repeat(agent, &fresh(2), pool, repository).await)?;
    named(CHECKS[13], disk_moves_repeat(agent, &fresh(2), pool).await)?;
    named(CHECKS[14], copies_repeat(agent, &fresh(2), pool, &source()?).await)?;
    named(CHECKS[15], states_are_of_volumes(agent, &fresh(2), pool).await)?;
    named(CHECKS[16], late_commands_are_refused(agent, &fresh(1)).await)
}

/// Of a host that has this VM, stopped: in a pool, in another, and in none.
async fn divisions_repeat(agent: &dyn AgentApi, vm: &Assignment) -> Result<(), String> {
    worked("define", agent.define_vm(vm).await)?;
    let name = |text: &str| -> Result<Name, String> { text.parse().map_err(|_| "no name".to_owned()) };
    for pool in [Some(name("gold")?), Some(name("silver")?), None] {
        let wishes = ResourceWishes { resource_pool: pool.clone(), ..vm.resources.clone() };
        let part = |name: Name| HostPool { name, parent: None, cpu: CpuPart::default(), memory: MemoryPart::default() };
        let told = HostResources { pools: pool.map(part).into_iter().collect(), vms: [(vm.uuid, wishes)].into() };
        for _ in 0..2 {
            let report = worked("apply_resources", agent.apply_resources(&told).await)?;
            expect(!report.enforced.is_empty(), "it is not said what is enforced")?;
            expect(report.problems.is_empty(), format!("a stopped VM has problems: {:?}", report.problems))?;
        }
        // Being in a pool is no reason to refuse the same machine.
        worked("define again", agent.define_vm(vm).await)?;
    }
    worked("apply_resources to nothing", agent.apply_resources(&HostResources::default()).await)?;
    worked("remove", agent.remove_vm(vm.uuid, vm.epoch).await)
}

/// The host that would send.
fn source() -> Result<Name, String> {
    "elsewhere".parse().map_err(|_| "no name".to_owned())
}

fn named(check: &str, result: Result<(), String>) -> Result<(), String> {
    result.map_err(|why| format!("{check}: {why}"))
}

pub(crate) fn worked<T>(what: &str, result: Result<T, Problem>) -> Result<T, String> {
    result.map_err(|problem| format!("{what} failed: {problem}"))
}

pub(crate) fn expect(holds: bool, what: impl Into<String>) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.into()) }
}

pub(crate) fn refused<T: std::fmt::Debug>(what: &str, code: &str, result: Result<T, Problem>) -> Result<(), String> {
    match result {
        Err(problem) if problem.class == ErrorClass::Conflict && problem.code() == code => Ok(()),
        other => Err(format!("{what} should be refused as '{code}', but: {other:?}")),
    }
}

pub(crate) async fn find(agent: &dyn AgentApi, vm: Uuid) -> Result<Option<VmObservation>, String> {
    Ok(worked("observe", agent.observe().await)?.into_iter().find(|observation| observation.uuid == vm))
}

pub(crate) async fn state(agent: &dyn AgentApi, vm: Uuid) -> Result<Option<VmRunState>, String> {
    Ok(find(agent, vm).await?.map(|observation| observation.state))
}

pub(crate) async fn power(agent: &dyn AgentApi, vm: &Assignment, action: PowerAction) -> Result<(), String> {
    let request = PowerRequest { epoch: vm.epoch, command: 0, action };
    worked(&format!("{action:?}"), agent.power(vm.uuid, &request).await).map(drop)
}

async fn define_repeats(agent: &dyn AgentApi, vm: &Assignment) -> Result<(), String> {
    let first = worked("define", agent.define_vm(vm).await)?;
    let second = worked("define again", agent.define_vm(vm).await)?;
    expect(first.owner_uid == second.owner_uid, "the VM's user changed")?;
    expect(state(agent, vm.uuid).await? == Some(VmRunState::Stopped), "a defined VM is stopped")?;
    let higher = Assignment { epoch: vm.epoch + 1, ..vm.clone() };
    let observed = worked("define with a higher epoch", agent.define_vm(&higher).await)?;
    expect(observed.epoch == higher.epoch, "the higher epoch was not taken over")?;
    worked("remove", agent.remove_vm(vm.uuid, higher.epoch).await)
}

async fn power_repeats(agent: &dyn AgentApi, vm: &Assignment) -> Result<(), String> {
    worked("define", agent.define_vm(vm).await)?;
    for (action, expected) in [
        (PowerAction::Start, VmRunState::Running),
        (PowerAction::Pause, VmRunState::Paused),
        (PowerAction::Resume, VmRunState::Running),
        (PowerAction::Kill, VmRunState::Stopped),
    ] {
        power(agent, vm, action).await?;
        power(agent, vm, action).await?;
        let now = state(agent, vm.uuid).await?;
        expect(now == Some(expected), format!("after {action:?} it should be {expected:?}, but is {now:?}"))?;
    }
    worked("remove", agent.remove_vm(vm.uuid, vm.epoch).await)
}

async fn lower_epochs_are_refused(agent: &dyn AgentApi, vm: &Assignment) -> Result<(), String> {
    worked("define", agent.define_vm(vm).await)?;
    let lower = vm.epoch - 1;
    let request = PowerRequest { epoch: lower, command: 0, action: PowerAction::Start };
    refused("power", "stale-epoch", agent.power(vm.uuid, &request).await)?;
    let older = Assignment { epoch: lower, ..vm.clone() };
    refused("define", "stale-epoch", agent.define_vm(&older).await)?;
    refused("remove", "stale-epoch", agent.remove_vm(vm.uuid, lower).await)?;
    expect(state(agent, vm.uuid).await? == Some(VmRunState::Stopped), "a refused command had an effect")?;
    worked("remove", agent.remove_vm(vm.uuid, vm.epoch).await)
}

async fn late_commands_are_refused(agent: &dyn AgentApi, vm: &Assignment) -> Result<(), String> {
    worked("define", agent.define_vm(vm).await)?;
    let request = TakeSnapshot { epoch: vm.epoch, snapshot: Uuid::new_v4(), memory: false, quiesce: false };
    worked("take", agent.take_snapshot(vm.uuid, &request).await)?;
    let numbered = |command, action| PowerRequest { epoch: vm.epoch, command, action };
    let back = RevertVm {
        epoch: vm.epoch,
        command: 3,
        revert: Uuid::new_v4(),
        to: request.snapshot,
        memory: false,
        keep_as: None,
    };
    let decided = [
        (PowerAction::Start, VmRunState::Running),
        (PowerAction::Pause, VmRunState::Paused),
        (PowerAction::Kill, VmRunState::Stopped),
        (PowerAction::Start, VmRunState::Running),
    ];
    for (command, (action, expected)) in (4..).zip(decided) {
        worked(&format!("{action:?}"), agent.power(vm.uuid, &numbered(command, action)).await)?;
        for late in [
            PowerAction::Start,
            PowerAction::ShutDown,
            PowerAction::Kill,
            PowerAction::Reboot,
            PowerAction::Reset,
            PowerAction::Pause,
            PowerAction::Resume,
        ] {
            let answer = agent.power(vm.uuid, &numbered(command - 1, late)).await;
            refused(&format!("{late:?} from before {action:?}"), "stale-command", answer)?;
        }
        refused("a way back from before", "stale-command", agent.revert_vm(vm.uuid, &back).await)?;
        // What the VM is is told again meanwhile, and its number stays.
        worked("define again", agent.define_vm(vm).await)?;
        let now = state(agent, vm.uuid).await?;
        expect(now == Some(expected), format!("after {action:?} it should be {expected:?}, but is {now:?}"))?;
    }
    worked("remove", agent.remove_vm(vm.uuid, vm.epoch).await)
}

async fn remove_repeats(agent: &dyn AgentApi, vm: &Assignment) -> Result<(), String> {
    worked("remove of what never was", agent.remove_vm(vm.uuid, vm.epoch).await)?;
    worked("define", agent.define_vm(vm).await)?;
    power(agent, vm, PowerAction::Start).await?;
    worked("remove of a running VM", agent.remove_vm(vm.uuid, vm.epoch).await)?;
    worked("remove again", agent.remove_vm(vm.uuid, vm.epoch).await)?;
    expect(find(agent, vm.uuid).await?.is_none(), "a removed VM is still there")
}

async fn aborts_are_final(agent: &dyn AgentApi, vm: &Assignment) -> Result<(), String> {
    let migration = Uuid::new_v4();
    let request = ReceiveMigration {
        migration,
        source: source()?,
        assignment: vm.clone(),
        paused: false,
        post_copy: false,
        probes: Vec::new(),
        recovery_points: Vec::new(),
    };
    let first = worked("receive", agent.receive_migration(vm.uuid, &request).await)?;
    let second = worked("receive again", agent.receive_migration(vm.uuid, &request).await)?;
    expect(first == second, "the endpoint changed")?;
    expect(state(agent, vm.uuid).await? == Some(VmRunState::Receiving), "it should be receiving")?;
    worked("connections", agent.adopt_flows(vm.uuid, migration, &[]).await)?;
    for ask in 0..2 {
        let verdict = worked("abort", agent.abort_migration(vm.uuid, migration).await)?;
        expect(verdict == Verdict::Aborted, format!("abort {ask} answered {verdict:?}"))?;
    }
    let adopted = agent.adopt_flows(vm.uuid, migration, &[]).await;
    expect(adopted.is_err(), "connections were taken after the abort")?;
    let verdict = worked("commit after abort", agent.commit_migration(vm.uuid, migration).await)?;
    expect(verdict == Verdict::Aborted, "a commit after an abort was obeyed")?;
    refused("receive after abort", "migration-decided", agent.receive_migration(vm.uuid, &request).await)?;
    worked("remove", agent.remove_vm(vm.uuid, vm.epoch).await)?;
    expect(find(agent, vm.uuid).await?.is_none(), "an aborted VM is still there")
}

async fn unknown_migrations_are_over(agent: &dyn AgentApi, vm: &Assignment) -> Result<(), String> {
    let migration = Uuid::new_v4();
    let verdict = worked("abort", agent.abort_migration(vm.uuid, migration).await)?;
    expect(verdict == Verdict::Aborted, "an unknown migration was not aborted")?;
    let request = ReceiveMigration {
        migration,
        source: source()?,
        assignment: vm.clone(),
        paused: false,
        post_copy: false,
        probes: Vec::new(),
        recovery_points: Vec::new(),
    };
    refused("receive after abort", "migration-decided", agent.receive_migration(vm.uuid, &request).await)?;
    worked("release of what never was", agent.release_migration(vm.uuid, migration).await)
}

async fn snapshots_repeat(agent: &dyn AgentApi, vm: &Assignment) -> Result<(), String> {
    worked("define", agent.define_vm(vm).await)?;
    let take = |memory| TakeSnapshot { epoch: vm.epoch, snapshot: Uuid::new_v4(), memory, quiesce: false };
    refused("memory of a stopped VM", "vm-not-running", agent.take_snapshot(vm.uuid, &take(true)).await)?;
    let older = TakeSnapshot { epoch: vm.epoch - 1, ..take(false) };
    refused("an older epoch", "stale-epoch", agent.take_snapshot(vm.uuid, &older).await)?;
    let mut taken = Vec::new();
    for (action, memory) in [(None, false), (Some(PowerAction::Start), false), (Some(PowerAction::Pause), true)] {
        if let Some(action) = action {
            power(agent, vm, action).await?;
        }
        let request = take(memory);
        for _ in 0..2 {
            let seen = worked("take", agent.take_snapshot(vm.uuid, &request).await)?;
            expect((seen.memory_bytes > 0) == memory, format!("memory {memory}, but {seen:?}"))?;
        }
        taken.push(request.snapshot);
    }
    expect(state(agent, vm.uuid).await? == Some(VmRunState::Paused), "a snapshot changed what the VM does")?;
    // While it runs the middle one, afterwards the rest.
    for (at, action) in [(1, PowerAction::Kill), (2, PowerAction::Kill), (0, PowerAction::Kill)] {
        for _ in 0..2 {
            worked("delete", agent.delete_snapshot(vm.uuid, vm.epoch, taken[at]).await)?;
        }
        power(agent, vm, action).await?;
    }
    let back =
        RevertVm { epoch: vm.epoch, command: 0, revert: Uuid::new_v4(), to: taken[0], memory: false, keep_as: None };
    missing("going back to a deleted snapshot", agent.revert_vm(vm.uuid, &back).await)?;
    worked("remove", agent.remove_vm(vm.uuid, vm.epoch).await)
}

async fn reverts_happen_once(agent: &dyn AgentApi, vm: &Assignment) -> Result<(), String> {
    worked("define", agent.define_vm(vm).await)?;
    power(agent, vm, PowerAction::Start).await?;
    let mut states = Vec::new();
    for memory in [false, true] {
        let request = TakeSnapshot { epoch: vm.epoch, snapshot: Uuid::new_v4(), memory, quiesce: false };
        worked("take", agent.take_snapshot(vm.uuid, &request).await)?;
        states.push(request.snapshot);
    }
    let back = |to, memory| RevertVm {
        epoch: vm.epoch,
        command: 0,
        revert: Uuid::new_v4(),
        to,
        memory,
        keep_as: Some(Uuid::new_v4()),
    };
    refused(
        "memory that was not kept",
        "snapshot-without-memory",
        agent.revert_vm(vm.uuid, &back(states[0], true)).await,
    )?;
    expect(state(agent, vm.uuid).await? == Some(VmRunState::Running), "a refused request had an effect")?;
    let disk = back(states[0], false);
    for _ in 0..2 {
        let seen = worked("going back to a disk", agent.revert_vm(vm.uuid, &disk).await)?;
        expect(seen.state == VmRunState::Stopped, format!("it should be stopped, but {seen:?}"))?;
        let points: Vec<_> = seen.recovery_points.iter().map(|point| Some(point.uuid)).collect();
        expect(points == [disk.keep_as], format!("what was replaced is not kept once: {points:?}"))?;
    }
    // Stopped or running, the state with memory comes to life.
    for _ in 0..2 {
        let whole = back(states[1], true);
        for _ in 0..2 {
            let seen = worked("going back to a state with memory", agent.revert_vm(vm.uuid, &whole).await)?;
            expect(seen.state == VmRunState::Running, format!("it should run, but {seen:?}"))?;
        }
    }
    worked("remove", agent.remove_vm(vm.uuid, vm.epoch).await)
}

fn missing<T: std::fmt::Debug>(what: &str, result: Result<T, Problem>) -> Result<(), String> {
    match result {
        Err(problem) if problem.class == ErrorClass::NotFound => Ok(()),
        other => Err(format!("{what} should find nothing, but: {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeWorld;

    #[tokio::test]
    async fn the_host_in_memory_conforms() {
        let template: Assignment = serde_json::from_value(serde_json::json!({
            "uuid": Uuid::nil(), "name": "conformance", "epoch": 1, "arch": "x86_64", "cpus": 1, "memory": "64MiB",
            "firmware": "bios", "disk": {"size": "1MiB"}, "nics": [], "power": "running"
        }))
        .expect("an assignment");
        let world = FakeWorld::new();
        let host = world.host(&"host-1".parse().expect("a name"));
        let pool = serde_json::from_value(serde_json::json!({
            "uuid": Uuid::new_v4(), "name": "fast", "type": "dir", "path": "/srv/fast"
        }));
        assert_eq!(run(&host, &template, &pool.expect("a pool"), "/srv/backup").await, Ok(()));
        assert!(world.vms_on(host.name()).is_empty());
    }
}
