//! Moves a VM's own disk to another pool of this host, while the guest writes or while it is off.
//!
//! ```text
//!  running:  QEMU mirrors ──▶ pending: both places are the same ──────────────┐
//!  off:      the file is copied with all states in it, and put in its place ──┴▶ claimed there ─▶ written down ─▶
//!                                                                    deleted where others could adopt it ─▶ moved
//! ```
//! The record decides where the disk is. What is in the new place before that is worth nothing and is made anew whenever
//! the copying begins. While QEMU mirrors, its requests are held back from *pending* on until the old disk is gone from a
//! pool that other hosts may reach: a controller that has not heard of the move yet may have one of them adopt the VM, and
//! finds either a disk with all that was ever acknowledged, or none. What is left in the host's own pool goes later
//! ([`VmTask::clear_left_disk`]). An agent that comes back ends what was pending ([`VmTask::settle_disk_move`]).
//!
//! QEMU copies what the guest sees: recovery points stay behind when a disk moves under a running guest. Nothing goes on by
//! itself: who wants the move asks again and again how far it is.

mod copying;
mod mirroring;

use std::sync::Arc;

use gantry_api::agent::Assignment;
use gantry_api::storage::{LeftDisk, MoveDisk, PoolAssignment, VolumeMoveReport};
use gantry_qemu::machine::Disk;
use gantry_qemu::mirror;
use gantry_qemu::volume_move::{finish, give_up};
use gantry_storage::{DiskHold, DiskSpec, VmDisks, mirror_id};
use gantry_types::Problem;
use uuid::Uuid;

use self::copying::Copying;
use self::mirroring::Mirrored;
use super::actor::{Run, VmTask};
use super::machine::disk_of;
use super::pairing::Copied;
use super::{MONITOR_LIMIT, disk, within};
use crate::images::digest;
use crate::problem::problem;
use crate::records::Record;

const NOT_MOVED: &str = "disk-not-moved";

/// The work on a move, as far as it is this process's.
pub(super) enum DiskMove {
    /// QEMU mirrors. The new place is held once it was claimed by this process.
    Mirroring {
        hold: Option<DiskHold>,
    },
    Copying(Copying),
}

fn pool_id(pool: Option<&PoolAssignment>) -> Option<Uuid> {
    pool.map(|pool| pool.uuid)
}

impl VmTask {
    pub(super) async fn move_disk(&mut self, request: MoveDisk) -> Result<VolumeMoveReport, Problem> {
        self.check_may_move_disk(request.epoch)?;
        let here = self.known()?.assignment.clone();
        if pool_id(here.disk.pool.as_ref()) == pool_id(request.to.as_ref()) {
            self.close_left_disk().await?;
            return Ok(VolumeMoveReport::Moved);
        }
        self.expect_alone()?;
        let there = in_pool(&here, request.to);
        self.expect_exports_answer().await?;
        match &self.run {
            Run::Off => self.copy_to(there).await,
            _ => self.mirror_to(there).await,
        }
    }

    fn check_may_move_disk(&self, epoch: u64) -> Result<(), Problem> {
        self.check_epoch(epoch)?;
        self.check_not_migrating()?;
        self.check_not_lent()?;
        self.check_no_snapshot_at_work()?;
        if matches!(self.run, Run::Deaf(_)) { self.machine().map(drop) } else { Ok(()) }
    }

    /// # Errors
    /// While its own disk is on its way, for whatever would change it.
    pub(super) fn check_disk_stays(&self) -> Result<(), Problem> {
        if self.disk_move.is_none() {
            return Ok(());
        }
        Err(Problem::transient(
            "disk-being-moved",
            format!("the disk of VM {} is being moved to another pool", self.vm),
        )
        .remedy("wait for the end of the move, or cancel it: gantry operation list"))
    }

    async fn disk_here(&self) -> Result<Disk, Problem> {
        disk_of(&self.host, &self.known()?.assignment).await
    }

    /// The pool that the disk goes to, with nothing of the VM in it. It is not the disk's place by the record, and by no
    /// other host's lease.
    async fn clear_new_place(&self, there: &Assignment) -> Result<Arc<dyn VmDisks>, Problem> {
        let pool = disk::place(&self.host, there).await?;
        disk::expect_not_elsewhere(&self.host, &*pool, there).await?;
        disk::delete(&self.host, there).await?;
        Ok(pool)
    }

    fn spec(&self, there: &Assignment) -> Result<DiskSpec, Problem> {
        let image = there.disk.image.as_ref().map(|image| digest(&image.digest)).transpose()?;
        let owner_uid = Some(self.known()?.owner_uid);
        Ok(DiskSpec { disk: self.vm, size_bytes: there.disk.size.bytes(), image, owner_uid })
    }

    /// From here on the disk is there, whatever dies. `node` is what a QEMU calls it that mirrored it: what was not the
    /// guest's to see did not come along.
    async fn note_disk_place(&mut self, there: Assignment, node: Option<&str>) -> Result<(), Problem> {
        let record = self.known()?;
        let left_disk = record.assignment.disk.pool.clone();
        // Whoever had a copy where it was has none of where it is.
        let copied = Copied { generation: record.copied.generation, ..Copied::default() };
        let mut noted = Record { assignment: there, left_disk, copied, ..record.clone() };
        if let Some(node) = node {
            if let Some(process) = &mut noted.process {
                process.disk_node = Some(node.to_owned());
            }
            noted.recovery.points.clear();
            noted.recovery.kept_in = None;
        }
        let gone: Vec<_> = if node.is_some() { record.recovery.points.clone() } else { Vec::new() };
        self.host.records.save(&noted).await.map_err(|error| error.problem())?;
        self.record = Some(noted);
        for point in gone {
            if let Err(error) = self.delete_uefi_copy(point.uuid).await {
                tracing::warn!(vm = %self.vm, %error, "what a recovery point had beside the disk is left");
            }
        }
        Ok(())
    }

    pub(super) async fn cancel_disk_move(&mut self, request: MoveDisk) -> Result<VolumeMoveReport, Problem> {
        self.check_may_move_disk(request.epoch)?;
        let here = self.known()?.assignment.clone();
        if pool_id(here.disk.pool.as_ref()) == pool_id(request.to.as_ref()) {
            return Ok(VolumeMoveReport::Moved);
        }
        let there = in_pool(&here, request.to);
        if !matches!(self.run, Run::Off) {
            let Mirrored { qmp, from, to } = self.mirrored(&there).await?;
            let given_up = within(MONITOR_LIMIT, self.vm, give_up(&qmp, &from, &to)).await?;
            given_up.map_err(|error| problem(NOT_MOVED, &format!("VM '{}'", here.name), &error))?;
        }
        self.disk_move = None;
        disk::delete(&self.host, &there).await?;
        Ok(VolumeMoveReport::Cancelled)
    }

    pub(super) async fn clear_left_disk(&mut self, request: LeftDisk) -> Result<(), Problem> {
        self.check_epoch(request.epoch)?;
        let here = self.known()?.assignment.clone();
        if pool_id(here.disk.pool.as_ref()) == pool_id(request.from.as_ref()) {
            let detail = format!("{} has its disk where it was to be deleted", self.named()?);
            return Err(Problem::conflict("disk-in-use", detail).remedy("look at the VM again: gantry describe vm"));
        }
        // Whoever asks for this knows where the disk is now: no other host gets the old one, whether it can be deleted or not.
        self.forget_left_disk().await?;
        self.close_left_disk().await?;
        disk::delete(&self.host, &in_pool(&here, request.from)).await.map(drop)
    }

    /// No other host finds the disk where it was. Nothing executes before that.
    pub(crate) async fn take_left_disk(&mut self) -> Result<(), Problem> {
        let Some(record) = &self.record else { return Ok(()) };
        let Some(left) = record.left_disk.clone() else { return Ok(()) };
        disk::delete(&self.host, &in_pool(&record.assignment, Some(left))).await?;
        self.forget_left_disk().await
    }

    async fn forget_left_disk(&mut self) -> Result<(), Problem> {
        let record = self.known()?;
        if record.left_disk.is_none() {
            return Ok(());
        }
        let taken = Record { left_disk: None, ..record.clone() };
        self.host.records.save(&taken).await.map_err(|error| error.problem())?;
        self.record = Some(taken);
        Ok(())
    }

    /// QEMU has nothing open but the place that the disk is in, and nobody finds it elsewhere.
    async fn close_left_disk(&mut self) -> Result<(), Problem> {
        self.disk_move = None;
        self.take_left_disk().await?;
        let what = self.named()?;
        let Run::On(machine) = &self.run else { return Ok(()) };
        let now = Disk { node_name: machine.disk_node.clone(), ..self.disk_here().await? };
        let closed = within(MONITOR_LIMIT, self.vm, finish(&machine.qmp, &now, &now)).await?;
        closed.map_err(|error| problem("disk-not-closed", &what, &error))?;
        let cleared = within(MONITOR_LIMIT, self.vm, mirror::clear(&machine.qmp, &mirror_id(self.vm))).await?;
        cleared.map_err(|error| problem("disk-not-closed", &what, &error))
    }
}

fn in_pool(here: &Assignment, pool: Option<PoolAssignment>) -> Assignment {
    let mut there = here.clone();
    there.disk.pool = pool;
    there
}
