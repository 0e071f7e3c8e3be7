//! A whole datacenter on one machine: hosts are network namespaces joined by veth cables and a switch (a bridge).
//!
//! ```text
//!   root namespace (operator)        gl<i>-sw  bridge gl<i>br
//!   gl<i>op  10.64+i.0.254 ─────────────┤ ├───────────────── gl<i>-ctl  10.64+i.0.250  controller
//!   gl<i>vx  10.128+i.0.254 (VXLAN,     │ │
//!            outside client of the      │ ├── up0 ── gl<i>-h1  10.64+i.0.1  agent, its VMs
//!            network "default")         │ └── up0 ── gl<i>-h2  10.64+i.0.2  agent, its VMs
//! ```
//! Pulling a plug is killing everything in a namespace, cutting a cable is taking the switch's end of a veth down.
//! This crate owns the machine room: namespaces, cables, processes, the lab's directory. It never talks to the
//! controller's API; what is made through the API (the network, the sample VM) is the CLI's.
//!
//! Everything here can be repeated: what exists is kept, what is missing is made, so a lab that was interrupted at any
//! point, or whose machine was rebooted, comes up again with its state.

mod cable;
mod layout;
mod namespace;
mod power_strip;
mod processes;
mod registry;
mod room;

pub use layout::Layout;
pub use registry::{LabRecord, find, list, reserve};
pub use room::{HostSight, Room, Sight};
