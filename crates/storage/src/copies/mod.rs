//! Copies of other hosts' disks that a host keeps.
//!
//! ```text
//! <pool>/copies/<uuid>.img    as long as the disk; of whoever serves it, 0600
//! <pool>/copies/<uuid>.json   what it is: {"generation": 7, "state": "behind" | "whole" | "taken"}
//!
//!  (none) -- serve, fresh --> behind -- settle(g) --> whole at g -- take(g, g') --> taken at g', then it is the disk
//!                               ^------- serve ----------+
//! ```
//! A generation is a time in which disk and copy were together; whoever knows which was the last one knows which copy is the
//! disk. While the disk itself is there, no copy of it is made. The mark says *behind* before anybody can write to the copy, so
//! that one whose host dies meanwhile is never taken for whole. Marks appear whole or not at all.

mod server;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use server::{CopyServer, CopyTls, ServeCopy};

use crate::blocking::blocking;
use crate::error::StorageError;
use crate::lease::qemu_writes;
use crate::pool::DirPool;
use crate::staging::{create_passable_dir, sync_dir};

const COPIES: &str = "copies";
const FILE_MODE: u32 = 0o600;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyState {
    /// Its content is of no instant: it is brought up to date, or was.
    Behind,
    /// It has all that was acknowledged in its generation, as long as that lasts.
    Whole,
    /// It is, or is just becoming, this host's own disk.
    Taken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyMark {
    /// The last in which it was whole; 0 before the first.
    pub generation: u64,
    pub state: CopyState,
    /// Which serving of it was the last: what was brought up to date in an earlier one may be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<Uuid>,
}

impl CopyMark {
    fn is(&self, state: CopyState, generation: u64) -> bool {
        (self.state, self.generation) == (state, generation)
    }

    /// Whether only what was written since this generation is missing.
    pub fn is_whole_at(&self, since: Option<u64>) -> bool {
        self.state == CopyState::Whole && since == Some(self.generation)
    }
}

impl std::fmt::Display for CopyMark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.state {
            CopyState::Behind => write!(f, "behind generation {}", self.generation),
            CopyState::Whole => write!(f, "whole at generation {}", self.generation),
            CopyState::Taken => write!(f, "taken at generation {}", self.generation),
        }
    }
}

/// Those of one pool.
#[derive(Debug, Clone)]
pub struct Copies {
    pool: DirPool,
    directory: PathBuf,
}

impl Copies {
    /// # Errors
    /// Of the file system.
    pub fn of(pool: DirPool) -> Result<Self, StorageError> {
        let directory = pool.path().join(COPIES);
        create_passable_dir(&directory).map_err(StorageError::io("opening the pool", &directory))?;
        Ok(Self { pool, directory })
    }

    /// What is known of a copy; `None` if there is none.
    ///
    /// # Errors
    /// [`StorageError::CopyMarkDamaged`], and of the file system.
    pub async fn find(&self, disk: Uuid) -> Result<Option<CopyMark>, StorageError> {
        let copies = self.clone();
        blocking(move || copies.read_mark(disk)).await
    }

    /// The disks that there are copies of, not those that have become this host's own.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) fn ids(pool: &DirPool) -> Result<Vec<Uuid>, StorageError> {
        let directory = pool.path().join(COPIES);
        let failed = || StorageError::io("listing", &directory);
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed())?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed())?.file_name();
            ids.extend(name.to_str().and_then(|name| name.strip_suffix(".img")?.parse::<Uuid>().ok()));
        }
        Ok(ids)
    }

    /// Serves a copy of this length to one host, which is to bring it up to date; `fresh`, it is empty first.
    ///
    /// # Errors
    /// [`StorageError::DiskBusy`] while an earlier server has it open; [`StorageError::CopyStale`] unless there is one that can
    /// be brought up to date, of this length, or it is to be fresh; [`StorageError::NoFreePort`].
    pub async fn serve(
        &self,
        disk: Uuid,
        size_bytes: u64,
        serve: &ServeCopy,
        fresh: bool,
    ) -> Result<CopyServer, StorageError> {
        let (copies, uid) = (self.clone(), serve.uid);
        let serving = Uuid::new_v4();
        blocking(move || copies.prepare(disk, size_bytes, uid, fresh, serving)).await?;
        CopyServer::start(disk, &self.file(disk), size_bytes, serve, serving).await
    }

    /// Disk and copy are together since this generation. What is in the copy is on its disk before that is noted.
    ///
    /// # Errors
    /// [`StorageError::CopyStale`] if there is no copy to settle, it is taken, or was served anew since this serving; of the file system.
    pub async fn settle(&self, disk: Uuid, generation: u64, serving: Uuid) -> Result<(), StorageError> {
        let copies = self.clone();
        blocking(move || {
            let mark = copies.read_mark(disk)?;
            if !mark.is_some_and(|mark| mark.state != CopyState::Taken && mark.serving == Some(serving)) {
                return Err(stale(
                    disk,
                    mark,
                    format!("a copy to be whole at generation {generation}, of this serving"),
                ));
            }
            copies.sync(disk)?;
            copies.write_mark(disk, CopyMark { generation, state: CopyState::Whole, serving: Some(serving) })
        })
        .await
    }

    /// The copy becomes this host's own disk, in this generation, if it is whole in the last one, `from`. Its users are to be set
    /// afterwards. Once it is noted as taken, a repetition finishes it.
    ///
    /// # Errors
    /// [`StorageError::CopyStale`] if it is not; [`StorageError::DiskBusy`] while it is served; [`StorageError::DiskConflict`] if
    /// this host has a disk of this id. Nothing is changed then.
    pub async fn take(&self, disk: Uuid, from: u64, generation: u64) -> Result<(), StorageError> {
        let copies = self.clone();
        blocking(move || copies.take_now(disk, from, generation)).await
    }

    /// There is no copy afterwards; nothing there is fine, and a disk that it has become stays.
    ///
    /// # Errors
    /// [`StorageError::DiskBusy`] while it is served; of the file system.
    pub async fn drop_copy(&self, disk: Uuid) -> Result<(), StorageError> {
        let copies = self.clone();
        blocking(move || {
            expect_unused(disk, &copies.file(disk))?;
            // Without its mark, what is left by an interruption is no copy.
            remove(&copies.mark(disk)).and_then(|()| remove(&copies.file(disk)))
        })
        .await
    }

    /// Deletes the disk that this host had, because others have it since this generation; nothing there is fine.
    ///
    /// # Errors
    /// [`StorageError::CopyStale`] if it was taken since, [`StorageError::DiskBusy`] while somebody writes to it; of the file system.
    /// Nothing is changed then.
    pub async fn drop_left(&self, disk: Uuid, generation: u64) -> Result<(), StorageError> {
        let copies = self.clone();
        blocking(move || {
            let (mark, place) = (copies.read_mark(disk)?, copies.pool.disk_path(disk));
            if mark.is_some_and(|mark| mark.generation > generation) {
                return Err(stale(disk, mark, format!("nothing that is newer than generation {generation}")));
            }
            expect_unused(disk, &place)?;
            remove(&place)?;
            match mark {
                Some(CopyMark { state: CopyState::Taken, .. }) => remove(&copies.mark(disk)),
                _ => Ok(()),
            }
        })
        .await
    }

    fn file(&self, disk: Uuid) -> PathBuf {
        self.directory.join(format!("{}.img", disk.as_hyphenated()))
    }
    fn mark(&self, disk: Uuid) -> PathBuf {
        self.directory.join(format!("{}.json", disk.as_hyphenated()))
    }

    fn read_mark(&self, disk: Uuid) -> Result<Option<CopyMark>, StorageError> {
        let path = self.mark(disk);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| StorageError::CopyMarkDamaged {
                disk,
                path,
                reason: error.to_string(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::io("reading", &path)(error)),
        }
    }

    fn write_mark(&self, disk: Uuid, mark: CopyMark) -> Result<(), StorageError> {
        let path = self.mark(disk);
        let write = || -> io::Result<()> {
            let mut new = tempfile::Builder::new().prefix(".mark-").tempfile_in(&self.directory)?;
            new.write_all(&serde_json::to_vec(&mark)?)?;
            new.as_file().sync_all()?;
            new.persist(&path)?;
            sync_dir(&self.directory)
        };
        write().map_err(StorageError::io("writing", &path))
    }

    fn prepare(&self, disk: Uuid, size_bytes: u64, uid: u32, fresh: bool, serving: Uuid) -> Result<(), StorageError> {
        let path = self.file(disk);
        let failed = || StorageError::io("preparing the copy", &path);
        expect_unused(disk, &path)?;
        let mark = self.read_mark(disk)?;
        let wanted = || "a copy to be brought up to date".to_owned();
        if mark.is_some_and(|mark| mark.state == CopyState::Taken) || (mark.is_none() && !fresh) {
            return Err(stale(disk, mark, wanted()));
        }
        self.expect_no_disk(disk)?;
        if !fresh {
            let length = fs::metadata(&path).map_err(failed())?.len();
            if length != size_bytes {
                return Err(StorageError::CopyStale {
                    disk,
                    has: format!("{length} bytes"),
                    wants: format!("{size_bytes} bytes"),
                });
            }
        }
        // A fresh one has nothing of what it had.
        let generation = mark.filter(|_| !fresh).map_or(0, |mark| mark.generation);
        self.write_mark(disk, CopyMark { generation, state: CopyState::Behind, serving: Some(serving) })?;
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).open(&path);
        let file = file.map_err(failed())?;
        if fresh {
            file.set_len(0).and_then(|()| file.set_len(size_bytes)).map_err(failed())?;
        }
        if rustix::process::geteuid().is_root() {
            fchown(&file, Some(uid), Some(uid)).map_err(failed())?;
        }
        file.sync_all().and_then(|()| sync_dir(&self.directory)).map_err(failed())
    }

    fn take_now(&self, disk: Uuid, from: u64, generation: u64) -> Result<(), StorageError> {
        let (file, place) = (self.file(disk), self.pool.disk_path(disk));
        let exists = |path: &PathBuf| path.try_exists().map_err(StorageError::io("looking for disk", path));
        let mark = self.read_mark(disk)?;
        let wanted = CopyMark { generation: from, state: CopyState::Whole, serving: None };
        let taken = CopyMark { generation, state: CopyState::Taken, serving: None };
        let is = |state, generation| mark.is_some_and(|mark| mark.is(state, generation));
        if !is(CopyState::Taken, generation) {
            if !is(CopyState::Whole, from) || !exists(&file)? {
                return Err(stale(disk, mark, wanted.to_string()));
            }
            self.expect_no_disk(disk)?;
            expect_unused(disk, &file)?;
            self.sync(disk)?;
            self.write_mark(disk, taken)?;
        }
        if !exists(&file)? && exists(&place)? {
            return Ok(());
        }
        let failed = || StorageError::io("taking the copy", &file);
        renameat_with(CWD, &file, CWD, &place, RenameFlags::NOREPLACE).map_err(|error| failed()(error.into()))?;
        place.parent().map_or(Ok(()), sync_dir).and_then(|()| sync_dir(&self.directory)).map_err(failed())
    }

    fn sync(&self, disk: Uuid) -> Result<(), StorageError> {
        let path = self.file(disk);
        File::open(&path).and_then(|file| file.sync_all()).map_err(StorageError::io("writing the copy", &path))
    }

    /// It is not this host's own: it would be in the copy's way when that is taken.
    fn expect_no_disk(&self, disk: Uuid) -> Result<(), StorageError> {
        let place = self.pool.disk_path(disk);
        if !place.try_exists().map_err(StorageError::io("looking for disk", &place))? {
            return Ok(());
        }
        let found = "an own disk of this host".to_owned();
        Err(StorageError::DiskConflict { disk, found, wanted: "no more than a copy of it".to_owned() })
    }
}

/// Nobody has it open for writing: that would hold QEMU's lock on it.
fn expect_unused(disk: Uuid, path: &Path) -> Result<(), StorageError> {
    let failed = || StorageError::io("looking at", path);
    match File::open(path) {
        Ok(file) if qemu_writes(&file).map_err(failed())? => Err(StorageError::DiskBusy { disk }),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed()(error)),
        _ => Ok(()),
    }
}

/// For good; one that is not there is fine.
fn remove(path: &Path) -> Result<(), StorageError> {
    let failed = || StorageError::io("removing", path);
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed()(error)),
        _ => path.parent().map_or(Ok(()), sync_dir).map_err(failed()),
    }
}

fn stale(disk: Uuid, mark: Option<CopyMark>, wants: String) -> StorageError {
    StorageError::CopyStale { disk, has: mark.map_or_else(|| "no copy".to_owned(), |mark| mark.to_string()), wants }
}
