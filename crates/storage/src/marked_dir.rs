//! The driver of directory pools: a [`DirPool`] in a directory that bears the pool's mark.
//!
//! ```text
//! <path>/gantry-pool.json   {"pool": "<uuid>"}: what is below is this pool's
//! <path>/disks, images      see the pool's module
//! ```
//! A file system that is not mounted leaves its mount point behind, an empty directory. So the mark is looked for before
//! anything is done, and is made only by [`PoolDriver::open`], once; a directory without it is missing, not empty.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use gantry_types::{ByteSize, DiskLocation, ImageFormat, PoolHealth, PoolSpace};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::{fs::StatVfsMountFlags, io::Errno};
use serde_json::json;
use uuid::Uuid;

use crate::blocking::blocking;
use crate::copies::Copies;
use crate::disk::{DiskInfo, DiskSpec, DiskUsers, expect_fits};
use crate::disk_server::{DiskServer, ServeMode};
use crate::driver::{Admission, PoolDriver, PoolFinding};
use crate::error::StorageError;
use crate::exchange::ExportedDisk;
use crate::mark::{self, MARK};
use crate::mirrored;
use crate::pool::{DirPool, FULL_BELOW_BYTES};
use crate::probe::InternalSnapshot;
use crate::qemu_img::WORKER_UID;
use crate::staging::{PASSABLE_DIR_MODE, sync_dir};

/// A directory that is, or is to become, a pool.
#[derive(Debug, Clone)]
pub struct MarkedDir {
    path: PathBuf,
    pool: Uuid,
    /// Once it was entered.
    entered: std::sync::Arc<std::sync::OnceLock<DirPool>>,
    /// What is in it can have a copy on another host.
    mirrored: bool,
}

impl MarkedDir {
    pub fn new(path: PathBuf, pool: Uuid) -> Self {
        Self { path, pool, entered: Default::default(), mirrored: false }
    }

    /// One in which each disk has a copy on another host.
    pub fn mirrored(path: PathBuf, pool: Uuid) -> Self {
        Self { mirrored: true, ..Self::new(path, pool) }
    }

    /// The pool that a host has of its own: what it has opened already serves both.
    pub fn over(opened: DirPool, pool: Uuid) -> Self {
        let path = opened.path().to_owned();
        Self { path, pool, entered: std::sync::Arc::new(opened.into()), mirrored: false }
    }

    fn fault(&self, health: PoolHealth, reason: impl Into<String>) -> StorageError {
        StorageError::PoolFault { path: self.path.clone(), health, reason: reason.into() }
    }

    /// Whose the directory is.
    fn mark(&self) -> Result<Option<Uuid>, StorageError> {
        let path = self.path.join(MARK);
        match fs::read(&path) {
            Ok(text) => mark::read(&text).map(Some).map_err(|error| {
                let reason = format!("its mark {} is damaged: {error}; put it back from a backup", path.display());
                self.fault(PoolHealth::Missing, reason)
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::io("reading", &path)(error)),
        }
    }

    /// The pool inside, if the directory is this pool's.
    fn enter(&self) -> Result<DirPool, StorageError> {
        match self.mark()? {
            Some(pool) if pool == self.pool => {}
            Some(_) => {
                return Err(self.fault(PoolHealth::Missing, "another pool is there: mount the right file system"));
            }
            None => {
                let reason = "it is not there, or not this pool's: mount its file system";
                return Err(self.fault(PoolHealth::Missing, reason));
            }
        }
        if let Some(entered) = self.entered.get() {
            return Ok(entered.clone());
        }
        let opened = DirPool::open(&self.path)?;
        Ok(self.entered.get_or_init(|| opened).clone())
    }

    fn make(&self) -> Result<(), StorageError> {
        let failed = |doing| StorageError::io(doing, &self.path);
        match DirBuilder::new().mode(PASSABLE_DIR_MODE).create(&self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let reason = "neither it nor the directory above it is there: make that one, or mount its file system";
                return Err(self.fault(PoolHealth::Missing, reason));
            }
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                return Err(self.fault(PoolHealth::ReadOnly, "its file system is read-only: mount it writable"));
            }
            Err(error) => return Err(failed("making the pool's directory")(error)),
        }
        if !self.path.is_dir() {
            return Err(self.fault(PoolHealth::Missing, "it is not a directory"));
        }
        self.check_writable()?;
        let opened = match self.mark()? {
            Some(pool) if pool == self.pool => return self.enter().and_then(|entered| self.check_user(&entered)),
            Some(_) => return Err(self.fault(PoolHealth::Missing, "another pool is there: use another directory")),
            None => DirPool::open(&self.path)?,
        };
        self.check_user(&opened)?;
        let text = mark::text(self.pool).map_err(|error| failed("marking")(error.into()))?;
        self.write_mark(&text).map_err(failed("marking the pool's directory"))?;
        self.enter().map(drop)
    }

    /// Appears whole or not at all; another pool's is not replaced.
    fn write_mark(&self, text: &[u8]) -> io::Result<()> {
        let fresh = self.path.join(format!(".{MARK}.{}", self.pool));
        let mut file = File::create(&fresh)?;
        file.write_all(text)?;
        file.sync_all()?;
        let linked = fs::hard_link(&fresh, self.path.join(MARK));
        fs::remove_file(&fresh)?;
        linked?;
        sync_dir(&self.path)
    }

    fn check_writable(&self) -> Result<(), StorageError> {
        let found = rustix::fs::statvfs(&self.path);
        let found = found.map_err(|error| StorageError::io("measuring", &self.path)(error.into()))?;
        if found.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(self.fault(PoolHealth::ReadOnly, "its file system is read-only: mount it writable"));
        }
        Ok(())
    }

    /// Whether a VM's user can open a file that it was given here: through all directories above, and for writing.
    fn check_user(&self, pool: &DirPool) -> Result<(), StorageError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                let reason = format!(
                    "the VMs' users can't write there ({error}): let others pass through every directory above it \
                     (chmod o+x)"
                );
                self.fault(PoolHealth::NotWritable, reason)
            }
            _ => StorageError::io("trying to write in the pool", &self.path)(error),
        };
        let staging = pool.staging().create().map_err(failed)?;
        let file = staging.create_file("probe").map_err(failed)?;
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        fchown(&file, Some(WORKER_UID), Some(WORKER_UID)).map_err(failed)?;
        let path = staging.file_path("probe");
        open_as(WORKER_UID, path).map_err(failed)
    }

    fn look(&self) -> Result<PoolFinding, StorageError> {
        let pool = self.enter()?;
        self.check_writable()?;
        let space = space_of(&pool)?;
        let (volumes, copies) = (pool.look_at_disks()?, Copies::ids(&pool)?);
        let found = |health, reason: Option<&str>| PoolFinding {
            health,
            reason: reason.map(str::to_owned),
            space: Some(space),
            volumes: volumes.clone(),
            copies: copies.clone(),
        };
        if space.free.bytes() < FULL_BELOW_BYTES {
            let reason = "no space is left: delete what is not needed";
            return Ok(found(PoolHealth::Full, Some(reason)));
        }
        self.check_user(&pool)?;
        Ok(found(PoolHealth::Healthy, None))
    }

    /// The directory as a pool of disks, for those that are VMs' own.
    ///
    /// # Errors
    /// [`StorageError::PoolFault`] if it does not bear this pool's mark now.
    pub async fn inside(&self) -> Result<DirPool, StorageError> {
        let this = self.clone();
        blocking(move || this.enter()).await
    }

    /// A volume that was just made, or has grown.
    async fn placed(&self, volume: DiskInfo) -> Result<DiskInfo, StorageError> {
        if self.mirrored {
            let extended = volume.clone();
            blocking(move || mirrored::extend(&extended)).await?;
        }
        Ok(volume)
    }

    async fn there(&self, volume: Uuid) -> Result<DiskInfo, StorageError> {
        self.inside().await?.disk(volume).await?.ok_or(StorageError::DiskMissing { disk: volume })
    }
}

/// Opens a file with this user's rights. The rights are those of a thread, which ends with it.
fn open_as(uid: u32, path: PathBuf) -> io::Result<()> {
    let attempt = std::thread::spawn(move || {
        setfsgid(Gid::from_raw(uid));
        setfsuid(Uid::from_raw(uid));
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(path)
    });
    match attempt.join() {
        Ok(opened) => opened.map(drop),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[async_trait]
impl PoolDriver for MarkedDir {
    async fn open(&self) -> Result<(), StorageError> {
        let this = self.clone();
        blocking(move || this.make()).await
    }

    async fn join(&self) -> Result<(), StorageError> {
        let this = self.clone();
        blocking(move || {
            let entered = this.enter().map_err(|error| match error {
                StorageError::PoolFault { path, health, reason } => {
                    let reason =
                        format!("{reason}; the path has to lead to the same directory on all hosts of the pool");
                    StorageError::PoolFault { path, health, reason }
                }
                other => other,
            })?;
            this.check_writable()?;
            this.check_user(&entered)
        })
        .await
    }

    async fn close(&self) -> Result<(), StorageError> {
        let this = self.clone();
        blocking(move || {
            match this.mark() {
                Ok(Some(pool)) if pool == this.pool => {}
                Ok(_) => return Ok(()),
                Err(StorageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotADirectory => return Ok(()),
                Err(error) => return Err(error),
            }
            let count = this.enter()?.disk_count()?;
            if count > 0 {
                return Err(StorageError::PoolNotEmpty { path: this.path.clone(), count });
            }
            let failed = || StorageError::io("taking the mark off", &this.path);
            fs::remove_file(this.path.join(MARK)).map_err(failed())?;
            sync_dir(&this.path).map_err(failed())
        })
        .await
    }

    async fn examine(&self) -> PoolFinding {
        let this = self.clone();
        let found = blocking(move || this.look()).await;
        found.unwrap_or_else(|error| match error {
            StorageError::PoolFault { health, reason, .. } => PoolFinding::broken(health, reason),
            StorageError::NoSpace { .. } => PoolFinding::broken(PoolHealth::Full, error.to_string()),
            other => PoolFinding::broken(PoolHealth::Missing, crate::error::causes(&other)),
        })
    }

    async fn space(&self) -> Result<PoolSpace, StorageError> {
        let this = self.clone();
        blocking(move || space_of(&this.enter()?)).await
    }

    async fn create(&self, volume: &DiskSpec) -> Result<DiskInfo, StorageError> {
        let spec = DiskSpec { owner_uid: Some(volume.owner_uid.unwrap_or(WORKER_UID)), ..volume.clone() };
        self.placed(self.inside().await?.create_disk(&spec).await?).await
    }

    async fn find(&self, volume: Uuid) -> Result<Option<DiskInfo>, StorageError> {
        self.inside().await?.disk(volume).await
    }

    async fn grow(&self, volume: Uuid, size_bytes: u64) -> Result<DiskInfo, StorageError> {
        let found = self.there(volume).await?;
        if found.size_bytes < size_bytes {
            self.inside().await?.grow_disk(volume, size_bytes).await?;
        }
        self.placed(self.there(volume).await?).await
    }

    async fn give(&self, volume: Uuid, owner_uid: Option<u32>) -> Result<DiskInfo, StorageError> {
        let found = self.there(volume).await?;
        self.inside().await?.let_open(volume, DiskUsers::One(owner_uid.unwrap_or(WORKER_UID))).await?;
        Ok(found)
    }

    async fn share(&self, volume: Uuid, uid: u32) -> Result<(), StorageError> {
        self.inside().await?.let_open(volume, DiskUsers::AlsoGroup(uid)).await
    }

    async fn admit(&self, volume: Uuid, uid: u32) -> Result<Admission, StorageError> {
        let found = self.give(volume, Some(uid)).await?;
        let node = json!({"driver": "file", "filename": found.path.to_string_lossy()});
        Ok(Admission { node, owner: uid, verifier: None })
    }

    async fn settle(&self, volume: Uuid, _: Admission) -> Result<(), StorageError> {
        let path = self.there(volume).await?.path;
        blocking(move || {
            let synced = File::open(&path).and_then(|file| file.sync_all());
            synced.map_err(StorageError::io("writing disk", &path))
        })
        .await
    }

    async fn copy_to(&self, volume: Uuid, other: &dyn PoolDriver, copy: Uuid) -> Result<(), StorageError> {
        let from = self.there(volume).await?;
        let to = expect_fits(&from, other.find(copy).await?, copy)?;
        let owner = fs::metadata(&from.path).map_err(StorageError::io("copying disk", &from.path))?.uid();
        let admission = other.admit(copy, owner).await?;
        if let DiskLocation::File(there) = other.location(copy)
            && from.size_bytes == to.size_bytes
            && blocking(move || share_data(&from.path, &there)).await?
        {
            return Ok(());
        }
        self.inside().await?.copy_disk(volume, &admission.target()).await?;
        other.settle(copy, admission).await
    }

    async fn fill(&self, volume: Uuid, image: &Path) -> Result<(), StorageError> {
        self.inside().await?.fill_disk(volume, image).await
    }

    async fn export(&self, volume: Uuid, format: ImageFormat) -> Result<ExportedDisk, StorageError> {
        self.inside().await?.export_disk(volume, format).await
    }

    async fn serve(&self, volume: Uuid, socket: &Path, mode: ServeMode) -> Result<DiskServer, StorageError> {
        self.inside().await?.serve_disk(volume, socket, mode).await
    }

    async fn snapshots(&self, volume: Uuid) -> Result<Vec<InternalSnapshot>, StorageError> {
        self.inside().await?.disk_snapshots(volume).await
    }

    async fn create_snapshot(&self, volume: Uuid, name: &str) -> Result<(), StorageError> {
        self.inside().await?.create_disk_snapshot(volume, name).await
    }

    async fn apply_snapshot(&self, volume: Uuid, name: &str) -> Result<(), StorageError> {
        self.inside().await?.apply_disk_snapshot(volume, name).await
    }

    async fn delete_snapshot(&self, volume: Uuid, name: &str) -> Result<(), StorageError> {
        self.inside().await?.delete_disk_snapshot(volume, name).await
    }

    async fn delete(&self, volume: Uuid) -> Result<(), StorageError> {
        self.inside().await?.delete_disk(volume).await
    }

    fn location(&self, volume: Uuid) -> DiskLocation {
        let path = disk_below(&self.path, volume);
        if self.mirrored { mirrored::location(volume, &path) } else { DiskLocation::File(path) }
    }
}

fn space_of(pool: &DirPool) -> Result<PoolSpace, StorageError> {
    let found = pool.capacity()?;
    Ok(PoolSpace { capacity: ByteSize(found.capacity_bytes), free: ByteSize(found.free_bytes) })
}

/// Makes one file the same as another by sharing its data; `false` where the file system can't.
fn share_data(from: &Path, to: &Path) -> Result<bool, StorageError> {
    let shared = File::open(from).and_then(|from| {
        let to = OpenOptions::new().write(true).open(to)?;
        rustix::fs::ioctl_ficlone(&to, &from)?;
        to.sync_all()
    });
    match shared {
        Ok(()) => Ok(true),
        // Not this file system, not between two, not this kind of file.
        Err(error)
            if matches!(
                Errno::from_io_error(&error),
                Some(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY)
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(StorageError::io("copying disk", to)(error)),
    }
}

fn disk_below(pool: &Path, volume: Uuid) -> PathBuf {
    crate::disk::path_in(&pool.join("disks"), volume)
}
