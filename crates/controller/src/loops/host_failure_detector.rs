//! Notices hosts that have fallen silent, and says what that means for their VMs.
//!
//! ```text
//!   heard ── one heartbeat missed ──▶ its power is looked at ── off ──▶ lost
//!     ▲                                   │ on, or nobody can say
//!     └────────── heard ──────────────────┴── silent for longer ──────▶ lost
//! ```
//! It only says so. Whether a silent host still runs its VMs nobody knows, so nothing is started elsewhere from here: an
//! outlet that is wrong about a host makes it lost too early, and whoever shuts it out asks for proofs of his own.

use std::{sync::Arc, time::Duration};

use gantry_types::{Host, HostState, Name, PowerStatus, Problem, Resource, Severity, Vm, VmPhase};

use super::errands::Errands;
use crate::{app::App, clock::within, objects::Change};

const INTERVAL: Duration = Duration::from_millis(250);
/// An outlet that takes longer says nothing.
const POWER_LIMIT: Duration = Duration::from_secs(2);

pub async fn run(app: Arc<App>) {
    // A host that has not reported since this controller started is counted from here.
    let started = app.clock.elapsed();
    let mut looks = Errands::default();
    loop {
        app.clock.sleep(INTERVAL).await;
        if let Err(problem) = pass(&app, started).await {
            tracing::warn!(%problem, "could not write down what silent hosts mean");
        }
        looks.reap();
        send_out(&mut looks, &app, started);
    }
}

/// Looks at the power of silent hosts.
fn send_out(looks: &mut Errands<Name>, app: &Arc<App>, started: Duration) {
    for host in app.model.list::<Host>().into_iter().filter(|host| is_doubtful(app, host, started)) {
        let app = Arc::clone(app);
        looks.send_out(host.metadata.name.clone(), async move {
            if let Err(problem) = look_at_power(&app, &host, started).await {
                tracing::debug!(host = host.name(), %problem, "it is silent, and its power tells nothing");
            }
        });
    }
}

/// A heartbeat has not come. An operation that is at work on a host may have switched it off.
fn is_doubtful(app: &App, host: &Host, started: Duration) -> bool {
    let silence = silence(app, host.name(), started);
    host.status.state == HostState::Ready
        && host.status.operation.is_none()
        && host.spec.power.is_some()
        && silence > app.config.heartbeat_interval * 3 / 2
}

/// A silent host whose power is off is lost, however short its silence.
pub async fn look_at_power(app: &App, host: &Host, started: Duration) -> Result<(), Problem> {
    let driver = app.power.of(host)?;
    let looked = within(&*app.clock, POWER_LIMIT, driver.status()).await;
    if !matches!(looked, Some(Ok(PowerStatus::Off))) {
        return Ok(());
    }
    let is_off = |host: &Host| is_doubtful(app, host, started).then(|| "it is silent and its power is off".to_owned());
    lose(app, host.name(), is_off).await
}

/// One look at all hosts.
pub async fn pass(app: &App, started: Duration) -> Result<(), Problem> {
    for host in app.model.list::<Host>() {
        match host.status.state {
            HostState::Ready if is_silent(app, host.name(), started) => {
                let silent_s = app.config.host_lost_after.as_secs();
                let is_silent = |host: &Host| {
                    is_silent(app, host.name(), started).then(|| format!("no heartbeat for {silent_s} s"))
                };
                lose(app, host.name(), is_silent).await?;
            }
            HostState::Lost => doubt_vms(app, &host).await?,
            HostState::Ready | HostState::Joining | HostState::Sleeping | HostState::Waking => {}
        }
    }
    Ok(())
}

fn silence(app: &App, host: &str, started: Duration) -> Duration {
    let seen = app.model.overlay(|overlay| overlay.hosts.get(host).map(|report| report.last_seen_elapsed));
    app.clock.elapsed().saturating_sub(seen.unwrap_or(started))
}

fn is_silent(app: &App, host: &str, started: Duration) -> bool {
    silence(app, host, started) > app.config.host_lost_after
}

/// `why`: why it is lost, if it still is.
async fn lose(app: &App, name: &str, why: impl Fn(&Host) -> Option<String>) -> Result<(), Problem> {
    let host = app
        .objects
        .racing(|| async {
            let mut host: Host = app.objects.get(name).await?;
            // It may have spoken up while we asked the store.
            let Some(why) = why(&host).filter(|_| host.status.state == HostState::Ready) else { return Ok(None) };
            host.status.state = HostState::Lost;
            let message = format!(
                "host '{name}' is lost: {why}. Its VMs may still run. Check its power, its network and its agent \
                 (systemctl status gantry-agent)"
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
