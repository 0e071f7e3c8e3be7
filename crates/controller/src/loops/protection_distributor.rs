//! Tells hosts when the protection of a VM they run has changed. What is started anew has it in its assignment.

use std::{sync::Arc, time::Duration};

use gantry_api::agent::ProtectVm;
use gantry_types::{Host, HostState, Resource, Vm, VmPhase};

use super::woken;
use crate::app::App;

const INTERVAL: Duration = Duration::from_secs(2);

pub async fn run(app: Arc<App>) {
    loop {
        woken(&app, &app.wakeups.protection, INTERVAL).await;
        pass(&app).await;
    }
}

/// One look at all VMs that run.
pub async fn pass(app: &App) {
    let differing: Vec<(Arc<Vm>, Arc<Host>)> = app.model.read(|tables| {
        app.model.overlay(|overlay| {
            let differs = |vm: &&Arc<Vm>| {
                let reported = vm.status.host.as_ref().and_then(|host| overlay.hosts.get(host.as_str()));
                let seen = reported.and_then(|report| report.vms.get(&vm.metadata.uuid));
                let runs = matches!(vm.status.phase, VmPhase::Running | VmPhase::Paused);
                let told = |seen: &gantry_api::agent::VmObservation| {
                    let knows = seen.ha.spec == vm.spec.ha && seen.ha.probes == vm.spec.probes;
                    seen.epoch == vm.status.epoch && !knows && !seen.damaged
                };
                runs && vm.status.operation.is_none() && seen.is_some_and(told)
            };
            let with_host = |vm: &Arc<Vm>| {
                let host = tables.hosts.get(vm.status.host.as_ref()?.as_str())?;
                (host.status.state == HostState::Ready).then(|| (Arc::clone(vm), Arc::clone(host)))
            };
            tables.vms.values().filter(differs).filter_map(with_host).collect()
        })
    });
    for (vm, host) in differing {
        let request = ProtectVm { epoch: vm.status.epoch, ha: vm.spec.ha.clone(), probes: vm.spec.probes.clone() };
        if let Err(problem) = app.links.agent(&host).protect_vm(vm.metadata.uuid, &request).await {
            tracing::debug!(vm = vm.name(), %problem, "its host does not have its protection yet");
        }
    }
}
