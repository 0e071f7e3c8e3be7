//! Moves a volume of a running machine to another place.
//!
//! ```text
//!  (none) -- begin --> copying -- caught up --> ready -- complete --> pending -- the owner has noted it, finalize --> moved
//!                         +------ error, cancel ----- + --------------- + ---------------------------------------> (none)
//! ```
//! The mirror stands under the machine's own writes until both places are the same. *Pending* is the moment of decision:
//! QEMU holds the volume's requests back, and both places have all that was ever acknowledged. So whatever dies before the
//! owner has noted the new place, the old one is right, and whatever dies after it, the new one is. The job is named after
//! the volume: whoever comes back finds it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::machine::Volume;
use crate::qmp::Qmp;
use crate::qmp::command::{
    BlockdevAddNode, BlockdevDel, BlockdevMirror, JobCancel, JobComplete, JobDismiss, JobFinalize, JobInfo,
    MirrorCopyMode, MirrorSync, QueryJobs, QueryNamedBlockNodes,
};
use crate::volume::{VolumeError, nodes_below};

/// From *complete* to *pending* what is under way is written out.
const PENDING_LIMIT: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How far a move is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeMove {
    Copying {
        done_bytes: u64,
        total_bytes: u64,
    },
    /// Requests are held back until [`finish`] or [`give_up`].
    Pending,
}

fn job_id(volume: &Volume) -> String {
    format!("move-{}", volume.id)
}

async fn find(qmp: &Qmp, volume: &Volume) -> Result<Option<JobInfo>, VolumeError> {
    let id = job_id(volume);
    Ok(qmp.execute(QueryJobs {}).await?.into_iter().find(|job| job.id == id))
}

/// Begins the move, or takes it a step further; both describe the volume, in its two places.
///
/// # Errors
/// [`VolumeError::Move`] with QEMU's reason if the copying failed: nothing is left of it then.
pub async fn advance(qmp: &Qmp, from: &Volume, to: &Volume) -> Result<VolumeMove, VolumeError> {
    let Some(job) = find(qmp, from).await? else {
        begin(qmp, from, to).await?;
        return Ok(VolumeMove::Copying { done_bytes: 0, total_bytes: 0 });
    };
    match job.status.as_str() {
        "concluded" => {
            let reason = job.error.unwrap_or_else(|| "it was cancelled".to_owned());
            give_up(qmp, from, to).await?;
            Err(VolumeError::Move { reason })
        }
        "ready" => {
            qmp.execute(JobComplete { id: job.id }).await?;
            pending(qmp, from).await
        }
        "waiting" | "pending" => pending(qmp, from).await,
        _ => Ok(VolumeMove::Copying { done_bytes: job.current_progress, total_bytes: job.total_progress }),
    }
}

async fn begin(qmp: &Qmp, from: &Volume, to: &Volume) -> Result<(), VolumeError> {
    if !nodes_below(qmp, to).await?.contains(&to.format_node()) {
        qmp.execute(BlockdevAddNode(to.format_json()?)).await?;
    }
    qmp.execute(BlockdevMirror {
        job_id: job_id(from),
        device: from.node(),
        target: to.format_node(),
        sync: MirrorSync::Full,
        copy_mode: MirrorCopyMode::Background,
        speed: 0,
        replaces: Some(from.format_node()),
        auto_finalize: false,
        auto_dismiss: false,
    })
    .await?;
    Ok(())
}

async fn pending(qmp: &Qmp, volume: &Volume) -> Result<VolumeMove, VolumeError> {
    let until = Instant::now() + PENDING_LIMIT;
    loop {
        let Some(job) = find(qmp, volume).await? else { return Err(gone()) };
        match job.status.as_str() {
            "pending" => return Ok(VolumeMove::Pending),
            "ready" | "waiting" | "running" if Instant::now() < until => sleep(LOOK_AGAIN).await,
            _ => return Ok(VolumeMove::Copying { done_bytes: job.current_progress, total_bytes: job.total_progress }),
        }
    }
}

fn gone() -> VolumeError {
    VolumeError::Move { reason: "QEMU's job is gone".to_owned() }
}

/// The new place is noted: the machine uses it from here on. With nothing to finish nothing happens.
pub async fn finish(qmp: &Qmp, from: &Volume, to: &Volume) -> Result<(), VolumeError> {
    let Some(job) = find(qmp, from).await? else { return drop_unused(qmp, to).await };
    if job.status == "pending" {
        qmp.execute(JobFinalize { id: job.id.clone() }).await?;
    }
    conclude(qmp, from).await?;
    drop_unused(qmp, to).await
}

/// The old place stays the machine's. With nothing to give up nothing happens.
pub async fn give_up(qmp: &Qmp, from: &Volume, to: &Volume) -> Result<(), VolumeError> {
    if let Some(job) = find(qmp, from).await? {
        if job.status != "concluded" {
            qmp.execute(JobCancel { id: job.id.clone() }).await?;
        }
        conclude(qmp, from).await?;
    }
    if nodes_below(qmp, to).await?.contains(&to.format_node()) {
        qmp.execute(BlockdevDel { node_name: to.format_node() }).await?;
    }
    Ok(())
}

/// Ends what was pending when the owner was interrupted: `now` is the volume in the place that is noted. A copy that is
/// still under way goes on.
pub async fn settle(qmp: &Qmp, now: &Volume) -> Result<(), VolumeError> {
    let Some(job) = find(qmp, now).await? else { return Ok(()) };
    if !matches!(job.status.as_str(), "waiting" | "pending") || pending(qmp, now).await? != VolumeMove::Pending {
        return Ok(());
    }
    // The mirror's source is the place that the filter still stands on.
    if nodes_below(qmp, now).await?.contains(&now.format_node()) && !is_current(qmp, now).await? {
        qmp.execute(JobFinalize { id: job.id }).await?;
    } else {
        qmp.execute(JobCancel { id: job.id }).await?;
    }
    conclude(qmp, now).await?;
    drop_unused(qmp, now).await
}

/// Whether the machine reads and writes the volume in this place.
async fn is_current(qmp: &Qmp, volume: &Volume) -> Result<bool, VolumeError> {
    let nodes = qmp.execute(QueryNamedBlockNodes { flat: true }).await?;
    let top = nodes.iter().find(|node| node.node_name.as_deref() == Some(&volume.node()));
    let path = volume.path.to_string_lossy();
    Ok(top.is_some_and(|top| top.file.contains(&*path)))
}

async fn conclude(qmp: &Qmp, volume: &Volume) -> Result<(), VolumeError> {
    let until = Instant::now() + PENDING_LIMIT;
    while let Some(job) = find(qmp, volume).await? {
        if job.status == "concluded" {
            qmp.execute(JobDismiss { id: job.id }).await?;
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(VolumeError::InUse);
        }
        sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Closes the places that are not this one. One from the machine's start has gone with its replacement.
async fn drop_unused(qmp: &Qmp, to: &Volume) -> Result<(), VolumeError> {
    for node in nodes_below(qmp, to).await? {
        if node != to.format_node() {
            qmp.execute(BlockdevDel { node_name: node }).await?;
        }
    }
    Ok(())
}
