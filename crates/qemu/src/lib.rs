//! The one crate that knows QEMU: its command line, its process, QMP, the guest agent, and the
//! primitives of live migration. Nothing here knows about hosts, epochs or the controller: callers
//! hand in paths, ids and addresses and get typed results.
//!
//! * [`machine`]: a pure description of a virtual machine turned into an argument vector
//! * [`process`]: spawning, adopting, watching and ending a QEMU process
//! * [`qmp`]: the control connection, its typed commands and its events
//! * [`guest_agent`]: the agent inside the guest, reached over virtio-serial
//! * [`migration`]: source and destination primitives of a move with nothing shared
//! * [`backup`]: content of the disks of a running machine as of one instant
//! * [`snapshot`]: states kept inside the disks of a running machine
//! * [`disk_copy`]: what a disk holds at one instant, copied while the machine runs
//! * [`volume`]: disks that come and go while a machine runs
//! * [`volume_move`]: such a disk goes to another place under the machine's writes
//! * [`mirror`]: a machine's own disk gets a copy on another host, and loses it, under its writes
//! * [`probe`]: what this machine's QEMU can really do
//!
//! Failure behaviour: every error type answers `class()`; nothing is retried in here. A lost
//! connection is an error of each call in flight, never a hang.

pub mod backup;
pub mod disk_copy;
pub mod guest_agent;
pub mod machine;
pub mod migration;
pub mod mirror;
pub mod probe;
pub mod process;
pub mod qmp;
pub mod snapshot;
mod socket;
pub mod volume;
pub mod volume_move;

pub use gantry_types::ErrorClass;
pub use socket::connect_socket;

pub(crate) fn class_of_io(error: &std::io::Error) -> ErrorClass {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound => ErrorClass::NotFound,
        ErrorKind::PermissionDenied => ErrorClass::Denied,
        ErrorKind::InvalidInput | ErrorKind::InvalidData => ErrorClass::Invalid,
        _ => ErrorClass::Transient,
    }
}
