//! Where a backup's content comes from: QEMU, which keeps what the guest overwrites, or the files of a VM that is off.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_qemu::backup::{self, Point};
use gantry_qemu::qmp::Qmp;
use gantry_storage::{
    DiskInfo, DiskServer, DiskSpec, NbdClient, PoolDriver, SERVED_EXPORT, ServeMode, StorageError, VmDisks,
};
use gantry_types::Problem;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::job::Job;
use crate::problem::problem;
use crate::vm::guest::GuestLine;
use crate::vm::snapshots::{FREEZE_LIMIT, TABLES_LIMIT};
use crate::vm::within;

/// Of the bitmaps that note what is written since a backup.
const BITMAP_PREFIX: &str = "since-";
const SOCKET: &str = "backup.sock";
const NOT_MADE: &str = "backup-not-made";

pub(super) enum Source {
    Running { qmp: Qmp, guest: GuestLine },
    Stopped,
}

/// A disk of the VM.
pub(super) struct Disk {
    /// In the backup.
    pub name: String,
    pub id: Uuid,
    /// Of QEMU, below what may be between it and the device.
    pub node: String,
    pub pool: DiskPool,
}

/// Where it lies.
pub(crate) enum DiskPool {
    /// The VM's own, over its image.
    Own(Arc<dyn VmDisks>),
    Volume(Arc<dyn PoolDriver>),
}

impl DiskPool {
    async fn find(&self, disk: Uuid) -> Result<Option<DiskInfo>, StorageError> {
        match self {
            Self::Own(pool) => pool.disk(disk).await,
            Self::Volume(driver) => driver.find(disk).await,
        }
    }

    pub async fn serve(&self, disk: Uuid, socket: &Path, mode: ServeMode) -> Result<DiskServer, StorageError> {
        match self {
            Self::Own(pool) => pool.serve_disk(disk, socket, mode).await,
            Self::Volume(driver) => driver.serve(disk, socket, mode).await,
        }
    }
}

/// The scratch file for a disk, as if it were a disk of the pool: the same again after an interruption.
pub(super) fn scratch_of(disk: Uuid) -> Uuid {
    Uuid::new_v5(&disk, b"backup")
}

pub(super) fn bitmap_of(backup: Uuid) -> String {
    format!("{BITMAP_PREFIX}{backup}")
}

/// An open disk, and what serves it.
pub(super) struct Opened {
    pub client: NbdClient,
    server: Option<DiskServer>,
}

impl Opened {
    pub async fn close(self) {
        drop(self.client);
        if let Some(server) = self.server {
            server.end().await;
        }
    }
}

impl Job {
    fn socket(&self) -> PathBuf {
        self.run_dir.join(SOCKET)
    }

    /// The backups since which QEMU has noted what is written to a disk, by the names of their bitmaps.
    pub(super) async fn noted(&self, qmp: &Qmp, disk: &Disk) -> Result<Vec<Uuid>, Problem> {
        let bitmaps = within(TABLES_LIMIT, self.vm, backup::bitmaps(qmp, &disk.node)).await?;
        let bitmaps = bitmaps.map_err(|error| problem(NOT_MADE, &self.what, &error))?;
        let recording = bitmaps.iter().filter(|bitmap| bitmap.recording);
        Ok(recording.filter_map(|bitmap| bitmap.name.strip_prefix(BITMAP_PREFIX)?.parse().ok()).collect())
    }

    /// Makes QEMU keep the content of this instant. Says how long file systems were frozen for it, if they were.
    pub(super) async fn begin(&self, qmp: &Qmp, guest: &GuestLine, points: &[Point]) -> Result<Option<u64>, Problem> {
        let failed = |error| problem(NOT_MADE, &self.what, &error);
        // What could not be ended when the agent came back.
        within(TABLES_LIMIT, self.vm, backup::end(qmp)).await?.map_err(failed)?;
        self.make_scratch(points).await?;
        within(TABLES_LIMIT, self.vm, backup::prepare(qmp, points)).await?.map_err(failed)?;
        let frozen_ms = match self.request.quiesce {
            true => self.begin_frozen(qmp, guest, points).await?,
            false => {
                within(TABLES_LIMIT, self.vm, backup::begin(qmp, points)).await?.map_err(failed)?;
                None
            }
        };
        let socket = self.socket();
        // One that a killed QEMU has left.
        drop(tokio::fs::remove_file(&socket).await);
        within(TABLES_LIMIT, self.vm, backup::serve(qmp, points, &socket)).await?.map_err(failed)?;
        Ok(frozen_ms)
    }

    async fn make_scratch(&self, points: &[Point]) -> Result<(), Problem> {
        for (disk, _) in self.disks.iter().zip(points) {
            let failed = |error| problem(NOT_MADE, &self.what, &error);
            let found = disk.pool.find(disk.id).await.map_err(failed)?;
            let found = found.ok_or_else(|| Problem::not_found("disk", &disk.name))?;
            let scratch = scratch_of(disk.id);
            // What an interrupted backup has left is of another instant.
            self.scratch_pool.delete_disk(scratch).await.map_err(failed)?;
            let owner_uid = Some(self.owner_uid);
            let spec = DiskSpec { disk: scratch, size_bytes: found.size_bytes, image: None, owner_uid };
            self.scratch_pool.create_disk(&spec).await.map_err(failed)?;
        }
        Ok(())
    }

    /// With file systems frozen; without, if the guest's agent can't do it: a backup as after a power cut is better than none.
    async fn begin_frozen(&self, qmp: &Qmp, guest: &GuestLine, points: &[Point]) -> Result<Option<u64>, Problem> {
        let begun_at = Instant::now();
        let until = begun_at + FREEZE_LIMIT;
        let frozen = guest.freeze(FREEZE_LIMIT).await;
        if let Err(error) = &frozen {
            tracing::warn!(vm = %self.vm, %error, "the guest is backed up without being quiesced");
        }
        let left = until.saturating_duration_since(Instant::now()).max(super::super::MONITOR_LIMIT);
        let begun = timeout(left, backup::begin(qmp, points)).await;
        // Also after a freeze that failed: it may have been half done.
        let thawed = guest.thaw().await;
        let begun = begun.map_err(|_| {
            let detail = format!("{}: QEMU did not begin the backup in time", self.what);
            Problem::transient("freeze-limit", detail).remedy("make the backup without --quiesce")
        })?;
        begun.map_err(|error| problem(NOT_MADE, &self.what, &error))?;
        if frozen.is_err() {
            return Ok(None);
        }
        thawed?;
        Ok(Some(u64::try_from(begun_at.elapsed().as_millis()).unwrap_or(u64::MAX)))
    }

    /// The disk at a place in the list, to be read.
    pub(super) async fn open(&self, place: usize, disk: &Disk, since: Option<Uuid>) -> Result<Opened, Problem> {
        let socket = self.socket();
        let (server, export) = match &self.source {
            Source::Running { .. } => (None, backup::export(place)),
            Source::Stopped => {
                let served = disk.pool.serve(disk.id, &socket, ServeMode::ReadOnly).await;
                let served = served.map_err(|error| problem(NOT_MADE, &self.what, &error))?;
                (Some(served), SERVED_EXPORT.to_owned())
            }
        };
        let failed = |error: std::io::Error| self.unread(disk, &error);
        let stream = gantry_qemu::connect_socket(&socket).await.map_err(failed)?;
        let bitmap = since.map(bitmap_of);
        let client = NbdClient::connect(stream, &export, bitmap.as_deref()).await.map_err(failed)?;
        Ok(Opened { client, server })
    }

    pub(super) fn unread(&self, disk: &Disk, error: &std::io::Error) -> Problem {
        let detail = format!("disk '{}' of {} can't be read for the backup: {error}", disk.name, self.what);
        Problem::transient(NOT_MADE, detail)
            .remedy("see whether the VM runs, and whether its pool has space: gantry pool list")
    }

    /// Nothing of the backup is left but, of one that was made, the bitmaps for the next.
    pub(super) async fn tidy_up(&self, is_made: bool) -> Result<(), Problem> {
        let ended = match &self.source {
            Source::Stopped => Ok(()),
            Source::Running { qmp, .. } => self.end(qmp, is_made).await,
        };
        for disk in &self.disks {
            let deleted = self.scratch_pool.delete_disk(scratch_of(disk.id)).await;
            deleted.map_err(|error| problem("disk-not-deleted", &self.what, &error))?;
        }
        drop(tokio::fs::remove_file(self.socket()).await);
        ended
    }

    async fn end(&self, qmp: &Qmp, is_made: bool) -> Result<(), Problem> {
        let failed = |error| problem("backup-not-ended", &self.what, &error);
        within(TABLES_LIMIT, self.vm, backup::end(qmp)).await?.map_err(failed)?;
        let kept = is_made.then(|| bitmap_of(self.request.place.backup));
        for disk in &self.disks {
            let bitmaps = within(TABLES_LIMIT, self.vm, backup::bitmaps(qmp, &disk.node)).await?.map_err(failed)?;
            let ours = bitmaps.into_iter().map(|bitmap| bitmap.name).filter(|name| name.starts_with(BITMAP_PREFIX));
            for bitmap in ours.filter(|name| Some(name) != kept.as_ref()) {
                within(TABLES_LIMIT, self.vm, backup::forget(qmp, &disk.node, &bitmap)).await?.map_err(failed)?;
            }
        }
        Ok(())
    }
}
