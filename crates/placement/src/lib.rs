//! Where VMs go, and why: pure functions over a snapshot of hosts, VMs and rules.
//!
//! It knows no clock, no random numbers and no I/O; times, measurements and figures of earlier moves come in as values,
//! so the same input always gives the same answer. One engine serves the controller's decisions and the simulator.
//!
//! ```text
//!  HostFacts, VmFacts ──put──▶ Snapshot (dense rows, kept up by small changes)
//!                                 │
//!        place, place_batch ──────┤ hard constraints first, then a score: a table of named, weighted terms
//!        explain ─────────────────┤ the same decision, told: why here, why not there
//!        drain, balance, power ───┘ moves, each with its reason; the caller carries them out or doesn't
//! ```
//! A snapshot is one scope: the hosts of a cluster and all VMs on them. Memory and processors count as given out to every
//! VM that has the host in `status.host` or `status.moving_to`, running or not, so that a stopped VM can always be
//! started where its disk is.

mod ask;
pub mod balance;
mod batch;
mod constraints;
pub mod drain;
pub mod energy;
mod facts;
mod fewest_hosts;
pub mod forecast;
mod ledger;
mod machine;
mod moves;
pub mod parts;
mod place;
pub mod power;
mod rankings;
mod reason;
mod request;
mod rules;
mod score;
mod settings;
mod snapshot;
pub mod storage;

pub use batch::place_batch;
pub use facts::{Demand, HostFacts, VmFacts};
pub use machine::{Baseline, Machine};
pub use moves::Move;
pub use place::{Explanation, HostVerdict, Placement, Refusal, explain, place};
pub use reason::Reason;
pub use request::{Likeness, Request};
pub use score::{Term, TermScore, terms};
pub use settings::{Settings, UnknownTerm, Weights};
pub use snapshot::Snapshot;

use gantry_types::ByteSize;

/// Kept free on every host for itself and for what QEMU needs besides the guest's memory.
pub const MEMORY_RESERVE: ByteSize = ByteSize::mib(256);
