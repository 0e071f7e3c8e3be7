//! The primitives of moving a running machine, with its disks, to a QEMU that shares nothing with it.
//!
//! ```text
//!  source                                              destination (started with -S -incoming defer)
//!                                                      listen ── exports disks, waits for RAM
//!  start_mirror ─ wait_mirror_ready                        │
//!  configure ─ start_ram ─ wait_pre_switchover             │      guest stopped, disks drained
//!  finish_mirror ─ continue_switchover                     │
//!  wait_handed_over ── Completed | PostcopyActive ─────────┤      the source never resumes from here on
//!                                                      commit ── exports end, the guest runs
//!  cancel: at any step above wait_handed_over                 post-copy interrupted:
//!  resume ─────────────────────────────────────────────── listen_again
//! ```
//!
//! Who decides that a machine may run is not decided here: the destination never runs by itself, and
//! [`source::MigrationSource::cancel`] refuses once the guest was handed over. The protocol between the
//! two hosts belongs to the agents.
//!
//! Failure behaviour: until the hand-over a failure of the destination or of the network leaves the guest
//! on the source; `cancel` then removes the leftovers (mirror jobs, NBD nodes) and makes it run again. The
//! guest's writes are mirrored in the background: `copy-mode=write-blocking` would hold them up while the
//! network is silent, and QEMU 7.2 damages its own heap when such a job ends while the guest writes. What
//! was written since is copied by `finish_mirror`, with the guest stopped. A silent network is not noticed
//! by QEMU for long: whoever watches the other side must `cancel` when it stops answering (the mirror's
//! sockets are then shut down out of band). A machine that was
//! paused arrives paused; if such a move is cancelled after the switchover began, QEMU wants a `cont`
//! before it can be moved again.

mod cancel;
pub mod destination;
mod post_copy;
mod progress;
pub mod source;
pub(crate) mod tls;

pub use destination::{ListenOptions, Listening, MigrationDestination};
pub use progress::{MigrationPhase, MigrationProgress};
pub use source::{
    Directive, HandedOver, LEAST_DOWNTIME_MS, MigrationSource, MirrorDisk, MirrorProgress, Mirrored, Peer, RamTuning,
};
pub use tls::{ListenTls, PeerTls};

use crate::ErrorClass;
use crate::qmp::QmpError;

#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    #[error("the monitor command failed")]
    Qmp(#[from] QmpError),
    #[error("the destination {address} cannot be reached: is its QEMU listening?")]
    Unreachable {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("copying disk {node_name} failed: {reason}")]
    Mirror { node_name: String, reason: String },
    #[error("QEMU gave the transfer up in its phase `{phase}`: {reason}")]
    Ram { phase: MigrationPhase, reason: String },
    #[error("the guest was already handed over to the destination, so the move cannot be cancelled")]
    HandedOver,
    #[error("disk {node_name} is still being mirrored: finish the mirror before the switchover")]
    MirrorUnfinished { node_name: String },
    #[error("the destination is in run state `{status}` and has not taken the guest over")]
    NotLoaded { status: String },
    #[error("no free port between {first} and {last} on {host}: widen the migration port range")]
    NoFreePort { host: String, first: u16, last: u16 },
    #[error("{what} took too long")]
    Timeout { what: &'static str },
}

impl MigrationError {
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Qmp(error) => error.class(),
            Self::Unreachable { .. } | Self::Mirror { .. } | Self::Ram { .. } => ErrorClass::Transient,
            Self::NoFreePort { .. } | Self::Timeout { .. } => ErrorClass::Transient,
            Self::HandedOver | Self::MirrorUnfinished { .. } | Self::NotLoaded { .. } => ErrorClass::Conflict,
        }
    }
}

/// How long a wait relies on events alone before it looks again: what is waited for is a state, events
/// only make it be noticed sooner.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(200);

/// Waits for anything QEMU reports, at most [`LOOK_AGAIN`].
async fn next_look(events: &mut crate::qmp::EventStream) -> Result<(), MigrationError> {
    match tokio::time::timeout(LOOK_AGAIN, events.next()).await {
        // Lost events don't matter to someone who looks at the state.
        Err(_) | Ok(Ok(_)) | Ok(Err(QmpError::EventsLost { .. })) => Ok(()),
        Ok(Err(error)) => Err(error.into()),
    }
}

/// `host:port` as QEMU and sockets take it, with brackets around an IPv6 address.
pub(crate) fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
