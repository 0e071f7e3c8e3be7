//! Notices hosts that have fallen silent, and says what that means for their VMs.
//!
//! It only says so. Whether a silent host still runs its VMs nobody knows, so nothing is started elsewhere from here.

use std::{sync::Arc, time::Duration};

use gantry_types::{Host, HostState, Problem, Resource, Severity, Vm, VmPhase};

use crate::{app::App, objects::Change};

const INTERVAL: Duration = Duration::from_millis(250);

pub async fn run(app: Arc<App>) {
    // A host that has not reported since this controller started is counted from here.
    let started = app.clock.elapsed();
    loop {
        app.clock.sleep(INTERVAL).await;
        if let Err(problem) = pass(&app, started).await {
            tracing::warn!(%problem, "could not write down what silent hosts mean");
        }
    }
}

/// One look at all hosts.
pub async fn pass(app: &App, started: Duration) -> Result<(), Problem> {
    let now = app.clock.elapsed();
    for host in app.model.list::<Host>() {
        match host.status.state {
            HostState::Ready if is_silent(app, host.name(), started, now) => lose(app, host.name(), started).await?,
            HostState::Lost => doubt_vms(app, &host).await?,
            HostState::Ready | HostState::Joining | HostState::Sleeping | HostState::Waking => {}
        }
    }
    Ok(())
}

fn is_silent(app: &App, host: &str, started: Duration, now: Duration) -> bool {
    let seen = app.model.overlay(|overlay| overlay.hosts.get(host).map(|report| report.last_seen_elapsed));
    now.saturating_sub(seen.unwrap_or(started)) > app.config.host_lost_after
}

async fn lose(app: &App, name: &str, started: Duration) -> Result<(), Problem> {
    let host = app
        .objects
        .racing(|| async {
            let mut host: Host = app.objects.get(name).await?;
            // It may have spoken up while we asked the store.
            if host.status.state != HostState::Ready || !is_silent(app, name, started, app.clock.elapsed()) {
                return Ok(None);
            }
            host.status.state = HostState::Lost;
            let silent_s = app.config.host_lost_after.as_secs();
            let message = format!(
                "host '{name}' is lost: no heartbeat for {silent_s} s. Its VMs may still run. Check its power, its \
                 network and its agent (systemctl status gantry-agent)"
            );
            let mut change = Change::new();
            change.update(&host)?;
            change.event(&app.event(host.reference(), Severity::Warning, "HostLost", message))?;
            host.metadata.revision = app.commit(change).await?;
            Ok(Some(host))
        })
        .await?;
    match host {
        Some(host) => doubt_vms(app, &host).await,
        None => Ok(()),
    }
}

/// Its VMs that may execute become `unknown`; those that an operation is at work on when that ends.
async fn doubt_vms(app: &App, host: &Host) -> Result<(), Problem> {
    let in_doubt = |vm: &Vm| {
        vm.status.host.as_ref() == Some(&host.metadata.name)
            && vm.status.operation.is_none()
            && matches!(vm.status.phase, VmPhase::Running | VmPhase::Paused)
    };
    let doubtful = app.model.read(|tables| {
        tables.vms.values().filter(|vm| in_doubt(vm)).map(|vm| vm.name().to_owned()).collect::<Vec<_>>()
    });
    for name in doubtful {
        app.objects
            .racing(|| async {
                let Some(mut vm) = app.objects.find::<Vm>(&name).await?.filter(|vm| in_doubt(vm)) else {
                    return Ok(());
                };
                vm.status.phase = VmPhase::Unknown;
                vm.status.forget_guest();
                vm.status.reason = Some(format!("host '{}' is lost", host.name()));
                let message = format!("VM '{name}' is out of sight: host '{}' is lost", host.name());
                let mut event = app.event(vm.reference(), Severity::Warning, "VmUnknown", message);
                event.spec.host = Some(host.metadata.name.clone());
                let mut change = Change::new();
                // Not if the host is back by now.
                change.update(&vm)?.require(host).event(&event)?;
                match app.commit(change).await {
                    Err(problem) if problem.code() == crate::objects::CHANGED_MEANWHILE => {
                        let current = app.objects.find::<Host>(host.name()).await?;
                        let still = current.is_some_and(|now| now.metadata.revision == host.metadata.revision);
                        if still { Err(problem) } else { Ok(()) }
                    }
                    other => other.map(drop),
                }
            })
            .await?;
    }
    Ok(())
}
