//! Keeps pools' status true: makes each host's own pool an object, and says how every pool is, with an event when that
//! changes, so that somebody hears of a pool before it is full. Written only when something durable changed.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use gantry_api::storage::PoolReport;
use gantry_types::{
    ByteSize, Host, HostState, Name, Pool, PoolHealth, PoolPhase, PoolStatus, Problem, Resource, Severity,
};

use crate::{
    app::{App, pool},
    model::Tables,
    objects::Change,
};

const INTERVAL: Duration = Duration::from_secs(1);
/// A pool's use has to fall so far below its alarm for the alarm to end, in percent of its capacity.
const ALARM_ENDS_BELOW: u64 = 2;

pub async fn run(app: Arc<App>) {
    loop {
        app.clock.sleep(INTERVAL).await;
        if let Err(problem) = pass(&app).await {
            tracing::warn!(%problem, "the pools' status could not be written");
        }
    }
}

pub async fn pass(app: &App) -> Result<(), Problem> {
    let places = app.model.read(|tables| {
        let pools = tables.pools.values();
        let places = pools.flat_map(|pool| pool.spec.hosts.iter().map(|host| (host.clone(), pool.spec.path.clone())));
        places.collect::<HashSet<_>>()
    });
    for host in app.model.list::<Host>() {
        adopt_own(app, &host, &places).await?;
    }
    let loads = app.model.read(loads);
    for shown in app.model.list::<Pool>() {
        let load = loads.get(shown.name()).copied().unwrap_or_default();
        if shown.status.phase == PoolPhase::Ready && judged(app, &shown, load) != shown.status {
            note(app, shown.name()).await?;
        }
    }
    Ok(())
}

/// What is in a pool.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    promised_bytes: u64,
    volumes: u32,
    vms: u32,
}

/// Of all pools in one go: there may be as many pools as hosts.
fn loads(tables: &Tables) -> HashMap<String, Load> {
    let mut loads: HashMap<String, Load> = HashMap::new();
    let mut promise = |pool: &Name, bytes: u64, count: fn(&mut Load) -> &mut u32| {
        let load = loads.entry(pool.to_string()).or_default();
        load.promised_bytes = load.promised_bytes.saturating_add(bytes);
        *count(load) += 1;
    };
    for volume in tables.volumes.values() {
        promise(&volume.spec.pool, volume.spec.size.bytes(), |load| &mut load.volumes);
    }
    for vm in tables.vms.values() {
        let Some(pool) = &vm.spec.pool else { continue };
        let disk = vm.status.disk.or(vm.spec.disk);
        promise(pool, disk.map_or(0, |size| size.bytes()), |load| &mut load.vms);
    }
    loads
}

fn load_of(tables: &Tables, pool: &Name) -> Load {
    let (volumes, vms) = (pool::volumes_in(tables, pool).count(), pool::vms_in(tables, pool).count());
    Load { promised_bytes: pool::promised_bytes(tables, pool), volumes: volumes as u32, vms: vms as u32 }
}

/// The place that a host has of its own is a pool as others are.
async fn adopt_own(app: &App, host: &Host, places: &HashSet<(Name, String)>) -> Result<(), Problem> {
    let name = &host.metadata.name;
    let place = host.status.inventory.as_ref().and_then(|inventory| inventory.pools.first());
    let Some(place) = place.filter(|place| host.status.state == HostState::Ready && !place.path.is_empty()) else {
        return Ok(());
    };
    if places.contains(&(name.clone(), place.path.clone())) {
        return Ok(());
    }
    match pool::create_local(app, name, &place.path).await {
        // Somebody else was faster, or the host is in trouble: the next pass looks again.
        Err(problem) if !problem.is_transient() => {
            tracing::debug!(host = %name, %problem, "this host's own place is no pool yet");
            Ok(())
        }
        done => done,
    }
}

async fn note(app: &App, name: &str) -> Result<(), Problem> {
    app.objects
        .racing(|| async {
            let Some(mut pool) = app.objects.find::<Pool>(name).await? else { return Ok(()) };
            let load = app.model.read(|tables| load_of(tables, &pool.metadata.name));
            let status = judged(app, &pool, load);
            if pool.status.phase != PoolPhase::Ready || status == pool.status {
                return Ok(());
            }
            let former = std::mem::replace(&mut pool.status, status);
            let mut change = Change::new();
            change.update(&pool)?;
            if let Some((severity, reason, message)) = tidings(&pool, former.health) {
                change.event(&app.event(pool.reference(), severity, reason, message))?;
            }
            app.commit(change).await.map(drop)
        })
        .await
}

/// What is told of a pool whose health has changed.
fn tidings(pool: &Pool, former: PoolHealth) -> Option<(Severity, &'static str, String)> {
    let (name, health) = (pool.name(), pool.status.health);
    if health == former || (former == PoolHealth::Unknown && health == PoolHealth::Healthy) {
        return None;
    }
    if health <= PoolHealth::Healthy {
        return Some((Severity::Normal, "PoolHealthy", format!("pool '{name}' is healthy again")));
    }
    let reason = match health {
        PoolHealth::NearlyFull => "PoolNearlyFull",
        PoolHealth::Full => "PoolFull",
        _ => "PoolBroken",
    };
    let why = pool.status.reason.as_deref().unwrap_or("no reason was told");
    Some((Severity::Warning, reason, format!("pool '{name}' is {health}: {why}")))
}

/// The status as it should be; what is only shown stays out of it.
fn judged(app: &App, pool: &Pool, load: Load) -> PoolStatus {
    let Load { promised_bytes, volumes, vms } = load;
    let (health, reason) = health(app, pool);
    PoolStatus {
        health,
        reason,
        promised: ByteSize(promised_bytes),
        volumes,
        vms,
        space: None,
        busy_percent: None,
        ..pool.status.clone()
    }
}

fn does(names: &[String]) -> String {
    format!("{} {}", names.join(" and "), if names.len() == 1 { "does" } else { "do" })
}

/// The worst that its hosts tell; as before, if they have told nothing since this controller started.
fn health(app: &App, pool: &Pool) -> (PoolHealth, Option<String>) {
    let answers = |host: &&Name| {
        let host = app.model.get::<Host>(host.as_str());
        host.is_some_and(|host| host.status.state == HostState::Ready)
    };
    let hosts: Vec<&Name> = pool.spec.hosts.iter().filter(answers).collect();
    // What one host can't reach others may; that it does not answer is told of the host.
    if hosts.is_empty() {
        let names: Vec<_> = pool.spec.hosts.iter().map(|host| format!("host '{host}'")).collect();
        return (PoolHealth::Unreachable, Some(format!("{} not answer", does(&names))));
    }
    let reports = app.model.overlay(|overlay| {
        let of_host = |host: &&Name| {
            let report = overlay.hosts.get(host.as_str())?;
            let its = report.pools.iter().find(|one| one.pool == pool.metadata.uuid)?;
            Some(((*host).clone(), its.clone()))
        };
        hosts.iter().filter_map(of_host).collect::<Vec<_>>()
    });
    let used = |report: &PoolReport| report.space.map_or(0, |space| space.used_percent());
    let Some((host, mut worst)) = reports.into_iter().max_by_key(|(_, report)| (report.health, used(report))) else {
        return (pool.status.health, pool.status.reason.clone());
    };
    if pool.spec.hosts.len() > 1 && worst.health > PoolHealth::Full {
        worst.reason = worst.reason.map(|reason| format!("on host '{host}': {reason}"));
    }
    let used = used(&worst);
    let alarm = u64::from(pool.spec.alarm_percent);
    let was_alarmed = pool.status.health == PoolHealth::NearlyFull;
    let limit = if was_alarmed { alarm.saturating_sub(ALARM_ENDS_BELOW) } else { alarm };
    if worst.health != PoolHealth::Healthy || used < limit {
        return (worst.health, worst.reason);
    }
    // The figure itself would be a write for each percent.
    let place = if pool.is_mirrored() { format!("its place on host '{host}'") } else { "it".to_owned() };
    let reason = format!("more than {alarm} % of {place} are used: make room, or use another pool");
    (PoolHealth::NearlyFull, Some(reason))
}
