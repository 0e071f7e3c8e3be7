//! A host's right to run protected VMs, as the host itself holds it.
//!
//! ```text
//!             members known (2 hosts or more)
//!   unbound ────────────────────────────────▶ lapsed ◀──────────── deadline passed ───────────────┐
//!   nothing can fence it,                      │ ▲                                              │
//!   everything may run                         │ └── fenced: somebody showed a record ──┐       │
//!                                              ▼                                        │       │
//!                                             held ── the controller answered a heartbeat ──▶ held, longer
//!                                                  ── a majority, this host counted, answered:
//!                                                     nobody has a record against it ───────▶ held, longer
//! ```
//! A renewal counts from the moment it was *asked* for. While the lease is not held, protected VMs don't start, and those
//! that run are stopped at [`Lease::deadline`] by something that needs neither this struct nor its owner.
//!
//! A lapse alone loses nothing: when the lease is held again and there was no fence, this host starts its VMs again. After
//! a fence another host may have them: that is settled with the controller ([`Lease::acknowledge`]).

use std::collections::BTreeSet;

use gantry_types::{Fence, Member, Members, Name};

use crate::{Moment, Timing, votes};

/// Whether protected VMs may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No lease is needed: nobody could fence this host by it.
    Unbound,
    Held {
        until: Moment,
    },
    Lapsed,
    /// A record of this generation was shown.
    Fenced {
        generation: u64,
    },
}

impl Standing {
    pub fn may_run(self) -> bool {
        matches!(self, Self::Unbound | Self::Held { .. })
    }
}

/// What a member answered to the question of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub from: Member,
    pub round: u64,
    /// The record it has against this host.
    pub fence: Option<Fence>,
}

#[derive(Debug, Clone)]
pub struct Lease {
    host: Name,
    timing: Timing,
    members: Option<Members>,
    /// When the newest renewal was asked for.
    renewed: Option<Moment>,
    fence: Option<Fence>,
    /// All fences up to this one were lifted by the controller.
    lifted: u64,
    round: Round,
}

#[derive(Debug, Clone, Default)]
struct Round {
    number: u64,
    asked: Option<Moment>,
    clear: BTreeSet<Member>,
}

impl Lease {
    /// Of an agent that has just started, with what it has on disk. Never held: what was is with the warden.
    pub fn new(host: Name, timing: Timing, members: Option<Members>, fence: Option<Fence>, lifted: u64) -> Self {
        let fence = fence.filter(|fence| fence.generation > lifted);
        Self { host, timing, members, renewed: None, fence, lifted, round: Round::default() }
    }

    pub fn standing(&self, now: Moment) -> Standing {
        if let Some(fence) = &self.fence {
            return Standing::Fenced { generation: fence.generation };
        }
        match self.deadline() {
            None => Standing::Unbound,
            Some(until) if now < until => Standing::Held { until },
            Some(_) => Standing::Lapsed,
        }
    }

    /// When protected VMs must be stopped; `None` if never. In the past if the lease is not held.
    pub fn deadline(&self) -> Option<Moment> {
        if self.fence.is_some() {
            return Some(Moment(0));
        }
        let members = self.members.as_ref()?;
        if !votes::can_fence(members, &self.host) {
            return None;
        }
        Some(self.renewed.map_or(Moment(0), |renewed| renewed + self.timing.lease_ms))
    }

    pub fn members(&self) -> Option<&Members> {
        self.members.as_ref()
    }
    pub fn fence(&self) -> Option<&Fence> {
        self.fence.as_ref()
    }
    pub fn lifted(&self) -> u64 {
        self.lifted
    }

    /// Takes over newer members; to be on disk before. Whether they are newer.
    pub fn adopt(&mut self, members: &Members) -> bool {
        let newer = self.members.as_ref().is_none_or(|known| known.generation < members.generation);
        if newer {
            self.members = Some(members.clone());
            // What was answered counts among the members that were asked.
            self.round.asked = None;
        }
        newer
    }

    /// The controller answered the heartbeat that was sent at `sent`: it has no fence, and lifted those up to `lifted`.
    pub fn granted(&mut self, sent: Moment, lifted: u64) {
        self.lift(lifted);
        // An answer that was on its way while another fence was shown.
        if self.fence.is_none() {
            self.renew(sent);
        }
    }

    /// Somebody showed a record; to be on disk before. Whether that is news.
    pub fn fenced(&mut self, fence: &Fence) -> bool {
        let known = self.fence.as_ref().map_or(self.lifted, |known| known.generation.max(self.lifted));
        if fence.host != self.host || fence.generation <= known {
            return false;
        }
        self.fence = Some(fence.clone());
        self.round.asked = None;
        true
    }

    fn lift(&mut self, lifted: u64) {
        self.lifted = self.lifted.max(lifted);
        if self.fence.as_ref().is_some_and(|fence| fence.generation <= self.lifted) {
            self.fence = None;
            self.renewed = None;
        }
    }

    /// What the host tells the controller once nothing protected runs here and that is on disk: it may lift this fence.
    pub fn acknowledge(&self, anything_runs: bool) -> Option<u64> {
        self.fence.as_ref().filter(|_| !anything_runs).map(|fence| fence.generation)
    }

    /// Whether the other members should be asked now: the last renewal gets old, and so does the last question.
    pub fn wants_to_ask(&self, now: Moment) -> bool {
        let old = |moment: Option<Moment>, ms: u64| moment.is_none_or(|moment| now.ms_since(moment) >= ms);
        self.fence.is_none()
            && self.deadline().is_some()
            && old(self.renewed, self.timing.ask_after_ms())
            && old(self.round.asked, self.timing.ask_after_ms() / 4)
    }

    /// Begins a round of questions; the number goes with each and comes back with its answer.
    pub fn ask(&mut self, now: Moment) -> u64 {
        self.round = Round {
            number: self.round.number + 1,
            asked: Some(now),
            clear: BTreeSet::from([Member::Host(self.host.clone())]),
        };
        self.round.number
    }

    /// Takes an answer in. Whether the lease is longer now.
    pub fn answered(&mut self, answer: &Answer) -> bool {
        if let Some(fence) = &answer.fence
            && fence.generation > self.lifted
        {
            return false;
        }
        let (Some(members), Some(asked)) = (&self.members, self.round.asked) else { return false };
        if answer.round != self.round.number {
            return false;
        }
        self.round.clear.insert(answer.from.clone());
        if self.fence.is_some() || !votes::is_majority(members, &self.round.clear) {
            return false;
        }
        self.renew(asked)
    }

    fn renew(&mut self, asked: Moment) -> bool {
        let longer = self.renewed.is_none_or(|renewed| renewed < asked);
        if longer {
            self.renewed = Some(asked);
        }
        longer
    }
}
