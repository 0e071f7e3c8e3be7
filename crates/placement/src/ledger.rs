//! Who has been given what: one dense row for each host, and where labels and rules are.
//!
//! It is all that changes while VMs are placed, so a batch is tried on a copy of it.

use std::collections::BTreeMap;

use gantry_types::{HostState, Labels, VmRule};

use crate::{HostFacts, Request, Settings};

/// One host.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HostRow {
    /// False for a slot whose host was removed.
    pub present: bool,
    pub state: HostState,
    pub cordoned: bool,
    pub maintenance: bool,
    pub asleep: bool,
    pub limited_networks: bool,
    /// Place of its name among all names.
    pub rank: u32,
    /// Index of its machine; `None` until it has reported one.
    pub machine: Option<u32>,
    /// Of the host itself, its rack and its site.
    pub domains: [u32; 3],
    pub memory: u64,
    /// With over-commit.
    pub memory_limit: u64,
    pub memory_given: u64,
    pub memory_reserved: u64,
    pub cpus_limit: u32,
    pub cpus_given: u32,
    /// Percent of one processor.
    pub cpu_reservable: u32,
    pub cpu_reserved: u32,
    pub cpu_capacity: f64,
    pub cpu_used: f64,
    /// Capacity for a watt at full load; 0 if it is not known.
    pub cpu_per_watt: f64,
    /// Sums of the running VMs' expected use and of its variance.
    pub demand: f64,
    pub variance: f64,
    pub vms: u32,
    /// Of its emptiest pool.
    pub pool_free: u64,
}

impl HostRow {
    pub fn new(facts: &HostFacts, settings: &Settings, machine: Option<u32>, domains: [u32; 3]) -> Self {
        let memory = facts.memory.bytes();
        Self {
            present: true,
            state: facts.state,
            cordoned: facts.cordoned,
            maintenance: facts.maintenance,
            asleep: facts.asleep,
            limited_networks: !facts.out_of_reach.is_empty(),
            rank: 0,
            machine,
            domains,
            memory,
            memory_limit: (memory as f64 * settings.memory_overcommit.max(1.0)) as u64,
            memory_given: 0,
            memory_reserved: 0,
            cpus_limit: (f64::from(facts.cpus) * settings.cpu_overcommit.max(1.0)) as u32,
            cpus_given: 0,
            cpu_reservable: facts.cpu_capacity as u32,
            cpu_reserved: 0,
            cpu_capacity: facts.cpu_capacity,
            cpu_used: facts.cpu_used,
            cpu_per_watt: facts.watts.map_or(0.0, |watts| facts.cpu_capacity / watts[10].max(1.0)),
            demand: 0.0,
            variance: 0.0,
            vms: 0,
            pool_free: facts.pools.iter().map(|pool| pool.free.bytes()).max().unwrap_or_default(),
        }
    }

    pub fn memory_free(&self) -> u64 {
        self.memory_limit.saturating_sub(self.memory_given)
    }

    /// It can be counted on: for failover, for balance.
    pub fn in_service(&self) -> bool {
        self.present && self.state == HostState::Ready && !self.maintenance && !self.asleep && self.machine.is_some()
    }
}

/// What one VM takes of a host.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Share {
    pub memory: u64,
    pub memory_reserved: u64,
    pub cpus: u32,
    pub cpu_reserved: u32,
    pub demand: f64,
    pub variance: f64,
}

impl Share {
    pub fn of(request: &Request) -> Self {
        Self {
            memory: request.memory.bytes(),
            memory_reserved: request.memory_reservation.bytes().min(request.memory.bytes()),
            cpus: request.cpus,
            cpu_reserved: request.cpu_reservation_percent,
            demand: request.demand.expected,
            variance: request.demand.deviation * request.demand.deviation,
        }
    }
}

/// Something that several VMs have in common, and how many VMs with it are on which host.
#[derive(Debug, Clone)]
pub(crate) struct Marked<T> {
    pub what: T,
    pub at: BTreeMap<u32, u32>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    pub rows: Vec<HostRow>,
    /// Distinct sets of labels; VMs without labels are left out.
    pub labels: Vec<Marked<Labels>>,
    /// Distinct rules between VMs, at their holders' hosts.
    pub rules: Vec<Marked<VmRule>>,
    label_index: BTreeMap<String, usize>,
    rule_index: BTreeMap<String, usize>,
    pub largest_memory: u64,
    pub best_cpu_per_watt: f64,
    /// Free memory of all hosts in service, and what must stay free for the failover that was promised.
    pub failover_free: u64,
    pub failover_needed: u64,
}

impl Ledger {
    pub fn take(&mut self, host: u32, request: &Request) {
        self.change(host, request, true);
    }

    pub fn give_back(&mut self, host: u32, request: &Request) {
        self.change(host, request, false);
    }

    /// What a VM there is expected to use has changed; everything else it takes is the same.
    pub fn expect(&mut self, host: u32, before: &Share, after: &Share) {
        let row = &mut self.rows[host as usize];
        // As if it went and came: what is left of one that is alone is exactly zero.
        let alone = row.vms == 1;
        let (demand, variance) = (row.demand - before.demand, (row.variance - before.variance).max(0.0));
        row.demand = if alone { after.demand } else { demand + after.demand };
        row.variance = if alone { after.variance } else { variance + after.variance };
    }

    /// In an order that does not depend on which came first.
    pub fn rules_in_order(&self) -> impl Iterator<Item = &Marked<VmRule>> {
        self.rule_index.values().map(|at| &self.rules[*at])
    }

    fn change(&mut self, host: u32, request: &Request, more: bool) {
        let share = Share::of(request);
        let row = &mut self.rows[host as usize];
        let free_before = row.memory_free();
        if more {
            row.memory_given += share.memory;
            row.memory_reserved += share.memory_reserved;
            row.cpus_given += share.cpus;
            row.cpu_reserved += share.cpu_reserved;
            row.demand += share.demand;
            row.variance += share.variance;
            row.vms += 1;
        } else {
            row.memory_given -= share.memory;
            row.memory_reserved -= share.memory_reserved;
            row.cpus_given -= share.cpus;
            row.cpu_reserved -= share.cpu_reserved;
            row.vms -= 1;
            // An empty host's sums are exactly zero, whatever came and went before.
            row.demand = if row.vms == 0 { 0.0 } else { row.demand - share.demand };
            row.variance = if row.vms == 0 { 0.0 } else { (row.variance - share.variance).max(0.0) };
        }
        if row.in_service() {
            self.failover_free = self.failover_free - free_before + row.memory_free();
        }
        if !request.labels.is_empty() {
            let key = request.labels.to_string();
            mark(&mut self.labels, &mut self.label_index, key, &request.labels, host, more);
        }
        for rule in &request.rules.vms {
            let key = format!("{rule:?}");
            mark(&mut self.rules, &mut self.rule_index, key, rule, host, more);
        }
    }

    /// After hosts came, went or changed.
    pub fn sum_up(&mut self, settings: &Settings) {
        self.largest_memory = self.rows.iter().filter(|row| row.present).map(|row| row.memory).max().unwrap_or(0);
        self.best_cpu_per_watt = self.rows.iter().map(|row| row.cpu_per_watt).fold(0.0, f64::max);
        let in_service = || self.rows.iter().filter(|row| row.in_service());
        self.failover_free = in_service().map(HostRow::memory_free).sum();
        let mut limits: Vec<u64> = in_service().map(|row| row.memory_limit).collect();
        let lost = (settings.failover_hosts as usize).min(limits.len());
        if lost > 0 && lost < limits.len() {
            limits.select_nth_unstable_by(lost - 1, |a, b| b.cmp(a));
        }
        self.failover_needed = limits[..lost].iter().sum();
    }
}

fn mark<T: Clone>(
    all: &mut Vec<Marked<T>>,
    index: &mut BTreeMap<String, usize>,
    key: String,
    what: &T,
    host: u32,
    more: bool,
) {
    let at = *index.entry(key).or_insert_with(|| {
        all.push(Marked { what: what.clone(), at: BTreeMap::new() });
        all.len() - 1
    });
    let count = all[at].at.entry(host).or_default();
    if more {
        *count += 1;
    } else {
        *count -= 1;
        if *count == 0 {
            all[at].at.remove(&host);
        }
    }
}
