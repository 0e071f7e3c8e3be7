//! Volumes from images, and as files of formats that others read.
//!
//! ```text
//!  image (verified, standalone) ── convert ──▶ volume         [`DirPool::fill_disk`]
//!  disk ── convert, with its owner's rights ──▶ staged file ──▶ whoever reads it        [`DirPool::export_disk`]
//! ```
//! Most formats have tables that are only complete at the end, so an export is a whole file before its first byte is sent.
//! It lies in a staging directory of the pool, and is gone when it was read, or nobody reads it any more.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_types::ImageFormat;
use uuid::Uuid;

use crate::blocking::blocking;
use crate::disk::DiskInfo;
use crate::disk_snapshot::OWNER_LIMITS;
use crate::error::StorageError;
use crate::pool::DirPool;
use crate::probe::qemu_name;
use crate::qemu_img::Run;
use crate::staging::StagingDir;

/// How `qemu-img convert` writes to a disk that is there.
pub(crate) const OVERWRITING: &[&str] = &["-n", "-q", "-t", "writeback", "-O", "qcow2"];
const STAGED: &str = "export";
const EXPORTING: &str = "exporting disk";
const PART_BYTES: usize = 256 << 10;

/// A disk as a file of another format, read once from its beginning to its end.
#[derive(Debug)]
pub struct ExportedDisk {
    file: Arc<File>,
    bytes: u64,
    offset: u64,
    /// Gone with it.
    _staging: StagingDir,
}

impl ExportedDisk {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next part; empty at the end.
    pub async fn next(&mut self) -> io::Result<Vec<u8>> {
        let (file, offset) = (Arc::clone(&self.file), self.offset);
        let length = (self.bytes - offset).min(PART_BYTES as u64) as usize;
        let part = blocking(move || {
            let mut part = vec![0; length];
            file.read_exact_at(&mut part, offset).map(|()| part)
        });
        let part = part.await?;
        self.offset += part.len() as u64;
        Ok(part)
    }
}

impl DirPool {
    /// Writes an image's content to a disk that is there and not smaller; done again, it is the same. No QEMU may have the
    /// disk open.
    pub async fn fill_disk(&self, disk: Uuid, image: &Path) -> Result<(), StorageError> {
        let path = self.disk_path(disk);
        let failed = || StorageError::io("filling disk", &path);
        let owner = std::fs::metadata(&path).map_err(failed())?.uid();
        let staging = self.staging().create().map_err(failed())?;
        let source = image_source(image);
        let arguments = [&["convert"][..], OVERWRITING, &[&source]].concat();
        let mut arguments: Vec<_> = arguments.into_iter().map(OsStr::new).collect();
        arguments.push(path.as_os_str());
        let run = Run { staging: &staging, uid: owner, limits: OWNER_LIMITS, doing: "filling disk", object: &path };
        run.expect_success(&arguments, |_| {}).await?;
        let filled = path.clone();
        let synced = blocking(move || File::open(&filled).and_then(|file| file.sync_all())).await;
        synced.map_err(failed())
    }

    /// The disk as a file of this format. No QEMU may have it open for writing.
    ///
    /// # Errors
    /// [`StorageError::DiskMissing`], [`StorageError::DiskBusy`]; [`StorageError::NoSpace`] if the pool has no room for the
    /// file beside the disk.
    pub async fn export_disk(&self, disk: Uuid, format: ImageFormat) -> Result<ExportedDisk, StorageError> {
        let found = self.disk(disk).await?.ok_or(StorageError::DiskMissing { disk })?;
        let owner = std::fs::metadata(&found.path).map_err(StorageError::io(EXPORTING, &found.path))?.uid();
        let staged = stage_export(self, &found, owner)?;
        let target = staged.path();
        let target = target.to_string_lossy();
        self.run_as_owner(disk, None, &["convert", "-q", "-O", qemu_name(format)], &[&target], EXPORTING).await?;
        staged.finish(&found)
    }
}

/// A verified, standalone image, as an argument of `qemu-img`.
pub(crate) fn image_source(image: &Path) -> String {
    let source = serde_json::json!({
        "driver": "qcow2", "backing": null, "read-only": true,
        "file": {"driver": "file", "filename": image.to_string_lossy(), "read-only": true},
    });
    format!("json:{source}")
}

/// A file that is to become an export.
pub(crate) struct StagedExport {
    staging: StagingDir,
    file: File,
}

/// Makes one in this pool, which this user may write to.
pub(crate) fn stage_export(pool: &DirPool, disk: &DiskInfo, uid: u32) -> Result<StagedExport, StorageError> {
    let failed = || StorageError::io(EXPORTING, &disk.path);
    if pool.capacity()?.free_bytes < disk.allocated_bytes {
        return Err(failed()(io::ErrorKind::StorageFull.into()));
    }
    let staging = pool.staging().create().map_err(failed())?;
    let file = staging.create_file(STAGED).map_err(failed())?;
    if rustix::process::geteuid().is_root() {
        fchown(&file, Some(uid), Some(uid)).map_err(failed())?;
    }
    file.set_permissions(Permissions::from_mode(0o600)).map_err(failed())?;
    Ok(StagedExport { staging, file })
}

impl StagedExport {
    pub(crate) fn path(&self) -> PathBuf {
        self.staging.file_path(STAGED)
    }

    /// It is written.
    pub(crate) fn finish(self, disk: &DiskInfo) -> Result<ExportedDisk, StorageError> {
        let bytes = self.file.metadata().map_err(StorageError::io(EXPORTING, &disk.path))?.len();
        Ok(ExportedDisk { file: Arc::new(self.file), bytes, offset: 0, _staging: self.staging })
    }
}
