//! The peers of the benchmarks: what a person with QEMU and a script would do, with the product's own arguments.
//!
//! Nothing of the product runs here but the code that writes a QEMU command line and a seed, so that both sides of a
//! comparison start the same machine. Namespaces, processes and files are gone when their values are dropped.

mod machine;
mod migration;
mod namespace;
pub mod pacemaker;
mod pki;
mod start;

pub use machine::{Like, PeerMachine};
pub use migration::{AFTERMATH, GUEST as PEER_GUEST, PeerMigration, migrate_by_hand, under_load};
pub use namespace::{Namespace, ask_neighbours_often};
pub use start::{bare_start, first_answer};
