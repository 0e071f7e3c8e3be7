//! Copies a disk of a running machine, as it is at one instant, while its guest writes on.
//!
//! ```text
//!  (none) -- begin --> copying -- finish --> (none), the copy is whole
//!                         +------ give_up, error --> (none), the copy is worth nothing
//! ```
//! What the guest is about to overwrite is copied first, so the copy is of the instant of [`begin`], whenever it is done.
//! A machine makes one copy at a time: job and node have fixed names, and whoever comes after an owner that died finds
//! what it left.
//!
//! Failure behaviour: QEMU's own reason. A copy that has no space left stops the guest's writes until it is given up,
//! which [`finish`] does by itself.

use std::time::Duration;

use crate::machine::{Disk, disk_nodes, image_name};
use crate::qmp::command::{
    BlockdevAddNode, BlockdevBackup, BlockdevDel, JobCancel, JobDismiss, MirrorSync, QueryNamedBlockNodes,
};
use crate::qmp::{Qmp, QmpError};
use crate::snapshot::{SnapshotError, find, run_job, wait_for_change};

const JOB: &str = "disk-copy";
/// What the copy is called inside QEMU.
pub const COPY_NODE: &str = "copy0";

/// Begins to copy the node `source` into `copy`: an empty disk of its size, over the same image. What an earlier owner
/// left is given up first.
pub async fn begin(qmp: &Qmp, source: &str, copy: &Disk) -> Result<(), SnapshotError> {
    give_up(qmp).await?;
    for node in disk_nodes(copy).map_err(|error| SnapshotError::Job { reason: error.to_string() })? {
        qmp.execute(BlockdevAddNode(node)).await?;
    }
    let begun = qmp.execute(backup(source, copy)).await;
    if begun.is_err() {
        give_up(qmp).await?;
    }
    begun?;
    Ok(())
}

/// Waits until the copy is whole; QEMU lets go of it in any case.
pub async fn finish(qmp: &Qmp, source: &str, copy: &Disk, limit: Duration) -> Result<(), SnapshotError> {
    let copied = run_job(qmp, JOB, backup(source, copy), limit).await;
    give_up(qmp).await?;
    copied
}

fn backup(source: &str, copy: &Disk) -> BlockdevBackup {
    // With the image below both, only what differs from it.
    let sync = if copy.backing.is_some() { MirrorSync::Top } else { MirrorSync::Full };
    BlockdevBackup {
        job_id: JOB.to_owned(),
        device: source.to_owned(),
        target: copy.node_name.clone(),
        sync,
        bitmap: None,
        auto_dismiss: false,
    }
}

/// Ends a copy that is under way; with none nothing happens.
pub async fn give_up(qmp: &Qmp) -> Result<(), SnapshotError> {
    let mut events = qmp.events();
    let mut cancelled = false;
    while let Some(job) = find(qmp, JOB).await? {
        if job.status == "concluded" {
            qmp.execute(JobDismiss { id: JOB.to_owned() }).await?;
            break;
        }
        if !cancelled {
            match qmp.execute(JobCancel { id: JOB.to_owned() }).await {
                // Refused if it has just ended by itself.
                Ok(_) | Err(QmpError::Refused { .. }) => cancelled = true,
                Err(error) => return Err(error.into()),
            }
        }
        wait_for_change(&mut events, JOB).await?;
    }
    let nodes = qmp.execute(QueryNamedBlockNodes { flat: true }).await?;
    for node_name in [COPY_NODE.to_owned(), image_name(COPY_NODE)] {
        if nodes.iter().any(|node| node.node_name.as_ref() == Some(&node_name)) {
            qmp.execute(BlockdevDel { node_name }).await?;
        }
    }
    Ok(())
}
