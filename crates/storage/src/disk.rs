//! VM disks in a directory pool: thin overlays of cached images, or blank ones.
//!
//! ```text
//! <pool>/disks/<uuid>.qcow2   owned by the VM's uid, 0600; 0660 and of a second VM's group while it moves
//! <pool>/disks/<uuid>.lease   see the lease module
//! ```
//!
//! The header of a disk is written by QEMU under the VM's uid, so it is not trusted: sizes and
//! backing names are read with the probe's parser, and only a backing name that is exactly an
//! image of this pool counts as one. `qemu-img` is run on an existing disk with its owner's rights only, see the
//! snapshots' module.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use crate::blocking::blocking;
use crate::digest::Sha256Digest;
use crate::disk_transfer::{STAGED, StagedDisk};
use crate::error::StorageError;
use crate::image_store::{ImageStore, StoredImage};
use crate::lease::Leases;
use crate::probe;
use crate::qemu_img::{Run, RunLimits, WORKER_UID};
use crate::staging::{StagingArea, StagingDir, create_passable_dir, sync_dir};

const NEW: &str = "new.qcow2";
const DISK_FILE_MODE: u32 = 0o600;
const SHARED_FILE_MODE: u32 = 0o660;
const MAX_DISK_BYTES: u64 = 64 << 40;
/// An empty 64 TiB qcow2 has 1 MiB of tables.
const CREATE_LIMITS: RunLimits = RunLimits {
    address_space_bytes: 4 << 30,
    cpu_seconds: 60,
    file_bytes: 64 << 20,
    wall_clock: Duration::from_secs(120),
};

/// A header is rewritten in a file of any size.
const REBASE_LIMITS: RunLimits = RunLimits { file_bytes: u64::MAX, ..CREATE_LIMITS };

/// A disk to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    pub disk: Uuid,
    /// In whole sectors of 512 bytes, not smaller than the image.
    pub size_bytes: u64,
    /// The cached image it starts as; blank without.
    pub image: Option<Sha256Digest>,
    /// Who opens it: the uid (and gid) the VM's QEMU runs under. Kept as is if absent.
    pub owner_uid: Option<u32>,
}

/// A disk that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskInfo {
    pub disk: Uuid,
    pub path: PathBuf,
    pub size_bytes: u64,
    /// Space it takes in the pool, without its image.
    pub allocated_bytes: u64,
    pub image: Option<Sha256Digest>,
}

#[derive(Debug, Clone)]
pub(crate) struct DiskDirectory {
    directory: PathBuf,
}

enum Prepared {
    /// It is there as wanted.
    Present(DiskInfo),
    /// An empty file is ready to become it.
    Absent { base: Option<StoredImage>, staging: StagingDir, file: File },
}

impl DiskDirectory {
    pub(crate) fn open(directory: PathBuf) -> Result<Self, StorageError> {
        create_passable_dir(&directory).map_err(StorageError::io("opening the pool", &directory))?;
        Ok(Self { directory })
    }

    pub(crate) fn leases(&self) -> Leases {
        Leases::of(self.directory.clone())
    }

    pub(crate) fn disk_path(&self, disk: Uuid) -> PathBuf {
        path_in(&self.directory, disk)
    }

    /// Makes the disk, or finds that it is there as wanted. The caller keeps the image in place.
    pub(crate) async fn create(&self, images: &ImageStore, spec: &DiskSpec) -> Result<DiskInfo, StorageError> {
        let path = self.disk_path(spec.disk);
        let (disks, store, wanted) = (self.clone(), images.clone(), spec.clone());
        let (base, staging, file) = match blocking(move || disks.prepare(&store, &wanted)).await? {
            Prepared::Present(disk) => return Ok(disk),
            Prepared::Absent { base, staging, file } => (base, staging, file),
        };
        let below = base.as_ref().and_then(|image| image.path.to_str());
        fill_empty(&staging, NEW, below, spec.size_bytes, &path).await?;

        let (disks, store, wanted) = (self.clone(), images.clone(), spec.clone());
        blocking(move || disks.finish(&store, &wanted, &staging, NEW, &file)).await
    }

    /// See [`crate::DirPool::adopt_disk`].
    pub(crate) async fn adopt_arrived(
        &self,
        images: &ImageStore,
        spec: &DiskSpec,
        arrived: StagedDisk,
    ) -> Result<DiskInfo, StorageError> {
        let path = self.disk_path(spec.disk);
        let StagedDisk { staging, file } = arrived;
        let below = match spec.image {
            Some(image) => Some(images.find(image)?.ok_or(StorageError::ImageMissing { image })?.path),
            None => None,
        };
        lay_over(spec, &staging, &file, below.as_ref().map(|path| path.as_os_str()), &path).await?;
        let (disks, store, wanted) = (self.clone(), images.clone(), spec.clone());
        let found = blocking(move || disks.finish(&store, &wanted, &staging, STAGED, &file)).await?;
        self.adopt(spec, found)
    }

    fn prepare(&self, images: &ImageStore, spec: &DiskSpec) -> Result<Prepared, StorageError> {
        let base = match spec.image {
            Some(image) => Some(images.find(image)?.ok_or(StorageError::ImageMissing { image })?),
            None => None,
        };
        check_size(spec, base.as_ref().map(|image| (image.sha256, image.virtual_size_bytes)))?;
        if let Some(found) = self.find(images, spec.disk)? {
            return self.adopt(spec, found).map(Prepared::Present);
        }
        let path = self.disk_path(spec.disk);
        let failed = || StorageError::io("creating disk", &path);
        let (staging, file) = stage_empty(images.staging(), NEW).map_err(failed())?;
        Ok(Prepared::Absent { base, staging, file })
    }

    fn finish(
        &self,
        images: &ImageStore,
        spec: &DiskSpec,
        staging: &StagingDir,
        name: &str,
        file: &File,
    ) -> Result<DiskInfo, StorageError> {
        let path = self.disk_path(spec.disk);
        let failed = || StorageError::io("creating disk", &path);
        let owner = spec.owner_uid.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        fchown(file, Some(owner), Some(owner)).map_err(failed())?;
        file.set_permissions(Permissions::from_mode(DISK_FILE_MODE)).map_err(failed())?;
        let published = staging.publish(file, name, &path);
        let raced = matches!(&published, Err(error) if error.kind() == io::ErrorKind::AlreadyExists);
        if !raced {
            published.map_err(failed())?;
        }
        let found = self.find(images, spec.disk)?.ok_or(StorageError::DiskMissing { disk: spec.disk })?;
        // Another process was faster: its disk counts, if it is the one that is wanted.
        if raced { self.adopt(spec, found) } else { Ok(found) }
    }

    fn adopt(&self, spec: &DiskSpec, found: DiskInfo) -> Result<DiskInfo, StorageError> {
        expect_same(spec, &found)?;
        if let Some(owner) = spec.owner_uid {
            let failed = StorageError::io("giving away disk", &found.path);
            set_users(&found.path, DiskUsers::One(owner)).map_err(failed)?;
        }
        Ok(found)
    }

    pub(crate) fn find(&self, images: &ImageStore, disk: Uuid) -> Result<Option<DiskInfo>, StorageError> {
        let path = self.disk_path(disk);
        let failed = || StorageError::io("reading disk", &path);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed()(error)),
        };
        let allocated_bytes = file.metadata().map_err(failed())?.blocks() * 512;
        let header = probe::qcow2_header(&file).map_err(|reason| StorageError::DiskDamaged { disk, reason })?;
        let image = header.backing_file.and_then(|name| image_named(images, &name));
        Ok(Some(DiskInfo { disk, path, size_bytes: header.virtual_size_bytes, allocated_bytes, image }))
    }

    /// The ids of all disks, damaged ones included.
    pub(crate) fn ids(&self) -> Result<Vec<Uuid>, StorageError> {
        let failed = || StorageError::io("listing", &self.directory);
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".qcow2"));
            ids.extend(id.and_then(|id| Uuid::try_parse(id).ok()));
        }
        ids.sort();
        Ok(ids)
    }

    pub(crate) fn remove(&self, disk: Uuid) -> Result<(), StorageError> {
        let path = self.disk_path(disk);
        match fs::remove_file(&path).and_then(|()| sync_dir(&self.directory)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StorageError::io("deleting disk", &path)(error))
            }
            _ => self.leases().remove(disk),
        }
    }
}

/// Gives a disk that has arrived, and is as wanted, this pool's image below it. `path` is where it goes.
pub(crate) async fn lay_over(
    spec: &DiskSpec,
    staging: &StagingDir,
    file: &File,
    below: Option<&OsStr>,
    path: &Path,
) -> Result<(), StorageError> {
    let header = probe::qcow2_header(file).map_err(|reason| StorageError::DiskDamaged { disk: spec.disk, reason })?;
    let has_image = header.backing_file.is_some();
    if header.has_data_file() || (header.virtual_size_bytes, has_image) != (spec.size_bytes, spec.image.is_some()) {
        let found = format!("{} bytes over {} image", header.virtual_size_bytes, if has_image { "an" } else { "no" });
        let wanted = describe(spec.size_bytes, spec.image);
        return Err(StorageError::DiskConflict { disk: spec.disk, found, wanted });
    }
    let Some(below) = below else { return Ok(()) };
    let doing = "receiving disk";
    if rustix::process::geteuid().is_root() {
        fchown(file, Some(WORKER_UID), Some(WORKER_UID)).map_err(StorageError::io(doing, path))?;
    }
    // -u: only the name is changed. The image has the same content here, and is not opened.
    let mut arguments: Vec<_> = ["rebase", "-u", "-q", "-f", "qcow2", "-F", "qcow2", "-b"].map(OsStr::new).into();
    arguments.extend([below, OsStr::new(STAGED)]);
    let run = Run { staging, uid: WORKER_UID, limits: REBASE_LIMITS, doing, object: path };
    run.expect_success(&arguments, |_| {}).await
}

/// A place with an empty file that `qemu-img` may write to.
pub(crate) fn stage_empty(area: &StagingArea, name: &str) -> io::Result<(StagingDir, File)> {
    let staging = area.create()?;
    let file = staging.create_file(name)?;
    if rustix::process::geteuid().is_root() {
        fchown(&file, Some(WORKER_UID), Some(WORKER_UID))?;
    }
    Ok((staging, file))
}

/// The disk that is there is the one that is wanted.
pub(crate) fn expect_same(wanted: &DiskSpec, found: &DiskInfo) -> Result<(), StorageError> {
    if (found.size_bytes, found.image) == (wanted.size_bytes, wanted.image) {
        return Ok(());
    }
    Err(StorageError::DiskConflict {
        disk: wanted.disk,
        found: describe(found.size_bytes, found.image),
        wanted: describe(wanted.size_bytes, wanted.image),
    })
}

/// What is to be the copy is there and not smaller.
pub(crate) fn expect_fits(from: &DiskInfo, to: Option<DiskInfo>, copy: Uuid) -> Result<DiskInfo, StorageError> {
    let to = to.ok_or(StorageError::DiskMissing { disk: copy })?;
    if from.size_bytes <= to.size_bytes {
        return Ok(to);
    }
    Err(StorageError::DiskConflict {
        disk: copy,
        found: format!("{} bytes", to.size_bytes),
        wanted: format!("{} bytes or more", from.size_bytes),
    })
}

/// Makes a file of a staging directory an empty disk over the image of this name. `disk` is what it is about.
pub(crate) async fn fill_empty(
    staging: &StagingDir,
    name: &str,
    below: Option<&str>,
    size_bytes: u64,
    disk: &Path,
) -> Result<(), StorageError> {
    let size = size_bytes.to_string();
    let mut arguments = vec!["create", "-q", "-f", "qcow2", "-o", "compat=1.1"];
    if let Some(below) = below {
        // -u: the image was verified when it arrived and is not opened again.
        arguments.extend(["-u", "-F", "qcow2", "-b", below]);
    }
    arguments.extend([name, size.as_str()]);
    let arguments: Vec<_> = arguments.iter().map(AsRef::as_ref).collect();
    let run = Run { staging, uid: WORKER_UID, limits: CREATE_LIMITS, doing: "creating disk", object: disk };
    run.expect_success(&arguments, |_| {}).await
}

pub(crate) fn path_in(directory: &Path, disk: Uuid) -> PathBuf {
    directory.join(format!("{}.qcow2", disk.as_hyphenated()))
}

/// Who may open a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskUsers {
    /// This user and no other.
    One(u32),
    /// Besides the one whose it is, this user: his QEMU opens it while the other still has it.
    AlsoGroup(u32),
}

pub(crate) fn set_users(path: &Path, users: DiskUsers) -> io::Result<()> {
    let file = File::open(path)?;
    let (owner, group, mode) = match users {
        DiskUsers::One(uid) => (Some(uid), uid, DISK_FILE_MODE),
        DiskUsers::AlsoGroup(gid) => (None, gid, SHARED_FILE_MODE),
    };
    // Nobody may get in between: fewer rights first.
    file.set_permissions(Permissions::from_mode(DISK_FILE_MODE))?;
    fchown(&file, owner, Some(group))?;
    if mode != DISK_FILE_MODE {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    Ok(())
}

pub(crate) fn check_size(spec: &DiskSpec, base: Option<(Sha256Digest, u64)>) -> Result<(), StorageError> {
    let reason = match base {
        _ if spec.size_bytes == 0 || spec.size_bytes > MAX_DISK_BYTES => {
            format!("give 1 to {MAX_DISK_BYTES} bytes")
        }
        _ if !spec.size_bytes.is_multiple_of(512) => "give a multiple of 512".to_owned(),
        Some((image, bytes)) if spec.size_bytes < bytes => {
            format!("image {image} has {bytes} bytes already, give at least that")
        }
        _ => return Ok(()),
    };
    Err(StorageError::DiskSize { disk: spec.disk, size_bytes: spec.size_bytes, reason })
}

fn image_named(images: &ImageStore, name: &[u8]) -> Option<Sha256Digest> {
    let path = Path::new(std::str::from_utf8(name).ok()?);
    let digest = path.file_stem()?.to_str()?.parse().ok()?;
    (images.image_path(digest) == path).then_some(digest)
}

fn describe(size_bytes: u64, image: Option<Sha256Digest>) -> String {
    match image {
        Some(image) => format!("{size_bytes} bytes over image {image}"),
        None => format!("{size_bytes} bytes and no image"),
    }
}
