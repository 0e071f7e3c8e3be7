//! Disks that have a copy on another host: the qcow2 is in a file of a fixed length.
//!
//! A copy is a file of another host and has to take every write to the disk's own one. So neither grows, and both are sparse.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use gantry_types::DiskLocation;
use uuid::Uuid;

use crate::blocking::blocking;
use crate::digest::Sha256Digest;
use crate::disk::{DiskInfo, DiskSpec};
use crate::error::StorageError;
use crate::pool::DirPool;
use crate::probe;

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

/// A disk that was made on another host lies over the same image here, which may be in another place. What is below it is the same
/// content, so only its name is changed.
pub(crate) async fn name_image(pool: &DirPool, spec: &DiskSpec) -> Result<(), StorageError> {
    let (Some(image), Some(found)) = (spec.image, pool.disk(spec.disk).await?) else { return Ok(()) };
    if found.image.is_some() {
        return Ok(());
    }
    let path = found.path.clone();
    let named = blocking(move || {
        let file = File::open(&path).map_err(StorageError::io("reading disk", &path))?;
        let header = probe::qcow2_header(&file);
        header
            .map_err(|reason| StorageError::DiskDamaged { disk: found.disk, reason })
            .map(|header| header.backing_file)
    });
    let is_it = |name: &Vec<u8>| {
        let stem = std::str::from_utf8(name).ok().and_then(|name| Path::new(name).file_stem()?.to_str());
        stem.and_then(|stem| stem.parse::<Sha256Digest>().ok()) == Some(image)
    };
    if !named.await?.as_ref().is_some_and(is_it) {
        return Ok(());
    }
    let below = pool.image(image).await?.ok_or(StorageError::ImageMissing { image })?.path;
    let rebase = ["rebase", "-u", "-q", "-F", "qcow2", "-b", &below.to_string_lossy()];
    pool.run_as_owner(spec.disk, None, &rebase, &[], "naming the image below disk").await
}

/// What its nodes in QEMU are called by. The ends of a version 7 uuid are random.
pub fn mirror_id(disk: Uuid) -> String {
    disk.simple().to_string().split_off(20)
}

/// What this host's QEMU opens for it, as long as it is now; one that is not there has no length.
pub(crate) fn location(disk: Uuid, path: &Path) -> DiskLocation {
    let size = fs::metadata(path).map_or(0, |found| found.len());
    DiskLocation::Mirrored { file: path.to_owned(), size, id: mirror_id(disk) }
}
