//! The datacenter at a glance: counts and sums per group of hosts, hosts as bars filled by their VMs.
//!
//! An overview looks at every host and VM, so it is computed at most four times a second for each label that groups are
//! made by, however many look at it. What is wrong is `wrongs.rs`.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use gantry_api::overview::{
    CpuUse, Group, HostBar, MemoryUse, Overview, OverviewHosts, OverviewHostsQuery, PowerUse, Totals, VmPart,
};
use gantry_placement::energy::USUAL_CURVE;
use gantry_types::{Host, HostState, Name, Problem, Resource, Vm, VmPhase};
use serde::Serialize;

use super::{
    App, Caller,
    wrongs::{self, SeenVms},
};
use crate::{
    energy::Draw,
    model::{Overlay, Tables},
};

type Draws = HashMap<Name, Draw>;

/// How long an overview is good for.
pub const FRESH: Duration = Duration::from_secs(1);
const DEFAULT_LABEL: &str = "rack";
const VMS_SHOWN: usize = 200;
/// Overviews by different labels that are kept.
const KEPT: usize = 16;

/// The latest overviews, by label.
#[derive(Default)]
pub struct Overviews {
    latest: Mutex<HashMap<String, (Duration, Arc<Overview>)>>,
}

/// The overview with groups by this label, at most a second old.
pub fn overview(app: &App, caller: &Caller, by: Option<&str>) -> Result<Arc<Overview>, Problem> {
    caller.may_read()?;
    let by = by.unwrap_or(DEFAULT_LABEL);
    let now = app.clock.elapsed();
    // Held while computing: others who ask meanwhile get the same.
    let mut latest = app.overviews.latest.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, overview)) = latest.get(by)
        && now < *at + FRESH
        && (overview.revision == app.model.revision() || now < *at + FRESH / 4)
    {
        return Ok(Arc::clone(overview));
    }
    let overview = Arc::new(compute(app, by));
    if latest.len() >= KEPT {
        latest.retain(|_, (at, _)| now < *at + FRESH);
    }
    latest.insert(by.to_owned(), (now, Arc::clone(&overview)));
    Ok(overview)
}

fn compute(app: &App, by: &str) -> Overview {
    app.model.read_at(|tables, revision| {
        app.model.overlay(|overlay| {
            let mut groups: BTreeMap<String, Totals> = BTreeMap::new();
            let draws = app.energy.draws();
            for host in tables.hosts.values() {
                add_host(groups.entry(group_of(host, by).into_owned()).or_default(), host, overlay, &draws);
            }
            let numbers: HashMap<&str, usize> = groups.keys().map(String::as_str).zip(0..).collect();
            let mut places: HashMap<&str, Place> = tables
                .hosts
                .values()
                .filter_map(|host| {
                    let group = *numbers.get(group_of(host, by).as_ref())?;
                    Some((host.name(), Place { group, vms: 0 }))
                })
                .collect();
            // VMs that are nowhere count for the whole only.
            let mut sums = vec![VmSum::default(); groups.len() + 1];
            let mut failed = Vec::new();
            for vm in tables.vms.values() {
                let place = vm.status.host.as_ref().and_then(|host| places.get_mut(host.as_str()));
                let is_somewhere = place.is_some();
                let group = place.map_or(sums.len() - 1, |place| {
                    place.vms += 1;
                    place.group
                });
                sums[group].add(vm, is_somewhere);
                if vm.status.phase == VmPhase::Failed {
                    failed.push(&**vm);
                }
            }
            let phases = VmPhase::ALL.map(|phase| name_of(&phase));
            let mut totals = Totals::default();
            sums.pop().unwrap_or_default().add_to(&mut totals, &phases);
            for (group, sum) in groups.values_mut().zip(sums) {
                sum.add_to(group, &phases);
                round(group);
                add(&mut totals, group);
            }
            round(&mut totals);
            let on_hosts = places.into_iter().map(|(host, place)| (host, place.vms)).collect();
            let (wrong, wrong_total) = wrongs::find(tables, overlay, &SeenVms { failed, on_hosts }, app.clock.now());
            Overview {
                revision,
                at: app.clock.now(),
                datacenter: app.config.datacenter.clone(),
                by: by.to_owned(),
                totals,
                groups: groups.into_iter().map(|(name, totals)| Group { name, totals }).collect(),
                wrong,
                wrong_total,
            }
        })
    })
}

/// A host, while VMs are counted.
struct Place {
    group: usize,
    vms: u64,
}

/// VMs by the number of their phase, because there are many more VMs than phases.
#[derive(Clone, Default)]
struct VmSum {
    by_phase: [u64; VmPhase::ALL.len()],
    assigned_cores: u64,
    assigned_bytes: u64,
}

impl VmSum {
    fn add(&mut self, vm: &Vm, is_somewhere: bool) {
        self.by_phase[vm.status.phase as usize] += 1;
        if is_somewhere {
            self.assigned_cores += u64::from(vm.spec.cpus);
            self.assigned_bytes += vm.spec.memory.bytes();
        }
    }

    /// `phases` are the names in the order of [`VmPhase::ALL`].
    fn add_to(&self, totals: &mut Totals, phases: &[String]) {
        for (phase, count) in phases.iter().zip(self.by_phase).filter(|(_, count)| *count > 0) {
            totals.vms.total += count;
            *totals.vms.by_phase.entry(phase.clone()).or_default() += count;
        }
        totals.cpu.assigned_cores += self.assigned_cores;
        totals.memory.assigned_bytes += self.assigned_bytes;
    }
}

/// `cluster`, `rack` and `site` come from the spec, everything else, and what is not there, from labels. Racks of one name
/// in different sites are different racks.
fn group_of<'a>(host: &'a Host, by: &str) -> Cow<'a, str> {
    let domain = &host.spec.failure_domain;
    let label = || Cow::from(host.metadata.labels.get(by).unwrap_or_default());
    match (by, &domain.site, &domain.rack) {
        ("cluster", ..) => host.spec.cluster.as_str().into(),
        ("rack", Some(site), Some(rack)) => format!("{site}/{rack}").into(),
        ("rack", None, Some(rack)) => rack.into(),
        ("site", Some(site), _) => site.into(),
        _ => label(),
    }
}

fn name_of(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => "unknown".to_owned(),
    }
}

fn add_host(totals: &mut Totals, host: &Host, overlay: &Overlay, draws: &Draws) {
    totals.hosts.total += 1;
    totals.hosts.cordoned += u64::from(host.spec.cordoned);
    *totals.hosts.by_state.entry(name_of(&host.status.state)).or_default() += 1;
    let (cpu, memory) = capacity(host, overlay);
    add_cpu(&mut totals.cpu, cpu);
    add_memory(&mut totals.memory, memory);
    add_power(&mut totals.power, power(host, draws));
}

/// What it draws in whole watts: so that a change too small to be seen is none.
fn power(host: &Host, draws: &Draws) -> PowerUse {
    let Some(draw) = draws.get(&host.metadata.name).filter(|_| host.status.state == HostState::Ready) else {
        return PowerUse::default();
    };
    let most_watts = host.spec.curve().unwrap_or(USUAL_CURVE)[10];
    PowerUse { most_watts, used_watts: draw.watts.round() }
}

/// What a host has and what is used of it; what its VMs are assigned is not counted here.
fn capacity(host: &Host, overlay: &Overlay) -> (CpuUse, MemoryUse) {
    let (mut cpu, mut memory) = (CpuUse::default(), MemoryUse::default());
    if let Some(inventory) = &host.status.inventory {
        cpu.capacity_cores = u64::from(inventory.cpu.count);
        memory.capacity_bytes = inventory.memory.bytes();
    }
    let is_heard = host.status.state == HostState::Ready;
    if let Some(report) = overlay.hosts.get(host.name()).filter(|_| is_heard) {
        cpu.used_cores = report.metrics.cpu_percent / 100.0 * cpu.capacity_cores as f64;
        memory.used_bytes = report.metrics.memory_used.bytes();
    }
    (cpu, memory)
}

fn add(sum: &mut Totals, part: &Totals) {
    sum.hosts.total += part.hosts.total;
    sum.hosts.cordoned += part.hosts.cordoned;
    sum.vms.total += part.vms.total;
    for (state, count) in &part.hosts.by_state {
        *sum.hosts.by_state.entry(state.clone()).or_default() += count;
    }
    for (phase, count) in &part.vms.by_phase {
        *sum.vms.by_phase.entry(phase.clone()).or_default() += count;
    }
    add_cpu(&mut sum.cpu, part.cpu);
    add_memory(&mut sum.memory, part.memory);
    add_power(&mut sum.power, part.power);
}

fn add_power(sum: &mut PowerUse, part: PowerUse) {
    sum.most_watts += part.most_watts;
    sum.used_watts += part.used_watts;
}

fn add_cpu(sum: &mut CpuUse, part: CpuUse) {
    sum.capacity_cores += part.capacity_cores;
    sum.assigned_cores += part.assigned_cores;
    sum.used_cores += part.used_cores;
}

fn add_memory(sum: &mut MemoryUse, part: MemoryUse) {
    sum.capacity_bytes += part.capacity_bytes;
    sum.assigned_bytes += part.assigned_bytes;
    sum.used_bytes += part.used_bytes;
}

/// So that a change too small to be seen is none.
fn round(totals: &mut Totals) {
    totals.cpu.used_cores = rounded(totals.cpu.used_cores);
    totals.memory.used_bytes &= !((16 << 20) - 1);
}

fn rounded(cores: f64) -> f64 {
    (cores * 10.0).round() / 10.0
}

/// A page of the hosts of a group, each with its VMs.
pub fn hosts(app: &App, caller: &Caller, query: &OverviewHostsQuery) -> Result<OverviewHosts, Problem> {
    caller.may_read()?;
    let limit = match query.limit.unwrap_or(100) {
        limit @ 1..=500 => limit as usize,
        other => {
            return Err(Problem::invalid("invalid-query", "the query is not valid")
                .field("limit", format!("{other} is out of range, use 1 to 500")));
        }
    };
    let by = query.by.as_deref().unwrap_or(DEFAULT_LABEL);
    let is_wanted = |host: &Host| query.group.as_deref().is_none_or(|group| group_of(host, by) == group);
    Ok(app.model.read_at(|tables, revision| {
        let start = query.next.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut chosen = tables.hosts.range::<str, _>((start, Bound::Unbounded)).map(|(_, host)| host);
        let page: Vec<_> = chosen.by_ref().filter(|host| is_wanted(host)).take(limit).collect();
        let more = chosen.any(|host| is_wanted(host));
        let total = tables.hosts.values().filter(|host| is_wanted(host)).count() as u64;
        let next = page.last().filter(|_| more).map(|host| host.name().to_owned());
        let items = app.model.overlay(|overlay| bars(tables, overlay, &app.energy.draws(), &page));
        OverviewHosts { revision, items, total, next }
    }))
}

fn bars(tables: &Tables, overlay: &Overlay, draws: &Draws, hosts: &[&Arc<Host>]) -> Vec<HostBar> {
    let mut on: HashMap<&str, Vec<&Arc<Vm>>> = hosts.iter().map(|host| (host.name(), Vec::new())).collect();
    for vm in tables.vms.values() {
        if let Some(vms) = vm.status.host.as_ref().and_then(|host| on.get_mut(host.as_str())) {
            vms.push(vm);
        }
    }
    hosts
        .iter()
        .map(|host| {
            let mut vms = on.remove(host.name()).unwrap_or_default();
            let (mut cpu, mut memory) = capacity(host, overlay);
            cpu.used_cores = rounded(cpu.used_cores);
            memory.used_bytes &= !((16 << 20) - 1);
            for vm in &vms {
                cpu.assigned_cores += u64::from(vm.spec.cpus);
                memory.assigned_bytes += vm.spec.memory.bytes();
            }
            vms.sort_by_key(|vm| std::cmp::Reverse(vm.spec.memory));
            HostBar {
                name: host.metadata.name.clone(),
                state: host.status.state,
                cordoned: host.spec.cordoned,
                labels: host.metadata.labels.clone(),
                cpu,
                memory,
                power: power(host, draws),
                last_seen: overlay.hosts.get(host.name()).map(|report| report.last_seen),
                vms_total: vms.len() as u64,
                vms: vms.into_iter().take(VMS_SHOWN).map(|vm| part(vm, draws.get(&host.metadata.name))).collect(),
            }
        })
        .collect()
}

fn part(vm: &Vm, draw: Option<&Draw>) -> VmPart {
    let watts = draw.and_then(|draw| draw.vms.get(&vm.metadata.uuid));
    VmPart {
        watts: watts.map_or(0.0, |watts| watts.round()),
        name: vm.metadata.name.clone(),
        phase: vm.status.phase,
        cpus: vm.spec.cpus,
        memory_bytes: vm.spec.memory.bytes(),
        moving_to: vm.status.moving_to.clone(),
        operation: vm.status.operation.clone(),
    }
}
