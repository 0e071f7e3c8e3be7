//! Power management: VMs onto fewer hosts, empty hosts to sleep, sleeping hosts awake before they are needed.
//!
//! ```text
//!            starts that fit nowhere, demand to come, promised failover, spare
//!                                   │
//!   asleep ──────── wake ───────────┴──▶ awake ── emptied by moves ──▶ empty ── sleep, if waking is proved ──▶ asleep
//! ```
//! Demand is what is expected (see [`crate::forecast`]), not what was measured last: chasing noise costs more moves than it
//! saves. A move is priced: the work that the VM loses while it migrates against the idle power that an empty host saves
//! until the next decision. A VM that is busy at the moment waits for a quieter one; the dearer the wait gets, because fewer
//! VMs keep the host awake, the less it is put off.
//!
//! Nothing is remembered here: a host that is half empty is simply the first candidate of the next decision.

mod consolidate;
mod plan;

use std::collections::BTreeMap;

use gantry_types::Name;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Move, Request};

pub use plan::propose;

/// What an operator sets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A host takes VMs as long as it is expected to use at most this share of its processors, 0–1.
    pub target_fill: f64,
    /// VMs leave a host that is expected to use more than this, 0–1.
    pub relief_fill: f64,
    /// Standard deviations of demand that are added to what is expected.
    pub caution: f64,
    /// Empty hosts that stay awake for whatever comes.
    pub spare_hosts: u32,
    /// A VM that moved less than this ago is left where it is, unless its host is too full.
    pub vm_hold_s: u64,
    /// A host that woke less than this ago is not emptied.
    pub host_hold_s: u64,
    /// Time from one decision to the next.
    pub interval_s: u64,
    /// Joules that are worth spending so that VMs don't lose one second of one processor to migrations.
    pub joules_per_cpu_second: f64,
    /// At most so many moves at once; those that empty hosts come after those that relieve them.
    pub max_moves: usize,
    /// Hosts that are emptied at once.
    pub max_emptied: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            target_fill: 0.75,
            relief_fill: 0.95,
            caution: 0.0,
            spare_hosts: 1,
            vm_hold_s: 1800,
            host_hold_s: 900,
            interval_s: 300,
            joules_per_cpu_second: 2000.0,
            max_moves: 8,
            max_emptied: 1,
        }
    }
}

/// What moving costs, as it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MoveCost {
    /// Seconds for a GiB of memory.
    pub seconds_per_gib: f64,
    /// Share of its processor time that a VM loses while it migrates.
    pub lost_share: f64,
}

impl Default for MoveCost {
    /// Until something was measured: half of 1 Gbit/s, a tenth.
    fn default() -> Self {
        Self { seconds_per_gib: 16.4, lost_share: 0.1 }
    }
}

impl MoveCost {
    /// From earlier moves: seconds and bytes of memory each.
    pub fn measured(moves: impl IntoIterator<Item = (f64, u64)>) -> Self {
        let (mut seconds, mut bytes) = (0.0, 0u64);
        for (took_s, memory) in moves {
            seconds += took_s;
            bytes += memory;
        }
        let gib = bytes as f64 / f64::from(1 << 30);
        if gib == 0.0 { Self::default() } else { Self { seconds_per_gib: seconds / gib, ..Self::default() } }
    }

    pub fn seconds(&self, memory_bytes: u64) -> f64 {
        self.seconds_per_gib * memory_bytes as f64 / f64::from(1 << 30)
    }
}

/// What the caller knows besides the snapshot.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outlook {
    /// Starts that wait for a place, or are scheduled before a host could be woken for them.
    pub starts: Vec<Request>,
    /// Demand in the time that waking takes, as a multiple of what is expected now: a trend or a schedule. At least 1.
    pub demand_factor: f64,
    /// Seconds since VMs moved.
    pub moved_s_ago: BTreeMap<Uuid, u64>,
    /// Seconds since hosts woke.
    pub awake_for_s: BTreeMap<Name, u64>,
    pub cost: MoveCost,
}

/// A host that should change, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostStep {
    pub host: Name,
    pub reason: String,
}

/// Proposals in the order in which they are carried out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub wake: Vec<HostStep>,
    /// Some may go to hosts that are to be woken first.
    pub moves: Vec<Move>,
    /// Empty already, and waking them is proved.
    pub sleep: Vec<HostStep>,
    /// What was considered and left, in words.
    pub left: Vec<String>,
}
