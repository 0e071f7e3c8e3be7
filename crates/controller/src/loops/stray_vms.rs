//! Removes what hosts still have of VMs that are not theirs any more: after a host that was lost comes back, or after
//! an operation had to leave something behind.
//!
//! A VM is a stray on a host only if this datacenter has deleted it, which a deletion that succeeded or a clone that was
//! undone proves, or if nothing places it there: it is recorded elsewhere with a higher epoch (or nowhere with one as high), is not moving
//! there, and no operation is at work on it. So is what it left on a host that it was placed on again, after the one that it went to
//! was lost. The host refuses the removal if it knows a higher epoch, so a decision made
//! on old knowledge does nothing.
//!
//! A VM that this store knows nothing of may be somebody's only copy: of a VM made after the backup that the store was
//! restored from, or deleted so long ago that its operations were dropped. It is told of once and left alone.

use std::{sync::Arc, time::Duration};

use gantry_api::agent::{Verdict, VmObservation, VmRunState};
use gantry_types::{Action, Host, HostState, Name, ObjectRef, OperationPhase, Problem, Resource, Severity, Vm};
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
    pub ending: StrayEnding,
}

/// How what a host has of a VM is ended. A migration is named, so that an order that comes late can't hit the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StrayEnding {
    Remove,
    /// It was handed over by this migration.
    Release(Uuid),
    /// It was to be received by this migration, which was never committed.
    Abort(Uuid),
}

/// The strays among what a host reports.
pub fn find<'a>(
    tables: &'a Tables,
    host: &'a Name,
    observations: impl IntoIterator<Item = &'a VmObservation> + 'a,
) -> impl Iterator<Item = Stray> + 'a {
    observations.into_iter().filter_map(move |observation| {
        // The host can't say what it has: only a person may decide over it.
        if observation.damaged {
            return None;
        }
        let uuid = observation.uuid;
        let migration = observation.migration.as_ref().map(|report| report.migration);
        let ending = match (observation.state, migration) {
            (VmRunState::HandedOver, Some(migration)) => StrayEnding::Release(migration),
            (VmRunState::Receiving, Some(migration)) => StrayEnding::Abort(migration),
            _ => StrayEnding::Remove,
        };
        let stray = |epoch: u64| Stray { uuid, name: observation.name.clone(), epoch, ending };
        let Some(vm) = by_uuid(tables, observation) else {
            return (past_of(tables, uuid) == Past::Deleted).then(|| stray(observation.epoch));
        };
        let placed_here = [&vm.status.host, &vm.status.moving_to].into_iter().flatten().any(|at| at == host);
        // A destination that never got the VM has the epoch that it would have had there. The same epoch on another
        // host is no proof: after a host joined under another name, or an old store came back, it may be the VM itself.
        let outranked = match &vm.status.host {
            Some(_) => vm.status.epoch > observation.epoch,
            None => vm.status.epoch >= observation.epoch,
        } || matches!(observation.state, VmRunState::Receiving | VmRunState::Arrived);
        // Placed here again since it left, the VM can't be made here before what it left is gone.
        let left_behind = observation.state == VmRunState::HandedOver && vm.status.epoch > observation.epoch + 1;
        let stray_here = vm.status.operation.is_none() && (left_behind || !placed_here && outranked);
        stray_here.then(|| stray(vm.status.epoch.max(observation.epoch)))
    })
}

/// The VM, whatever name the host has for it: a damaged record has none.
fn by_uuid<'a>(tables: &'a Tables, observation: &VmObservation) -> Option<&'a Vm> {
    let same = |vm: &&std::sync::Arc<Vm>| vm.metadata.uuid == observation.uuid;
    let vm = tables.vms.get(observation.name.as_str()).filter(same);
    vm.or_else(|| tables.vms.values().find(same)).map(|vm| &**vm)
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
    // Only a deletion that was carried through, or a clone that was undone, proves that nobody wants what is left of it.
    let deleted = operations.any(|operation| {
        let succeeded = operation.status.phase == OperationPhase::Succeeded;
        match operation.spec.action {
            Action::VmDelete { .. } => succeeded,
            Action::VmClone { .. } => !succeeded,
            _ => false,
        }
    });
    if deleted { Past::Deleted } else { Past::Unknown }
}

/// Whether this datacenter has deleted the VM.
pub(super) fn was_deleted(tables: &Tables, vm: Uuid) -> bool {
    past_of(tables, vm) == Past::Deleted
}

/// The VMs among what a host reports that this datacenter knows nothing of and has not told of yet.
pub fn find_unknown<'a>(
    tables: &'a Tables,
    host: &'a Name,
    observations: impl IntoIterator<Item = &'a VmObservation> + 'a,
) -> impl Iterator<Item = &'a VmObservation> {
    observations.into_iter().filter(move |observation| {
        let uuid = observation.uuid;
        by_uuid(tables, observation).is_none() && past_of(tables, uuid) == Past::Unknown && !is_told(tables, host, uuid)
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
            // The removals before this one took their time.
            let still = app.model.read(|tables| find(tables, name, &observations).any(|found| found == stray));
            if !still {
                continue;
            }
            match remove(app, &host, &stray).await {
                Ok(()) => {}
                Err(problem) => tracing::warn!(host = %name, vm = %stray.name, %problem, "a stray VM stays for now"),
            }
        }
    }
}

async fn remove(app: &App, host: &Host, stray: &Stray) -> Result<(), Problem> {
    let agent = app.links.agent(host);
    match stray.ending {
        StrayEnding::Remove => agent.remove_vm(stray.uuid, stray.epoch).await?,
        StrayEnding::Release(migration) => agent.release_migration(stray.uuid, migration).await?,
        StrayEnding::Abort(migration) => {
            if agent.abort_migration(stray.uuid, migration).await? == Verdict::Committed {
                let detail = format!("host '{}' committed migration {migration} after all", host.name());
                return Err(Problem::conflict("migration-committed", detail));
            }
        }
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
