//! Which of the VMs that should run and don't are restarted now, and what the others wait for.
//!
//! ```text
//!   down ── nothing above it is down, its dependencies are ready, its turn has come ──▶ restarted
//!     └──▶ waits for: a higher tier │ a dependency │ its pause │ the hour's limit
//! ```
//! A gate that never opens must not hold everything up for ever: after [`GATE_LIMIT_MS`] a VM stops waiting for others.

use std::collections::{BTreeMap, BTreeSet};

use gantry_types::Name;

use crate::Moment;
use crate::attempts::{Attempts, RetryPolicy, Turn};

/// How long a VM waits for VMs of a higher tier, or that it depends on, to be ready.
pub const GATE_LIMIT_MS: u64 = 120_000;

/// Higher tiers are restarted first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    Low,
    #[default]
    Normal,
    High,
}

/// A protected VM that should run.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub name: Name,
    pub tier: Tier,
    pub depends_on: BTreeSet<Name>,
    pub state: State,
    pub policy: RetryPolicy,
    pub attempts: Attempts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It runs and says that it is ready.
    Ready,
    /// It was started and is not ready yet, or an operation is at work on it.
    Starting,
    /// It surely runs nowhere.
    Down { since: Moment },
}

/// Why a VM that is down is not restarted yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    Tier { first: Name },
    Dependency { first: Name },
    Pause { until: Moment },
    Exhausted { until: Moment },
}

/// What to do about each VM that is down, in the order in which it is to be done.
pub fn plan(candidates: &[Candidate], now: Moment) -> Vec<(Name, Result<(), Wait>)> {
    let by_name: BTreeMap<&Name, &Candidate> = candidates.iter().map(|vm| (&vm.name, vm)).collect();
    let mut down: Vec<(&Candidate, Moment)> = candidates
        .iter()
        .filter_map(|vm| match vm.state {
            State::Down { since } => Some((vm, since)),
            State::Ready | State::Starting => None,
        })
        .collect();
    down.sort_by(|(a, a_since), (b, b_since)| {
        b.tier.cmp(&a.tier).then(a_since.cmp(b_since)).then_with(|| a.name.cmp(&b.name))
    });
    down.iter().map(|(vm, since)| (vm.name.clone(), gate(vm, *since, &by_name, candidates, now))).collect()
}

fn gate(
    vm: &Candidate,
    since: Moment,
    by_name: &BTreeMap<&Name, &Candidate>,
    all: &[Candidate],
    now: Moment,
) -> Result<(), Wait> {
    match vm.attempts.turn(&vm.policy, now) {
        Turn::Now => {}
        Turn::Pause { until } => return Err(Wait::Pause { until }),
        Turn::Exhausted { until } => return Err(Wait::Exhausted { until }),
    }
    if now.ms_since(since) >= GATE_LIMIT_MS {
        return Ok(());
    }
    // What has used its attempts up holds nobody up.
    let hinders = |other: &&Candidate| match other.state {
        State::Ready => false,
        State::Starting => true,
        State::Down { .. } => !matches!(other.attempts.turn(&other.policy, now), Turn::Exhausted { .. }),
    };
    if let Some(first) = all.iter().filter(|other| other.tier > vm.tier).find(hinders) {
        return Err(Wait::Tier { first: first.name.clone() });
    }
    // One that does not exist, or that nobody protects, is not waited for.
    let dependencies =
        vm.depends_on.iter().filter(|name| **name != vm.name).filter_map(|name| by_name.get(name).copied());
    let in_a_circle = |other: &&Candidate| !depends_on(other, &vm.name, by_name);
    if let Some(first) = dependencies.filter(in_a_circle).find(hinders) {
        return Err(Wait::Dependency { first: first.name.clone() });
    }
    Ok(())
}

/// Whether `vm` waits, over any number of others, for `target`.
fn depends_on(vm: &Candidate, target: &Name, by_name: &BTreeMap<&Name, &Candidate>) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = vec![vm];
    while let Some(next) = open.pop() {
        if !seen.insert(&next.name) {
            continue;
        }
        if next.depends_on.contains(target) {
            return true;
        }
        open.extend(next.depends_on.iter().filter_map(|name| by_name.get(name).copied()));
    }
    false
}
