//! A cluster as the engine sees it: the read model with the hosts' last reports, forecasts and schedules laid over it.
//!
//! One snapshot is one cluster: its hosts and the VMs on them. It is kept from decision to decision and takes in what has
//! changed in the model since ([`with_snapshot`]); what everything depends on (the cluster's spec, schedules, images,
//! interfaces that networks need)
//! makes it anew. It is never out of step with the model: the changes come in the order of the tables, and are taken in
//! while the tables stand still.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use gantry_placement::{
    Demand, HostFacts, Likeness, Request, Settings, Snapshot, VmFacts,
    forecast::{History, Trend, Usual},
};
use gantry_types::{
    ByteSize, Cluster, ClusterSpec, Host, HostRule, HostState, Image, Keep, MAIN_CLUSTER, Maintenance, Name, Pool,
    SchedulePolicy, Selector, Strength, Timestamp, Vm, VmPhase,
};
use tokio::sync::broadcast;
use uuid::Uuid;

use crate::{
    app::{App, cluster::hosts_of, volume},
    model::{AnyObject, ModelChange, Tables},
    reach::{self, Uplink},
};

/// Samples after which one counts for a third.
const SAMPLES_REMEMBERED: f64 = 12.0;

/// What VMs have used lately, and where the use of whole clusters is going; not stored.
#[derive(Default)]
pub struct Demands {
    histories: Mutex<HashMap<Uuid, History>>,
    trends: Mutex<HashMap<Name, (Trend, Duration)>>,
    samples: AtomicU64,
}

impl Demands {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, History>> {
        self.histories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what every running VM uses now; those that are gone are forgotten.
    pub fn sample(&self, app: &App) {
        let mut histories = self.lock();
        let running = |vm: &Vm| matches!(vm.status.phase, VmPhase::Running | VmPhase::Migrating);
        let vms = app.model.list::<Vm>();
        histories.retain(|uuid, _| vms.iter().any(|vm| vm.metadata.uuid == *uuid && running(vm)));
        let mut used: HashMap<Name, f64> =
            app.model.list::<Cluster>().into_iter().map(|cluster| (cluster.metadata.name.clone(), 0.0)).collect();
        let hosts = app.model.list::<Host>();
        let clusters: HashMap<&Name, &Name> =
            hosts.iter().map(|host| (&host.metadata.name, &host.spec.cluster)).collect();
        app.model.overlay(|overlay| {
            for vm in vms.iter().filter(|vm| running(vm)) {
                if let Some(metrics) = overlay.vm_metrics.get(&vm.metadata.uuid) {
                    let share = metrics.cpu_percent / (100.0 * f64::from(vm.spec.cpus.max(1)));
                    histories.entry(vm.metadata.uuid).or_default().push(share.clamp(0.0, 1.0), SAMPLES_REMEMBERED);
                    let cluster = vm.status.host.as_ref().and_then(|host| clusters.get(host));
                    if let Some(sum) = cluster.and_then(|cluster| used.get_mut(*cluster)) {
                        *sum += metrics.cpu_percent;
                    }
                }
            }
        });
        drop(histories);
        self.samples.fetch_add(1, Ordering::Release);
        let now = app.clock.elapsed();
        let mut trends = self.trends.lock().unwrap_or_else(PoisonError::into_inner);
        trends.retain(|cluster, _| used.contains_key(cluster));
        for (cluster, sum) in used {
            let (trend, at) = trends.entry(cluster).or_default();
            trend.push(sum, now.saturating_sub(*at).as_secs_f64());
            *at = now;
        }
    }

    /// What the cluster's VMs will use that much later, in percent of one processor: see [`Trend::ahead`].
    pub fn ahead(&self, cluster: &Name, by: Duration) -> f64 {
        let trends = self.trends.lock().unwrap_or_else(PoisonError::into_inner);
        trends.get(cluster).map_or(0.0, |(trend, _)| trend.ahead(by.as_secs_f64()))
    }
}

fn settings_of(spec: &ClusterSpec) -> Settings {
    let mut settings = Settings {
        cpu_overcommit: spec.cpu_overcommit,
        memory_overcommit: spec.memory_overcommit,
        failover_hosts: spec.tolerate_hosts,
        ..Settings::default()
    };
    for (term, weight) in &spec.weights {
        // Checked when it was written; a term that a later version does not have any more counts nothing.
        if let Err(error) = settings.weights.set(term, *weight) {
            tracing::warn!(%error, "a weight is ignored");
        }
    }
    settings
}

/// How much what hosts and VMs use at this moment matters to a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loads {
    /// As measured last.
    Now,
    /// At most [`LOADS_AGE`] old: enough for where a VM starts.
    Lately,
}

const LOADS_AGE: Duration = Duration::from_secs(5);

/// The snapshot of each cluster, kept up by the model's changes.
#[derive(Default)]
pub struct ClusterViews(Mutex<HashMap<Name, Kept>>);

struct Kept {
    snapshot: Snapshot,
    changes: broadcast::Receiver<Arc<ModelChange>>,
    basis: Basis,
    /// Which figures of use are in it ([`measurements`]), and when they were taken.
    loads: (u64, Duration),
}

/// What every VM's or host's facts depend on: if it changes, the snapshot is made anew.
#[derive(Debug, Clone, PartialEq)]
struct Basis {
    spec: ClusterSpec,
    schedules: Vec<(Name, Selector, Selector)>,
    /// What networks need of hosts' interfaces.
    uplinks: BTreeMap<Name, Uplink>,
    /// The networks that need an underlay with a link.
    overlays: BTreeSet<Name>,
}

impl Basis {
    fn of(tables: &Tables, cluster: &Name, schedules: Vec<(Name, Selector, Selector)>) -> Self {
        let spec = tables.clusters.get(cluster.as_str()).map(|it: &Arc<Cluster>| it.spec.clone());
        let (uplinks, overlays) = (reach::uplinks(tables), reach::overlays(tables, cluster));
        Self { spec: spec.unwrap_or_default(), schedules, uplinks, overlays }
    }
}

/// Looks at the cluster with everything that is known of it now. Keep it short: other decisions wait meanwhile.
pub fn with_snapshot<R>(app: &App, cluster: &Name, loads: Loads, look: impl FnOnce(&Snapshot) -> R) -> R {
    let schedules = active_schedules(app);
    let mut views = app.views.0.lock().unwrap_or_else(PoisonError::into_inner);
    // Before the tables, as whoever samples does.
    let histories = Histories::of(app);
    // While the tables are held nothing changes: what is not in the queue by now is not in them either.
    let kept = app.model.read(|tables| {
        let basis = Basis::of(tables, cluster, schedules);
        let usable = views.remove(cluster).filter(|kept| kept.basis == basis);
        let mut kept = usable.and_then(|kept| kept.follow(app, tables, cluster, &histories)).unwrap_or_else(|| Kept {
            changes: app.model.changes(),
            loads: (measurements(app), app.clock.elapsed()),
            snapshot: build(app, tables, cluster, &basis, &histories),
            basis,
        });
        kept.refresh_loads(app, tables, loads, &histories);
        kept
    });
    drop(histories);
    look(&views.entry(cluster.clone()).insert_entry(kept).get().snapshot)
}

/// The same, made from nothing: what the one that is kept up must be equal to.
pub fn fresh_snapshot(app: &App, cluster: &Name) -> Snapshot {
    let schedules = active_schedules(app);
    let histories = Histories::of(app);
    app.model.read(|tables| build(app, tables, cluster, &Basis::of(tables, cluster, schedules), &histories))
}

/// What VMs have used, and what VMs use in general.
struct Histories<'a> {
    of_vms: MutexGuard<'a, HashMap<Uuid, History>>,
    usual: Usual,
}

impl<'a> Histories<'a> {
    fn of(app: &'a App) -> Self {
        let of_vms = app.demands.lock();
        Self { usual: Usual::of(of_vms.values()), of_vms }
    }

    /// `measured` is what counts while nothing is remembered of it.
    fn demand(&self, vm: &Vm, measured: Demand) -> Demand {
        let most = 100.0 * f64::from(vm.spec.cpus);
        self.of_vms.get(&vm.metadata.uuid).map_or(measured, |history| history.demand(&self.usual, most))
    }
}

/// Grows with everything that is measured.
fn measurements(app: &App) -> u64 {
    app.model.overlay_version() + app.demands.samples.load(Ordering::Acquire)
}

fn build(app: &App, tables: &Tables, cluster: &Name, basis: &Basis, histories: &Histories<'_>) -> Snapshot {
    let mut pools: BTreeMap<&Name, Vec<&Pool>> = BTreeMap::new();
    for pool in tables.pools.values() {
        for host in &pool.spec.hosts {
            pools.entry(host).or_default().push(pool);
        }
    }
    let reached = |host: &Host| pools.get(&host.metadata.name).map_or(&[][..], Vec::as_slice);
    let hosts = hosts_of(tables, cluster).map(|host| host_facts(app, basis, host, reached(host)));
    let vms = tables.vms.values().filter(|vm| is_in(tables, cluster, vm));
    let vms = vms.map(|vm| vm_facts(app, tables, &basis.schedules, vm, histories));
    Snapshot::build(settings_of(&basis.spec), hosts, vms)
}

fn vm_facts(
    app: &App,
    tables: &Tables,
    schedules: &[(Name, Selector, Selector)],
    vm: &Vm,
    histories: &Histories<'_>,
) -> VmFacts {
    let mut facts = VmFacts::from(&app.model.decorate(vm));
    let measured = facts.request.demand;
    facts.request = request_of(tables, schedules, vm);
    facts.request.demand = histories.demand(vm, measured);
    facts.obstacle = obstacle(vm);
    facts
}

impl Kept {
    /// Takes in what has changed. `None` if it is not worth it, or not known any more.
    fn follow(mut self, app: &App, tables: &Tables, cluster: &Name, histories: &Histories<'_>) -> Option<Self> {
        let (mut hosts, mut vms) = (BTreeSet::new(), BTreeMap::new());
        loop {
            match self.changes.try_recv() {
                Ok(change) => match &change.object {
                    AnyObject::Host(host) => drop(hosts.insert(host.metadata.name.clone())),
                    AnyObject::Vm(vm) => drop(vms.insert(vm.metadata.uuid, vm.metadata.name.clone())),
                    // Disks grow from them, or are in them.
                    AnyObject::Image(_) | AnyObject::Pool(_) => return None,
                    _ => {}
                },
                Err(broadcast::error::TryRecvError::Empty) => break,
                Err(_) => return None,
            }
        }
        let mut changed = Vec::new();
        for name in &hosts {
            let host = tables.hosts.get(name.as_str()).filter(|host| host.spec.cluster == *cluster);
            match (self.snapshot.host(name), host) {
                (Some(known), Some(host)) => {
                    let reached: Vec<&Pool> =
                        tables.pools.values().filter(|pool| pool.is_at(name)).map(|pool| &**pool).collect();
                    let facts = host_facts(app, &self.basis, host, &reached);
                    if known.machine != facts.machine {
                        // What runs there can only go on where it is alike.
                        let there = self.snapshot.vms_on(name);
                        vms.extend(there.into_iter().map(|vm| (vm.request.vm, vm.name.clone())));
                    }
                    changed.push(facts);
                }
                (None, None) => {}
                // With it VMs come or go.
                _ => return None,
            }
        }
        self.snapshot.put_known_hosts(changed);
        for (uuid, name) in vms {
            let vm = tables.vms.get(name.as_str()).filter(|vm| vm.metadata.uuid == uuid);
            match vm.filter(|vm| is_in(tables, cluster, vm)) {
                Some(vm) => {
                    self.snapshot.put_vm(vm_facts(app, tables, &self.basis.schedules, vm, histories));
                }
                None => drop(self.snapshot.remove_vm(uuid)),
            }
        }
        Some(self)
    }

    fn refresh_loads(&mut self, app: &App, tables: &Tables, wanted: Loads, histories: &Histories<'_>) {
        let (version, now) = (measurements(app), app.clock.elapsed());
        let young = wanted == Loads::Lately && now.saturating_sub(self.loads.1) < LOADS_AGE;
        if self.loads.0 == version || young {
            return;
        }
        self.loads = (version, now);
        app.model.overlay(|overlay| {
            for host in self.snapshot.host_names() {
                let report = overlay.hosts.get(host.as_str());
                self.snapshot.set_load(&host, report.map_or(0.0, |report| report.metrics.cpu_percent / 100.0));
            }
            let known: Vec<(Uuid, Name)> = self.snapshot.vms().map(|vm| (vm.request.vm, vm.name.clone())).collect();
            for (uuid, name) in known {
                let Some(vm) = tables.vms.get(name.as_str()) else { continue };
                let used = overlay.vm_metrics.get(&uuid).map_or(0.0, |metrics| metrics.cpu_percent);
                let measured = Demand { now: used, expected: used, deviation: 0.0 };
                self.snapshot.set_demand(uuid, histories.demand(vm, measured));
            }
        });
    }
}

fn is_in(tables: &Tables, cluster: &Name, vm: &Vm) -> bool {
    let mut at = [&vm.status.host, &vm.status.moving_to].into_iter().flatten();
    at.any(|host| tables.hosts.get(host.as_str()).is_some_and(|host| host.spec.cluster == *cluster))
}

/// `reached`: the pools that the host is to reach.
fn host_facts(app: &App, basis: &Basis, host: &Host, reached: &[&Pool]) -> HostFacts {
    let host = &app.model.decorate(host);
    let lost = host.status.inventory.as_ref().map(|inventory| &inventory.lost_pools);
    let is_lost = |pool: &Pool| lost.is_some_and(|lost| lost.contains(&pool.metadata.uuid));
    let reached = reached.iter().filter(|pool| !is_lost(pool));
    let pools: Vec<Pool> = reached.map(|pool| app.model.decorate(*pool)).collect();
    let asleep = matches!(host.status.state, HostState::Sleeping | HostState::Waking);
    HostFacts {
        // To the engine sleep is a property of its own, and a host that is shut out as good as lost.
        state: match host.status.fence {
            Some(_) => HostState::Lost,
            None if asleep => HostState::Ready,
            None => host.status.state,
        },
        asleep,
        out_of_reach: reach::out_of_reach(&basis.uplinks, &basis.overlays, host),
        maintenance: host.status.maintenance != Maintenance::Off,
        wake_proven: host.status.wake_proof.is_some() && host.spec.power.is_some(),
        ..HostFacts::from(host).with_pools(&pools)
    }
}

/// Adds the pools that the VM's host has to reach for its volumes.
pub fn heed_volumes(request: &mut Request, tables: &Tables, vm: &Vm) {
    let pools = volume::of_vm(tables, vm).into_iter().map(|volume| volume.spec.pool.to_string());
    request.volume_pools = pools.collect::<BTreeSet<_>>().into_iter().collect();
}

/// Why it can't be moved at present.
fn obstacle(vm: &Vm) -> Option<String> {
    if let Some(pin) = &vm.spec.host {
        return Some(format!("may only run on host '{pin}' (spec.host)"));
    }
    if let Some(operation) = &vm.status.operation {
        return Some(format!("operation '{operation}' is at work on it"));
    }
    match vm.status.phase {
        VmPhase::Running | VmPhase::Paused => None,
        phase => Some(format!("is {phase}")),
    }
}

/// Schedules that hold now: which VMs belong on which hosts.
pub fn active_schedules(app: &App) -> Vec<(Name, Selector, Selector)> {
    schedules_at(app, app.clock.now())
}

/// Schedules that hold at that moment, if nobody changes them.
pub fn schedules_at(app: &App, moment: Timestamp) -> Vec<(Name, Selector, Selector)> {
    app.model.read(|tables| {
        let policies = tables.policies.values();
        let schedules = policies.filter_map(|policy| Some((&policy.spec.cluster, policy.spec.schedule.as_ref()?)));
        let active = schedules.filter(|(_, schedule): &(&Name, &SchedulePolicy)| schedule.holds_at(moment));
        active
            .filter_map(|(cluster, schedule)| {
                Some((cluster.clone(), schedule.vms.parse().ok()?, schedule.hosts.parse().ok()?))
            })
            .collect()
    })
}

/// Adds what schedules that hold now ask of the VM's place.
pub fn heed_schedules(request: &mut Request, schedules: &[(Name, Selector, Selector)], vm: &Vm) {
    for (_, _, hosts) in schedules.iter().filter(|(_, vms, _)| vms.matches(&vm.metadata.labels)) {
        let rule = HostRule { keep: Keep::Together, selector: hosts.clone(), strength: Strength::Must };
        request.rules.hosts.push(rule);
    }
}

/// What the VM needs wherever it goes, schedules included; a guest that runs also needs a host like the one it is on.
pub fn request_of(tables: &Tables, schedules: &[(Name, Selector, Selector)], vm: &Vm) -> Request {
    let mut request = Request::new(vm);
    heed_schedules(&mut request, schedules, vm);
    heed_volumes(&mut request, tables, vm);
    let image = vm.spec.image.as_ref().and_then(|image| tables.images.get(image.as_str()));
    request.disk_space = image.map_or(ByteSize(0), |image: &std::sync::Arc<Image>| image.status.file_size);
    if vm.status.phase.may_execute() || vm.status.phase == VmPhase::Migrating {
        let host = vm.status.host.as_ref().and_then(|host| tables.hosts.get(host.as_str()));
        let host_cpu = vm.spec.cpu_model.as_deref().is_none_or(|model| model == "host");
        request.like = host.and_then(|host| Some(Likeness::of(host.status.inventory.as_ref()?, host_cpu)));
    }
    request
}

/// The clusters in which the VM may be placed: that of its resource pool, the one that it is in, or its pin's; otherwise
/// all, `main` first.
pub fn clusters_for(tables: &Tables, vm: &Vm, only: Option<&Name>) -> Vec<Name> {
    let pool = vm.spec.resources.resource_pool.as_ref();
    if let Some(pool) = pool.and_then(|pool| tables.resource_pools.get(pool.as_str())) {
        return vec![pool.spec.cluster.clone()];
    }
    let fixed = only.or(vm.status.host.as_ref()).or(vm.spec.host.as_ref());
    if let Some(host) = fixed.and_then(|host| tables.hosts.get(host.as_str())) {
        return vec![host.spec.cluster.clone()];
    }
    let mut clusters: Vec<Name> = tables.hosts.values().map(|host| host.spec.cluster.clone()).collect();
    clusters.sort_by_key(|cluster| (cluster.as_str() != MAIN_CLUSTER, cluster.clone()));
    clusters.dedup();
    clusters
}
