//! Moves that relieve hosts that are expected to be too full, and moves that empty hosts.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use gantry_types::HostState;

use super::{HostStep, Outlook, Plan, Settings};
use crate::{Move, Snapshot, VmFacts, ask::Ask, ledger::Ledger};

/// A decision in the making.
pub(super) struct Consolidation<'a> {
    pub snapshot: &'a Snapshot,
    pub settings: &'a Settings,
    pub outlook: &'a Outlook,
    /// As it will be once the plan is carried out.
    pub ledger: Ledger,
    pub plan: Plan,
    moved: BTreeSet<uuid::Uuid>,
    /// Hosts that VMs come to; they are not emptied by the same plan.
    receivers: BTreeSet<u32>,
}

impl<'a> Consolidation<'a> {
    pub fn new(snapshot: &'a Snapshot, settings: &'a Settings, outlook: &'a Outlook) -> Self {
        Self {
            snapshot,
            settings,
            outlook,
            ledger: snapshot.ledger.clone(),
            plan: Plan::default(),
            moved: BTreeSet::new(),
            receivers: BTreeSet::new(),
        }
    }

    pub fn wake(&mut self, host: u32, reason: String) {
        let row = &mut self.ledger.rows[host as usize];
        row.asleep = false;
        row.state = HostState::Ready;
        self.ledger.sum_up(&self.snapshot.settings);
        self.plan.wake.push(HostStep { host: self.snapshot.name_of(host).clone(), reason });
    }

    pub fn put_to_sleep(&mut self, host: u32) {
        self.ledger.rows[host as usize].asleep = true;
        self.ledger.sum_up(&self.snapshot.settings);
    }

    /// Processor capacity for a watt at full load; 0 where it is not known.
    pub fn efficiency(&self, host: u32) -> f64 {
        self.ledger.rows[host as usize].cpu_per_watt
    }

    /// The most efficient host that sleeps and is known to wake.
    pub fn best_sleeper(&self) -> Option<u32> {
        let sleepers = self.hosts().filter(|host| {
            let row = &self.ledger.rows[*host as usize];
            row.asleep && !row.maintenance && !row.cordoned && row.machine.is_some()
        });
        sleepers.max_by(|a, b| self.efficiency(*a).total_cmp(&self.efficiency(*b)).then_with(|| b.cmp(a)))
    }

    /// Seconds until the host may be emptied or put to sleep.
    pub fn held_s(&self, host: u32) -> u64 {
        let awake_for = self.outlook.awake_for_s.get(self.snapshot.name_of(host));
        awake_for.map_or(0, |awake_for| self.settings.host_hold_s.saturating_sub(*awake_for))
    }

    pub fn failover_holds_without(&self, host: u32) -> bool {
        if self.snapshot.settings.failover_hosts == 0 {
            return true;
        }
        let mut ledger = self.ledger.clone();
        ledger.rows[host as usize].asleep = true;
        ledger.sum_up(&self.snapshot.settings);
        ledger.failover_free >= ledger.failover_needed
    }

    fn hosts(&self) -> impl Iterator<Item = u32> + '_ {
        let rows = self.ledger.rows.iter().enumerate();
        rows.filter(|(_, row)| row.present).map(|(host, _)| host as u32)
    }

    /// Expected use with caution, as a share of the host's processors.
    fn fill(&self, host: u32) -> f64 {
        let row = &self.ledger.rows[host as usize];
        (row.demand + self.settings.caution * row.variance.sqrt()) / row.cpu_capacity.max(1.0)
    }

    fn fill_with(&self, host: u32, vm: &VmFacts) -> f64 {
        let row = &self.ledger.rows[host as usize];
        let demand = vm.request.demand;
        let deviation = (row.variance + demand.deviation * demand.deviation).sqrt();
        (row.demand + demand.expected + self.settings.caution * deviation) / row.cpu_capacity.max(1.0)
    }

    /// VMs of the host that may move, as they are in the snapshot.
    fn movable(&self, host: u32) -> Option<Vec<&'a VmFacts>> {
        let vms = self.snapshot.entry(host).vms.iter().filter(|uuid| !self.moved.contains(*uuid));
        let vms: Vec<&VmFacts> = vms.filter_map(|uuid| self.snapshot.vm(*uuid)).collect();
        let can = |vm: &&VmFacts| vm.running && vm.obstacle.is_none() && vm.moving_to.is_none();
        vms.iter().all(can).then_some(vms)
    }

    /// Work that the VM loses by moving now.
    fn lost(&self, vm: &VmFacts) -> f64 {
        let cost = &self.outlook.cost;
        cost.lost_share * cost.seconds(vm.request.memory.bytes()) * vm.request.demand.now
    }

    fn is_quiet(vm: &VmFacts) -> bool {
        vm.request.demand.now <= vm.request.demand.expected
    }

    /// The host that takes the VM: the most efficient, then the one that is fullest with it and still below the target.
    fn receiver(&self, vm: &VmFacts) -> Option<u32> {
        let request = self.snapshot.request_to_leave(vm);
        let ask = Ask::new(self.snapshot, &self.ledger, &request);
        let mut best: Option<(f64, f64, u32)> = None;
        for host in self.hosts() {
            let row = &self.ledger.rows[host as usize];
            if row.asleep || (row.vms == 0 && !self.receivers.contains(&host) && !self.is_awake_anyway(host)) {
                continue;
            }
            let fill = self.fill_with(host, vm);
            if fill > self.settings.target_fill || ask.obstacle(host).is_some() {
                continue;
            }
            let efficiency = self.efficiency(host);
            if best.is_none_or(|(other, fullest, _)| efficiency > other || (efficiency == other && fill > fullest)) {
                best = Some((efficiency, fill, host));
            }
        }
        best.map(|(_, _, host)| host)
    }

    /// An empty host that is awake is a spare; relief may use it, emptying others must not.
    fn is_awake_anyway(&self, host: u32) -> bool {
        self.plan.wake.iter().any(|step| step.host == *self.snapshot.name_of(host))
    }

    fn shift(&mut self, vm: &VmFacts, from: u32, to: u32) {
        self.ledger.give_back(from, &vm.request);
        self.ledger.take(to, &vm.request);
    }

    fn propose(&mut self, vm: &VmFacts, from: u32, to: u32, reason: String) {
        self.moved.insert(vm.request.vm);
        self.receivers.insert(to);
        self.plan.moves.push(Move {
            vm: vm.request.vm,
            name: vm.name.clone(),
            from: self.snapshot.name_of(from).clone(),
            to: self.snapshot.name_of(to).clone(),
            reason,
        });
    }

    /// Takes VMs from hosts that are expected to be above the relief limit until they are below the target.
    pub fn relieve(&mut self) {
        let full: Vec<u32> = self
            .hosts()
            .filter(|host| {
                self.ledger.rows[*host as usize].in_service() && self.fill(*host) > self.settings.relief_fill
            })
            .collect();
        for host in full {
            let vms = self.snapshot.entry(host).vms.iter().filter_map(|uuid| self.snapshot.vm(*uuid));
            let can = |vm: &&VmFacts| vm.running && vm.obstacle.is_none() && vm.moving_to.is_none();
            let useful = |vm: &&VmFacts| vm.request.demand.expected > 0.0 && Self::is_quiet(vm);
            let mut vms: Vec<&VmFacts> = vms.filter(can).filter(useful).collect();
            // Least loss for what it relieves.
            let price = |vm: &VmFacts| (self.lost(vm) + 1e-6) / vm.request.demand.expected;
            vms.sort_by(|a, b| price(a).total_cmp(&price(b)).then_with(|| a.request.vm.cmp(&b.request.vm)));
            for vm in vms {
                if self.fill(host) <= self.settings.target_fill || self.plan.moves.len() >= self.settings.max_moves {
                    break;
                }
                let reason = format!(
                    "{} is expected to use {:.0} % of its processors, more than {:.0} %",
                    self.snapshot.name_of(host),
                    100.0 * self.fill(host),
                    100.0 * self.settings.relief_fill
                );
                if let Some(to) = self.receiver_or_woken(vm, &reason) {
                    self.shift(vm, host, to);
                    self.propose(vm, host, to, reason);
                }
            }
        }
    }

    fn receiver_or_woken(&mut self, vm: &VmFacts, reason: &str) -> Option<u32> {
        if let Some(to) = self.receiver(vm) {
            return Some(to);
        }
        let spare = self.hosts().find(|host| {
            let row = &self.ledger.rows[*host as usize];
            row.in_service() && !row.asleep && row.vms == 0
        });
        let host = spare.or_else(|| self.best_sleeper())?;
        if self.ledger.rows[host as usize].asleep {
            self.wake(host, reason.to_owned());
        }
        self.receivers.insert(host);
        self.receiver(vm)
    }

    /// Empties hosts, the least efficient and least used first, if all their VMs fit on others that stay.
    pub fn empty_hosts(&mut self) {
        let mut donors: Vec<u32> = self.hosts().filter(|host| self.is_donor(*host)).collect();
        let load = |host: &u32| self.ledger.rows[*host as usize].demand;
        donors.sort_by(|a, b| {
            let efficiency = self.efficiency(*a).total_cmp(&self.efficiency(*b));
            efficiency.then_with(|| load(a).total_cmp(&load(b))).then_with(|| a.cmp(b))
        });
        let mut emptied = 0;
        for donor in donors {
            if emptied >= self.settings.max_emptied || self.plan.moves.len() >= self.settings.max_moves {
                break;
            }
            if self.receivers.contains(&donor) {
                continue;
            }
            emptied += usize::from(self.empty(donor));
        }
    }

    fn is_donor(&self, host: u32) -> bool {
        let row = &self.ledger.rows[host as usize];
        let facts = &self.snapshot.entry(host).facts;
        row.in_service() && !row.asleep && row.vms > 0 && facts.wake_proven && self.held_s(host) == 0
    }

    fn empty(&mut self, donor: u32) -> bool {
        let Some(mut vms) = self.movable(donor) else { return false };
        let held = |vm: &&VmFacts| {
            self.outlook.moved_s_ago.get(&vm.request.vm).is_some_and(|ago| *ago < self.settings.vm_hold_s)
        };
        if vms.iter().any(held) || self.ledger.rows[donor as usize].vms as usize != vms.len() {
            return false;
        }
        vms.sort_by_key(|vm| Reverse(ordered(vm.request.demand.expected)));
        let mut seats = Vec::with_capacity(vms.len());
        for vm in &vms {
            let Some(to) = self.receiver(vm) else { break };
            self.shift(vm, donor, to);
            seats.push(to);
        }
        if seats.len() < vms.len() || !self.failover_holds_without(donor) {
            for (vm, to) in vms.iter().zip(&seats) {
                self.shift(vm, *to, donor);
            }
            return false;
        }
        self.propose_those_worth_it(donor, &vms, &seats);
        true
    }

    /// Moves what is quiet or cheap now; the rest keeps its reserved place and waits.
    fn propose_those_worth_it(&mut self, donor: u32, vms: &[&VmFacts], seats: &[u32]) {
        let facts = &self.snapshot.entry(donor).facts;
        let idle_watts = facts.watts.map_or(100.0, |watts| watts[0]);
        let saved = idle_watts * self.settings.interval_s as f64 / vms.len().max(1) as f64;
        // Lost work is in percent of a processor, or in whatever unit the snapshot has; 100 are one processor.
        let price = self.settings.joules_per_cpu_second / 100.0;
        for (vm, to) in vms.iter().zip(seats) {
            self.receivers.insert(*to);
            let worth_it = Self::is_quiet(vm) || self.lost(vm) * price <= saved;
            if worth_it && self.plan.moves.len() < self.settings.max_moves {
                let name = self.snapshot.name_of(donor);
                let reason = format!("{name} can be emptied and saves {idle_watts:.0} W");
                self.propose(vm, donor, *to, reason);
            }
        }
    }
}

/// Floating-point figures in an order; none of them is NaN.
fn ordered(value: f64) -> u64 {
    (value.max(0.0) * 1e6) as u64
}
