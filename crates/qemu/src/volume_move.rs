//! Moves a disk of a running machine to another place: a volume, or the machine's own.
//!
//! ```text
//!  (none) -- begin --> copying -- caught up --> ready -- complete --> pending -- the owner has noted it, finalize --> moved
//!                         +------ error, cancel ----- + --------------- + ---------------------------------------> (none)
//! ```
//! The mirror stands under the machine's own writes until both places are the same. *Pending* is the moment of decision:
//! QEMU holds the disk's requests back, and both places have all that was ever acknowledged. So whatever dies before the
//! owner has noted the new place, the old one is right, and whatever dies after it, the new one is. The job is named after
//! the disk: whoever comes back finds it.
//!
//! Over an image, only what differs from it is copied: the new place has to lie over the same image. Snapshots inside a
//! disk are not what the machine sees, and do not come along.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::machine::{Disk, MachineError, Volume, disk_nodes, image_name};
use crate::qmp::Qmp;
use crate::qmp::command::{
    BlockdevAddNode, BlockdevDel, BlockdevMirror, JobCancel, JobComplete, JobDismiss, JobFinalize, JobInfo,
    MirrorCopyMode, MirrorSync, QueryJobs, QueryNamedBlockNodes,
};
use crate::volume::VolumeError;

/// From *complete* to *pending* what is under way is written out.
const PENDING_LIMIT: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A disk of a machine, as it is in one of the places where it can lie.
pub trait Movable {
    /// The same in every place.
    fn job_id(&self) -> String;
    /// The node above all places, if there is one. The machine stands on the place itself otherwise.
    fn top(&self) -> Option<String>;
    /// What the node of a mirror to this place is called, if there is none above.
    fn arrival_node(&self) -> String {
        format!("to-{}", self.place_node())
    }
    /// The disk in this place.
    fn place_node(&self) -> String;
    /// Whether a node is this disk, in any place.
    fn is_place(&self, node: &str) -> bool;
    /// Whether what QEMU calls a node is the disk in this place.
    fn is_in(&self, name: &str) -> bool;
    /// What QEMU is to open for it, in this order.
    fn place_nodes(&self) -> Result<Vec<Value>, MachineError>;
    fn sync(&self) -> MirrorSync;
}

impl Movable for Volume {
    fn job_id(&self) -> String {
        format!("move-{}", self.id)
    }
    fn top(&self) -> Option<String> {
        Some(self.node())
    }
    fn place_node(&self) -> String {
        self.format_node()
    }
    fn is_place(&self, node: &str) -> bool {
        node.starts_with(&self.format_prefix())
    }
    fn is_in(&self, name: &str) -> bool {
        self.location.is_in(name)
    }
    fn place_nodes(&self) -> Result<Vec<Value>, MachineError> {
        Ok(vec![self.format_json()?])
    }
    fn sync(&self) -> MirrorSync {
        MirrorSync::Full
    }
}

/// A disk that the machine has from its start is called NAME, and NAME-PLACE where it has moved to.
impl Movable for Disk {
    fn job_id(&self) -> String {
        format!("move-{}", self.base_name())
    }
    fn top(&self) -> Option<String> {
        None
    }
    fn place_node(&self) -> String {
        self.node_name.clone()
    }
    fn is_place(&self, node: &str) -> bool {
        node.strip_prefix(self.base_name()).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
    fn is_in(&self, name: &str) -> bool {
        self.location.is_in(name)
    }
    fn place_nodes(&self) -> Result<Vec<Value>, MachineError> {
        disk_nodes(self)
    }
    fn sync(&self) -> MirrorSync {
        if self.backing.is_some() { MirrorSync::Top } else { MirrorSync::Full }
    }
}

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

async fn find(qmp: &Qmp, disk: &impl Movable) -> Result<Option<JobInfo>, VolumeError> {
    let id = disk.job_id();
    Ok(qmp.execute(QueryJobs {}).await?.into_iter().find(|job| job.id == id))
}

/// Whether the disk is being moved, wherever to.
pub async fn is_under_way(qmp: &Qmp, disk: &impl Movable) -> Result<bool, VolumeError> {
    Ok(find(qmp, disk).await?.is_some())
}

/// Begins the move, or takes it a step further; both describe the disk, in its two places.
///
/// # Errors
/// [`VolumeError::Move`] with QEMU's reason if the copying failed: nothing is left of it then.
pub async fn advance<M: Movable>(qmp: &Qmp, from: &M, to: &M) -> Result<VolumeMove, VolumeError> {
    let Some(job) = find(qmp, from).await? else {
        begin(qmp, from, to).await?;
        return Ok(VolumeMove::Copying { done_bytes: 0, total_bytes: 0 });
    };
    if !places(qmp, to).await?.contains(&to.place_node()) {
        return Err(VolumeError::Move { reason: "it is being moved to another place".to_owned() });
    }
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

async fn begin<M: Movable>(qmp: &Qmp, from: &M, to: &M) -> Result<(), VolumeError> {
    if !places(qmp, to).await?.contains(&to.place_node()) {
        close_image(qmp, &to.place_node()).await?;
        for node in to.place_nodes()? {
            qmp.execute(BlockdevAddNode(node)).await?;
        }
    }
    let top = from.top();
    qmp.execute(BlockdevMirror {
        job_id: from.job_id(),
        device: top.clone().unwrap_or_else(|| from.place_node()),
        target: to.place_node(),
        sync: from.sync(),
        copy_mode: MirrorCopyMode::Background,
        speed: 0,
        replaces: top.is_some().then(|| from.place_node()),
        filter_node_name: top.is_none().then(|| to.arrival_node()),
        auto_finalize: false,
        auto_dismiss: false,
    })
    .await?;
    Ok(())
}

async fn pending(qmp: &Qmp, disk: &impl Movable) -> Result<VolumeMove, VolumeError> {
    let until = Instant::now() + PENDING_LIMIT;
    loop {
        let Some(job) = find(qmp, disk).await? else { return Err(gone()) };
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

/// The new place is noted: the machine uses it from here on. With nothing to finish, what it has open of other places is
/// closed.
pub async fn finish<M: Movable>(qmp: &Qmp, from: &M, to: &M) -> Result<(), VolumeError> {
    let Some(job) = find(qmp, from).await? else { return drop_unused(qmp, to).await };
    if job.status == "pending" {
        qmp.execute(JobFinalize { id: job.id.clone() }).await?;
    }
    conclude(qmp, from).await?;
    drop_unused(qmp, to).await
}

/// The old place stays the machine's. With nothing to give up nothing happens.
pub async fn give_up<M: Movable>(qmp: &Qmp, from: &M, to: &M) -> Result<(), VolumeError> {
    if let Some(job) = find(qmp, from).await? {
        if job.status != "concluded" {
            qmp.execute(JobCancel { id: job.id.clone() }).await?;
        }
        conclude(qmp, from).await?;
    }
    if places(qmp, to).await?.contains(&to.place_node()) {
        qmp.execute(BlockdevDel { node_name: to.place_node() }).await?;
    }
    close_image(qmp, &to.place_node()).await
}

/// Ends what was pending when the owner was interrupted: `now` is the disk in the place that is noted. A copy that is
/// still under way goes on.
pub async fn settle(qmp: &Qmp, now: &impl Movable) -> Result<(), VolumeError> {
    let Some(job) = find(qmp, now).await? else { return Ok(()) };
    if !matches!(job.status.as_str(), "waiting" | "pending") || pending(qmp, now).await? != VolumeMove::Pending {
        return Ok(());
    }
    // The mirror's source is the place that is still read and written.
    if places(qmp, now).await?.contains(&now.place_node()) && !is_current(qmp, now).await? {
        qmp.execute(JobFinalize { id: job.id }).await?;
    } else {
        qmp.execute(JobCancel { id: job.id }).await?;
    }
    conclude(qmp, now).await?;
    drop_unused(qmp, now).await
}

/// Whether the machine reads and writes the disk in this place, while a mirror is at work.
async fn is_current(qmp: &Qmp, disk: &impl Movable) -> Result<bool, VolumeError> {
    let nodes = qmp.execute(QueryNamedBlockNodes { flat: true }).await?;
    let find = |name: &str| nodes.iter().find(|node| node.node_name.as_deref() == Some(name));
    let Some(top) = disk.top() else { return Ok(find(&disk.arrival_node()).is_none()) };
    let top = find(&top);
    Ok(top.is_some_and(|top| disk.is_in(&top.file)))
}

/// The places of the disk that QEMU has open.
async fn places(qmp: &Qmp, disk: &impl Movable) -> Result<Vec<String>, VolumeError> {
    let nodes = qmp.execute(QueryNamedBlockNodes { flat: true }).await?;
    let names = nodes.into_iter().filter_map(|node| node.node_name);
    Ok(names.filter(|name| disk.is_place(name)).collect())
}

async fn conclude(qmp: &Qmp, disk: &impl Movable) -> Result<(), VolumeError> {
    let until = Instant::now() + PENDING_LIMIT;
    while let Some(job) = find(qmp, disk).await? {
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

/// Closes the places that are not this one. A volume's from the machine's start has gone with its replacement.
async fn drop_unused(qmp: &Qmp, to: &impl Movable) -> Result<(), VolumeError> {
    for node in places(qmp, to).await? {
        if node != to.place_node() {
            qmp.execute(BlockdevDel { node_name: node.clone() }).await?;
            close_image(qmp, &node).await?;
        }
    }
    Ok(())
}

/// Closes the image that was below a place which is closed, if it is a node apart.
async fn close_image(qmp: &Qmp, place: &str) -> Result<(), VolumeError> {
    let node_name = image_name(place);
    let nodes = qmp.execute(QueryNamedBlockNodes { flat: true }).await?;
    if nodes.iter().any(|node| node.node_name.as_ref() == Some(&node_name)) {
        qmp.execute(BlockdevDel { node_name }).await?;
    }
    Ok(())
}
