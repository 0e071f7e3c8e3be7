//! Balance: moves that take pressure off full hosts, if they are worth what they cost.
//!
//! A host is under pressure as far as its VMs are expected to want more than a comfortable share of its processors; what
//! is expected and how far it may be off comes from [`crate::forecast`]. A move is proposed only if the pressure that it
//! takes away over the horizon outlives the processor time that it costs: what the VM loses while it migrates, what the
//! migration itself burns on both hosts, and the blackout, as earlier moves measured them. Where no host is under
//! pressure nothing is proposed, however uneven the hosts are: an idle host is not a fault.
//!
//! No ping-pong: a VM that moved lately stays, and does not go back to where it came from for a while longer. The caller
//! says which hosts migrate already; no host gets more migrations at once than allowed.

use std::collections::{BTreeMap, BTreeSet};

use gantry_types::Name;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Move, Snapshot, VmFacts, ask::Ask, ledger::HostRow, ledger::Ledger, power::MoveCost};

/// What an operator sets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A host is under pressure above this share of its processors, 0–1.
    pub comfortable_fill: f64,
    /// How long demand is expected to stay as it is.
    pub horizon_s: u64,
    /// The benefit must be so many times the cost.
    pub worth: f64,
    /// A VM that moved less than this ago stays.
    pub hold_down_s: u64,
    /// Nor does it go back to the host it came from for so long.
    pub no_return_s: u64,
    /// Migrations that a host takes part in at once.
    pub max_moves_per_host: u32,
    /// Moves of one decision.
    pub max_moves: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            comfortable_fill: 0.8,
            horizon_s: 1800,
            worth: 2.0,
            hold_down_s: 600,
            no_return_s: 3600,
            max_moves_per_host: 1,
            max_moves: 4,
        }
    }
}

/// What a migration costs besides the VM's own loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    pub moves: MoveCost,
    /// Processor time that a migration burns on each of the two hosts while it lasts, in percent of one processor.
    pub burns_percent: f64,
    pub blackout_ms: f64,
}

impl Default for Cost {
    /// Until something was measured.
    fn default() -> Self {
        Self { moves: MoveCost::default(), burns_percent: 30.0, blackout_ms: 300.0 }
    }
}

/// A move that finished lately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recent {
    pub vm: Uuid,
    pub from: Name,
    pub age_s: u64,
}

/// A move with its account, in seconds of one processor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Proposal {
    #[serde(flatten)]
    pub planned: Move,
    pub benefit_cpu_s: f64,
    pub cost_cpu_s: f64,
}

/// The advice, and how the hosts stand before and after it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Advice {
    /// Standard deviation of the hosts' expected shares of use.
    pub imbalance_before: f64,
    pub imbalance_after: f64,
    /// Processors wanted beyond the comfortable share, summed over hosts.
    pub pressure_before: f64,
    pub pressure_after: f64,
    pub moves: Vec<Proposal>,
    /// If there are no moves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_none: Option<String>,
}

/// Proposes moves. `busy`: migrations that each host takes part in already.
pub fn propose(
    snapshot: &Snapshot,
    settings: &Settings,
    cost: &Cost,
    recent: &[Recent],
    busy: &BTreeMap<Name, u32>,
) -> Advice {
    let ledger = snapshot.ledger.clone();
    let mut search = Search { snapshot, settings, cost, recent, busy: busy.clone(), moved: BTreeSet::new(), ledger };
    let (imbalance_before, pressure_before) = (search.imbalance(), search.pressure());
    let mut moves: Vec<Proposal> = Vec::new();
    let mut why_none = None;
    while moves.len() < settings.max_moves {
        match search.best() {
            Ok(proposal) => moves.push(proposal),
            Err(why) => {
                why_none = moves.is_empty().then_some(why);
                break;
            }
        }
    }
    Advice {
        imbalance_before,
        imbalance_after: search.imbalance(),
        pressure_before,
        pressure_after: search.pressure(),
        moves,
        why_none,
    }
}

struct Search<'a> {
    snapshot: &'a Snapshot,
    settings: &'a Settings,
    cost: &'a Cost,
    recent: &'a [Recent],
    busy: BTreeMap<Name, u32>,
    moved: BTreeSet<Uuid>,
    /// As it will be after the moves so far.
    ledger: Ledger,
}

struct Candidate<'a> {
    vm: &'a VmFacts,
    from: u32,
    to: u32,
    benefit: f64,
    cost: f64,
}

impl<'a> Search<'a> {
    fn in_service(&self) -> impl Iterator<Item = (u32, &HostRow)> {
        let rows = self.ledger.rows.iter().enumerate().filter(|(_, row)| row.in_service());
        rows.map(|(host, row)| (host as u32, row))
    }

    fn imbalance(&self) -> f64 {
        let fills: Vec<f64> = self.in_service().map(|(_, row)| row.demand / row.cpu_capacity.max(1.0)).collect();
        let count = fills.len().max(1) as f64;
        let mean = fills.iter().sum::<f64>() / count;
        (fills.iter().map(|fill| (fill - mean) * (fill - mean)).sum::<f64>() / count).sqrt()
    }

    fn pressure(&self) -> f64 {
        self.in_service().map(|(_, row)| self.pressure_of(row, 0.0, 0.0)).sum::<f64>() / 100.0
    }

    /// Expected use beyond the comfortable share, in percent of one processor, with so much demand and variance more.
    fn pressure_of(&self, row: &HostRow, demand: f64, variance: f64) -> f64 {
        let comfortable = row.cpu_capacity * self.settings.comfortable_fill;
        expected_excess(row.demand + demand - comfortable, (row.variance + variance).max(0.0).sqrt())
    }

    fn free_for_moves(&self, host: u32) -> bool {
        let busy = self.busy.get(self.snapshot.name_of(host)).copied().unwrap_or_default();
        busy < self.settings.max_moves_per_host
    }

    /// Carries out the best move in the ledger, or says why there is none.
    fn best(&mut self) -> Result<Proposal, String> {
        let mut pressed: Vec<(f64, u32)> =
            self.in_service().map(|(host, row)| (self.pressure_of(row, 0.0, 0.0), host)).collect();
        // Less than a hundredth of a processor is nothing.
        pressed.retain(|(pressure, _)| *pressure > 1.0);
        pressed.sort_by(|(a, a_host), (b, b_host)| b.total_cmp(a).then_with(|| a_host.cmp(b_host)));
        if pressed.is_empty() {
            let limit = 100.0 * self.settings.comfortable_fill;
            return Err(format!("no host is expected to use more than {limit:.0} % of its processors"));
        }
        let mut why = "the VMs of the hosts under pressure can't move, or fit nowhere else".to_owned();
        for (_, from) in pressed {
            if !self.free_for_moves(from) {
                why = format!("{} takes part in a migration already", self.snapshot.name_of(from));
                continue;
            }
            let Some(best) = self.best_from(from) else { continue };
            if best.benefit <= best.cost * self.settings.worth {
                why = format!(
                    "the best move, {} to {}, would spare {:.1} s of a processor and cost {:.1} s",
                    best.vm.name,
                    self.snapshot.name_of(best.to),
                    best.benefit / 100.0,
                    best.cost / 100.0
                );
                continue;
            }
            return Ok(self.accept(&best));
        }
        Err(why)
    }

    fn best_from(&self, from: u32) -> Option<Candidate<'a>> {
        let snapshot = self.snapshot;
        let vms = snapshot.entry(from).vms.iter().filter_map(|uuid| snapshot.vm(*uuid));
        let name = snapshot.name_of(from);
        let vms = vms.filter(|vm| vm.host.as_ref() == Some(name) && self.may_move(vm));
        let mut best: Option<Candidate<'a>> = None;
        for vm in vms {
            let Some(candidate) = self.best_target(vm, from) else { continue };
            let net = |candidate: &Candidate<'_>| candidate.benefit - candidate.cost;
            if best.as_ref().is_none_or(|best| net(&candidate) > net(best)) {
                best = Some(candidate);
            }
        }
        best
    }

    fn may_move(&self, vm: &VmFacts) -> bool {
        let held = |recent: &&Recent| recent.vm == vm.request.vm && recent.age_s < self.settings.hold_down_s;
        let moved = self.moved.contains(&vm.request.vm);
        !moved
            && vm.running
            && vm.obstacle.is_none()
            && vm.moving_to.is_none()
            && !self.recent.iter().any(|recent| held(&recent))
    }

    fn best_target(&self, vm: &'a VmFacts, from: u32) -> Option<Candidate<'a>> {
        let request = self.snapshot.request_to_leave(vm);
        let ask = Ask::new(self.snapshot, &self.ledger, &request);
        let demand = vm.request.demand;
        let variance = demand.deviation * demand.deviation;
        let row = &self.ledger.rows[from as usize];
        let relieved = self.pressure_of(row, 0.0, 0.0) - self.pressure_of(row, -demand.expected, -variance);
        let mut best: Option<(f64, u32)> = None;
        for (to, row) in self.in_service().filter(|(to, _)| *to != from) {
            if !self.free_for_moves(to) || self.came_from(vm, to) || ask.obstacle(to).is_some() {
                continue;
            }
            let added = self.pressure_of(row, demand.expected, variance) - self.pressure_of(row, 0.0, 0.0);
            // Equal in pressure: the emptier host.
            let gain = relieved - added - 1e-3 * (row.demand + demand.expected) / row.cpu_capacity.max(1.0);
            if best.is_none_or(|(most, _)| gain > most) {
                best = Some((gain, to));
            }
        }
        let (gain, to) = best?;
        Some(Candidate { vm, from, to, benefit: gain * self.settings.horizon_s as f64, cost: self.cost_of(vm) })
    }

    fn came_from(&self, vm: &VmFacts, to: u32) -> bool {
        let name = self.snapshot.name_of(to);
        let back = |recent: &Recent| {
            recent.vm == vm.request.vm && recent.from == *name && recent.age_s < self.settings.no_return_s
        };
        self.recent.iter().any(back)
    }

    /// In percent of a processor × s.
    fn cost_of(&self, vm: &VmFacts) -> f64 {
        let seconds = self.cost.moves.seconds(vm.request.memory.bytes());
        let used = vm.request.demand.now.max(vm.request.demand.expected);
        used * (seconds * self.cost.moves.lost_share + self.cost.blackout_ms / 1000.0)
            + 2.0 * self.cost.burns_percent * seconds
    }

    fn accept(&mut self, best: &Candidate<'_>) -> Proposal {
        let fill = |row: &HostRow| 100.0 * row.demand / row.cpu_capacity.max(1.0);
        let (from, to) = (self.snapshot.name_of(best.from).clone(), self.snapshot.name_of(best.to).clone());
        let reason = format!(
            "{from} is expected to use {:.0} % of its processors, {to} {:.0} %",
            fill(&self.ledger.rows[best.from as usize]),
            fill(&self.ledger.rows[best.to as usize])
        );
        self.moved.insert(best.vm.request.vm);
        self.ledger.give_back(best.from, &best.vm.request);
        self.ledger.take(best.to, &best.vm.request);
        for host in [&from, &to] {
            *self.busy.entry(host.clone()).or_default() += 1;
        }
        let planned = Move { vm: best.vm.request.vm, name: best.vm.name.clone(), from, to, reason };
        Proposal { planned, benefit_cpu_s: best.benefit / 100.0, cost_cpu_s: best.cost / 100.0 }
    }
}

/// How much a normally distributed amount is above 0 on average: mean and standard deviation are given.
fn expected_excess(mean: f64, deviation: f64) -> f64 {
    if deviation < 1e-9 {
        return mean.max(0.0);
    }
    let z = mean / deviation;
    let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    (deviation * density + mean * normal_share_below(z)).max(0.0)
}

/// Share of a normal distribution below `z` standard deviations. Abramowitz and Stegun, 26.2.17; off by less than 1e-7.
fn normal_share_below(z: f64) -> f64 {
    const B: [f64; 5] = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let t = 1.0 / (1.0 + 0.231_641_9 * z.abs());
    let series = B.iter().rev().fold(0.0, |sum, factor| (sum + factor) * t);
    let tail = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * series;
    if z >= 0.0 { 1.0 - tail } else { tail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excess_of_a_normal_distribution() {
        assert_eq!(expected_excess(-5.0, 0.0), 0.0);
        assert_eq!(expected_excess(5.0, 0.0), 5.0);
        // σ ÷ √(2π) at the mean.
        assert!((expected_excess(0.0, 1.0) - 0.398_942).abs() < 1e-5);
        assert!((expected_excess(10.0, 1.0) - 10.0).abs() < 1e-6);
        assert!(expected_excess(-10.0, 1.0) < 1e-6);
        assert!((normal_share_below(1.96) - 0.975).abs() < 1e-4);
    }
}
