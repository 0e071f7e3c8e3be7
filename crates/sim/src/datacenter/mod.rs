//! The programs: the whole controller and what of the agent holds the lease, in datacenters that fail.
//!
//! ```text
//!   seed ─▶ faults ─┐
//!                   ▼
//!   events by time ─▶ world ─▶ processes: controller, agents ── calls over a bad network (hub, wire) ──▶ each other
//!                       │           │ └── timers of their machine's clock, a store or disk that stalls
//!                       │           └──── warden and guests of each machine
//!                       └───▶ checkers: at every start of a guest, and when the faults have stopped
//! ```
//! Real: the controller's objects, loops, operations and intake; the agent's lease keeper, its questions to other members
//! and its heartbeats; the warden's term. Written down once more: the tasks of VMs ([`tasks`], [`vms`]) and both sides of a
//! move ([`moves`], [`sending`], [`streams`]), because in the agent they stand on QEMU, and the process of the warden
//! ([`machine`]). Guests, pools and everything else of hosts are those in memory that
//! the controller's tests have, too.
//!
//! Each program has a runtime of its own without any driver: it runs when the world lets it, until all of it waits. So a
//! process can be stopped, continued and killed at any moment, its clock be too fast, and nothing depends on this machine's
//! time or threads.

mod agent;
mod agent_machine;
mod controller;
mod hub;
mod machine;
mod moves;
mod process;
mod records;
mod sending;
mod store;
mod streams;
mod tasks;
mod time;
mod user;
mod vms;
mod wire;
mod world;

pub use crate::faults::Fault;
pub use world::{Report, run, run_with};
