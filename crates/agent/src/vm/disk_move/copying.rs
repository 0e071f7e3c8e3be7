//! The move of a disk that nobody has open: its file as it is, with all states in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gantry_api::agent::Assignment;
use gantry_api::storage::VolumeMoveReport;
use gantry_storage::{Claiming, DiskHold, StagedDisk};
use gantry_types::{PowerState, Problem};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::super::actor::VmTask;
use super::super::disk;
use super::{DiskMove, NOT_MOVED, pool_id};
use crate::problem::chain;

/// The copy that a task makes.
pub(in crate::vm) struct Copying {
    /// The pool that it goes to.
    to: Option<Uuid>,
    copied: Arc<AtomicU64>,
    total_bytes: u64,
    task: AbortOnDropHandle<Result<StagedDisk, Problem>>,
    /// No other host adopts what is being copied.
    hold: Option<DiskHold>,
}

impl Copying {
    fn report(&self) -> VolumeMoveReport {
        VolumeMoveReport::Copying { done_bytes: self.copied.load(Ordering::Relaxed), total_bytes: self.total_bytes }
    }
}

impl VmTask {
    pub(super) async fn copy_to(&mut self, there: Assignment) -> Result<VolumeMoveReport, Problem> {
        if self.known()?.wanted != PowerState::Stopped {
            let detail = format!("{} has ended by itself while its disk was to be moved", self.named()?);
            return Err(Problem::conflict("vm-not-running", detail)
                .remedy("see why (gantry describe vm), then stop or start it and move the disk again"));
        }
        let to = pool_id(there.disk.pool.as_ref());
        match self.disk_move.take() {
            Some(DiskMove::Copying(copying)) if copying.to == to && !copying.task.is_finished() => {
                let report = copying.report();
                self.disk_move = Some(DiskMove::Copying(copying));
                Ok(report)
            }
            Some(DiskMove::Copying(Copying { to: copied_to, task, hold, .. })) if copied_to == to => {
                let staged = task.await.unwrap_or_else(|error| {
                    let detail = format!("the disk of VM {} was not copied: {error}", self.vm);
                    Err(Problem::permanent(NOT_MOVED, detail).remedy("see the agent's log on the VM's host"))
                })?;
                self.put_in_place(there, staged).await?;
                drop(hold);
                self.take_left_disk().await?;
                Ok(VolumeMoveReport::Moved)
            }
            _ => {
                let copying = self.begin_copying(&there).await?;
                let report = copying.report();
                self.disk_move = Some(DiskMove::Copying(copying));
                Ok(report)
            }
        }
    }

    async fn begin_copying(&self, there: &Assignment) -> Result<Copying, Problem> {
        let record = self.known()?;
        disk::check(&self.host, record).await?;
        let hold = disk::claim(&self.host, &record.assignment, Claiming::Keep).await?;
        let disk = self.disks().await?.read_disk(self.vm).await;
        let disk = disk.map_err(|error| self.storage_problem(NOT_MOVED, &error))?;
        let total_bytes = disk.allocated_bytes().unwrap_or(0);
        let staged = disk::place(&self.host, there).await?.stage_disk().await;
        let mut staged = staged.map_err(|error| self.storage_problem(NOT_MOVED, &error))?;
        let copied = Arc::new(AtomicU64::new(0));
        let (told, what) = (Arc::clone(&copied), self.named()?);
        let task = tokio::spawn(async move {
            let done = staged.copy_of(&disk, |bytes| told.store(bytes, Ordering::Relaxed)).await;
            done.map(|()| staged).map_err(|error| {
                Problem::permanent(NOT_MOVED, format!("the disk of {what} was not copied: {}", chain(&error))).remedy(
                    "look at the free space and the health of both pools (gantry pool list), then move it again",
                )
            })
        });
        let to = pool_id(there.disk.pool.as_ref());
        Ok(Copying { to, copied, total_bytes, task: AbortOnDropHandle::new(task), hold })
    }

    async fn put_in_place(&mut self, there: Assignment, staged: StagedDisk) -> Result<(), Problem> {
        let pool = self.clear_new_place(&there).await?;
        let adopted = pool.adopt_disk(&self.spec(&there)?, staged).await;
        adopted.map_err(|error| self.storage_problem(NOT_MOVED, &error))?;
        let _hold = disk::claim(&self.host, &there, Claiming::Keep).await?;
        self.note_disk_place(there, None).await
    }
}
