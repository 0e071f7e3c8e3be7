//! Resource pools: what they name and who names them, and that nothing is promised twice.
//!
//! Admission is decided when something is written, and counts every VM, running or not, as placement does: so a VM that
//! is stopped can always be started. A pool's reservation covers what its VMs and inner pools reserve; those of the
//! outermost pools fit into the cluster's hosts.

use std::{collections::BTreeSet, sync::Arc};

use gantry_types::{
    ByteSize, MAIN_CLUSTER, MAX_POOL_DEPTH, Name, Problem, Resource, ResourcePool, ResourcePoolSpec, Vm,
};

use super::{
    App,
    cluster::hosts_of,
    managed::{Managed, Mistake},
};
use crate::model::Tables;

/// Percent of a processor, and memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reserved {
    pub cpu_percent: u64,
    pub memory: u64,
}

impl std::ops::Add for Reserved {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { cpu_percent: self.cpu_percent + other.cpu_percent, memory: self.memory + other.memory }
    }
}

impl Reserved {
    fn of_pool(spec: &ResourcePoolSpec) -> Self {
        Self { cpu_percent: spec.cpu.reservation_percent.into(), memory: spec.memory.reservation.bytes() }
    }
    fn of_vm(vm: &Vm) -> Self {
        let wishes = &vm.spec.resources;
        Self { cpu_percent: wishes.cpu_reservation_percent.into(), memory: wishes.memory_reservation.bytes() }
    }

    /// What is promised beyond what there is, in words.
    fn excess_over(self, there_is: Self) -> Option<(&'static str, String)> {
        if self.cpu_percent > there_is.cpu_percent {
            let told = format!("{} % of a processor in all, of {} %", self.cpu_percent, there_is.cpu_percent);
            return Some(("cpu", told));
        }
        (self.memory > there_is.memory)
            .then(|| ("memory", format!("{} in all, of {}", ByteSize(self.memory), ByteSize(there_is.memory))))
    }
}

/// The pool and those around it, from the inside out.
pub(crate) fn chain<'a>(tables: &'a Tables, pool: &Name) -> Vec<&'a Arc<ResourcePool>> {
    let mut chain = Vec::new();
    let mut at = tables.resource_pools.get(pool.as_str());
    while let Some(pool) = at.filter(|_| chain.len() <= MAX_POOL_DEPTH) {
        chain.push(pool);
        at = pool.spec.parent.as_ref().and_then(|parent| tables.resource_pools.get(parent.as_str()));
    }
    chain
}

/// The pool and those inside it.
pub(crate) fn within<'a>(tables: &'a Tables, pool: &'a Name) -> BTreeSet<&'a Name> {
    let mut found = BTreeSet::from([pool]);
    for _ in 0..MAX_POOL_DEPTH {
        let is_inside = |other: &&Arc<ResourcePool>| other.spec.parent.as_ref().is_some_and(|it| found.contains(it));
        let more: Vec<_> = tables.resource_pools.values().filter(is_inside).map(|pool| &pool.metadata.name).collect();
        found.extend(more);
    }
    found
}

pub(crate) fn vms_within<'a>(tables: &'a Tables, pool: &'a Name) -> impl Iterator<Item = &'a Arc<Vm>> {
    let pools = within(tables, pool);
    let is_in = move |vm: &&Arc<Vm>| vm.spec.resources.resource_pool.as_ref().is_some_and(|it| pools.contains(it));
    tables.vms.values().filter(is_in)
}

/// What the VMs and pools right inside this one reserve, without the object of this name.
pub(crate) fn reserved_inside(
    tables: &Tables,
    pool: &Name,
    without_vm: Option<&Name>,
    without_pool: Option<&Name>,
) -> Reserved {
    let vms = tables.vms.values().filter(|vm| vm.spec.resources.resource_pool.as_ref() == Some(pool));
    let vms = vms.filter(|vm| Some(&vm.metadata.name) != without_vm).map(|vm| Reserved::of_vm(vm));
    let pools = tables.resource_pools.values().filter(|inner| inner.spec.parent.as_ref() == Some(pool));
    let pools = pools.filter(|inner| Some(&inner.metadata.name) != without_pool);
    let pools = pools.map(|inner| Reserved::of_pool(&inner.spec));
    vms.chain(pools).fold(Reserved::default(), std::ops::Add::add)
}

fn memory_within(tables: &Tables, pool: &Name, without_vm: Option<&Name>) -> u64 {
    let vms = vms_within(tables, pool).filter(|vm| Some(&vm.metadata.name) != without_vm);
    vms.map(|vm| vm.spec.memory.bytes()).sum()
}

impl Managed for ResourcePool {
    const EVENT: &'static str = "ResourcePool";

    fn mistakes(&self) -> Vec<Mistake> {
        self.spec.mistakes()
    }

    fn wrong_references(&self, tables: &Tables) -> Vec<Mistake> {
        let (own, spec) = (&self.metadata.name, &self.spec);
        let mut wrong = Vec::new();
        if spec.cluster.as_str() != MAIN_CLUSTER && !tables.clusters.contains_key(spec.cluster.as_str()) {
            let told = format!("cluster '{}' does not exist; see: gantry cluster list", spec.cluster);
            return vec![("spec.cluster".to_owned(), told)];
        }
        let asked = Reserved::of_pool(spec);
        let in_all = match &spec.parent {
            Some(parent) => {
                let around = chain(tables, parent);
                let Some(outer) = around.first().filter(|_| parent != own) else {
                    let told = format!("resource-pool '{parent}' does not exist; see: gantry resource-pool list");
                    return vec![("spec.parent".to_owned(), told)];
                };
                if outer.spec.cluster != spec.cluster {
                    let told = format!("resource-pool '{parent}' is of cluster '{}'", outer.spec.cluster);
                    wrong.push(("spec.parent".to_owned(), told));
                }
                if around.len() >= MAX_POOL_DEPTH {
                    wrong.push(("spec.parent".to_owned(), format!("pools are at most {MAX_POOL_DEPTH} deep")));
                }
                let in_all = asked + reserved_inside(tables, parent, None, Some(own));
                in_all.excess_over(Reserved::of_pool(&outer.spec)).map(|(what, told)| {
                    (what, format!("with what else is reserved in resource-pool '{parent}' this would be {told}"))
                })
            }
            None => {
                let others = tables.resource_pools.values().filter(|other| {
                    other.spec.parent.is_none() && other.spec.cluster == spec.cluster && other.metadata.name != *own
                });
                let in_all = others.map(|other| Reserved::of_pool(&other.spec)).fold(asked, std::ops::Add::add);
                let excess = in_all.excess_over(capacity(tables, &spec.cluster));
                excess.filter(|_| asked != Reserved::default()).map(|(what, told)| {
                    (what, format!("with the other pools of cluster '{}' this would be {told}", spec.cluster))
                })
            }
        };
        if let Some((what, told)) = in_all {
            wrong.push((reservation_field(what), told));
        }
        if let Some((what, told)) = reserved_inside(tables, own, None, None).excess_over(asked) {
            wrong.push((reservation_field(what), format!("its VMs and the pools inside it have reserved {told}")));
        }
        let given = memory_within(tables, own, None);
        if let Some(limit) = spec.memory.limit.filter(|limit| limit.bytes() < given) {
            let told = format!("{limit} is less than the memory of its VMs, {}", ByteSize(given));
            wrong.push(("spec.memory.limit".to_owned(), told));
        }
        wrong
    }

    fn wrong_changes(&self, current: &Self) -> Vec<Mistake> {
        let (old, new) = (&current.spec, &self.spec);
        [("spec.cluster", old.cluster != new.cluster), ("spec.parent", old.parent != new.parent)]
            .into_iter()
            .filter(|(_, changed)| *changed)
            .map(|(field, _)| (field.to_owned(), "is fixed when the pool is made".to_owned()))
            .collect()
    }

    fn users(&self, tables: &Tables) -> Vec<String> {
        let own = Some(&self.metadata.name);
        let vms = tables.vms.values().filter(|vm| vm.spec.resources.resource_pool.as_ref() == own);
        let pools = tables.resource_pools.values().filter(|pool| pool.spec.parent.as_ref() == own);
        vms.map(|vm| format!("VM '{}'", vm.name()))
            .chain(pools.map(|pool| format!("resource-pool '{}'", pool.name())))
            .collect()
    }

    fn with_status_of(mut self, current: &Self) -> Self {
        self.status = current.status.clone();
        self
    }
}

fn reservation_field(what: &str) -> String {
    match what {
        "cpu" => "spec.cpu.reservation_percent".to_owned(),
        _ => "spec.memory.reservation".to_owned(),
    }
}

/// Of all the cluster's hosts, also of those that are away for now.
fn capacity(tables: &Tables, cluster: &Name) -> Reserved {
    let inventories = hosts_of(tables, cluster).filter_map(|host| host.status.inventory.as_ref());
    inventories
        .map(|inventory| Reserved {
            cpu_percent: 100 * u64::from(inventory.cpu.count),
            memory: inventory.memory.bytes().saturating_sub(gantry_placement::MEMORY_RESERVE.bytes()),
        })
        .fold(Reserved::default(), std::ops::Add::add)
}

/// What is wrong with the pool that the VM names. The caller holds `App::references` for writing if it names one.
pub(crate) fn wrong_pool(tables: &Tables, vm: &Vm) -> Vec<Mistake> {
    const FIELD: &str = "spec.resources.resource_pool";
    let Some(name) = &vm.spec.resources.resource_pool else { return Vec::new() };
    let own = Some(&vm.metadata.name);
    let around = chain(tables, name);
    let Some(pool) = around.first() else {
        let told = format!("resource-pool '{name}' does not exist; see: gantry resource-pool list");
        return vec![(FIELD.to_owned(), told)];
    };
    let mut wrong = Vec::new();
    for host in [&vm.status.host, &vm.spec.host].into_iter().flatten() {
        let cluster = tables.hosts.get(host.as_str()).map(|host| &host.spec.cluster);
        if let Some(cluster) = cluster.filter(|cluster| **cluster != pool.spec.cluster) {
            let of = &pool.spec.cluster;
            let told = format!("resource-pool '{name}' is of cluster '{of}', but host '{host}' is of '{cluster}'");
            wrong.push((FIELD.to_owned(), told));
        }
    }
    let asked = Reserved::of_vm(vm);
    let in_all = asked + reserved_inside(tables, name, own, None);
    if asked != Reserved::default()
        && let Some((what, told)) = in_all.excess_over(Reserved::of_pool(&pool.spec))
    {
        let field = match what {
            "cpu" => "spec.resources.cpu_reservation_percent",
            _ => "spec.resources.memory_reservation",
        };
        let told = format!("with what else is reserved in resource-pool '{name}' this would be {told}");
        wrong.push((field.to_owned(), told));
    }
    for pool in around {
        let Some(limit) = pool.spec.memory.limit else { continue };
        let given = memory_within(tables, &pool.metadata.name, own) + vm.spec.memory.bytes();
        if given > limit.bytes() {
            let told = format!(
                "resource-pool '{}' is limited to {limit}; with this VM its VMs would have {}",
                pool.name(),
                ByteSize(given)
            );
            wrong.push(("spec.memory".to_owned(), told));
        }
    }
    wrong
}

/// # Errors
/// `invalid-vm`, if the pool that the VM names is not there or has no room for it.
pub(crate) fn check(app: &App, vm: &Vm) -> Result<(), Problem> {
    let wrong = app.model.read(|tables| wrong_pool(tables, vm));
    if wrong.is_empty() {
        return Ok(());
    }
    let problem = Problem::invalid("invalid-vm", format!("VM '{}' can't be like this", vm.name()));
    Err(wrong.into_iter().fold(problem, |problem, (field, told)| problem.field(field, told)))
}
