//! Backups of a VM: its disks' content as of one instant, written into a repository while the guest goes on.
//!
//! ```text
//!  begun --task--> scratch files, instant, served, read ──▶ repository --manifest--> tidied up ──▶ told once
//!                       +---- error, cancelled, the pool is full, QEMU ended ----------+
//! ```
//! The work has a task of its own; until it ends, the VM is neither changed nor moved (`backup-at-work`). It can be repeated
//! after any interruption: a manifest in the repository says that it was done, and an agent that starts takes away what the
//! last one had made QEMU do ([`VmTask::settle_backup`]).
//!
//! The guest goes first: when there is no room for what it overwrites, the backup is given up and its space given back.

pub(crate) mod fill;
pub(crate) mod job;
pub(crate) mod source;

use std::sync::Arc;

use gantry_api::backup::{BackUp, BackedUp, FillDisk, Work};
use gantry_qemu::backup;
use gantry_types::Problem;
use uuid::Uuid;

use super::actor::{Run, VmTask};
use super::{MONITOR_LIMIT, within};
use crate::work::Running;
use job::Job;
use source::{Disk, DiskPool, Source, scratch_of};

/// What is done about a VM's backups now, and for which backup.
pub(crate) enum BackupWork {
    Writing(Uuid, Running<BackedUp>),
    Filling(Uuid, Running<()>),
}

impl BackupWork {
    fn is_over(&self) -> bool {
        match self {
            Self::Writing(_, running) => running.is_over(),
            Self::Filling(_, running) => running.is_over(),
        }
    }
}

impl VmTask {
    pub(super) async fn back_up(&mut self, request: BackUp) -> Result<Work<BackedUp>, Problem> {
        self.check_epoch(request.epoch)?;
        let backup = request.place.backup;
        match self.backup_work.take() {
            Some(BackupWork::Writing(which, running)) if which == backup && running.is_over() => {
                return running.outcome().await.map(Work::Done);
            }
            other => self.backup_work = other,
        }
        if let Some(BackupWork::Writing(which, running)) = &self.backup_work
            && *which == backup
        {
            return Ok(running.report());
        }
        self.check_not_moving()?;
        self.check_no_snapshot_at_work()?;
        self.expect_exports_answer().await?;
        let job = self.backup_job(request).await?;
        let running = Running::start(|progress, cancel| job.run(progress, cancel));
        let report = running.report();
        self.backup_work = Some(BackupWork::Writing(backup, running));
        Ok(report)
    }

    async fn backup_job(&self, request: BackUp) -> Result<Job, Problem> {
        let record = self.known()?;
        let (node, pool) = (self.disk_node(), self.disks().await?);
        let own = Disk { name: job::OWN_DISK.to_owned(), id: self.vm, node, pool: DiskPool::Own(Arc::clone(&pool)) };
        let mut disks = vec![own];
        for volume in &record.assignment.volumes {
            let pool = DiskPool::Volume(self.host.pools.driver(&volume.pool));
            let node = super::volumes::describe(&self.host, volume).format_node();
            disks.push(Disk { name: volume.name.to_string(), id: volume.uuid, node, pool });
        }
        let source = match &self.run {
            Run::Off => Source::Stopped,
            _ => {
                let machine = self.machine()?;
                Source::Running { qmp: machine.qmp.clone(), guest: machine.guest.clone() }
            }
        };
        Ok(Job {
            what: self.named()?,
            vm: self.vm,
            host: self.host.config.name.clone(),
            owner_uid: record.owner_uid,
            scratch_pool: pool.scratch().clone(),
            run_dir: self.host.records.run_dir(self.vm),
            source,
            disks,
            request,
        })
    }

    /// Gives a backup up and waits until nothing of it is left.
    pub(super) async fn cancel_backup(&mut self, backup: Uuid) -> Result<(), Problem> {
        match &self.backup_work {
            Some(BackupWork::Writing(which, _) | BackupWork::Filling(which, _)) if *which == backup => {
                self.end_backup_work().await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whatever is done about backups ends.
    pub(super) async fn end_backup_work(&mut self) {
        let ended = match self.backup_work.take() {
            None => return,
            Some(BackupWork::Writing(_, running)) => {
                running.cancel();
                running.outcome().await.map(drop)
            }
            Some(BackupWork::Filling(_, running)) => {
                running.cancel();
                running.outcome().await
            }
        };
        if let Err(error) = ended {
            tracing::info!(vm = %self.vm, %error, "a backup's work was ended");
        }
    }

    /// A guest whose write waits for room gets that which the backup takes.
    pub(super) fn give_room_back(&mut self) {
        if let (Some(_), Some(BackupWork::Writing(_, running))) = (&self.hold, &self.backup_work) {
            running.cancel();
        }
    }

    pub(super) fn check_no_backup_at_work(&self) -> Result<(), Problem> {
        if self.backup_work.as_ref().is_none_or(BackupWork::is_over) {
            return Ok(());
        }
        Err(Problem::transient("backup-at-work", format!("a backup of {} is at work", self.named()?))
            .remedy("wait for its end, or cancel its operation"))
    }

    /// After the agent has come back: nothing of a backup is left that nobody writes any more.
    pub(super) async fn settle_backup(&mut self) {
        if let Run::On(machine) = &self.run {
            match within(MONITOR_LIMIT, self.vm, backup::end(&machine.qmp)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(vm = %self.vm, %error, "a backup could not be ended"),
                Err(error) => tracing::error!(vm = %self.vm, %error, "a backup could not be ended"),
            }
        }
        let Ok(pool) = self.disks().await else { return };
        let volumes = self.record.iter().flat_map(|record| &record.assignment.volumes).map(|volume| volume.uuid);
        for disk in std::iter::once(self.vm).chain(volumes) {
            if let Err(error) = pool.scratch().delete_disk(scratch_of(disk)).await {
                tracing::warn!(vm = %self.vm, %error, "what a backup has left takes space");
            }
        }
    }

    pub(super) async fn fill_disk(&mut self, request: FillDisk) -> Result<Work<()>, Problem> {
        self.check_epoch(request.epoch)?;
        let backup = request.place.backup;
        match self.backup_work.take() {
            Some(BackupWork::Filling(which, running)) if which == backup && running.is_over() => {
                return running.outcome().await.map(Work::Done);
            }
            other => self.backup_work = other,
        }
        if let Some(BackupWork::Filling(which, running)) = &self.backup_work
            && *which == backup
        {
            return Ok(running.report());
        }
        self.check_not_moving()?;
        self.check_no_snapshot_at_work()?;
        if !matches!(self.run, Run::Off) {
            let detail = format!("{} runs; its disk is filled while it is stopped", self.named()?);
            return Err(Problem::conflict("vm-running", detail).remedy("stop it first"));
        }
        let fill = fill::Fill {
            what: format!("the disk of {}", self.named()?),
            disk: self.vm,
            pool: DiskPool::Own(self.disks().await?),
            sockets: self.host.records.run_dir(self.vm),
            place: request.place,
            name: job::OWN_DISK.to_owned(),
        };
        let running = Running::start(|progress, cancel| fill.run(progress, cancel));
        let report = running.report();
        self.backup_work = Some(BackupWork::Filling(backup, running));
        Ok(report)
    }
}
