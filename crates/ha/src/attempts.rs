//! How often and how soon something is tried again.

use std::collections::VecDeque;

use crate::Moment;

pub const HOUR_MS: u64 = 3_600_000;

/// Limits of repeated restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The first restart comes at once, the second this long after it; the pause doubles each time.
    pub first_pause_ms: u64,
    pub longest_pause_ms: u64,
    /// Restarts within any hour; 0 forbids them.
    pub per_hour: usize,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { first_pause_ms: 5_000, longest_pause_ms: 300_000, per_hour: 5 }
    }
}

/// When restarts of one VM were begun, within the last hour.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempts(VecDeque<Moment>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Now,
    /// The pause after the last attempt.
    Pause {
        until: Moment,
    },
    /// The hour's attempts are used up.
    Exhausted {
        until: Moment,
    },
}

/// In the order of time.
impl FromIterator<Moment> for Attempts {
    fn from_iter<T: IntoIterator<Item = Moment>>(begun: T) -> Self {
        Self(begun.into_iter().collect())
    }
}

impl Attempts {
    pub fn begun(&mut self, now: Moment) {
        self.forget(now);
        self.0.push_back(now);
    }

    /// Attempts within the last hour.
    pub fn count(&self, now: Moment) -> usize {
        self.0.iter().filter(|at| now.ms_since(**at) < HOUR_MS).count()
    }

    pub fn turn(&self, policy: &RetryPolicy, now: Moment) -> Turn {
        let recent: Vec<Moment> = self.0.iter().copied().filter(|at| now.ms_since(*at) < HOUR_MS).collect();
        if recent.len() >= policy.per_hour {
            let oldest = recent.len() - policy.per_hour;
            // Without any allowed, there is no moment at which one will be.
            let until = recent.get(oldest).map_or(Moment(u64::MAX), |at| *at + HOUR_MS);
            return Turn::Exhausted { until };
        }
        let Some(last) = recent.last() else { return Turn::Now };
        let doublings = u32::try_from(recent.len() - 1).unwrap_or(u32::MAX);
        let pause_ms = policy.first_pause_ms.saturating_mul(2_u64.saturating_pow(doublings));
        let until = *last + pause_ms.min(policy.longest_pause_ms);
        if now < until { Turn::Pause { until } } else { Turn::Now }
    }

    fn forget(&mut self, now: Moment) {
        while self.0.front().is_some_and(|at| now.ms_since(*at) >= HOUR_MS) {
            self.0.pop_front();
        }
    }
}
