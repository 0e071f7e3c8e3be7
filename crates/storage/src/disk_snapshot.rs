//! Changes inside the disks of a pool while no QEMU has the disk open: snapshots, and growth.
//!
//! A disk's own QEMU may have written anything into it, so `qemu-img` works on it with that QEMU's rights and no more: as
//! the disk's owner, with the backing image left out, under limits. What snapshots there are is read here, without
//! another program, and can be read while QEMU runs.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use uuid::Uuid;

use crate::blocking::blocking;
use crate::error::StorageError;
use crate::exchange::OVERWRITING;
use crate::pool::DirPool;
use crate::probe::{self, InternalSnapshot};
use crate::qemu_img::{Run, RunLimits};

/// Going through the reference counts of a full disk of 64 TiB takes minutes.
pub(crate) const OWNER_LIMITS: RunLimits = RunLimits {
    address_space_bytes: 8 << 30,
    cpu_seconds: 600,
    file_bytes: u64::MAX,
    wall_clock: Duration::from_secs(900),
};

/// What is done with one snapshot of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Create,
    Apply,
    Delete,
}

impl Change {
    fn flag(self) -> &'static str {
        match self {
            Self::Create => "-c",
            Self::Apply => "-a",
            Self::Delete => "-d",
        }
    }
    fn doing(self) -> &'static str {
        match self {
            Self::Create => "taking a snapshot of disk",
            Self::Apply => "going back to a snapshot of disk",
            Self::Delete => "deleting a snapshot of disk",
        }
    }
}

impl DirPool {
    /// The snapshots inside a disk, oldest first.
    ///
    /// # Errors
    /// [`StorageError::DiskMissing`], [`StorageError::DiskDamaged`] if its table can't be read.
    pub async fn disk_snapshots(&self, disk: Uuid) -> Result<Vec<InternalSnapshot>, StorageError> {
        let path = self.disk_path(disk);
        blocking(move || {
            let file = File::open(&path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => StorageError::DiskMissing { disk },
                _ => StorageError::io("reading disk", &path)(error),
            })?;
            probe::qcow2_snapshots(&file).map_err(|reason| StorageError::DiskDamaged { disk, reason })
        })
        .await
    }

    async fn has_snapshot(&self, disk: Uuid, name: &str) -> Result<bool, StorageError> {
        Ok(self.disk_snapshots(disk).await?.iter().any(|snapshot| snapshot.name == name))
    }

    /// Keeps the disk's content under this name. One that is there is fine. No QEMU may have the disk open.
    pub async fn create_disk_snapshot(&self, disk: Uuid, name: &str) -> Result<(), StorageError> {
        if self.has_snapshot(disk, name).await? {
            return Ok(());
        }
        self.change_snapshot(disk, name, Change::Create).await
    }

    /// Makes the disk's content what it was. No QEMU may have the disk open.
    ///
    /// # Errors
    /// [`StorageError::SnapshotMissing`]; then the disk is as it was.
    pub async fn apply_disk_snapshot(&self, disk: Uuid, name: &str) -> Result<(), StorageError> {
        if !self.has_snapshot(disk, name).await? {
            return Err(StorageError::SnapshotMissing { disk, snapshot: name.to_owned() });
        }
        self.change_snapshot(disk, name, Change::Apply).await
    }

    /// Gives the space back that only this snapshot takes; one that is not there is fine. No QEMU may have the disk
    /// open.
    pub async fn delete_disk_snapshot(&self, disk: Uuid, name: &str) -> Result<(), StorageError> {
        if !self.has_snapshot(disk, name).await? {
            return Ok(());
        }
        self.change_snapshot(disk, name, Change::Delete).await
    }

    async fn change_snapshot(&self, disk: Uuid, name: &str, change: Change) -> Result<(), StorageError> {
        self.run_as_owner(disk, None, &["snapshot", change.flag(), name], &[], change.doing()).await
    }

    /// Makes a disk larger. No QEMU may have it open.
    pub(crate) async fn grow_disk(&self, disk: Uuid, size_bytes: u64) -> Result<(), StorageError> {
        let size = size_bytes.to_string();
        self.run_as_owner(disk, None, &["resize", "-q"], &[&size], "growing disk").await
    }

    /// Copies a disk to another one, which its owner may write to. What was there is overwritten.
    pub(crate) async fn copy_disk(&self, disk: Uuid, to: &str) -> Result<(), StorageError> {
        let before = [&["convert"][..], OVERWRITING].concat();
        self.run_as_owner(disk, None, &before, &[to], "copying disk").await
    }

    /// Runs `qemu-img` with the disk between these arguments; without its image it reads as zeros where it has nothing.
    pub(crate) async fn run_as_owner(
        &self,
        disk: Uuid,
        image: Option<&Path>,
        before: &[&str],
        after: &[&str],
        doing: &'static str,
    ) -> Result<(), StorageError> {
        let path = self.disk_path(disk);
        let owner = std::fs::metadata(&path).map_err(StorageError::io(doing, &path))?.uid();
        let staging = self.staging().create().map_err(StorageError::io(doing, &path))?;
        let image = image.map(|image| {
            serde_json::json!({
                "driver": "qcow2", "backing": null, "read-only": true,
                "file": {"driver": "file", "filename": image.to_string_lossy(), "read-only": true},
            })
        });
        let source = serde_json::json!({
            "driver": "qcow2", "backing": image, "discard": "unmap",
            "file": {"driver": "file", "filename": path.to_string_lossy(), "discard": "unmap"},
        });
        let source = format!("json:{source}");
        let arguments = [before, &[source.as_str()], after].concat();
        let arguments: Vec<_> = arguments.iter().map(AsRef::as_ref).collect();
        let run = Run { staging: &staging, uid: owner, limits: OWNER_LIMITS, doing, object: &path };
        match run.expect_success(&arguments, |_| {}).await {
            // One that was started before the agent died may still be at work.
            Err(StorageError::Tool { message, .. }) if message.contains("lock") => Err(StorageError::DiskBusy { disk }),
            done => done,
        }
    }
}
