//! Shuts hosts out: sees to it that a majority of the cluster's members has the record, waits for a proof that nothing
//! protected runs there any more, and says so of its VMs.
//!
//! The record is in the host's object before anybody is asked to store it. What is known of the others' answers is in
//! memory: a controller that starts asks them again and counts from then.

use std::{sync::Arc, time::Duration};

use gantry_api::fencing::LiftedFence;
use gantry_ha::fencing::{Progress, Proof};
use gantry_types::{
    Displaced, FenceProofKind, Host, HostFence, HostState, Member, Name, PowerState, PowerStatus, Problem, Resource,
    Severity, Vm, VmPhase,
};

use super::{errands::Errands, woken};
use crate::{
    app::{App, fence, pool},
    clock::within,
    leases::moment,
    model::Tables,
    objects::Change,
};

const INTERVAL: Duration = Duration::from_millis(250);
/// A member that takes longer is asked again.
const STORE_LIMIT: Duration = Duration::from_millis(1_500);

pub async fn run(app: Arc<App>) {
    let mut errands = Errands::default();
    loop {
        woken(&app, &app.wakeups.fences, INTERVAL).await;
        errands.reap();
        for (host, fence) in app.model.read(fence::fenced) {
            send_out(&mut errands, &app, &host, &fence);
        }
        if let Err(problem) = pass(&app).await {
            tracing::warn!(%problem, "shutting hosts out makes no progress");
        }
    }
}

/// What takes its time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Errand {
    Store(Name),
    Power(Name),
}

fn send_out(errands: &mut Errands<Errand>, app: &Arc<App>, host: &Arc<Host>, fence: &HostFence) {
    if fence.proof.is_some() {
        return;
    }
    for errand in [Errand::Store(host.metadata.name.clone()), Errand::Power(host.metadata.name.clone())] {
        let (app, host, fence, kind) = (Arc::clone(app), Arc::clone(host), fence.clone(), errand.clone());
        errands.send_out(errand, async move {
            match kind {
                Errand::Store(_) => store(&app, &host, &fence).await,
                Errand::Power(_) => switch_off(&app, &host, &fence).await,
            }
        });
    }
}

/// Has the members that lack the record store it.
pub async fn store(app: &App, host: &Host, fence: &HostFence) {
    let record = &fence.record;
    let look = app.model.read(|tables| app.leases.look(tables, host, record, moment(&*app.clock)));
    let names = look.missing.into_iter().filter_map(|member| match member {
        Member::Host(name) => Some(name),
        Member::Controller => None,
    });
    let members = names.filter_map(|name| app.model.get::<Host>(name.as_str()));
    let asked = members.map(|member| async move {
        let agent = app.links.agent(&member);
        let stored = within(&*app.clock, STORE_LIMIT, agent.store_fence(record)).await;
        match stored {
            Some(Ok(stored)) if stored.generation >= record.generation => {
                let by = Member::Host(member.metadata.name.clone());
                app.leases.stored(record, by, stored.ago_ms, moment(&*app.clock));
                app.wakeups.fences.notify_one();
            }
            Some(Err(problem)) => tracing::debug!(member = member.name(), %problem, "it has no record yet"),
            Some(Ok(_)) | None => tracing::debug!(member = member.name(), "it has no record yet"),
        }
    });
    futures::future::join_all(asked).await;
}

/// Switches the host off if that was asked for, if there is no other way, or if it is off already, and looks at it.
pub async fn switch_off(app: &App, host: &Host, fence: &HostFence) {
    let Ok(driver) = app.power.of(host) else { return };
    let record = &fence.record;
    let look = app.model.read(|tables| app.leases.look(tables, host, record, moment(&*app.clock)));
    let looked = async {
        let wanted = fence.power_off || look.progress == Progress::Unbound;
        if !wanted && driver.status().await? == PowerStatus::On {
            return Ok(());
        }
        // Also if it is off already: what was seen off before the record counts for nothing.
        driver.off().await?;
        if driver.status().await? == PowerStatus::Off {
            app.leases.power_is_off(record);
            app.wakeups.fences.notify_one();
        }
        Ok::<(), Problem>(())
    };
    if let Err(problem) = looked.await {
        tracing::debug!(host = host.name(), %problem, "its power tells nothing");
    }
}

/// One look at all hosts: begins, concludes and tells.
pub async fn pass(app: &App) -> Result<(), Problem> {
    for host in app.model.read(lost) {
        if holds_others_up(app, &host) {
            begin(app, &host).await?;
        }
    }
    for (host, fence) in app.model.read(fence::fenced) {
        if fence.proof.is_some() {
            displace(app, &host).await?;
            continue;
        }
        let look = app.model.read(|tables| app.leases.look(tables, &host, &fence.record, moment(&*app.clock)));
        if let Progress::Proved(proof) = look.progress {
            let kind = match proof {
                Proof::PowerOff => FenceProofKind::PowerOff,
                Proof::LeaseOver { .. } => FenceProofKind::LeaseOver,
            };
            fence::prove(app, &host.metadata.name, fence.record.generation, kind).await?;
        }
    }
    tell_lifted(app).await;
    Ok(())
}

/// The hosts that nobody has shut out yet. There may be very many hosts, and this is asked four times a second.
fn lost(tables: &Tables) -> Vec<Arc<Host>> {
    let is_lost = |host: &&Arc<Host>| host.status.fence.is_none() && host.status.state == HostState::Lost;
    tables.hosts.values().filter(is_lost).cloned().collect()
}

/// A guarded VM that is believed to run there, with nobody at work on it.
fn runs_guarded_at(vm: &Vm, host: &Name) -> bool {
    vm.status.host.as_ref() == Some(host)
        && vm.status.is_guarded()
        && vm.status.operation.is_none()
        && fence::executes(vm)
}

/// A protected VM could run elsewhere if it were certain that it does not run there.
fn holds_others_up(app: &App, host: &Host) -> bool {
    app.model.read(|tables| {
        let its = |vm: &Vm| {
            runs_guarded_at(vm, &host.metadata.name)
                && vm.spec.ha.policy == gantry_types::HaPolicy::Restart
                && vm.spec.power == PowerState::Running
                && vm.spec.host.is_none()
                && pool::elsewhere(tables, vm) != pool::Elsewhere::Nowhere
        };
        tables.vms.values().any(|vm| its(vm))
    })
}

async fn begin(app: &App, host: &Host) -> Result<(), Problem> {
    app.objects
        .racing(|| async {
            let mut host: Host = app.objects.get(host.name()).await?;
            if host.status.fence.is_some() || host.status.state != HostState::Lost {
                return Ok(());
            }
            let why = "it is lost, and protected VMs run there";
            let mut change = Change::new();
            fence::record(app, &mut host, "controller", why, false, &mut change)?;
            app.commit(change).await.map(drop)
        })
        .await?;
    app.wakeups.fences.notify_one();
    Ok(())
}

/// The guarded VMs that ran there surely do not any more.
async fn displace(app: &App, host: &Host) -> Result<(), Problem> {
    let ran_there = |vm: &Vm| runs_guarded_at(vm, &host.metadata.name) && vm.status.displaced.is_none();
    let names: Vec<String> = app
        .model
        .read(|tables| tables.vms.values().filter(|vm| ran_there(vm)).map(|vm| vm.name().to_owned()).collect());
    for name in names {
        app.objects
            .racing(|| async {
                let Some(mut vm) = app.objects.find::<Vm>(&name).await?.filter(|vm| ran_there(vm)) else {
                    return Ok(());
                };
                // As it is now: a fence that was lifted meanwhile proves nothing any more.
                let host: Host = app.objects.get(host.name()).await?;
                if host.status.fence.as_ref().is_none_or(|fence| fence.proof.is_none()) {
                    return Ok(());
                }
                let from = host.metadata.name.clone();
                vm.status.phase = VmPhase::Failed;
                vm.status.forget_guest();
                vm.status.started_at = None;
                vm.status.guest = None;
                vm.status.reason = Some(format!("host '{from}' was shut out, so it was stopped there"));
                vm.status.displaced =
                    Some(Displaced { from: from.clone(), since: app.clock.now(), failed: false, waits: None });
                let message = format!("VM '{name}' runs nowhere: host '{from}' is shut out");
                let mut event = app.event(vm.reference(), Severity::Warning, "VmDisplaced", message);
                event.spec.host = Some(from);
                let mut change = Change::new();
                change.update(&vm)?.require(&host).event(&event)?;
                app.commit(change).await.map(drop)
            })
            .await?;
        app.wakeups.failover.notify_one();
    }
    Ok(())
}

/// Members keep a record until they hear that it was lifted; the host itself tells them, too, when it asks.
async fn tell_lifted(app: &App) {
    let lifted: Vec<(Arc<Host>, LiftedFence)> =
        app.leases.untold().into_iter().flat_map(|lifted| others(app, lifted)).collect();
    let told = lifted.iter().map(|(member, lifted)| async move {
        let answered = within(&*app.clock, STORE_LIMIT, app.links.agent(member).lift_fence(lifted)).await;
        if !matches!(answered, Some(Ok(()))) {
            tracing::debug!(member = member.name(), host = %lifted.host, "it does not know that the fence was lifted");
        }
    });
    futures::future::join_all(told).await;
}

fn others(app: &App, lifted: LiftedFence) -> Vec<(Arc<Host>, LiftedFence)> {
    let hosts = app.model.list::<Host>();
    let others = hosts.into_iter().filter(|member| member.metadata.name != lifted.host);
    others.map(|member| (member, lifted.clone())).collect()
}
