//! Staging directories: where files are built before they get their final name.
//!
//! Each job has its own directory and holds a lock on it. The lock dies with the process, so
//! [`StagingArea::sweep`] can tell a crashed job's leftovers from a running job's work at any
//! time, in any process. Directories belong to us and are only passable (0711): a job's
//! unprivileged worker can write the files made for it and can't add, rename or replace any.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

/// Passable but not listable: VM and worker uids reach files whose names they were given.
pub(crate) const PASSABLE_DIR_MODE: u32 = 0o711;

#[derive(Debug, Clone)]
pub(crate) struct StagingArea {
    path: PathBuf,
}

/// One job's directory; removed with everything in it when dropped.
#[derive(Debug)]
pub(crate) struct StagingDir {
    // Declared before the lock: the directory must be gone before a sweep may look at it.
    dir: TempDir,
    lock: File,
}

/// Makes sure of a directory (and its parents) that other uids may pass through.
pub(crate) fn create_passable_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(PASSABLE_DIR_MODE).create(path)?;
    // One that was there keeps its mode otherwise, and the umask may have taken bits away.
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o111 != 0o111 {
        fs::set_permissions(path, Permissions::from_mode(mode | 0o111))?;
    }
    Ok(())
}

/// Makes a rename or unlink inside `path` survive a power loss.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl StagingArea {
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        create_passable_dir(&path)?;
        Ok(Self { path })
    }

    pub(crate) fn create(&self) -> io::Result<StagingDir> {
        loop {
            let dir = tempfile::Builder::new().prefix("job-").tempdir_in(&self.path)?;
            let lock = match File::open(dir.path()) {
                Ok(lock) => lock,
                // A sweep found the directory before it was locked; take another one.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            let still_there =
                fs::metadata(dir.path()).is_ok_and(|found| lock.metadata().is_ok_and(|own| own.ino() == found.ino()));
            if still_there {
                lock.set_permissions(Permissions::from_mode(PASSABLE_DIR_MODE))?;
                return Ok(StagingDir { dir, lock });
            }
        }
    }

    /// Removes the directories of jobs that no longer run; returns how many there were.
    pub(crate) fn sweep(&self) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let lock = match File::open(&path) {
                Ok(lock) => lock,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            match fs::remove_dir_all(&path) {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }
}

impl StagingDir {
    pub(crate) fn file_path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// A new empty file, readable and writable by its owner only.
    pub(crate) fn create_file(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(self.file_path(name))
    }

    /// Syncs `file`, which this directory holds as `name`, and gives it its final name for good.
    ///
    /// A link, not a rename: what has that name already is never replaced, whichever process made
    /// it, and the call fails with [`io::ErrorKind::AlreadyExists`].
    pub(crate) fn publish(&self, file: &File, name: &str, destination: &Path) -> io::Result<()> {
        file.sync_all()?;
        fs::hard_link(self.file_path(name), destination)?;
        fs::remove_file(self.file_path(name))?;
        match destination.parent() {
            Some(parent) => sync_dir(parent),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweep_takes_what_crashed_and_leaves_what_runs() {
        let root = tempfile::tempdir().unwrap();
        let area = StagingArea::open(root.path().join("staging")).unwrap();
        let running = area.create().unwrap();
        running.create_file("work").unwrap();
        // What a killed process leaves: a directory with files, and no lock on it.
        fs::create_dir(root.path().join("staging/job-crashed")).unwrap();
        fs::write(root.path().join("staging/job-crashed/input"), b"half").unwrap();

        assert_eq!(area.sweep().unwrap(), 1);
        assert!(running.file_path("work").exists());
        drop(running);
        assert_eq!(fs::read_dir(root.path().join("staging")).unwrap().count(), 0);
    }

    #[test]
    fn publishing_never_replaces() {
        let root = tempfile::tempdir().unwrap();
        let area = StagingArea::open(root.path().join("staging")).unwrap();
        let destination = root.path().join("disk");
        for (content, expected) in [("first", Ok(())), ("second", Err(io::ErrorKind::AlreadyExists))] {
            let job = area.create().unwrap();
            let file = job.create_file("new").unwrap();
            fs::write(job.file_path("new"), content).unwrap();
            let published = job.publish(&file, "new", &destination);
            assert_eq!(published.map_err(|error| error.kind()), expected);
        }
        assert_eq!(fs::read(&destination).unwrap(), b"first");
        assert_eq!(fs::metadata(&destination).unwrap().nlink(), 1);
    }
}
