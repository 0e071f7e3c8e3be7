//! A VM's own disk goes to another pool of the VM's host.

use gantry_api::rest::{Changed, MigrateRequest, WriteQuery};
use gantry_types::{Action, Name, Pool, Problem, Resource, Vm, VmPhase};

use super::{App, Caller, check_precondition, pool, snapshot, vm};

/// The pool as the VM's spec names it; `None` for its host's own.
///
/// # Errors
/// A message if there is no such pool; `pool-not-reached` if the VM's host does not reach it.
pub(crate) fn place(app: &App, vm: &Vm, to: &Name) -> Result<Option<Name>, Problem> {
    let wrong = |message: String| {
        Problem::invalid("invalid-request", format!("the disk of VM '{}' can't be moved", vm.name()))
            .field("pool", message)
    };
    let pool = app.model.read(|tables| pool::find_ready(tables, to)).map_err(wrong)?;
    let Some(host) = &vm.status.host else { return Err(without_disk(vm)) };
    if !pool.is_at(host) {
        return Err(not_reached(vm, host, &pool));
    }
    Ok((!pool.is_local()).then(|| to.clone()))
}

fn without_disk(vm: &Vm) -> Problem {
    let detail = format!("VM '{}' has never been started, so it has no disk", vm.name());
    Problem::conflict("vm-without-disk", detail)
        .object(vm.reference())
        .remedy(format!("start it first: gantry vm start {}", vm.name()))
}

fn not_reached(vm: &Vm, host: &Name, pool: &Pool) -> Problem {
    let reached: Vec<_> = pool.spec.hosts.iter().map(Name::as_str).collect();
    let detail = format!(
        "VM '{}' is on host '{host}', which does not reach pool '{}'; that is reached from {}",
        vm.name(),
        pool.name(),
        reached.join(", ")
    );
    let first = reached.first().copied().unwrap_or("HOST");
    Problem::conflict("pool-not-reached", detail)
        .object(vm.reference())
        .remedy(format!("move the VM there first: gantry vm migrate {} --to {first}", vm.name()))
}

/// Moves it, while the guest writes or while the VM is stopped. One that is there already stays, and that is success.
pub(super) async fn migrate(
    app: &App,
    caller: &Caller,
    name: &str,
    request: &MigrateRequest,
    to: &Name,
    query: &WriteQuery,
) -> Result<Changed<Vm>, Problem> {
    caller.may_change()?;
    // Alone: what a pool may promise is promised once, and the pool is not deleted meanwhile.
    let _alone = app.references.write().await;
    let current: Vm = app.objects.get(name).await?;
    check_precondition(&current, &current.metadata, query)?;
    check_alone(&current, request)?;
    let wanted = place(app, &current, to)?;
    if current.status.operation.is_none() && current.spec.pool == wanted {
        return Ok(Changed { object: app.model.decorate(&current), operation: None });
    }
    vm::launch(app, caller, name, query, |vm| {
        let movable = [VmPhase::Running, VmPhase::Paused, VmPhase::Stopped];
        vm::expect_phase(vm, &movable, "move the disk of", None)?;
        place(app, vm, to)?;
        if vm.status.phase != VmPhase::Stopped {
            expect_no_snapshots(app, vm)?;
        }
        if let (Some(pool), Some(disk)) = (app.model.get::<Pool>(to.as_str()), vm.status.disk) {
            pool::check_promise(app, &pool, disk.bytes()).map_err(|message| {
                Problem::invalid("invalid-request", format!("the disk of VM '{name}' can't be moved"))
                    .field("pool", message)
            })?;
        }
        Ok(Action::VmDiskMigrate { to: to.clone() })
    })
    .await
}

/// One request moves the VM, or its disk.
fn check_alone(vm: &Vm, request: &MigrateRequest) -> Result<(), Problem> {
    let mut wrong = Problem::invalid("invalid-request", format!("the disk of VM '{}' can't be moved", vm.name()));
    if request.to.is_some() && request.to != vm.status.host {
        let message = "can't be given together with pool: one request moves the VM to another host, another one its disk \
                       to another pool of its host";
        wrong = wrong.field("to", message);
    }
    if request.policy.is_some() {
        wrong = wrong.field("policy", "is about moves to another host, and can't be given together with pool");
    }
    if wrong.fields.is_empty() { Ok(()) } else { Err(wrong) }
}

/// They are inside the disk, and QEMU copies what the guest sees.
fn expect_no_snapshots(app: &App, vm: &Vm) -> Result<(), Problem> {
    let Err(problem) = snapshot::expect_none(app, vm) else { return Ok(()) };
    let name = vm.name();
    let detail = format!("{}: while it runs its disk goes to another pool without them", problem.detail);
    let delete = problem.remedy.clone().unwrap_or_default();
    Err(Problem { detail, ..problem }
        .remedy(format!("stop it (gantry vm stop {name}) and repeat the command, then they come along; or {delete}")))
}
