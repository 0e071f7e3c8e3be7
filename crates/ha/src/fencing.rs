//! The controller's work of shutting a host out.
//!
//! ```text
//!              own record durable         a majority of all members,
//!              (no grant from here on)    the host not counted, has it
//!   recording ───────────────────────▶ recording ─────────────────▶ waiting ── deadline ──▶ proved: lease over
//!                                                                      └─ power is off ───▶ proved: power off
//! ```
//! Both proofs need the majority: it is what a host that comes back to life runs into, also one that somebody switched on
//! again. The deadline counts from the last moment at which any of those members may have renewed the host's lease: the
//! controller by answering a heartbeat, the others by answering a question. For a host that died with its last heartbeat
//! this is about one lease after that heartbeat, not after the decision.
//!
//! The host may know any set of members between the one it last confirmed and the newest: a majority of each is needed.
//! A controller that restarts begins again with [`Fencing::new`]; storing is repeatable, and what it no longer knows it
//! assumes to have happened just now.

use std::collections::{BTreeMap, BTreeSet};

use gantry_types::{Fence, Member, Members};

use crate::{Moment, Timing, votes};

/// Why it is certain that nothing protected runs on the host any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Its last possible lease ended, by the controller's clock.
    LeaseOver { since: Moment },
    /// Its power was seen off after the command to switch it off.
    PowerOff,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// These members lack the record, and without some of them there is no majority.
    Recording {
        missing: BTreeSet<Member>,
    },
    /// The host can't be fenced by its lease: it may know of too few members. Only its power can prove it gone.
    Unbound,
    Waiting {
        until: Moment,
    },
    Proved(Proof),
}

#[derive(Debug, Clone)]
pub struct Fencing {
    fence: Fence,
    timing: Timing,
    /// Every set of members that the host may go by.
    configurations: Vec<Members>,
    /// Who has the record, and when, by the controller's clock, each may last have renewed the host's lease.
    stored: BTreeMap<Member, Moment>,
    power_off: bool,
}

impl Fencing {
    pub fn new(fence: Fence, timing: Timing, configurations: Vec<Members>) -> Self {
        Self { fence, timing, configurations, stored: BTreeMap::new(), power_off: false }
    }

    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// A member has the record on its disk; `last_word` is the last moment, by the controller's clock, at which it may
    /// have answered the host that there is none.
    pub fn stored(&mut self, member: Member, last_word: Moment) {
        // A repeated answer may come from a member that has restarted and knows less.
        let known = self.stored.entry(member).or_insert(last_word);
        *known = (*known).max(last_word);
    }

    /// The power was seen off, after it was commanded off and after the controller's own record.
    pub fn power_is_off(&mut self) {
        self.power_off = true;
    }

    /// Members that should still be asked to store the record.
    pub fn missing(&self) -> BTreeSet<Member> {
        let hosts = self.configurations.iter().flat_map(|members| members.hosts.keys());
        let hosts = hosts.filter(|name| **name != self.fence.host).cloned().map(Member::Host);
        hosts.chain([Member::Controller]).filter(|member| !self.stored.contains_key(member)).collect()
    }

    pub fn progress(&self, now: Moment) -> Progress {
        let has_record: BTreeSet<Member> = self.stored.keys().cloned().collect();
        let of_each = |members: &Members| votes::is_majority_without(members, &has_record, &self.fence.host);
        // The controller grants leases: without its own record it could do so again.
        if !has_record.contains(&Member::Controller) || !self.configurations.iter().all(of_each) {
            return Progress::Recording { missing: self.missing() };
        }
        if self.power_off {
            return Progress::Proved(Proof::PowerOff);
        }
        let can_fence = |members: &Members| votes::can_fence(members, &self.fence.host);
        if self.configurations.is_empty() || !self.configurations.iter().all(can_fence) {
            return Progress::Unbound;
        }
        let last_word = self.stored.values().max().copied().unwrap_or(now);
        let until = last_word + self.timing.gone_after_ms();
        if now < until { Progress::Waiting { until } } else { Progress::Proved(Proof::LeaseOver { since: until }) }
    }
}
