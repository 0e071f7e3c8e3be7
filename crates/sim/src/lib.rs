//! A datacenter that fails in every way, in virtual time, from one seed.
//!
//! ```text
//!   seed ─▶ faults ─┐
//!                   ▼
//!   events by time ─▶ world ─▶ hosts (agent, warden, disk, guests)   ── messages over a bad network ──▶ controller
//!                       └───▶ checkers: after every start, and when the faults have stopped
//! ```
//! What decides is the production code of `gantry-ha`: leases, ledgers, fencing, restart order. What carries its
//! messages is written down here once more, as small as possible: who sends what when, what is on disk before what is
//! said, and what a crash forgets. Each machine has a clock of its own that runs a little too fast or too slow.
//!
//! Checked: a protected VM never executes on two hosts, at no instant; once the faults have stopped each executes on the
//! host that the controller says; no fence stays. The same seed gives the same run, event by event.

mod controller;
mod events;
mod faults;
mod host;
mod network;
mod world;

pub use world::{Report, run};

use gantry_ha::Timing;

/// A mistake built into a run, to see whether the checkers find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// The controller counts on half the time.
    ShortWait,
    /// Nothing stops VMs when the lease is over.
    NoWarden,
    /// The controller goes on answering heartbeats of a host it fences as if nothing were.
    GrantsDespiteFence,
    /// Commands from before a fence count after it.
    OldCommands,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    pub planted: Option<Planted>,
    /// Print every event to standard error.
    pub trace: bool,
}

/// The durations of every run.
pub(crate) const TIMING: Timing = Timing::DEFAULT;
