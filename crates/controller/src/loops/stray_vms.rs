//! Removes what hosts still have of VMs that are not theirs any more: after a host that was lost comes back, or after
//! an operation had to leave something behind.
//!
//! A VM is a stray on a host only if this datacenter has deleted it, which a finished operation proves, or if nothing
//! places it there: it is recorded elsewhere (or nowhere) with an epoch at least as high, is not moving there, and no
//! operation is at work on it. The host refuses the removal if it knows a higher epoch, so a decision made on old
//! knowledge does nothing.
//!
//! A VM that this store knows nothing of may be somebody's only copy: of a VM made after the backup that the store was
//! restored from, or deleted so long ago that its operations were dropped. It is told of once and left alone.

use std::{sync::Arc, time::Duration};

use gantry_api::agent::{VmObservation, VmRunState};
use gantry_types::{
    Action, Host, HostState, Name, ObjectRef, Operation, OperationPhase, Problem, Resource, Severity, Vm,
};
use uuid::Uuid;

use super::woken;
use crate::{app::App, model::Tables, objects::Change};

const INTERVAL: Duration = Duration::from_secs(10);
const UNKNOWN: &str = "UnknownVm";

pub async fn run(app: Arc<App>) {
    loop {
        woken(&app, &app.wakeups.stray_vms, INTERVAL).await;
        pass(&app).await;
    }
}

/// A VM that a host should not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    pub uuid: Uuid,
    pub name: Name,
    pub epoch: u64,
    /// It was handed over by this migration, so it is released, not removed.
    pub handed_over: Option<Uuid>,
}

/// The strays among what a host reports.
pub fn find<'a>(
    tables: &'a Tables,
    host: &'a Name,
    observations: impl IntoIterator<Item = &'a VmObservation> + 'a,
) -> impl Iterator<Item = Stray> + 'a {
    observations.into_iter().filter_map(move |observation| {
        let uuid = observation.uuid;
        let migration = observation.migration.as_ref().map(|report| report.migration);
        let handed_over = migration.filter(|_| observation.state == VmRunState::HandedOver);
        let stray = |epoch: u64| Stray { uuid, name: observation.name.clone(), epoch, handed_over };
        // Names are not reused while the VM exists, so this is the quick way to find it.
        let same_name = tables.vms.get(observation.name.as_str()).filter(|vm| vm.metadata.uuid == uuid);
        let Some(vm) = same_name else {
            return (past_of(tables, uuid) == Past::Deleted).then(|| stray(observation.epoch));
        };
        let placed_here = [&vm.status.host, &vm.status.moving_to].into_iter().flatten().any(|at| at == host);
        // A destination that never committed has the epoch that the VM would have had there.
        let outranked = vm.status.epoch >= observation.epoch || observation.state == VmRunState::Receiving;
        let stray_here = !placed_here && vm.status.operation.is_none() && outranked;
        stray_here.then(|| stray(vm.status.epoch.max(observation.epoch)))
    })
}

/// What the store knows of a VM that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Past {
    /// An operation is at work on it.
    Busy,
    Deleted,
    Unknown,
}

fn past_of(tables: &Tables, vm: Uuid) -> Past {
    let mut operations = tables.operations.values().filter(|operation| operation.spec.target.uuid == vm);
    if operations.clone().any(|operation| !operation.status.phase.is_finished()) {
        return Past::Busy;
    }
    if operations.any(|operation| left_it_behind(operation)) { Past::Deleted } else { Past::Unknown }
}

/// Whether this finished operation on a VM that does not exist proves that what hosts have of it is refuse.
fn left_it_behind(operation: &Operation) -> bool {
    match operation.spec.action {
        Action::VmDelete { .. } => true,
        // Undone: what it made was to be removed.
        Action::VmStart | Action::VmMigrate { .. } => operation.status.phase != OperationPhase::Succeeded,
        _ => false,
    }
}

/// The VMs among what a host reports that this datacenter knows nothing of and has not told of yet.
pub fn find_unknown<'a>(
    tables: &'a Tables,
    host: &'a Name,
    observations: impl IntoIterator<Item = &'a VmObservation> + 'a,
) -> impl Iterator<Item = &'a VmObservation> {
    observations.into_iter().filter(move |observation| {
        let uuid = observation.uuid;
        let exists = tables.vms.get(observation.name.as_str()).is_some_and(|vm| vm.metadata.uuid == uuid);
        !exists && past_of(tables, uuid) == Past::Unknown && !is_told(tables, host, uuid)
    })
}

fn is_told(tables: &Tables, host: &Name, vm: Uuid) -> bool {
    let mut events = tables.events.values();
    events.any(|event| {
        event.spec.reason == UNKNOWN && event.spec.regarding.uuid == vm && event.spec.host.as_ref() == Some(host)
    })
}

/// Looks at every host's last report; removes the strays and tells of the unknown.
pub async fn pass(app: &App) {
    for host in app.model.list::<Host>() {
        if host.status.state != HostState::Ready {
            continue;
        }
        let observations: Vec<VmObservation> = app.model.overlay(|overlay| {
            let report = overlay.hosts.get(host.name());
            report.into_iter().flat_map(|report| report.vms.values().cloned()).collect()
        });
        let name = &host.metadata.name;
        let strays: Vec<Stray> = app.model.read(|tables| find(tables, name, &observations).collect());
        let unknown: Vec<VmObservation> =
            app.model.read(|tables| find_unknown(tables, name, &observations).cloned().collect());
        for observation in &unknown {
            if let Err(problem) = tell(app, name, observation).await {
                tracing::warn!(host = %name, vm = %observation.name, %problem, "an unknown VM is not told of yet");
            }
        }
        for stray in strays {
            match remove(app, &host, &stray).await {
                Ok(()) => {}
                Err(problem) => tracing::warn!(host = %name, vm = %stray.name, %problem, "a stray VM stays for now"),
            }
        }
    }
}

async fn remove(app: &App, host: &Host, stray: &Stray) -> Result<(), Problem> {
    let agent = app.links.agent(host);
    match stray.handed_over {
        Some(migration) => agent.release_migration(stray.uuid, migration).await?,
        None => agent.remove_vm(stray.uuid, stray.epoch).await?,
    }
    let name = host.name().to_owned();
    app.model.overlay_mut(|overlay| overlay.left(&name, stray.uuid));
    let regarding = ObjectRef { kind: Vm::KIND.into(), name: stray.name.clone(), uuid: stray.uuid };
    let message = format!("what host '{name}' still had of VM '{}' ({}) was removed", stray.name, stray.uuid);
    let mut event = app.event(regarding, Severity::Normal, "StrayVmRemoved", message);
    event.spec.host = Some(host.metadata.name.clone());
    let mut change = Change::new();
    change.event(&event)?;
    app.commit(change).await?;
    Ok(())
}

async fn tell(app: &App, host: &Name, observation: &VmObservation) -> Result<(), Problem> {
    let (name, uuid) = (&observation.name, observation.uuid);
    let regarding = ObjectRef { kind: Vm::KIND.into(), name: name.clone(), uuid };
    let message = format!(
        "host '{host}' has a VM '{name}' ({uuid}) that this datacenter does not know; it is left alone. If the store was \
         restored from a backup, restore one in which the VM exists. If nobody needs the VM: stop the host's agent, \
         end its QEMU, delete its record (vms/{uuid}) and its disk (in pool/disks) from the agent's state directory, \
         start the agent"
    );
    let mut event = app.event(regarding, Severity::Warning, UNKNOWN, message);
    event.spec.host = Some(host.clone());
    let mut change = Change::new();
    change.event(&event)?;
    app.commit(change).await?;
    Ok(())
}
