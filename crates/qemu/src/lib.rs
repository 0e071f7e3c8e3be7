//! The one crate that knows QEMU: its command line, its process, QMP, the guest agent, and the
//! primitives of live migration. Nothing here knows about hosts, epochs or the controller: callers
//! hand in paths, ids and addresses and get typed results.
//!
//! * [`machine`]: a pure description of a virtual machine turned into an argument vector
//! * [`process`]: spawning, adopting, watching and ending a QEMU process
//! * [`qmp`]: the control connection, its typed commands and its events
//! * [`guest_agent`]: the agent inside the guest, reached over virtio-serial
//! * [`migration`]: source and destination primitives of a move with nothing shared
//! * [`probe`]: what this machine's QEMU can really do
//!
//! Failure behaviour: every error type answers `class()`; nothing is retried in here. A lost
//! connection is an error of each call in flight, never a hang.

pub mod guest_agent;
pub mod machine;
pub mod migration;
pub mod probe;
pub mod process;
pub mod qmp;

/// What a caller may do about an error; retry code matches on this and never on messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The request can never work as it is.
    Invalid,
    /// The object is in a state that does not allow this now.
    Conflict,
    /// The named thing does not exist.
    NotFound,
    /// The operating system refused.
    Denied,
    /// May work when tried again.
    Transient,
    /// Will not work when tried again.
    Permanent,
}

pub(crate) fn class_of_io(error: &std::io::Error) -> ErrorClass {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound => ErrorClass::NotFound,
        ErrorKind::PermissionDenied => ErrorClass::Denied,
        ErrorKind::InvalidInput | ErrorKind::InvalidData => ErrorClass::Invalid,
        _ => ErrorClass::Transient,
    }
}
