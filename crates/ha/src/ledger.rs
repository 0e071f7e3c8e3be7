//! What each member knows about who is fenced, and whom it gave its word when.
//!
//! ```text
//!                 record(g), g > lifted
//!   not fenced ─────────────────────────▶ fenced by g
//!        ▲                                    │ record(g' > g): fenced by g'
//!        └──────── lift(l), l ≥ g ────────────┘
//! ```
//! Generations of one host only grow, so messages may be lost, repeated, late and out of order: an old record can't
//! come back after it was lifted, and an old lift takes nothing away.
//!
//! The ledger says what must be on disk ([`FenceLedger::recorded`], [`FenceLedger::lifted`] read it back); when its
//! owner saves it before the answer leaves, a crash forgets only when words were given, and for those it then
//! assumes the worst: just now.

use std::collections::BTreeMap;

use gantry_types::{Fence, Name};

use crate::Moment;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FenceLedger {
    started: Moment,
    entries: BTreeMap<Name, Entry>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Entry {
    fence: Option<Fence>,
    lifted: u64,
    last_answered: Option<Moment>,
}

impl FenceLedger {
    /// With what is on disk; `started` is now: earlier answers may have been given and are forgotten.
    pub fn load(started: Moment, fences: impl IntoIterator<Item = Fence>, lifted: BTreeMap<Name, u64>) -> Self {
        let mut ledger = Self { started, entries: BTreeMap::new() };
        for (host, generation) in lifted {
            ledger.lift(&host, generation);
        }
        fences.into_iter().for_each(|fence| ledger.insert(fence));
        ledger
    }

    /// Stores the record. The answer: the last moment at which this member may have given the host its word. Says the
    /// same when repeated.
    pub fn record(&mut self, fence: &Fence) -> Moment {
        self.insert(fence.clone());
        let answered = self.entries.get(&fence.host).and_then(|entry| entry.last_answered);
        answered.map_or(self.started, |answered| answered.max(self.started))
    }

    fn insert(&mut self, fence: Fence) {
        let entry = self.entries.entry(fence.host.clone()).or_default();
        let known = entry.fence.as_ref().map_or(entry.lifted, |known| known.generation.max(entry.lifted));
        if fence.generation > known {
            entry.fence = Some(fence);
        }
    }

    /// Whether lifting would change anything, so that it has to be written down.
    pub fn would_lift(&self, host: &Name, generation: u64) -> bool {
        self.entries.get(host).map_or(0, |entry| entry.lifted) < generation
    }

    /// The fences of this host up to `generation` hold no longer.
    pub fn lift(&mut self, host: &Name, generation: u64) {
        let entry = self.entries.entry(host.clone()).or_default();
        entry.lifted = entry.lifted.max(generation);
        if entry.fence.as_ref().is_some_and(|fence| fence.generation <= entry.lifted) {
            entry.fence = None;
        }
    }

    /// The host asks whether it is fenced. It knows that generations up to `lifted` were lifted.
    pub fn ask(&mut self, host: &Name, lifted: u64, now: Moment) -> Option<&Fence> {
        self.lift(host, lifted);
        let entry = self.entries.entry(host.clone()).or_default();
        entry.last_answered = Some(now);
        entry.fence.as_ref()
    }

    pub fn fence(&self, host: &Name) -> Option<&Fence> {
        self.entries.get(host)?.fence.as_ref()
    }
    pub fn recorded(&self) -> impl Iterator<Item = &Fence> {
        self.entries.values().filter_map(|entry| entry.fence.as_ref())
    }
    pub fn lifted(&self) -> BTreeMap<Name, u64> {
        let lifted = self.entries.iter().filter(|(_, entry)| entry.lifted > 0);
        lifted.map(|(host, entry)| (host.clone(), entry.lifted)).collect()
    }
}
