//! Shutting hosts out, and letting them in again.
//!
//! ```text
//!   record in the store ── HostFencer: a majority has it, and a proof ──▶ proved ── its VMs are displaced ──▶ …
//!        … ── the host is back, has stopped everything protected, and says so ──▶ lifted
//! ```
//! The record is a part of the host's object, so whatever relies on it can require it in its own transaction.

use gantry_api::rest::{Changed, FenceRequest, WriteQuery};
use gantry_types::{
    Fence, FenceProof, FenceProofKind, Host, HostFence, HostState, Name, Problem, Resource, Severity, Vm,
};

use super::{App, Caller, check_precondition};
use crate::{leases, model::Tables, objects::Change};

const WHY_CHARS_MAX: usize = 200;

/// Shuts the host out because somebody says so: its power is switched off where it can be, and nothing is placed there
/// before it is uncordoned.
pub async fn fence(
    app: &App,
    caller: &Caller,
    name: &str,
    request: FenceRequest,
    query: &WriteQuery,
) -> Result<Changed<Host>, Problem> {
    caller.may_change()?;
    let why = request.why.trim();
    if why.is_empty() || why.chars().count() > WHY_CHARS_MAX || why.chars().any(char::is_control) {
        return Err(Problem::invalid("invalid-fence", "a host is shut out for a reason that others can read")
            .field("why", format!("needed, at most {WHY_CHARS_MAX} characters")));
    }
    app.objects
        .racing(|| async {
            let mut host: Host = app.objects.get(name).await?;
            check_precondition(&host, &host.metadata, query)?;
            if host.status.fence.is_some() {
                return Ok(Changed { object: app.model.decorate(&host), operation: None });
            }
            let power_off = app.power.of(&host).is_ok();
            expect_possible(app, &host, power_off)?;
            host.spec.cordoned = true;
            let mut change = Change::new();
            record(app, &mut host, &caller.name, why, power_off, &mut change)?;
            if !query.dry_run {
                host.metadata.revision = app.commit(change).await?;
                app.wakeups.fences.notify_one();
            }
            Ok(Changed { object: app.model.decorate(&host), operation: None })
        })
        .await
}

fn expect_possible(app: &App, host: &Host, power_off: bool) -> Result<(), Problem> {
    let refused = |why: &str, remedy: &str| {
        Err(Problem::conflict("not-fenceable", format!("host '{}' can't be shut out: {why}", host.name()))
            .object(host.reference())
            .remedy(remedy))
    };
    if host.status.state == HostState::Sleeping {
        return refused("it is asleep, nothing runs there", "wake it first if you mean to use it");
    }
    if !power_off && !app.model.read(|tables| leases::is_bound(tables, host)) {
        let why = "it holds no lease that could end (it is alone in its cluster, or has not been heard since others \
                   joined), and its power can't be switched";
        return refused(why, "give it a power driver: gantry host set NAME --power DRIVER; or switch it off by hand");
    }
    Ok(())
}

/// Puts the record against the host into the change.
pub(crate) fn record(
    app: &App,
    host: &mut Host,
    by: &str,
    why: &str,
    power_off: bool,
    change: &mut Change,
) -> Result<(), Problem> {
    let name = host.metadata.name.clone();
    let fence = Fence {
        host: name.clone(),
        // Of all hosts that ever had this name no two fences have the same: revisions only grow.
        generation: host.metadata.revision.max(host.status.fences_lifted + 1),
        by: by.to_owned(),
        why: why.to_owned(),
        at: app.clock.now(),
    };
    let message = format!("host '{name}' is being shut out by {by}: {why} (fence {})", fence.generation);
    host.status.fence = Some(HostFence { record: fence, proof: None, power_off });
    let mut event = app.event(host.reference(), Severity::Warning, "HostFencing", message);
    event.spec.host = Some(name);
    change.update(host)?.event(&event)?;
    Ok(())
}

/// Writes down why nothing protected runs there any more. Nothing to do if that is known.
pub(crate) async fn prove(app: &App, name: &Name, generation: u64, kind: FenceProofKind) -> Result<(), Problem> {
    app.objects
        .racing(|| async {
            let mut host: Host = app.objects.get(name.as_str()).await?;
            let Some(fence) = host.status.fence.as_mut().filter(|fence| fence.record.generation == generation) else {
                return Ok(());
            };
            if fence.proof.is_some() {
                return Ok(());
            }
            fence.proof = Some(FenceProof { kind, at: app.clock.now() });
            let record = &fence.record;
            let message = format!(
                "host '{name}' is shut out: nothing protected runs there any more, because {}; asked for by {}: {} (fence \
                 {generation})",
                kind.told(),
                record.by,
                record.why
            );
            let mut event = app.event(host.reference(), Severity::Warning, "HostFenced", message);
            event.spec.host = Some(name.clone());
            let mut change = Change::new();
            change.update(&host)?.event(&event)?;
            app.commit(change).await.map(drop)
        })
        .await?;
    app.wakeups.fences.notify_one();
    Ok(())
}

/// The host says that it has stopped everything protected and written that down: it is let in again, once all that ran
/// there is known to be displaced.
pub(crate) async fn acknowledged(app: &App, name: &Name, generation: u64) -> Result<(), Problem> {
    prove(app, name, generation, FenceProofKind::Acknowledged).await?;
    let lifted = app
        .objects
        .racing(|| async {
            let mut host: Host = app.objects.get(name.as_str()).await?;
            let matches = |fence: &HostFence| fence.record.generation == generation && fence.proof.is_some();
            let still_there = app.model.read(|tables| tables.vms.values().any(|vm| may_run_at(vm, name)));
            if !host.status.fence.as_ref().is_some_and(matches) || still_there {
                return Ok(false);
            }
            host.status.fence = None;
            host.status.fences_lifted = generation;
            let message =
                format!("host '{name}' has stopped everything protected and is let in again (fence {generation})");
            let mut event = app.event(host.reference(), Severity::Normal, "HostFenceLifted", message);
            event.spec.host = Some(name.clone());
            let mut change = Change::new();
            change.update(&host)?.event(&event)?;
            app.commit(change).await?;
            Ok(true)
        })
        .await?;
    if lifted {
        app.leases.lifted(name, generation);
        app.wakeups.fences.notify_one();
    }
    Ok(())
}

/// A guarded VM that is believed to run there, or is about to.
pub(crate) fn may_run_at(vm: &Vm, host: &Name) -> bool {
    let here = [&vm.status.host, &vm.status.moving_to].into_iter().flatten().any(|at| at == host);
    here && vm.status.is_guarded() && (vm.status.operation.is_some() || executes(vm))
}

pub(crate) fn executes(vm: &Vm) -> bool {
    use gantry_types::VmPhase::{Migrating, Paused, Running, Starting, Stopping, Unknown};
    matches!(vm.status.phase, Running | Paused | Unknown | Starting | Stopping | Migrating)
}

/// The fenced hosts, with their fences.
pub(crate) fn fenced(tables: &Tables) -> Vec<(std::sync::Arc<Host>, HostFence)> {
    let hosts = tables.hosts.values();
    hosts.filter_map(|host| Some((host.clone(), host.status.fence.clone()?))).collect()
}
