//! VMs: create, change, delete, and the verbs.
//!
//! A verb never acts by itself: it writes an operation that does. `vm.status.operation` names the one that is at work;
//! it is set in the transaction that makes the operation and cleared in the one that finishes it.

use gantry_api::rest::{Changed, MigrateRequest, RebootRequest, RecoverRequest, StopRequest, WriteQuery};
use gantry_types::{Action, Host, Operation, PowerState, Problem, Resource, Severity, Vm, VmPhase, VmStatus};

use super::{
    App, Caller, already_exists, check_labels, check_name, check_precondition, pool, snapshot, vm_disk,
    vm_references::check_references, vm_update, volume, volume_place,
};
use crate::{
    objects::Change,
    operations::{FormerState, choose_point, new_operation},
};

/// Makes a VM, and starts it unless it is to be stopped.
pub async fn create(app: &App, caller: &Caller, sent: Vm, query: &WriteQuery) -> Result<Changed<Vm>, Problem> {
    caller.may_change()?;
    check_labels(&sent.metadata)?;
    sent.spec.validate()?;
    // What one VM pins another may be asking for at this moment; what a pool may promise is promised once.
    let pins = sent.spec.resources.resource_pool.is_some()
        || sent.spec.pool.is_some()
        || sent.spec.nics.iter().any(|nic| nic.address.is_some() || nic.mac.is_some() || nic.port.is_some());
    let _alone = if pins { Some(app.references.write().await) } else { None };
    let _referring = if pins { None } else { Some(app.references.read().await) };
    if let Some(existing) = app.objects.find::<Vm>(sent.name()).await? {
        return Err(exists(&existing));
    }
    check_references(app, &sent)?;
    let mut vm = Vm::new(sent.metadata.name.clone(), sent.spec.clone());
    vm.metadata.labels = sent.metadata.labels.clone();
    app.stamp(&mut vm.metadata);
    let stopped = vm.spec.power == PowerState::Stopped;
    let former = FormerState { phase: VmPhase::Pending, ..FormerState::of(&vm) };
    vm.status = VmStatus { phase: if stopped { VmPhase::Stopped } else { VmPhase::Starting }, ..VmStatus::default() };
    let operation = if stopped { None } else { Some(new_operation(app, caller, Action::VmStart, &vm, Some(&former))?) };
    let mut change = Change::new();
    vm.status.operation = operation.as_ref().map(|operation| operation.metadata.name.clone());
    change.create(&vm)?.event(&app.event(
        vm.reference(),
        Severity::Normal,
        "VmCreated",
        format!("{} created VM '{}'", caller.name, vm.name()),
    ))?;
    finish_change(app, change, vm, operation, query).await
}

/// Making a VM that could not be started is not the way to start it.
pub(super) fn exists(vm: &Vm) -> Problem {
    let problem = already_exists(vm);
    if vm.status.phase != VmPhase::Failed {
        return problem;
    }
    let name = vm.name();
    let reason = vm.status.reason.as_deref().unwrap_or("no reason was recorded");
    Problem { detail: format!("VM '{name}' exists already and has failed: {reason}"), ..problem }.remedy(format!(
        "when the cause is gone, start it: gantry vm start {name}; or remove it first: gantry vm delete {name}"
    ))
}

/// Creates the VM or changes it to what is sent. Sending what is there already changes nothing.
pub async fn put(app: &App, caller: &Caller, name: &str, sent: Vm, query: &WriteQuery) -> Result<Changed<Vm>, Problem> {
    caller.may_change()?;
    check_name(name, &sent)?;
    check_labels(&sent.metadata)?;
    sent.spec.validate()?;
    app.objects
        .racing(|| async {
            let Some(current) = app.objects.find::<Vm>(name).await? else {
                if query.revision.is_some() || sent.metadata.revision != 0 {
                    return Err(Problem::not_found(Vm::KIND, name));
                }
                return create(app, caller, sent.clone(), query).await;
            };
            check_precondition(&current, &sent.metadata, query)?;
            let pool = &sent.spec.resources.resource_pool;
            let grows = sent.spec.resources != current.spec.resources || sent.spec.memory != current.spec.memory;
            // What is left in a pool is given to one at a time.
            let takes_room = pool.is_some() && grows;
            let _alone = if takes_room { Some(app.references.write().await) } else { None };
            let names_others = sent.spec.owner != current.spec.owner || sent.spec.backups != current.spec.backups;
            let _referring = if names_others && !takes_room { Some(app.references.read().await) } else { None };
            let Some(update) = vm_update::plan(app, &current, &sent)? else {
                return Ok(Changed { object: app.model.decorate(&current), operation: None });
            };
            let mut vm = update.vm;
            let operation = match update.action {
                Some(action) => Some(engage(app, caller, &mut vm, &current, action)?),
                None => None,
            };
            let mut change = Change::new();
            change.update(&vm)?;
            let protection_changed = vm.spec.ha != current.spec.ha || vm.spec.probes != current.spec.probes;
            let changed = finish_change(app, change, vm, operation, query).await?;
            if protection_changed {
                app.wakeups.protection.notify_one();
            }
            if grows {
                app.wakeups.resources.notify_one();
            }
            Ok(changed)
        })
        .await
}

/// Ends the VM and deletes its disk and its addresses; with `force` without waiting for a host that is lost.
pub async fn delete(
    app: &App,
    caller: &Caller,
    name: &str,
    force: bool,
    query: &WriteQuery,
) -> Result<Changed<Vm>, Problem> {
    launch(app, caller, name, query, |_| Ok(Action::VmDelete { force })).await
}

pub async fn start(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<Changed<Vm>, Problem> {
    launch_for_owner(app, caller, name, query, |vm| {
        expect_phase(vm, &[VmPhase::Pending, VmPhase::Stopped, VmPhase::Failed], "start", Some("gantry vm resume"))?;
        Ok(Action::VmStart)
    })
    .await
}

/// Starts a VM of a host that is out of service on another one, from its disk in a pool that both reach. The caller knows
/// that the guest runs no more; whoever is wrong about that is kept from starting it by the lease beside the disk, and this
/// fails with `disk-in-use` while a QEMU has the disk open.
///
/// # Errors
/// `vm-busy`; `disk-not-shared` if no other host reaches its disk; `host-in-service` if its host could start it.
pub async fn restart_elsewhere(app: &App, name: &str) -> Result<Operation, Problem> {
    let (caller, query) = (Caller::controller(), WriteQuery::default());
    let launched = launch(app, &caller, name, &query, |vm| {
        if app.model.read(|tables| pool::elsewhere(tables, vm)) == pool::Elsewhere::Nowhere {
            let detail = format!("no host but VM '{name}''s own reaches its disk");
            return Err(Problem::conflict("disk-not-shared", detail).object(vm.reference()).remedy(
                "wait for its host; a VM whose disk is in a shared or mirrored pool starts elsewhere: gantry vm create --pool",
            ));
        }
        let host = vm.status.host.as_ref().and_then(|host| app.model.get::<Host>(host.as_str()));
        let has_failed = vm.status.displaced.as_ref().is_some_and(|displaced| displaced.failed);
        if !has_failed && host.is_some_and(|host| host.is_in_service()) {
            return Err(Problem::conflict("host-in-service", format!("the host of VM '{name}' is in service"))
                .object(vm.reference())
                .remedy(format!("start it there: gantry vm start {name}")));
        }
        Ok(Action::VmStart)
    });
    launched.await?.operation.ok_or_else(|| Problem::permanent("no-operation", "nothing was begun"))
}

/// Asks the guest to shut down and cuts it off after the grace time.
pub async fn stop(
    app: &App,
    caller: &Caller,
    name: &str,
    request: StopRequest,
    query: &WriteQuery,
) -> Result<Changed<Vm>, Problem> {
    if request.grace_s > 3600 {
        return Err(Problem::invalid("invalid-request", "the stop request is not valid")
            .field("grace_s", format!("{} is out of range, use 0 to 3600", request.grace_s)));
    }
    launch_for_owner(app, caller, name, query, |vm| {
        let phases = [VmPhase::Running, VmPhase::Paused, VmPhase::Unknown];
        expect_phase(vm, &phases, "stop", None)?;
        Ok(Action::VmStop { grace_s: request.grace_s, force: request.force })
    })
    .await
}

pub async fn reboot(
    app: &App,
    caller: &Caller,
    name: &str,
    request: RebootRequest,
    query: &WriteQuery,
) -> Result<Changed<Vm>, Problem> {
    launch_for_owner(app, caller, name, query, |vm| {
        expect_phase(vm, &[VmPhase::Running], "reboot", Some("gantry vm start"))?;
        Ok(Action::VmReboot { force: request.force })
    })
    .await
}

pub async fn pause(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<Changed<Vm>, Problem> {
    launch(app, caller, name, query, |vm| {
        expect_phase(vm, &[VmPhase::Running], "pause", Some("gantry vm start"))?;
        Ok(Action::VmPause)
    })
    .await
}

pub async fn resume(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<Changed<Vm>, Problem> {
    launch(app, caller, name, query, |vm| {
        expect_phase(vm, &[VmPhase::Paused], "resume", Some("gantry vm start"))?;
        Ok(Action::VmResume)
    })
    .await
}

/// Brings the VM's disk back to a state that was kept for this, and starts it.
pub async fn recover(
    app: &App,
    caller: &Caller,
    name: &str,
    request: &RecoverRequest,
    query: &WriteQuery,
) -> Result<Changed<Vm>, Problem> {
    if request.undo && request.to.is_some() {
        return Err(Problem::invalid("invalid-request", "the request is not valid")
            .field("to", "can't be given together with undo, which goes back to what was replaced last"));
    }
    launch_for_owner(app, caller, name, query, |vm| {
        let phases = [VmPhase::Running, VmPhase::Paused, VmPhase::Stopped, VmPhase::Failed];
        expect_phase(vm, &phases, "recover", None)?;
        choose_point(vm, request.to.as_ref(), request.undo)?;
        Ok(Action::VmRecover { to: request.to.clone(), undo: request.undo })
    })
    .await
}

/// Moves the running VM with its disk to another host, or its disk to another pool. What is there already stays, and that is
/// success.
pub async fn migrate(
    app: &App,
    caller: &Caller,
    name: &str,
    request: &MigrateRequest,
    query: &WriteQuery,
) -> Result<Changed<Vm>, Problem> {
    if let Some(pool) = &request.pool {
        return vm_disk::migrate(app, caller, name, request, pool, query).await;
    }
    caller.may_change()?;
    let vm: Vm = app.objects.get(name).await?;
    check_precondition(&vm, &vm.metadata, query)?;
    let movable = [VmPhase::Running, VmPhase::Paused, VmPhase::Stopped];
    let settled = vm.status.operation.is_none() && movable.contains(&vm.status.phase);
    if settled && request.to.is_some() && vm.status.host == request.to {
        return Ok(Changed { object: app.model.decorate(&vm), operation: None });
    }
    launch(app, caller, name, query, |vm| {
        expect_phase(vm, &movable, "migrate", Some("gantry vm start"))?;
        let is_stopped = vm.status.phase == VmPhase::Stopped;
        if is_stopped {
            snapshot::expect_disk(vm, "move")?;
            pool::expect_own_disk(vm)?;
            volume::expect_none(app, vm, "move while it is stopped")?;
        } else {
            if !app.model.read(|tables| pool::is_disk_shared(tables, vm)) {
                snapshot::expect_none(app, vm)?;
            }
            volume_place::expect_movable(app, vm)?;
        }
        if let Some(to) = &request.to {
            app.model.get::<Host>(to.as_str()).ok_or_else(|| Problem::not_found(Host::KIND, to.as_str()))?;
            if vm.spec.host.as_ref().is_some_and(|pin| pin != to) {
                return Err(pinned(vm));
            }
        } else if vm.spec.host == vm.status.host {
            return Err(pinned(vm));
        }
        if is_stopped {
            return Ok(Action::VmRelocate { to: request.to.clone() });
        }
        Ok(Action::VmMigrate { to: request.to.clone(), policy: request.policy.unwrap_or(vm.spec.migration) })
    })
    .await
}

fn pinned(vm: &Vm) -> Problem {
    let pin = vm.spec.host.as_ref().map(ToString::to_string).unwrap_or_default();
    Problem::conflict("vm-pinned", format!("VM '{}' may only run on host '{pin}' (spec.host)", vm.name()))
        .object(vm.reference())
        .remedy("remove spec.host first, or change it to the new host")
}

/// Writes an operation on an idle VM, in one transaction with the mark on the VM.
pub(super) async fn launch<F>(
    app: &App,
    caller: &Caller,
    name: &str,
    query: &WriteQuery,
    decide: F,
) -> Result<Changed<Vm>, Problem>
where
    F: Fn(&Vm) -> Result<Action, Problem>,
{
    caller.may_change()?;
    launch_for_owner(app, caller, name, query, decide).await
}

/// The same for what the VM's owner may do as well.
async fn launch_for_owner<F>(
    app: &App,
    caller: &Caller,
    name: &str,
    query: &WriteQuery,
    decide: F,
) -> Result<Changed<Vm>, Problem>
where
    F: Fn(&Vm) -> Result<Action, Problem>,
{
    caller.may_operate_some()?;
    app.objects
        .racing(|| async {
            let current: Vm = app.objects.get(name).await?;
            caller.may_operate(&current)?;
            check_precondition(&current, &current.metadata, query)?;
            expect_idle(&current)?;
            let action = decide(&current)?;
            let mut vm = current.clone();
            let operation = engage(app, caller, &mut vm, &current, action)?;
            let mut change = Change::new();
            change.update(&vm)?;
            finish_change(app, change, vm, Some(operation), query).await
        })
        .await
}

/// Marks the VM with a new operation, and its spec with what that operation will make true.
pub(super) fn engage(
    app: &App,
    caller: &Caller,
    vm: &mut Vm,
    former: &Vm,
    action: Action,
) -> Result<Operation, Problem> {
    let was_on = matches!(vm.status.phase, VmPhase::Running | VmPhase::Paused);
    let (phase, power) = match &action {
        Action::VmStart if vm.spec.power == PowerState::Stopped => (VmPhase::Starting, PowerState::Running),
        Action::VmStart => (VmPhase::Starting, vm.spec.power),
        Action::VmStop { .. } => (VmPhase::Stopping, PowerState::Stopped),
        Action::VmPause => (vm.status.phase, PowerState::Paused),
        Action::VmResume => (vm.status.phase, PowerState::Running),
        Action::VmDelete { .. } => (VmPhase::Deleting, vm.spec.power),
        Action::VmMigrate { .. } => (VmPhase::Migrating, vm.spec.power),
        Action::VmRecover { .. } if was_on => (VmPhase::Stopping, PowerState::Running),
        Action::VmRecover { .. } => (VmPhase::Starting, PowerState::Running),
        Action::SnapshotRevert { disk_only: true, .. } if was_on => (VmPhase::Stopping, PowerState::Running),
        Action::SnapshotRevert { disk_only: true, .. } => (vm.status.phase, PowerState::Stopped),
        Action::SnapshotRevert { .. } if was_on => (vm.status.phase, PowerState::Running),
        Action::SnapshotRevert { .. } => (VmPhase::Starting, PowerState::Running),
        // The rest leaves it as it is, or is nothing that is done to a VM.
        _ => (vm.status.phase, vm.spec.power),
    };
    if !vm.status.phase.may_become(phase) {
        return Err(Problem::conflict(
            "wrong-phase",
            format!("VM '{}' is {}, it can't become {phase} from there", vm.name(), vm.status.phase),
        )
        .object(vm.reference())
        .remedy(format!("see its state: gantry describe vm {}", vm.name())));
    }
    if matches!(action, Action::VmStart) && !caller.is_controller() {
        vm.status.failovers.clear();
    }
    let operation = new_operation(app, caller, action, vm, Some(&FormerState::of(former)))?;
    vm.status.phase = phase;
    vm.status.operation = Some(operation.metadata.name.clone());
    vm.spec.power = power;
    Ok(operation)
}

pub(super) async fn finish_change(
    app: &App,
    mut change: Change,
    mut vm: Vm,
    mut operation: Option<Operation>,
    query: &WriteQuery,
) -> Result<Changed<Vm>, Problem> {
    if let Some(operation) = &operation {
        change.create(operation)?;
    }
    if !query.dry_run {
        let revision = app.commit(change).await?;
        vm.metadata.revision = revision;
        if let Some(operation) = &mut operation {
            operation.metadata.revision = revision;
        }
    }
    Ok(Changed { object: app.model.decorate(&vm), operation })
}

/// # Errors
/// `vm-busy` if an operation is at work on it.
pub(super) fn expect_idle(vm: &Vm) -> Result<(), Problem> {
    let Some(operation) = &vm.status.operation else { return Ok(()) };
    Err(Problem::conflict("vm-busy", format!("VM '{}' is busy: operation '{operation}' is at work on it", vm.name()))
        .object(vm.reference())
        .remedy(format!("wait for it, or stop it: gantry operation cancel {operation}")))
}

pub(super) fn expect_phase(vm: &Vm, phases: &[VmPhase], verb: &str, instead: Option<&str>) -> Result<(), Problem> {
    if phases.contains(&vm.status.phase) {
        return Ok(());
    }
    let wanted: Vec<_> = phases.iter().map(ToString::to_string).collect();
    let problem = Problem::conflict(
        "wrong-phase",
        format!("can't {verb} VM '{}': it is {}, not {}", vm.name(), vm.status.phase, wanted.join(" or ")),
    )
    .object(vm.reference());
    Err(match instead {
        Some(command) => {
            problem.remedy(format!("see its state: gantry describe vm {0}; perhaps: {command} {0}", vm.name()))
        }
        None => problem.remedy(format!("see its state: gantry describe vm {}", vm.name())),
    })
}
