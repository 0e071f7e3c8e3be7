//! Where programs meet: the requests and responses of the two APIs.
//!
//! [`rest`], [`access`] (users, sessions, consoles), [`overview`] and [`audit`] are the public API (CLI, web UI → controller). [`agent`] is what a controller asks of a host, and a
//! host of another host while a VM moves; [`storage`] is the part of it that keeps volumes, [`backup`] the one that backs VMs up,
//! [`relocation`] the one that moves stopped VMs, [`mirror`] the one that keeps copies of disks, [`fencing`] the one by which hosts are
//! shut out. [`heartbeat`] is what a host tells its controller. The controller and the
//! agent know each other only through this crate.

pub mod access;
pub mod agent;
pub mod alarms;
pub mod audit;
pub mod backup;
pub mod energy;
pub mod fencing;
pub mod heartbeat;
pub mod mirror;
pub mod overview;
pub mod paths;
pub mod relocation;
pub mod rest;
pub mod storage;

pub use agent::AgentApi;
pub use backup::BackupApi;
pub use fencing::FencingApi;
pub use mirror::MirrorApi;
pub use relocation::RelocationApi;
pub use storage::StorageApi;
