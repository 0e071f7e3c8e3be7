//! The rules alone: `gantry-ha` in datacenters that fail, a thousand of them in the time of a test.
//!
//! ```text
//!   seed ─▶ faults ─┐
//!                   ▼
//!   events by time ─▶ world ─▶ hosts (agent, warden, disk, guests)   ── messages over a bad network ──▶ controller
//!                       └───▶ checkers: after every start, and when the faults have stopped
//! ```
//! What decides is the production code: leases, ledgers, fencing, restart order. What carries its messages is written down
//! here once more, as small as possible: who sends what when, what is on disk before what is said, and what a crash forgets.
//! Each machine has a clock of its own that runs a little too fast or too slow. The programs themselves are in
//! [`crate::datacenter`].

mod controller;
mod events;
mod host;
pub(crate) mod network;
mod world;

pub(crate) use host::host_node;
pub use world::{Report, run};

use gantry_ha::Timing;

/// The durations of every run.
const TIMING: Timing = Timing::DEFAULT;
