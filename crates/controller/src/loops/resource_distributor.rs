//! Tells hosts how to divide themselves among their VMs: each resource pool's limit and reservation, cut into parts by
//! what its VMs use on each host, and what each VM asks for.
//!
//! A host keeps what it was told for as long as nobody tells it something else, so a controller that is away stops
//! nothing. Parts follow demand with some slack: a host is told again when something is new, or a part is off by more than
//! a tenth.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use gantry_placement::parts::{Want, divide};
use gantry_types::{
    ByteSize, Host, HostPool, HostResources, HostState, Name, PoolOnHost, Resource, ResourcePool, ResourcePoolStatus,
    Vm, VmPhase,
};
use uuid::Uuid;

use super::woken;
use crate::{
    app::{
        App,
        resource_pool::{reserved_inside, vms_within},
    },
    model::{Overlay, Tables},
};

const INTERVAL: Duration = Duration::from_secs(5);
/// A VM that does nothing can still begin to: it counts as if it used this part of its processors.
const IDLE_PART: f64 = 0.1;

/// What each host was told last, and what it answered. A restarted controller tells everybody again.
#[derive(Default)]
pub struct ResourceDistributor(Mutex<HashMap<Name, Told>>);

struct Told {
    agent_instance: Option<Uuid>,
    resources: HostResources,
    enforced: String,
}

pub async fn run(app: Arc<App>) {
    loop {
        woken(&app, &app.wakeups.resources, INTERVAL).await;
        pass(&app).await;
    }
}

/// One look at all hosts and pools.
pub async fn pass(app: &App) {
    let (wanted, statuses) = app.model.read(|tables| app.model.overlay(|overlay| compute(tables, overlay)));
    let calls = wanted.into_iter().map(|(host, resources)| tell(app, host, resources));
    futures::future::join_all(calls).await;
    let enforced: HashMap<Name, String> = {
        let told = app.resources.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.iter().map(|(host, told)| (host.clone(), told.enforced.clone())).collect()
    };
    let with_answers = statuses.into_iter().map(|(pool, mut status)| {
        for part in &mut status.hosts {
            part.enforced = enforced.get(&part.host).cloned().unwrap_or_else(|| "not told yet".to_owned());
        }
        (pool, status)
    });
    let statuses = with_answers.collect();
    app.model.overlay_mut(|overlay| overlay.resource_pools = statuses);
}

/// A VM of this host, or one that comes to it.
fn is_on(vm: &Vm, host: &Host) -> bool {
    [&vm.status.host, &vm.status.moving_to].into_iter().flatten().any(|at| *at == host.metadata.name)
}

type Wanted = Vec<(Arc<Host>, HostResources)>;

fn compute(tables: &Tables, overlay: &Overlay) -> (Wanted, HashMap<String, ResourcePoolStatus>) {
    let hosts: Vec<&Arc<Host>> = tables.hosts.values().filter(|host| host.status.state == HostState::Ready).collect();
    let mut wanted: BTreeMap<&Name, HostResources> =
        hosts.iter().map(|host| (&host.metadata.name, HostResources::default())).collect();
    for vm in tables.vms.values() {
        for host in [&vm.status.host, &vm.status.moving_to].into_iter().flatten() {
            if let Some(resources) = wanted.get_mut(host) {
                resources.vms.insert(vm.metadata.uuid, vm.spec.resources.clone());
            }
        }
    }
    let mut statuses = HashMap::new();
    for pool in in_order(tables) {
        let status = status_of(tables, overlay, &hosts, pool);
        for part in &status.hosts {
            let Some(resources) = wanted.get_mut(&part.host) else { continue };
            let mut own = HostPool {
                name: pool.metadata.name.clone(),
                parent: pool.spec.parent.clone(),
                cpu: pool.spec.cpu.clone(),
                memory: pool.spec.memory.clone(),
            };
            own.cpu.reservation_percent = part.cpu_reservation_percent;
            own.cpu.limit_percent = part.cpu_limit_percent;
            own.memory.reservation = part.memory_reservation;
            own.memory.limit = part.memory_limit;
            resources.pools.push(own);
        }
        statuses.insert(pool.name().to_owned(), status);
    }
    let with_host = |host: &Arc<Host>| Some((Arc::clone(host), wanted.remove(&host.metadata.name)?));
    (hosts.iter().copied().filter_map(with_host).collect(), statuses)
}

/// Outer pools before those inside.
fn in_order(tables: &Tables) -> Vec<&Arc<ResourcePool>> {
    let mut pools: Vec<_> = tables.resource_pools.values().collect();
    pools.sort_by_key(|pool| crate::app::resource_pool::chain(tables, &pool.metadata.name).len());
    pools
}

fn status_of(tables: &Tables, overlay: &Overlay, hosts: &[&Arc<Host>], pool: &ResourcePool) -> ResourcePoolStatus {
    let vms: Vec<&Arc<Vm>> = vms_within(tables, &pool.metadata.name).collect();
    let used = |vm: &Vm| overlay.vm_metrics.get(&vm.metadata.uuid).map_or(0.0, |metrics| metrics.cpu_percent);
    let reserved = reserved_inside(tables, &pool.metadata.name, None, None);
    let mut parts = Vec::new();
    let (mut cpu_limit, mut cpu_reservation) = (Vec::new(), Vec::new());
    let (mut memory_limit, mut memory_reservation) = (Vec::new(), Vec::new());
    for host in hosts {
        let runs = |vm: &&&Arc<Vm>| is_on(vm, host) && !matches!(vm.status.phase, VmPhase::Stopped | VmPhase::Failed);
        let here: Vec<&&Arc<Vm>> = vms.iter().filter(runs).collect();
        if here.is_empty() {
            continue;
        }
        // Not `sum()`, which makes -0 of nothing.
        let sum = |of: &dyn Fn(&Vm) -> f64| here.iter().fold(0.0, |sum, vm| sum + of(vm));
        let most = sum(&|vm| 100.0 * f64::from(vm.spec.cpus));
        let demand = sum(&|vm| used(vm).max(IDLE_PART * 100.0 * f64::from(vm.spec.cpus)));
        let cpu_reserved = sum(&|vm| f64::from(vm.spec.resources.cpu_reservation_percent));
        let given = sum(&|vm| vm.spec.memory.bytes() as f64);
        let memory_reserved = sum(&|vm| vm.spec.resources.memory_reservation.bytes() as f64);
        cpu_limit.push(Want { floor: cpu_reserved, demand, most: most.max(cpu_reserved) });
        cpu_reservation.push(Want { floor: cpu_reserved, demand, most: most.max(cpu_reserved) });
        memory_limit.push(Want { floor: given, demand: given, most: f64::INFINITY });
        memory_reservation.push(Want { floor: memory_reserved, demand: given, most: given.max(memory_reserved) });
        parts.push(PoolOnHost {
            host: host.metadata.name.clone(),
            vms: here.len() as u32,
            cpu_used_percent: sum(&used),
            cpu_reservation_percent: 0,
            cpu_limit_percent: None,
            memory_reservation: ByteSize(0),
            memory_limit: None,
            enforced: String::new(),
        });
    }
    let spec = &pool.spec;
    let cpu_reservation = divide(spec.cpu.reservation_percent.into(), &cpu_reservation);
    let memory_reservation = divide(spec.memory.reservation.bytes() as f64, &memory_reservation);
    let cpu_limit = spec.cpu.limit_percent.map(|limit| divide(limit.into(), &cpu_limit));
    let memory_limit = spec.memory.limit.map(|limit| divide(limit.bytes() as f64, &memory_limit));
    for (at, part) in parts.iter_mut().enumerate() {
        part.cpu_reservation_percent = cpu_reservation[at] as u32;
        part.memory_reservation = ByteSize(memory_reservation[at] as u64);
        // The kernel counts in whole percents, and none at all would stop the VMs.
        part.cpu_limit_percent = cpu_limit.as_ref().map(|limits| (limits[at] as u32).max(1));
        part.memory_limit = memory_limit.as_ref().map(|limits| ByteSize(limits[at] as u64));
    }
    ResourcePoolStatus {
        vms: vms.len() as u32,
        cpu_reserved_percent: reserved.cpu_percent as u32,
        memory_reserved: ByteSize(reserved.memory),
        memory_given: ByteSize(vms.iter().map(|vm| vm.spec.memory.bytes()).sum()),
        cpu_used_percent: vms.iter().fold(0.0, |sum, vm| sum + used(vm)),
        hosts: parts,
    }
}

async fn tell(app: &App, host: Arc<Host>, resources: HostResources) {
    let instance = app.model.overlay(|overlay| overlay.hosts.get(host.name()).map(|report| report.agent_instance));
    {
        let told = app.resources.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = told.get(&host.metadata.name);
        let nothing = resources == HostResources::default() && known.is_none();
        if nothing || known.is_some_and(|known| known.agent_instance == instance && near(&known.resources, &resources))
        {
            return;
        }
    }
    match app.links.agent(&host).apply_resources(&resources).await {
        Ok(report) => {
            let told = Told { agent_instance: instance, resources, enforced: report.told() };
            app.resources.0.lock().unwrap_or_else(PoisonError::into_inner).insert(host.metadata.name.clone(), told);
        }
        Err(problem) => tracing::debug!(host = host.name(), %problem, "it is told later how it is divided"),
    }
}

/// The same but for parts that are off by at most a tenth.
fn near(old: &HostResources, new: &HostResources) -> bool {
    let close = |a: u64, b: u64| a.abs_diff(b) * 10 <= a.max(b);
    let same_pool = |a: &HostPool, b: &HostPool| {
        let limit = |pool: &HostPool| u64::from(pool.cpu.limit_percent.unwrap_or_default());
        let memory = |pool: &HostPool| pool.memory.limit.unwrap_or_default().bytes();
        a.name == b.name
            && a.parent == b.parent
            && (a.cpu.shares, a.memory.shares) == (b.cpu.shares, b.memory.shares)
            && a.cpu.limit_percent.is_some() == b.cpu.limit_percent.is_some()
            && a.memory.limit.is_some() == b.memory.limit.is_some()
            && close(limit(a), limit(b))
            && close(memory(a), memory(b))
            && close(a.cpu.reservation_percent.into(), b.cpu.reservation_percent.into())
            && close(a.memory.reservation.bytes(), b.memory.reservation.bytes())
    };
    old.vms == new.vms
        && old.pools.len() == new.pools.len()
        && old.pools.iter().zip(&new.pools).all(|(a, b)| same_pool(a, b))
}
