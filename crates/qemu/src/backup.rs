//! Content of a running machine's disks as of one instant, served over NBD while the guest goes on writing.
//!
//! ```text
//!  device ── (filter backup) ── disk node ◀── backing ── qcow2 backup-N (scratch) ── NBD export backup-N
//!                 └── what the guest is about to overwrite is copied first ──▶ ┘
//! ```
//! A backup job with `sync=none` for each disk, all begun in one transaction, keeps the old content in the scratch files
//! (QEMU's documents call this fleecing); through them the disks are read as they were. With a bitmap, QEMU also notes from
//! that instant on what the guest writes, for the next backup to read only that. Bitmaps are in QEMU's memory only: they end
//! with it, so one that is there is right.
//!
//! Everything here carries fixed names, so that whoever comes after an interruption finds and ends it: [`end`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::ErrorClass;
use crate::machine::MachineError;
use crate::machine::utf8;
use crate::qmp::command::{
    BlockExportAdd, BlockExportDel, BlockdevAddNode, BlockdevBackup, BlockdevDel, DirtyBitmap, DirtyBitmapAdd,
    DirtyBitmapInfo, DirtyBitmapRemove, JobCancel, MirrorSync, NbdServerStart, NbdServerStop, QueryBlockExports,
    QueryJobs, QueryNamedBlockNodes, SocketAddressLegacy, Transaction, TransactionAction, UnixAddress,
};
use crate::qmp::{Qmp, QmpError};

const PREFIX: &str = "backup-";
const END_LIMIT: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Qmp(#[from] QmpError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("QEMU does not end the backup within {} s", END_LIMIT.as_secs())]
    NotEnded,
}

impl BackupError {
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Qmp(error) => error.class(),
            Self::Machine(error) => error.class(),
            Self::NotEnded => ErrorClass::Transient,
        }
    }
}

/// A disk to be read as of now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// The node that the device, or its filter, stands on.
    pub node: String,
    /// An empty qcow2 of the disk's size for what the guest overwrites meanwhile.
    pub scratch: PathBuf,
    /// The bitmap that tells what was written since an earlier point; it notes nothing any more.
    pub since: Option<String>,
    /// The bitmap that notes what is written from now on.
    pub from_now: String,
}

/// The export of the disk at this place in the list.
pub fn export(place: usize) -> String {
    format!("{PREFIX}{place}")
}

/// Opens the scratch files: what can be done before the instant.
///
/// # Errors
/// QEMU's own; [`end`] takes back what was done.
pub async fn prepare(qmp: &Qmp, points: &[Point]) -> Result<(), BackupError> {
    for (place, point) in points.iter().enumerate() {
        let node = json!({
            "driver": "qcow2", "node-name": export(place), "backing": point.node,
            "file": {"driver": "file", "filename": utf8(&point.scratch)?},
        });
        qmp.execute(BlockdevAddNode(node)).await?;
    }
    Ok(())
}

/// The instant: for all disks the same.
///
/// # Errors
/// QEMU's own; [`end`] takes back what was done.
pub async fn begin(qmp: &Qmp, points: &[Point]) -> Result<(), BackupError> {
    let actions = points.iter().enumerate().flat_map(|(place, point)| {
        let bitmap = |name: &str| DirtyBitmap { node: point.node.clone(), name: name.to_owned() };
        let freeze = point.since.as_ref().map(|since| TransactionAction::BlockDirtyBitmapDisable(bitmap(since)));
        let note = TransactionAction::BlockDirtyBitmapAdd(DirtyBitmapAdd {
            node: point.node.clone(),
            name: point.from_now.clone(),
            persistent: false,
        });
        let keep = TransactionAction::BlockdevBackup(BlockdevBackup {
            job_id: export(place),
            device: point.node.clone(),
            target: export(place),
            sync: MirrorSync::None,
            bitmap: None,
            auto_dismiss: true,
        });
        freeze.into_iter().chain([note, keep])
    });
    qmp.execute(Transaction { actions: actions.collect() }).await?;
    Ok(())
}

/// Serves what was the disks' content at the instant, at a unix socket.
///
/// # Errors
/// QEMU's own; [`end`] takes back what was done.
pub async fn serve(qmp: &Qmp, points: &[Point], socket: &Path) -> Result<(), BackupError> {
    let addr = SocketAddressLegacy::Unix(UnixAddress { path: utf8(socket)?.to_owned() });
    qmp.execute(NbdServerStart { addr, tls_creds: None, tls_authz: None }).await?;
    for (place, point) in points.iter().enumerate() {
        let (id, bitmaps) = (export(place), point.since.clone().into_iter().collect());
        let export = BlockExportAdd::Nbd { name: id.clone(), node_name: id.clone(), id, writable: false, bitmaps };
        qmp.execute(export).await?;
    }
    Ok(())
}

/// Ends all of it that there is; nothing is fine.
///
/// # Errors
/// QEMU's own, and [`BackupError::NotEnded`]; repeating is safe.
pub async fn end(qmp: &Qmp) -> Result<(), BackupError> {
    let until = Instant::now() + END_LIMIT;
    let is_ours = |name: &str| name.starts_with(PREFIX);
    loop {
        let jobs: Vec<_> = qmp.execute(QueryJobs {}).await?.into_iter().filter(|job| is_ours(&job.id)).collect();
        let exports = qmp.execute(QueryBlockExports {}).await?;
        let exports: Vec<_> = exports.into_iter().filter(|export| is_ours(&export.id)).collect();
        let nodes = qmp.execute(QueryNamedBlockNodes { flat: true }).await?;
        let nodes: Vec<_> = nodes.into_iter().filter_map(|node| node.node_name).filter(|name| is_ours(name)).collect();
        if jobs.is_empty() && exports.is_empty() && nodes.is_empty() {
            return Ok(());
        }
        // The server is nobody else's while there is something of a backup: no move begins then.
        tolerated(qmp.execute(NbdServerStop {}).await)?;
        for export in exports {
            tolerated(qmp.execute(BlockExportDel { id: export.id, mode: "hard".to_owned() }).await)?;
        }
        for job in &jobs {
            tolerated(qmp.execute(JobCancel { id: job.id.clone() }).await)?;
        }
        if jobs.is_empty() {
            for node_name in nodes {
                tolerated(qmp.execute(BlockdevDel { node_name }).await)?;
            }
        }
        if Instant::now() >= until {
            return Err(BackupError::NotEnded);
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// The bitmaps of a node.
///
/// # Errors
/// That of the connection.
pub async fn bitmaps(qmp: &Qmp, node: &str) -> Result<Vec<DirtyBitmapInfo>, BackupError> {
    let nodes = qmp.execute(QueryNamedBlockNodes { flat: true }).await?;
    let of_node = nodes.into_iter().filter(|found| found.node_name.as_deref() == Some(node));
    Ok(of_node.flat_map(|found| found.dirty_bitmaps).collect())
}

/// A bitmap is not needed any more; one that is not there is fine.
///
/// # Errors
/// That of the connection.
pub async fn forget(qmp: &Qmp, node: &str, bitmap: &str) -> Result<(), BackupError> {
    let bitmap = DirtyBitmap { node: node.to_owned(), name: bitmap.to_owned() };
    tolerated(qmp.execute(DirtyBitmapRemove(bitmap)).await)
}

/// What is refused because it has gone, or is just going.
fn tolerated<T>(done: Result<T, QmpError>) -> Result<(), BackupError> {
    match done {
        Ok(_) | Err(QmpError::Refused { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
