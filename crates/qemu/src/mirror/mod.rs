//! A machine's disk with a synchronous copy on another host, which comes and goes while the machine runs. How it looks
//! inside QEMU is [`gantry_types::MirrorNodes`]'.
//!
//! ```text
//!            +-------------------------- an error, part ---------------------------+
//!            v                                                                     |
//!          alone -- advance --> catching up -- advance --> nearly -- unite --> paired
//!            ^  (all, or what    |  one pass after another    |  (guest stopped)   |
//!            |   has changed)    |  copies what was written   |                    |
//!            +------------------ an error, part --------------+                    |
//!            ^                                                                     |
//!            +------ a write that the peer does not get fails: guest stops, part --+
//! ```
//! *Alone*, the peer's place is taken by a stand-in, and each start of QEMU begins so. *Paired*, a write is done when both have
//! it. A bitmap of the quorum notes what is written, also while it is paired: writes of which only one side has heard are among
//! that, and whoever catches up later copies them.
//!
//! Passes read the own file through a node of their own, beside the machine's writes: these never wait for the copy before it
//! is paired, and a peer that goes away or falls silent then does not disturb the guest. What a pass reads while it is being
//! written is noted as written, and copied again.
//!
//! All state is in QEMU: jobs, nodes and bitmaps have fixed names, and each call looks first what is there. So whoever comes back
//! after an interruption anywhere goes on, or begins anew after [`part`].
//!
//! Failure behaviour: an error of a pass or of the connection is told once, with QEMU's reason, and leaves the disk alone, its
//! changes noted as before. Only [`part`] ends a pairing, and it waits for no peer: its connection is shut down out of band.

mod catch_up;
mod connect;
mod part;
mod state;
mod unite;

use std::path::PathBuf;

use gantry_types::{DiskLocation, MirrorNodes};

pub use catch_up::advance;
pub use part::{clear, part, part_all};
pub use unite::unite;

use self::state::{CHANGES, LATELY, State, bitmap, merge, noting};
use crate::ErrorClass;
use crate::machine::{Disk, MachineError};
use crate::migration::PeerTls;
use crate::qmp::command::{DirtyBitmapClear, QueryStatus};
use crate::qmp::{Qmp, QmpError};

/// With no more than this left, the guest may be stopped for the rest: a tenth of a second at 1 Gbit/s.
const NEARLY_BYTES: u64 = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    #[error(transparent)]
    Qmp(#[from] QmpError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("the machine has no mirrored disk {id}")]
    NotMirrored { id: String },
    #[error("the copy's server at {address} does not answer")]
    Unreachable {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the copy was not brought up to date: {reason}")]
    Copy { reason: String },
    #[error("what has changed since the copy was left is not known: copy all of it")]
    NothingNoted,
    #[error("the copy has not caught up yet")]
    NotCaughtUp,
    #[error("QEMU does not end {what} in time")]
    NotEnded { what: &'static str },
}

impl MirrorError {
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Qmp(error) => error.class(),
            Self::Machine(error) => error.class(),
            Self::NotMirrored { .. } => ErrorClass::NotFound,
            Self::Unreachable { .. } | Self::Copy { .. } | Self::NotEnded { .. } => ErrorClass::Transient,
            Self::NothingNoted | Self::NotCaughtUp => ErrorClass::Conflict,
        }
    }
}

/// A mirrored disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    pub id: String,
    /// The own file.
    pub file: PathBuf,
    /// Of the file and its copy, in bytes.
    pub size: u64,
    /// Bypass the host's page cache.
    pub direct_io: bool,
}

impl Mirror {
    /// `None` if the disk is not a mirrored one.
    pub fn of(disk: &Disk) -> Option<Self> {
        Self::at(&disk.location, disk.direct_io)
    }

    /// That of a disk or volume that lies there; `None` if it is not a mirrored one.
    pub fn at(location: &DiskLocation, direct_io: bool) -> Option<Self> {
        let DiskLocation::Mirrored { file, size, id } = location else { return None };
        Some(Self { id: id.clone(), file: file.clone(), size: *size, direct_io })
    }

    /// Whether a node is the copy on another host: for what QEMU reports as `QUORUM_REPORT_BAD`.
    pub fn is_peer(&self, node: &str) -> bool {
        node == self.nodes().peer()
    }

    pub fn nodes(&self) -> MirrorNodes<'_> {
        MirrorNodes::of(&self.id)
    }
    /// The own file, as passes read it.
    fn source(&self) -> String {
        format!("mirror-{}-source", self.id)
    }
    /// The job that copies all of it.
    fn whole_job(&self) -> String {
        format!("mirror-{}-whole", self.id)
    }
    /// The job that copies what was written.
    fn pass_job(&self) -> String {
        format!("mirror-{}-pass", self.id)
    }
    fn credentials(&self) -> String {
        format!("mirror-{}-tls", self.id)
    }
}

/// Where the copy is served over NBD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub host: String,
    pub port: u16,
    pub export: String,
    /// Loaded for each connection, and not needed any more once it is made.
    pub tls: Option<PeerTls>,
}

/// What a copy needs to be like the disk. The caller knows what it is a copy of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Catch {
    /// All of the disk. What is empty is made empty there.
    All,
    /// What was written since the two were last the same, which this QEMU has noted: [`has_changes`].
    Changed,
}

/// How far disk and copy are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Together {
    /// Of this pass.
    Catching {
        done_bytes: u64,
        total_bytes: u64,
    },
    /// So little is left that the guest may be stopped for [`unite`].
    Nearly,
    Paired,
}

/// Whether every write goes to both.
///
/// # Errors
/// That of the connection, and [`MirrorError::NotMirrored`].
pub async fn is_paired(qmp: &Qmp, mirror: &Mirror) -> Result<bool, MirrorError> {
    Ok(State::look(qmp, mirror).await?.is_paired())
}

/// Whether QEMU has noted what was written since disk and copy were last the same, or catching up was: a later QEMU has not.
///
/// # Errors
/// That of the connection, and [`MirrorError::NotMirrored`].
pub async fn has_changes(qmp: &Qmp, mirror: &Mirror) -> Result<bool, MirrorError> {
    let state = State::look(qmp, mirror).await?;
    Ok(state.bitmap(&mirror.nodes().top(), CHANGES).is_some())
}

/// Forgets changes that both sides have had for long, so that there is little to copy after the two have parted: what is kept
/// reaches back to the last call but one. To be called now and then while they are paired, and not once a write has failed.
///
/// # Errors
/// QEMU's own; nothing is forgotten then.
pub async fn forget_old_changes(qmp: &Qmp, mirror: &Mirror) -> Result<(), MirrorError> {
    let state = State::look(qmp, mirror).await?;
    // A machine that stands still may do so because a write has failed.
    if !state.is_paired() || !qmp.execute(QueryStatus {}).await?.running {
        return Ok(());
    }
    let top = mirror.nodes().top();
    // Not as one transaction: that would wait for all that is under way, and with the monitor, if the peer has fallen silent.
    let missing: Vec<_> = [CHANGES, LATELY].into_iter().filter(|name| state.bitmap(&top, name).is_none()).collect();
    for name in &missing {
        qmp.execute(noting(&top, name)).await?;
    }
    if !missing.is_empty() {
        return Ok(());
    }
    // Between the first two the changes lack what only LATELY has: it is put back by [`part`].
    qmp.execute(DirtyBitmapClear(bitmap(&top, CHANGES))).await?;
    merge(qmp, &top, CHANGES, LATELY).await?;
    qmp.execute(DirtyBitmapClear(bitmap(&top, LATELY))).await?;
    Ok(())
}
