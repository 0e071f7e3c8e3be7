//! Removes what hosts still have of VMs that are not theirs any more: after a host that was lost comes back, or after
//! an operation had to leave something behind.
//!
//! A VM is a stray on a host only if it does not exist any more, or nothing places it there: it is recorded elsewhere
//! (or nowhere) with an epoch at least as high, is not moving there, and no operation is at work on it. The host
//! refuses the removal if it knows a higher epoch, so a decision made on old knowledge does nothing.

use std::{sync::Arc, time::Duration};

use gantry_api::agent::{VmObservation, VmRunState};
use gantry_types::{Host, HostState, Name, ObjectRef, Problem, Resource, Severity, Vm};
use uuid::Uuid;

use super::woken;
use crate::{app::App, model::Tables, objects::Change};

const INTERVAL: Duration = Duration::from_secs(10);

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
            let mentioned = tables
                .operations
                .values()
                .any(|operation| !operation.status.phase.is_finished() && operation.spec.target.uuid == uuid);
            return (!mentioned).then(|| stray(observation.epoch));
        };
        let placed_here = [&vm.status.host, &vm.status.moving_to].into_iter().flatten().any(|at| at == host);
        // A destination that never committed has the epoch that the VM would have had there.
        let outranked = vm.status.epoch >= observation.epoch || observation.state == VmRunState::Receiving;
        let stray_here = !placed_here && vm.status.operation.is_none() && outranked;
        stray_here.then(|| stray(vm.status.epoch.max(observation.epoch)))
    })
}

/// Looks at every host's last report; removes what it finds.
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
