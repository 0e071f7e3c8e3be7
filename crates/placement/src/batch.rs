//! Many VMs at once: the hard ones first, then improved together.

use std::{cmp::Reverse, collections::BTreeSet};

use uuid::Uuid;

use crate::{
    Placement, Refusal, Request, Snapshot,
    ask::Ask,
    fewest_hosts,
    ledger::{Ledger, Share},
    place::place_ranked,
    rankings::Rankings,
};

/// Judgements of a host for a VM that further attempts may cost; keeps a large batch quick.
const ATTEMPTS_BUDGET: usize = 200_000;

/// Places VMs together: each as if the others were there already. The answers are in the order of the requests.
///
/// VMs that are hard to place go first: those with rules that must hold, then those that take the largest part of a
/// host. Where VMs are packed, several orders are tried, and for a small batch the hosts that it needs are then brought
/// down as far as a bounded search can ([`fewest_hosts`]).
pub fn place_batch(snapshot: &Snapshot, requests: &[Request]) -> Vec<(Uuid, Result<Placement, Refusal>)> {
    let mut best = attempt(snapshot, requests, &order(snapshot, requests, Measure::Scarcest));
    let cost = requests.len() * snapshot.ledger.rows.len();
    if snapshot.settings.weights.packs() && cost <= ATTEMPTS_BUDGET {
        for measure in [Measure::Memory, Measure::Cpus, Measure::Sum] {
            let other = attempt(snapshot, requests, &order(snapshot, requests, measure));
            if other.rank() < best.rank() {
                best = other;
            }
        }
        if best.refused == 0
            && let Some(seats) = fewest_hosts::search(snapshot, requests, &best.seats)
        {
            best = seat(snapshot, requests, &seats);
        }
    }
    requests.iter().map(|request| request.vm).zip(best.answers).collect()
}

/// One way to place the batch.
struct Attempt {
    answers: Vec<Result<Placement, Refusal>>,
    /// By request.
    seats: Vec<Option<u32>>,
    refused: usize,
    hosts: usize,
}

impl Attempt {
    /// Less is better.
    fn rank(&self) -> (usize, usize) {
        (self.refused, self.hosts)
    }
}

fn attempt(snapshot: &Snapshot, requests: &[Request], order: &[usize]) -> Attempt {
    let mut ledger = snapshot.ledger.clone();
    let mut rankings = Rankings::new(ledger.rows.len());
    let mut answers: Vec<Option<Result<Placement, Refusal>>> = requests.iter().map(|_| None).collect();
    let mut seats = vec![None; requests.len()];
    for &at in order {
        let request = &requests[at];
        let answer = place_ranked(snapshot, &ledger, &mut rankings, request);
        if let Ok((host, _)) = &answer {
            take(snapshot, &mut ledger, *host, request);
            rankings.changed(snapshot, &ledger, *host);
            seats[at] = Some(*host);
        }
        answers[at] = Some(answer.map(|(_, placement)| placement));
    }
    let refused = seats.iter().filter(|seat| seat.is_none()).count();
    let hosts = seats.iter().flatten().collect::<BTreeSet<_>>().len();
    Attempt { answers: answers.into_iter().flatten().collect(), seats, refused, hosts }
}

/// The given seats, as placements.
fn seat(snapshot: &Snapshot, requests: &[Request], seats: &[u32]) -> Attempt {
    let pinned: Vec<Request> = requests
        .iter()
        .zip(seats)
        .map(|(request, host)| Request { only: Some(snapshot.name_of(*host).clone()), ..request.clone() })
        .collect();
    attempt(snapshot, &pinned, &order(snapshot, requests, Measure::Scarcest))
}

/// A VM that is somewhere already counts there once, and not again at its seat if that is the same host.
pub(crate) fn take(snapshot: &Snapshot, ledger: &mut Ledger, host: u32, request: &Request) {
    let there = snapshot.vms.get(&request.vm).is_some_and(|vm| vm.hosts().any(|own| own == host));
    if !there {
        ledger.take(host, request);
    }
}

/// What makes a VM large.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Measure {
    Scarcest,
    Memory,
    Cpus,
    Sum,
}

/// Indexes of the requests, hard ones first.
pub(crate) fn order(snapshot: &Snapshot, requests: &[Request], measure: Measure) -> Vec<usize> {
    let (memory, cpus) = average_host(&snapshot.ledger);
    let size = |request: &Request| {
        let share = Share::of(request);
        let (memory, cpus) = (share.memory as f64 / memory, f64::from(share.cpus) / cpus);
        match measure {
            Measure::Scarcest => memory.max(cpus),
            Measure::Memory => memory,
            Measure::Cpus => cpus,
            Measure::Sum => memory + cpus,
        }
    };
    let choosy = |request: &Request| {
        let rules = request.rules.vms.len() + request.rules.hosts.len();
        (request.only.is_some(), rules + usize::from(request.pool.is_some()))
    };
    let mut order: Vec<(usize, f64)> = requests.iter().map(&size).enumerate().collect();
    order.sort_by(|(a, a_size), (b, b_size)| {
        Reverse(choosy(&requests[*a]))
            .cmp(&Reverse(choosy(&requests[*b])))
            .then_with(|| b_size.total_cmp(a_size))
            .then_with(|| requests[*a].vm.cmp(&requests[*b].vm))
    });
    order.into_iter().map(|(at, _)| at).collect()
}

/// Memory and virtual processors of an average host, both at least 1.
fn average_host(ledger: &Ledger) -> (f64, f64) {
    let present: Vec<_> = ledger.rows.iter().filter(|row| row.present).collect();
    let count = present.len().max(1) as f64;
    let memory: f64 = present.iter().map(|row| row.memory_limit as f64).sum();
    let cpus: f64 = present.iter().map(|row| f64::from(row.cpus_limit)).sum();
    ((memory / count).max(1.0), (cpus / count).max(1.0))
}

/// Whether the host fulfils all constraints of the request with what the ledger says.
pub(crate) fn fits(snapshot: &Snapshot, ledger: &Ledger, request: &Request, host: u32) -> bool {
    Ask::new(snapshot, ledger, request).obstacle(host).is_none()
}
