//! A guest that hangs: its agent answered once and is silent now, *and* neither disk nor network move.
//!
//! Either alone proves nothing: an agent can be stopped for an update, and an idle guest does no I/O.

use crate::Moment;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SilencePolicy {
    /// Both silent for this long.
    pub limit_ms: u64,
}

impl Default for SilencePolicy {
    fn default() -> Self {
        Self { limit_ms: 30_000 }
    }
}

/// What is known of one run of a guest.
#[derive(Debug, Clone, Default)]
pub struct Silence {
    agent_answered: Option<Moment>,
    /// The I/O counters, and since when they stand at that.
    io: Option<(u64, Moment)>,
}

impl Silence {
    pub fn agent_answered(&mut self, at: Moment) {
        self.agent_answered = self.agent_answered.max(Some(at));
    }

    /// `operations`: all disk and network operations of the guest so far.
    pub fn io_seen(&mut self, operations: u64, at: Moment) {
        if self.io.is_none_or(|(known, _)| known != operations) {
            self.io = Some((operations, at));
        }
    }

    /// Since when the guest hangs, if it has for long enough to say so.
    pub fn hangs(&self, policy: SilencePolicy, now: Moment) -> Option<Moment> {
        let (_, io_since) = self.io?;
        let since = self.agent_answered?.max(io_since);
        (now.ms_since(since) >= policy.limit_ms).then_some(since)
    }
}
