//! An application's health, from the results of one probe.
//!
//! ```text
//!   starting ── first success ──▶ healthy ◀── success ── failing(n)
//!      │                            └───── failure ─────▶ │
//!      └── start delay over and threshold failures ─────▶ failed ── success ──▶ healthy
//! ```
//! Failures within the start delay count for nothing. Who acts on `failed` calls [`Probe::restart`] for the next life.

use crate::Moment;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbePolicy {
    /// From the VM's start; failures before are those of a system that boots.
    pub start_delay_ms: u64,
    pub period_ms: u64,
    /// Failures in a row that make it failed.
    pub threshold: u32,
}

impl Default for ProbePolicy {
    fn default() -> Self {
        Self { start_delay_ms: 60_000, period_ms: 2_000, threshold: 3 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It has not succeeded yet.
    Starting,
    Healthy,
    /// So many failures in a row, fewer than the threshold.
    Failing(u32),
    Failed,
}

#[derive(Debug, Clone)]
pub struct Probe {
    policy: ProbePolicy,
    started: Moment,
    last: Option<Moment>,
    failures: u32,
    health: Health,
}

impl Probe {
    pub fn new(policy: ProbePolicy, started: Moment) -> Self {
        Self { policy, started, last: None, failures: 0, health: Health::Starting }
    }

    pub fn health(&self) -> Health {
        self.health
    }

    /// When the next probe is due.
    pub fn due(&self) -> Moment {
        self.last.map_or(self.started, |last| last + self.policy.period_ms)
    }

    /// Takes in a result. True once, when it becomes failed.
    pub fn result(&mut self, success: bool, now: Moment) -> bool {
        self.last = Some(now);
        if success {
            self.failures = 0;
            self.health = Health::Healthy;
            return false;
        }
        let booting = self.health == Health::Starting && now.ms_since(self.started) < self.policy.start_delay_ms;
        if booting || self.health == Health::Failed {
            return false;
        }
        self.failures += 1;
        let failed = self.failures >= self.policy.threshold.max(1);
        self.health = match (failed, self.health) {
            (true, _) => Health::Failed,
            (false, Health::Starting) => Health::Starting,
            (false, _) => Health::Failing(self.failures),
        };
        failed
    }

    /// The VM was started anew.
    pub fn restart(&mut self, now: Moment) {
        *self = Self::new(self.policy, now);
    }
}
