//! An application's health, from the results of one probe.
//!
//! ```text
//!   starting ── enough successes in a row ──▶ passing
//!      │                                       │  ▲
//!      └── initial delay over, and enough ──▶ failing
//!          failures in a row
//! ```
//! Failures of an application that is starting count for nothing until the initial delay is over. Who acts on `failing`
//! begins with a new [`Probe`] for the next life.

use crate::Moment;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbePolicy {
    /// From the machine's start; failures before are those of a system that boots.
    pub initial_delay_ms: u64,
    pub period_ms: u64,
    /// Successes in a row that make it pass.
    pub success_threshold: u32,
    /// Failures in a row that make it fail.
    pub failure_threshold: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Neither has been seen often enough yet.
    Starting,
    Passing,
    Failing,
}

#[derive(Debug, Clone)]
pub struct Probe {
    policy: ProbePolicy,
    started: Moment,
    last: Option<Moment>,
    /// The newest result, and how often in a row it has counted.
    run: (bool, u32),
    health: Health,
}

impl Probe {
    /// Of an application of which `health` is known; [`Health::Starting`] if nothing is.
    pub fn new(policy: ProbePolicy, started: Moment, health: Health) -> Self {
        Self { policy, started, last: None, run: (false, 0), health }
    }

    pub fn health(&self) -> Health {
        self.health
    }

    /// When it is to be probed next.
    pub fn due(&self) -> Moment {
        self.last.map_or(self.started, |last| last + self.policy.period_ms)
    }

    /// Takes in a result of a probe that began at `now`. Whether the health is another one by it.
    pub fn result(&mut self, success: bool, now: Moment) -> bool {
        self.last = Some(now);
        let boots = self.health == Health::Starting && now.ms_since(self.started) < self.policy.initial_delay_ms;
        let counts = success || !boots;
        let before = if self.run.0 == success { self.run.1 } else { 0 };
        self.run = (success, if counts { before.saturating_add(1) } else { 0 });
        let (needed, next) = match success {
            true => (self.policy.success_threshold, Health::Passing),
            false => (self.policy.failure_threshold, Health::Failing),
        };
        let changes = counts && self.health != next && self.run.1 >= needed;
        if changes {
            self.health = next;
        }
        changes
    }
}
