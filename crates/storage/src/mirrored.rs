//! Own disks that have a copy on another host: the qcow2 is in a file of a fixed length.
//!
//! A copy is a file of another host and has to take every write to the disk's own one. So neither grows, and both are sparse.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use gantry_types::DiskLocation;
use uuid::Uuid;

use crate::disk::DiskInfo;
use crate::error::StorageError;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The length of the file for a disk of this size. What a guest overwrites after a snapshot goes beside the old content, so that a
/// disk with one needs twice its size; the tables and the states of memory get what is above that. It costs nothing until it is
/// used, but a disk whose snapshots need more has no space left.
pub fn container_bytes(virtual_size_bytes: u64) -> u64 {
    (2 * virtual_size_bytes + GIB).next_multiple_of(MIB)
}

/// The file is as long as it is to be. It never shrinks: a QEMU may have it open, and its copy is of that length.
pub(crate) fn extend(disk: &DiskInfo) -> Result<(), StorageError> {
    let extended = || -> io::Result<()> {
        let (file, length) = (OpenOptions::new().write(true).open(&disk.path)?, container_bytes(disk.size_bytes));
        if file.metadata()?.len() < length {
            file.set_len(length)?;
            file.sync_all()?;
        }
        Ok(())
    };
    extended().map_err(StorageError::io("extending disk", &disk.path))
}

/// What this host's QEMU opens for it, as long as it is now.
pub(crate) fn location(disk: Uuid, path: &Path) -> Result<DiskLocation, StorageError> {
    let found = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StorageError::DiskMissing { disk },
        _ => StorageError::io("looking for disk", path)(error),
    })?;
    let id = disk.simple().to_string().split_off(20);
    Ok(DiskLocation::Mirrored { file: path.to_owned(), size: found.len(), id })
}
