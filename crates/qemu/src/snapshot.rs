//! Snapshots inside the disks of a running machine: taken, gone back to and deleted by its own QEMU.
//!
//! Those of disks alone are taken in one transaction, so that all disks have the same instant. What concerns the
//! machine's state is a job of QEMU's. A job outlives the connection that started it and keeps its result until it is
//! dismissed; a job's id is derived from what it does, so that whoever comes back finds it instead of starting it again.
//!
//! Failure behaviour: QEMU's own reason, in [`SnapshotError::Job`]. After a failed [`load`] the machine is neither what it
//! was nor what it should be: it must be ended.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::ErrorClass;
use crate::qmp::command::{
    DirtyBitmap, DirtyBitmapRemove, JobDismiss, JobInfo, QueryJobs, QueryNamedBlockNodes, SnapshotDelete, SnapshotLoad,
    SnapshotSave, Transaction, TransactionAction,
};
use crate::qmp::{Command, EventStream, Qmp, QmpError};

/// The events of a job are the signal; this is how long one may be missed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Qmp(#[from] QmpError),
    #[error("{reason}")]
    Job { reason: String },
}

impl SnapshotError {
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Qmp(error) => error.class(),
            Self::Job { .. } => ErrorClass::Permanent,
        }
    }
}

/// Keeps the content of all these nodes as it is at one instant, under one name. One of that name is a refusal.
pub async fn take(qmp: &Qmp, nodes: &[&str], name: &str) -> Result<(), SnapshotError> {
    let action = |node: &&str| TransactionAction::BlockdevSnapshotInternalSync {
        device: (*node).to_owned(),
        name: name.to_owned(),
    };
    qmp.execute(Transaction { actions: nodes.iter().map(action).collect() }).await?;
    Ok(())
}

/// The same with the machine's state, which goes to the last node: that has the snapshot after all others. A running guest goes on
/// afterwards.
pub async fn save(qmp: &Qmp, nodes: &[&str], name: &str, limit: Duration) -> Result<(), SnapshotError> {
    let job_id = format!("save-{name}");
    let command =
        SnapshotSave { job_id: job_id.clone(), tag: name.to_owned(), vmstate: last(nodes), devices: owned(nodes) };
    run_job(qmp, &job_id, command, limit).await
}

/// Puts back what [`save`] kept. The guest is stopped afterwards. The same `job_id` again finds the first one's result: it
/// must be another one for each wish to go back. Bitmaps of these nodes end: QEMU goes back on no disk that has one, and what it
/// has noted would not be what differs afterwards.
pub async fn load(qmp: &Qmp, nodes: &[&str], name: &str, job_id: &str, limit: Duration) -> Result<(), SnapshotError> {
    forget_bitmaps(qmp, nodes).await?;
    let job_id = job_id.to_owned();
    let command =
        SnapshotLoad { job_id: job_id.clone(), tag: name.to_owned(), vmstate: last(nodes), devices: owned(nodes) };
    run_job(qmp, &job_id, command, limit).await
}

async fn forget_bitmaps(qmp: &Qmp, nodes: &[&str]) -> Result<(), QmpError> {
    for found in qmp.execute(QueryNamedBlockNodes { flat: true }).await? {
        let Some(node) = found.node_name.filter(|name| nodes.contains(&name.as_str())) else { continue };
        for bitmap in found.dirty_bitmaps {
            qmp.execute(DirtyBitmapRemove(DirtyBitmap { node: node.clone(), name: bitmap.name })).await?;
        }
    }
    Ok(())
}

/// Deletes what either kept; nothing there is fine.
pub async fn delete(qmp: &Qmp, nodes: &[&str], name: &str, limit: Duration) -> Result<(), SnapshotError> {
    let job_id = format!("delete-{name}");
    let command = SnapshotDelete { job_id: job_id.clone(), tag: name.to_owned(), devices: owned(nodes) };
    run_job(qmp, &job_id, command, limit).await
}

fn last(nodes: &[&str]) -> String {
    nodes.last().copied().unwrap_or_default().to_owned()
}
fn owned(nodes: &[&str]) -> Vec<String> {
    nodes.iter().map(|node| (*node).to_owned()).collect()
}

pub(crate) async fn run_job(qmp: &Qmp, id: &str, command: impl Command, limit: Duration) -> Result<(), SnapshotError> {
    let deadline = Instant::now() + limit;
    let mut events = qmp.events();
    if find(qmp, id).await?.is_none() {
        qmp.execute(command).await?;
    }
    loop {
        match find(qmp, id).await? {
            Some(job) if job.status == "concluded" => {
                qmp.execute(JobDismiss { id: id.to_owned() }).await?;
                return match job.error {
                    Some(reason) => Err(SnapshotError::Job { reason }),
                    None => Ok(()),
                };
            }
            Some(_) => {}
            None => return Err(SnapshotError::Job { reason: format!("QEMU's job {id} is gone") }),
        }
        if Instant::now() >= deadline {
            return Err(QmpError::Timeout { what: format!("the end of job {id}") }.into());
        }
        wait_for_change(&mut events, id).await?;
    }
}

pub(crate) async fn find(qmp: &Qmp, id: &str) -> Result<Option<JobInfo>, SnapshotError> {
    Ok(qmp.execute(QueryJobs {}).await?.into_iter().find(|job| job.id == id))
}

pub(crate) async fn wait_for_change(events: &mut EventStream, id: &str) -> Result<(), SnapshotError> {
    let deadline = Instant::now() + LOOK_AGAIN;
    let change = events.wait_event("JOB_STATUS_CHANGE", |data| data["id"] == id, deadline);
    match timeout(LOOK_AGAIN, change).await {
        Ok(Ok(_) | Err(QmpError::Timeout { .. } | QmpError::EventsLost { .. })) | Err(_) => Ok(()),
        Ok(Err(error)) => Err(error.into()),
    }
}
