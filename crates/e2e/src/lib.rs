//! What the end-to-end tests and the benchmarks share: real labs, real guests, and witnesses that stand outside both.
//!
//! - [`Lab`] is a running datacenter that is taken down whatever happens; [`Cli`] runs the real binary in it.
//! - [`Workload`] is what a guest does; [`Observer`] and [`Prober`] see it from outside; [`qemus`] and [`Sentinel`] see who
//!   executes it; [`disk`] reads what is on the disk once nobody does.
//! - [`Story`] is a protected VM that is followed from one boot to the next.
//! - [`Lan`] is another network that hosts are plugged into, and can be unplugged from.
//! - [`spoofing`] has what a guest must not be able to send, and hears whether it does.
//! - [`fault`] breaks one participant at one moment of a move, and repairs it.
//! - [`peer`] does by hand what the product does, as the measure for [`bench`].
//!
//! Nothing here decides whether the product is right except [`disk::check`], [`Observer::report`] and [`Sentinel`]; tests
//! say what they expect. Every wait is bounded and looks again at the state itself.

pub mod bench;
mod cli;
pub mod disk;
mod eventually;
pub mod fault;
mod guest;
pub mod lab;
mod lan;
mod observer;
pub mod peer;
mod probe;
mod qemus;
mod small_file_system;
pub mod spoofing;
mod story;

pub use cli::{Cli, Ran};
pub use eventually::eventually;
pub use guest::{GUEST_IMAGE, Workload, guest_image, http_get, workload_figure};
pub use lab::Lab;
pub use lan::Lan;
pub use observer::{Observer, Sightings};
pub use probe::{EchoClient, EchoReport, ProbeReport, Prober};
pub use qemus::{QemuSight, Sentinel, executing, qemus, started_at};
pub use small_file_system::SmallFileSystem;
pub use story::{Story, VM};
