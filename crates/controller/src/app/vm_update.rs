//! What a changed spec means for a VM that exists: refused, just written down, or carried out by an operation.

use gantry_types::{Action, PowerState, Problem, Resource, Vm, VmPhase};

use super::{
    App, resource_pool,
    vm::expect_idle,
    vm_references::{check_owner, check_pin, check_repository},
};

/// A change that is allowed.
pub struct Update {
    pub vm: Vm,
    pub action: Option<Action>,
}

/// `None` if nothing is different. The caller holds `App::references` if the owner or the schedule of backups changes, for writing if the VM takes
/// more of a resource pool.
pub fn plan(app: &App, current: &Vm, sent: &Vm) -> Result<Option<Update>, Problem> {
    let mut vm = current.clone();
    vm.spec = sent.spec.clone();
    vm.metadata.labels = sent.metadata.labels.clone();
    if vm == *current {
        return Ok(None);
    }
    check_unchangeable(current, sent)?;
    if sent.spec.owner != current.spec.owner {
        check_owner(app, sent)?;
    }
    if sent.spec.backups != current.spec.backups {
        check_repository(app, sent)?;
    }
    if sent.spec.resources != current.spec.resources || sent.spec.memory != current.spec.memory {
        resource_pool::check(app, &vm)?;
    }
    let offline = offline_changes(current, sent);
    let power_changes = vm.spec.power != current.spec.power;
    if !offline.is_empty() || power_changes {
        expect_idle(current)?;
    }
    if !offline.is_empty() {
        expect_stopped(current, &offline)?;
    }
    if vm.spec.host != current.spec.host {
        check_pin(app, &vm)?;
        if let (Some(pin), Some(at)) = (&vm.spec.host, &vm.status.host)
            && pin != at
        {
            return Err(Problem::conflict(
                "vm-elsewhere",
                format!("VM '{}' is on host '{at}', so it can't be bound to host '{pin}'", vm.name()),
            )
            .object(current.reference())
            .remedy(format!("move it first: gantry vm migrate {} --to {pin}", vm.name())));
        }
    }
    let action = if power_changes { power_action(&vm)? } else { None };
    Ok(Some(Update { vm, action }))
}

fn check_unchangeable(current: &Vm, sent: &Vm) -> Result<(), Problem> {
    let (old, new) = (&current.spec, &sent.spec);
    let fixed = [
        ("spec.image", old.image != new.image),
        ("spec.disk", old.disk != new.disk),
        ("spec.pool", old.pool != new.pool),
        ("spec.nics", old.nics != new.nics),
        ("spec.arch", old.arch != new.arch),
    ];
    let mut problem = Problem::invalid(
        "unchangeable",
        format!("VM '{}' can't be changed like this after its creation", current.name()),
    )
    .object(current.reference())
    .remedy("delete the VM and create it anew, or leave these fields as they are");
    for (field, changed) in fixed {
        if changed {
            problem = problem.field(field, "is fixed when the VM is created");
        }
    }
    if problem.fields.is_empty() { Ok(()) } else { Err(problem) }
}

/// Fields that differ and take effect only with the next start.
fn offline_changes(current: &Vm, sent: &Vm) -> Vec<&'static str> {
    let (old, new) = (&current.spec, &sent.spec);
    [
        ("spec.cpus", old.cpus != new.cpus),
        ("spec.memory", old.memory != new.memory),
        ("spec.cpu_model", old.cpu_model != new.cpu_model),
        ("spec.firmware", old.firmware != new.firmware),
        ("spec.display", old.display != new.display),
        ("spec.user_data", old.user_data != new.user_data),
        ("spec.ha.watchdog", old.ha.watchdog != new.ha.watchdog),
    ]
    .into_iter()
    .filter_map(|(field, changed)| changed.then_some(field))
    .collect()
}

fn expect_stopped(vm: &Vm, fields: &[&str]) -> Result<(), Problem> {
    if matches!(vm.status.phase, VmPhase::Pending | VmPhase::Stopped | VmPhase::Failed) {
        return Ok(());
    }
    let mut problem = Problem::conflict(
        "vm-not-stopped",
        format!(
            "VM '{}' is {}; {} can only be changed while it is stopped",
            vm.name(),
            vm.status.phase,
            fields.join(", ")
        ),
    )
    .object(vm.reference())
    .remedy(format!("stop it first: gantry vm stop {}", vm.name()));
    for field in fields {
        problem = problem.field(*field, "is changed only while the VM is stopped");
    }
    Err(problem)
}

/// How to get from the VM's phase to the power state its spec now asks for.
fn power_action(vm: &Vm) -> Result<Option<Action>, Problem> {
    use {PowerState as P, VmPhase as V};
    Ok(match (vm.spec.power, vm.status.phase) {
        (P::Running | P::Paused, V::Pending | V::Stopped | V::Failed) => Some(Action::VmStart),
        (P::Running, V::Paused) => Some(Action::VmResume),
        (P::Paused, V::Running) => Some(Action::VmPause),
        (P::Stopped, V::Running | V::Paused | V::Unknown) => Some(Action::VmStop { grace_s: 60, force: false }),
        (P::Running, V::Running) | (P::Paused, V::Paused) => None,
        (P::Stopped, V::Pending | V::Stopped | V::Failed) => None,
        (_, phase) => {
            return Err(Problem::conflict("wrong-phase", format!("VM '{}' is {phase}", vm.name()))
                .object(vm.reference())
                .remedy("wait until it is running or stopped"));
        }
    })
}
