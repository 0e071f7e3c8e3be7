//! A bounded search for the fewest hosts that take a small batch.
//!
//! Depth first, the hardest VM first, hosts that are in use before a fresh one, with a lower bound on the hosts that the
//! rest needs. It ends when the bound is reached or the budget is used up; then the best that was found stands.

use std::collections::BTreeMap;

use crate::{
    Request, Snapshot,
    batch::{Measure, fits, order, take},
    ledger::{Ledger, Share},
};

const MOST_VMS: usize = 32;
const MOST_HOSTS: usize = 64;
/// Tries to seat one VM on one host.
const BUDGET: u32 = 30_000;

/// Seats by request on fewer hosts than `known` has; `None` if there is none, or none was found.
pub(crate) fn search(snapshot: &Snapshot, requests: &[Request], known: &[Option<u32>]) -> Option<Vec<u32>> {
    let hosts: Vec<u32> =
        snapshot.ledger.rows.iter().enumerate().filter(|(_, row)| row.present).map(|(host, _)| host as u32).collect();
    if requests.len() > MOST_VMS || hosts.len() > MOST_HOSTS {
        return None;
    }
    let mut used: Vec<u32> = known.iter().flatten().copied().collect();
    used.sort_unstable();
    used.dedup();
    let mut search = Search {
        snapshot,
        requests,
        order: order(snapshot, requests, Measure::Scarcest),
        hosts,
        ledger: snapshot.ledger.clone(),
        in_use: BTreeMap::new(),
        seats: vec![0; requests.len()],
        fewest: used.len(),
        best: None,
        budget: BUDGET,
    };
    let floor = search.at_least(0);
    search.descend(0, floor);
    search.best
}

struct Search<'a> {
    snapshot: &'a Snapshot,
    requests: &'a [Request],
    order: Vec<usize>,
    hosts: Vec<u32>,
    ledger: Ledger,
    /// Hosts with VMs of the batch, and how many.
    in_use: BTreeMap<u32, u32>,
    seats: Vec<u32>,
    /// As many hosts as the best way so far needs.
    fewest: usize,
    best: Option<Vec<u32>>,
    budget: u32,
}

impl Search<'_> {
    fn descend(&mut self, depth: usize, floor: usize) {
        if depth == self.order.len() {
            self.fewest = self.in_use.len();
            self.best = Some(self.seats.clone());
            return;
        }
        let at = self.order[depth];
        for host in self.candidates() {
            let fresh = !self.in_use.contains_key(&host);
            if self.fewest <= floor || self.in_use.len() + usize::from(fresh) >= self.fewest {
                return;
            }
            if self.budget == 0 {
                return;
            }
            self.budget -= 1;
            let request = &self.requests[at];
            if !fits(self.snapshot, &self.ledger, request, host) {
                continue;
            }
            let before = self.ledger.rows[host as usize].vms;
            take(self.snapshot, &mut self.ledger, host, request);
            let taken = self.ledger.rows[host as usize].vms > before;
            *self.in_use.entry(host).or_default() += 1;
            self.seats[at] = host;
            if self.in_use.len() + self.at_least(depth + 1) < self.fewest {
                self.descend(depth + 1, floor);
            }
            if taken {
                self.ledger.give_back(host, &self.requests[at]);
            }
            if let Some(count) = self.in_use.get_mut(&host) {
                *count -= 1;
                if *count == 0 {
                    self.in_use.remove(&host);
                }
            }
        }
    }

    /// Hosts in use, the fullest first; then fresh ones, the roomiest first.
    fn candidates(&self) -> Vec<u32> {
        let mut hosts = self.hosts.clone();
        hosts.sort_by_key(|host| {
            let row = &self.ledger.rows[*host as usize];
            match self.in_use.contains_key(host) {
                true => (0, row.memory_free(), *host),
                false => (1, u64::MAX - row.memory_free(), *host),
            }
        });
        hosts
    }

    /// Fresh hosts that the VMs from `depth` on need at least, by memory and by processors.
    fn at_least(&self, depth: usize) -> usize {
        let (mut memory, mut cpus) = (0u64, 0u64);
        for at in &self.order[depth..] {
            let share = Share::of(&self.requests[*at]);
            memory += share.memory;
            cpus += u64::from(share.cpus);
        }
        let (mut fresh_memory, mut fresh_cpus) = (Vec::new(), Vec::new());
        for host in &self.hosts {
            let row = &self.ledger.rows[*host as usize];
            let free_cpus = u64::from(row.cpus_limit.saturating_sub(row.cpus_given));
            if self.in_use.contains_key(host) {
                memory = memory.saturating_sub(row.memory_free());
                cpus = cpus.saturating_sub(free_cpus);
            } else {
                fresh_memory.push(row.memory_free());
                fresh_cpus.push(free_cpus);
            }
        }
        needed(memory, fresh_memory).max(needed(cpus, fresh_cpus))
    }
}

/// How many of the largest it takes to hold `amount`.
fn needed(mut amount: u64, mut sizes: Vec<u64>) -> usize {
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let mut count = 0;
    for size in sizes {
        if amount == 0 {
            break;
        }
        amount = amount.saturating_sub(size);
        count += 1;
    }
    count
}
