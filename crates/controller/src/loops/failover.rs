//! Starts VMs again whose host was shut out: elsewhere if their disk can be reached from there, otherwise where they were
//! once that host is let in again. So it does with those that failed and whose policy is to start them elsewhere; where they
//! were, if they can't be.
//!
//! ```text
//!   displaced ── its turn, and somewhere it fits ──▶ operation vm-start ── succeeded ──▶ not displaced any more
//!       └──▶ waits for: a higher tier │ a dependency │ its pause │ the hour's limit │ room │ its host
//! ```
//! What it waits for is in `status.displaced.waits`. Whose turn it is, `gantry_ha`'s restart order says. How often each was
//! tried within the hour is in `status.failovers`, written before each attempt: neither an end that was good nor a controller
//! that starts lets it begin anew. That is by the clock on the wall, which may be put on or back: how long ago it was is
//! reckoned once, when it is seen first, and goes by the steady clock from there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use gantry_api::rest::WriteQuery;
use gantry_ha::{
    Moment,
    attempts::{Attempts, HOUR_MS, RetryPolicy},
    restart::{Candidate, State, Tier, Wait, plan},
};
use gantry_types::{
    Displaced, HaPolicy, Host, Name, Pool, PowerState, Priority, Problem, Resource, Severity, Timestamp, Vm, VmPhase,
};
use uuid::Uuid;

use super::woken;
use crate::{
    app::{
        App, Caller,
        copies::is_copied,
        fence,
        pool::{Elsewhere, elsewhere},
        vm, volume,
    },
    leases::moment,
    objects::Change,
    operations::place_elsewhere,
};

const INTERVAL: Duration = Duration::from_secs(1);

pub async fn run(app: Arc<App>) {
    let mut memory = Memory::default();
    loop {
        woken(&app, &app.wakeups.failover, INTERVAL).await;
        if let Err(problem) = pass(&app, &mut memory).await {
            tracing::warn!(%problem, "displaced VMs wait for another look");
        }
    }
}

/// What is forgotten with the controller.
#[derive(Default)]
pub struct Memory {
    down: BTreeMap<Uuid, Moment>,
    /// Started again and not ready yet: who comes after them waits.
    coming_up: BTreeSet<Uuid>,
    /// When it was tried, by VM and what the store says of it.
    tried: BTreeMap<(Uuid, i64), Moment>,
}

/// Moments count from an hour before the controller's start: so does everything that still counts.
fn now(app: &App) -> Moment {
    moment(&*app.clock) + HOUR_MS
}

fn attempts(app: &App, vm: &Vm, memory: &mut Memory, now: Moment) -> Attempts {
    let today_ms = app.clock.now().unix_ms();
    let mut moment = |at: &Timestamp| {
        // One of a time to come was surely not tried later than now.
        let ago_ms = u64::try_from(today_ms - at.unix_ms()).unwrap_or(0);
        *memory.tried.entry((vm.metadata.uuid, at.unix_ms())).or_insert(now.before(ago_ms))
    };
    let mut tried: Vec<Moment> = vm.status.failovers.iter().map(&mut moment).collect();
    tried.sort();
    tried.into_iter().collect()
}

/// One look at all protected VMs.
pub async fn pass(app: &App, memory: &mut Memory) -> Result<(), Problem> {
    let now = now(app);
    for vm in
        app.model.read(|tables| tables.vms.values().filter(|vm| is_given_up_to_others(vm)).cloned().collect::<Vec<_>>())
    {
        displace_failed(app, vm.name()).await?;
    }
    // As nearly always.
    if app.model.read(|tables| tables.vms.values().all(|vm| vm.status.displaced.is_none())) {
        *memory = Memory { tried: std::mem::take(&mut memory.tried), ..Memory::default() };
        return Ok(());
    }
    let protected = |vm: &Vm| vm.status.displaced.is_some() || vm.spec.ha.policy == HaPolicy::Restart;
    let vms: Vec<Arc<Vm>> =
        app.model.read(|tables| tables.vms.values().filter(|vm| protected(vm)).map(Arc::clone).collect());
    let known: BTreeSet<Uuid> = vms.iter().map(|vm| vm.metadata.uuid).collect();
    memory.coming_up.retain(|vm| known.contains(vm));
    memory.down.retain(|vm, _| known.contains(vm));
    memory.tried.retain(|(vm, _), _| known.contains(vm));
    for vm in vms.iter().filter(|vm| vm.status.displaced.is_some() && vm.spec.power != PowerState::Running) {
        forget(app, vm).await?;
    }
    let candidates: Vec<Candidate> = vms.iter().filter_map(|vm| candidate(app, vm, memory, now)).collect();
    for (name, gate) in plan(&candidates, now) {
        let Some(vm) = vms.iter().find(|vm| vm.metadata.name == name) else { continue };
        let waits = match gate {
            Err(wait) => Some(told(&wait)),
            Ok(()) => begin(app, vm, memory).await.err().map(|problem| problem.detail),
        };
        if let Some(waits) = waits {
            queue(app, vm, &waits).await?;
        }
    }
    Ok(())
}

fn candidate(app: &App, vm: &Vm, memory: &mut Memory, now: Moment) -> Option<Candidate> {
    let uuid = vm.metadata.uuid;
    let state = match (&vm.status.displaced, vm.status.phase) {
        _ if vm.status.operation.is_some() => State::Starting,
        (Some(_), _) => State::Down { since: *memory.down.entry(uuid).or_insert(now) },
        (None, VmPhase::Running) if vm.status.ready => {
            memory.coming_up.remove(&uuid);
            State::Ready
        }
        (None, VmPhase::Running) if memory.coming_up.contains(&uuid) => State::Starting,
        // One that nobody waits for: what its own host does about it is not known here.
        (None, _) => return None,
    };
    let tier = match vm.spec.ha.priority {
        Priority::Low => Tier::Low,
        Priority::Medium => Tier::Normal,
        Priority::High => Tier::High,
    };
    let policy = RetryPolicy { per_hour: vm.spec.ha.restarts_per_hour as usize, ..RetryPolicy::default() };
    let attempts = attempts(app, vm, memory, now);
    let depends_on = vm.spec.ha.depends_on.iter().cloned().collect();
    Some(Candidate { name: vm.metadata.name.clone(), tier, depends_on, state, policy, attempts })
}

fn told(wait: &Wait) -> String {
    match wait {
        Wait::Tier { first } => format!("VM '{first}' has a higher priority and is not ready yet"),
        Wait::Dependency { first } => format!("VM '{first}' is not ready yet"),
        Wait::Pause { .. } => "the last attempt failed, the next one follows after a pause".to_owned(),
        Wait::Exhausted { .. } => "it was tried as often as it may be within an hour".to_owned(),
    }
}

/// Begins its start, where it can be; otherwise why not.
async fn begin(app: &App, vm: &Vm, memory: &mut Memory) -> Result<(), Problem> {
    let name = vm.name();
    let host = vm.status.host.as_ref().and_then(|host| app.model.get::<Host>(host.as_str()));
    let has_failed = vm.status.displaced.as_ref().is_some_and(|displaced| displaced.failed);
    let is_in_service = host.as_ref().is_some_and(|host| host.is_in_service());
    let may_leave_for_failure = || may_leave(app, vm, host.as_deref()).is_ok() && place_elsewhere(app, vm).is_ok();
    if is_in_service && !(has_failed && may_leave_for_failure()) {
        expect_pools(app, vm, host.as_deref())?;
        count(app, vm, memory).await?;
        vm::start(app, &Caller::controller(), name, &WriteQuery::default()).await?;
    } else {
        may_leave(app, vm, host.as_deref())?;
        place_elsewhere(app, vm)?;
        count(app, vm, memory).await?;
        vm::restart_elsewhere(app, name).await?;
    }
    memory.coming_up.insert(vm.metadata.uuid);
    Ok(())
}

/// One more attempt; those of more than an hour ago are forgotten.
async fn count(app: &App, vm: &Vm, memory: &mut Memory) -> Result<(), Problem> {
    let (uuid, now, today) = (vm.metadata.uuid, now(app), app.clock.now());
    memory.tried.retain(|_, at| now.ms_since(*at) < HOUR_MS);
    memory.tried.insert((uuid, today.unix_ms()), now);
    let tried = &memory.tried;
    app.objects
        .racing(|| async {
            let mut vm: Vm = app.objects.get(vm.name()).await?;
            vm.status.failovers.retain(|at| tried.contains_key(&(uuid, at.unix_ms())));
            vm.status.failovers.push(today);
            let mut change = Change::new();
            change.update(&vm)?;
            app.commit(change).await.map(drop)
        })
        .await
}

/// Whether it may be started on another host than the one that was shut out, or has given it up.
pub(super) fn may_leave(app: &App, vm: &Vm, host: Option<&Host>) -> Result<(), Problem> {
    let at = host.map_or_else(|| "its host".to_owned(), |host| format!("host '{}'", host.name()));
    let waits = |why: &str| Err(Problem::conflict("vm-waits", format!("{why}; {at} starts it when it is back")));
    if vm.spec.ha.policy == HaPolicy::None {
        return waits("it is not protected any more");
    }
    if vm.spec.host.is_some() {
        return waits("it may only run where it was (spec.host)");
    }
    match app.model.read(|tables| (elsewhere(tables, vm), is_copied(tables, vm))) {
        (Elsewhere::Nowhere, true) => waits("no other host has a current copy of its disks"),
        (Elsewhere::Nowhere, false) => waits("no other host reaches its disk"),
        _ => Ok(()),
    }
}

/// Its host can't start it without the pools of its disks.
fn expect_pools(app: &App, vm: &Vm, host: Option<&Host>) -> Result<(), Problem> {
    let Some(host) = host else { return Ok(()) };
    let lost = host.status.inventory.as_ref().map(|inventory| &inventory.lost_pools);
    let is_lost = |pool: &Pool| lost.is_some_and(|lost| lost.contains(&pool.metadata.uuid));
    let lost = app.model.read(|tables| {
        let of_volumes = volume::of_vm(tables, vm).into_iter().map(|volume| volume.spec.pool.clone());
        let names = vm.spec.pool.iter().cloned().chain(of_volumes).collect::<Vec<_>>();
        names.into_iter().find(|name| tables.pools.get(name.as_str()).is_some_and(|pool| is_lost(pool)))
    });
    let Some(pool) = lost else { return Ok(()) };
    let detail = format!("no other host can take it, and host '{}' does not reach pool '{pool}'", host.name());
    Err(Problem::conflict("vm-waits", detail))
}

/// It surely does not run, and its host does not start it.
fn is_given_up_to_others(vm: &Vm) -> bool {
    let status = &vm.status;
    let is_idle = status.phase == VmPhase::Failed && status.operation.is_none() && vm.spec.power == PowerState::Running;
    is_idle && status.ha.elsewhere && status.displaced.is_none()
}

async fn displace_failed(app: &App, name: &str) -> Result<(), Problem> {
    app.objects
        .racing(|| async {
            let Some(mut vm) = app.objects.find::<Vm>(name).await? else { return Ok(()) };
            let Some(from) = vm.status.host.clone().filter(|_| is_given_up_to_others(&vm)) else { return Ok(()) };
            let message = format!("VM '{name}' failed on host '{from}' and is to be started on another one");
            let event = app.event(vm.reference(), Severity::Warning, "VmDisplaced", message);
            vm.status.displaced = Some(Displaced { from, since: app.clock.now(), failed: true, waits: None });
            let mut change = Change::new();
            change.update(&vm)?.event(&event)?;
            app.commit(change).await.map(drop)
        })
        .await
}

/// Says what it waits for, when that changes.
async fn queue(app: &App, vm: &Vm, waits: &str) -> Result<(), Problem> {
    let name = vm.name();
    app.objects
        .racing(|| async {
            let Some(mut vm) = app.objects.find::<Vm>(name).await? else { return Ok(()) };
            let idle = vm.status.operation.is_none();
            let Some(displaced) = vm.status.displaced.as_mut().filter(|_| idle) else { return Ok(()) };
            if displaced.waits.as_deref() == Some(waits) {
                return Ok(());
            }
            displaced.waits = Some(waits.to_owned());
            let why = match displaced.failed {
                true => format!("it failed on host '{}'", displaced.from),
                false => format!("host '{}' was shut out, so it was stopped there", displaced.from),
            };
            vm.status.reason = Some(format!("{why}; {waits}"));
            let message = format!("VM '{name}' is not started again yet: {waits}");
            let event = app.event(vm.reference(), Severity::Warning, "VmQueued", message);
            let mut change = Change::new();
            change.update(&vm)?.event(&event)?;
            app.commit(change).await.map(drop)
        })
        .await
}

/// Somebody stopped it meanwhile.
async fn forget(app: &App, vm: &Vm) -> Result<(), Problem> {
    let name: &Name = &vm.metadata.name;
    app.objects
        .racing(|| async {
            let Some(mut vm) = app.objects.find::<Vm>(name.as_str()).await? else { return Ok(()) };
            if vm.status.operation.is_some() || vm.spec.power == PowerState::Running || fence::executes(&vm) {
                return Ok(());
            }
            vm.status.displaced = None;
            let mut change = Change::new();
            change.update(&vm)?;
            app.commit(change).await.map(drop)
        })
        .await
}
