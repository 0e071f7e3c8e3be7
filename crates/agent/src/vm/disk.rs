//! A VM's disk: made once, never replaced.
//!
//! The record says whether it was made. A disk that was made and is not there is lost or its filesystem is not mounted: a
//! fresh one in its place would look like the VM and be empty. A disk that is there although the record says that none was
//! made is what a crash left before anything could use it; without any record it may be the last of a VM.

use std::path::{Path, PathBuf};

use gantry_storage::DiskSpec;
use gantry_types::Problem;

use crate::host::Host;
use crate::images::digest;
use crate::problem::problem;
use crate::records::Record;

fn named(record: &Record) -> String {
    format!("VM '{}'", record.assignment.name)
}

/// Makes the disk the first time; afterwards only looks whether it is as assigned.
pub(super) async fn make(host: &Host, record: &mut Record) -> Result<(), Problem> {
    let assignment = &record.assignment;
    let image = assignment.disk.image.as_ref().map(|image| digest(&image.digest)).transpose()?;
    let failed = |error| problem("disk-not-made", &named(record), &error);
    if record.disk_made {
        check(host, record).await?;
    } else {
        // No QEMU was started on it: that takes a record that says it was made.
        host.pool.delete_disk(assignment.uuid).await.map_err(failed)?;
    }
    let size_bytes = assignment.disk.size.bytes();
    let spec = DiskSpec { disk: assignment.uuid, size_bytes, image, owner_uid: Some(record.owner_uid) };
    host.pool.create_disk(&spec).await.map_err(failed)?;
    if !record.disk_made {
        let made = Record { disk_made: true, ..record.clone() };
        host.records.save(&made).await.map_err(|error| error.problem())?;
        *record = made;
    }
    Ok(())
}

/// Whether the disk is there, before QEMU is started on it.
pub(super) async fn check(host: &Host, record: &Record) -> Result<(), Problem> {
    let (what, path) = (named(record), host.pool.disk_path(record.assignment.uuid));
    if !record.disk_made {
        let detail = format!("the disk of {what} was not made yet");
        return Err(Problem::conflict("disk-not-made", detail).remedy("define the VM again, then start it"));
    }
    if is_there(&what, &path).await? {
        return Ok(());
    }
    let detail = format!("the disk of {what}, {}, is not in this host's pool {}", path.display(), pool(host).display());
    Err(Problem::permanent("disk-missing", detail)
        .remedy("mount the pool's filesystem or restore the disk, then start the VM; or delete the VM"))
}

/// Before the first record of a VM: a disk of its name that nobody here knows is not taken for its own.
pub(crate) async fn check_nothing_left(host: &Host, record: &Record) -> Result<(), Problem> {
    let (what, path) = (named(record), host.pool.disk_path(record.assignment.uuid));
    if !is_there(&what, &path).await? {
        return Ok(());
    }
    let detail = format!("{what} is new to this host, but a disk of it is here: {}", path.display());
    Err(Problem::permanent("disk-left", detail)
        .remedy("move the file away if its content is still wanted, otherwise delete it; then repeat the command"))
}

fn pool(host: &Host) -> PathBuf {
    host.config.pool_dir()
}

async fn is_there(what: &str, path: &Path) -> Result<bool, Problem> {
    tokio::fs::try_exists(path).await.map_err(|error| {
        let detail = format!("cannot look for the disk of {what}, {}: {error}", path.display());
        Problem::transient("disk-not-readable", detail).remedy("check the filesystem of this host's pool")
    })
}
