//! A cluster as the engine sees it: the read model with the hosts' last reports, forecasts and schedules laid over it.
//!
//! One snapshot is one cluster: its hosts and the VMs on them. It is made anew for each decision, so nothing here can be
//! out of step with the store.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use gantry_placement::{
    HostFacts, Likeness, Request, Settings, Snapshot, VmFacts,
    forecast::{History, Usual},
};
use gantry_types::{
    ByteSize, Cluster, ClusterSpec, Host, HostRule, HostState, Image, Keep, MAIN_CLUSTER, Maintenance, Name,
    SchedulePolicy, Selector, Strength, Vm, VmPhase,
};
use uuid::Uuid;

use crate::{
    app::{App, cluster::hosts_of},
    model::Tables,
};

/// Samples after which one counts for a third.
const SAMPLES_REMEMBERED: f64 = 12.0;

/// What VMs have used lately; not stored.
#[derive(Default)]
pub struct Demands(Mutex<HashMap<Uuid, History>>);

impl Demands {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, History>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what every running VM uses now; those that are gone are forgotten.
    pub fn sample(&self, app: &App) {
        let mut histories = self.lock();
        let running = |vm: &Vm| matches!(vm.status.phase, VmPhase::Running | VmPhase::Migrating);
        let vms = app.model.list::<Vm>();
        histories.retain(|uuid, _| vms.iter().any(|vm| vm.metadata.uuid == *uuid && running(vm)));
        app.model.overlay(|overlay| {
            for vm in vms.iter().filter(|vm| running(vm)) {
                if let Some(metrics) = overlay.vm_metrics.get(&vm.metadata.uuid) {
                    let share = metrics.cpu_percent / (100.0 * f64::from(vm.spec.cpus.max(1)));
                    histories.entry(vm.metadata.uuid).or_default().push(share.clamp(0.0, 1.0), SAMPLES_REMEMBERED);
                }
            }
        });
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

/// The cluster with everything that is known of it now.
pub fn snapshot_of(app: &App, cluster: &Name) -> Snapshot {
    let schedules = active_schedules(app);
    let histories = app.demands.lock();
    let usual = Usual::of(histories.values());
    app.model.read(|tables| {
        let spec = tables.clusters.get(cluster.as_str()).map(|it: &std::sync::Arc<Cluster>| it.spec.clone());
        let hosts = hosts_of(tables, cluster).map(|host| host_facts(&app.model.decorate(&**host)));
        let vms = tables.vms.values().filter(|vm| is_in(tables, cluster, vm)).map(|vm| {
            let mut facts = VmFacts::from(&app.model.decorate(&**vm));
            let measured = facts.request.demand;
            facts.request = request_of(tables, &schedules, vm);
            let history = histories.get(&vm.metadata.uuid);
            let most = 100.0 * f64::from(vm.spec.cpus);
            facts.request.demand = history.map_or(measured, |history| history.demand(&usual, most));
            facts.obstacle = obstacle(vm);
            facts
        });
        Snapshot::build(settings_of(&spec.unwrap_or_default()), hosts, vms)
    })
}

fn is_in(tables: &Tables, cluster: &Name, vm: &Vm) -> bool {
    let mut at = [&vm.status.host, &vm.status.moving_to].into_iter().flatten();
    at.any(|host| tables.hosts.get(host.as_str()).is_some_and(|host| host.spec.cluster == *cluster))
}

fn host_facts(host: &Host) -> HostFacts {
    let asleep = matches!(host.status.state, HostState::Sleeping | HostState::Waking);
    HostFacts {
        // To the engine sleep is a property of its own.
        state: if asleep { HostState::Ready } else { host.status.state },
        asleep,
        maintenance: host.status.maintenance != Maintenance::Off,
        wake_proven: host.status.wake_proof.is_some() && host.spec.power.is_some(),
        ..HostFacts::from(host)
    }
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
    let now = app.clock.now();
    app.model.read(|tables| {
        let policies = tables.policies.values();
        let schedules = policies.filter_map(|policy| Some((&policy.spec.cluster, policy.spec.schedule.as_ref()?)));
        let active = schedules.filter(|(_, schedule): &(&Name, &SchedulePolicy)| schedule.holds_at(now));
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
    let image = vm.spec.image.as_ref().and_then(|image| tables.images.get(image.as_str()));
    request.disk_space = image.map_or(ByteSize(0), |image: &std::sync::Arc<Image>| image.status.file_size);
    if vm.status.phase.may_execute() || vm.status.phase == VmPhase::Migrating {
        let host = vm.status.host.as_ref().and_then(|host| tables.hosts.get(host.as_str()));
        let host_cpu = vm.spec.cpu_model.as_deref().is_none_or(|model| model == "host");
        request.like = host.and_then(|host| Some(Likeness::of(host.status.inventory.as_ref()?, host_cpu)));
    }
    request
}

/// The clusters in which the VM may be placed: the one that it is in, or its pin's; otherwise all, `main` first.
pub fn clusters_for(tables: &Tables, vm: &Vm, only: Option<&Name>) -> Vec<Name> {
    let fixed = only.or(vm.status.host.as_ref()).or(vm.spec.host.as_ref());
    if let Some(host) = fixed.and_then(|host| tables.hosts.get(host.as_str())) {
        return vec![host.spec.cluster.clone()];
    }
    let mut clusters: Vec<Name> = tables.hosts.values().map(|host| host.spec.cluster.clone()).collect();
    clusters.sort_by_key(|cluster| (cluster.as_str() != MAIN_CLUSTER, cluster.clone()));
    clusters.dedup();
    clusters
}
