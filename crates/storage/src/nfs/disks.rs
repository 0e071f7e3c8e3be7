//! VMs' own disks in an export, as one host sees them for one VM at an epoch.
//!
//! They lie over an image that is in the export, too, and that QEMU and `qemu-img` are told of: what a disk's header names is
//! only compared. Whose a disk is, and what keeps everybody else out, is the affair of [`leases`].
//!
//! A `qemu-img` that writes gets a user of its own, as with volumes, and only on a disk that is this host's by its last
//! lease: looked at after the disk was given to that user, because a host that claims it meanwhile gives it away again.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use async_trait::async_trait;
use gantry_types::{DiskLocation, PoolSpace};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::content::RemoteDisk;
use super::leases::{self, LeaseError, NfsLease};
use super::session::{Handle, LOST, Session};
use super::{Found, HEADER_BYTES, NfsPool, ROOT, Start, file_of, fresh_user, volume_in};
use crate::blocking::blocking;
use crate::digest::Sha256Digest;
use crate::disk::{self, DiskInfo, DiskSpec};
use crate::disk_server::{DiskServer, ServeMode};
use crate::disk_transfer::{DiskFile, StagedDisk};
use crate::error::StorageError;
use crate::exchange::OVERWRITING;
use crate::lease::{Claim, DiskHold, Judgement, Lease, judge};
use crate::pool::DirPool;
use crate::probe::{self, InternalSnapshot};
use crate::qemu_img::WORKER_UID;
use crate::vm_disks::{Claiming, VmDisks};

/// Own disks in an export.
#[derive(Debug, Clone)]
pub struct NfsDisks {
    pool: NfsPool,
    claim: Claim,
}

fn image_file(image: Sha256Digest) -> String {
    format!("{image}.qcow2")
}

/// The image that is in a file of this name.
pub(super) fn image_in(name: &str) -> Option<Sha256Digest> {
    name.strip_suffix(".qcow2")?.parse().ok()
}

impl NfsPool {
    fn image_location(&self, image: Sha256Digest) -> DiskLocation {
        DiskLocation::Nfs { export: self.export.clone(), file: image_file(image), user: None }
    }

    /// The image of this pool that a disk's header names.
    pub(super) fn image_named(&self, name: &[u8]) -> Option<Sha256Digest> {
        let name = std::str::from_utf8(name).ok()?;
        let image = image_in(name.rsplit('/').next()?)?;
        (self.image_location(image).to_string() == name).then_some(image)
    }

    /// What `qemu-img` is told of the image below a disk: how to open it, and where it is by the name in the disk's header, which
    /// was compared. It can't be told both (QEMU, block.c, `bdrv_open_backing_file`).
    fn below(image: Option<Sha256Digest>) -> Value {
        image.map_or(Value::Null, |_| json!({"driver": "qcow2", "read-only": true, "backing": null}))
    }
}

impl NfsDisks {
    pub fn new(pool: NfsPool, claim: Claim) -> Self {
        Self { pool, claim }
    }

    fn failed(&self, doing: &'static str, disk: Uuid) -> impl FnOnce(io::Error) -> StorageError + use<> {
        StorageError::io(doing, &self.pool.volume_path(disk))
    }

    fn lease_failed(&self, disk: Uuid, error: LeaseError) -> StorageError {
        match error {
            LeaseError::Io(error) => self.failed("reading the lease of disk", disk)(error),
            LeaseError::Damaged { name, reason } => {
                let path = format!("{}/{name}", self.pool.export).into();
                StorageError::LeaseDamaged { disk, path, reason }
            }
        }
    }

    async fn last(&self, session: &mut Session, disk: Uuid) -> Result<Option<NfsLease>, StorageError> {
        leases::read(session, disk).await.map_err(|error| self.lease_failed(disk, error))
    }

    /// The last lease, whose user has the disk now.
    async fn settle(
        &self,
        session: &mut Session,
        disk: Uuid,
        file: &Handle,
        alone: bool,
    ) -> Result<Option<NfsLease>, StorageError> {
        leases::settle(session, disk, file, alone).await.map_err(|error| self.lease_failed(disk, error))
    }

    fn is_ours(&self, lease: Option<&NfsLease>) -> bool {
        lease.is_some_and(|lease| lease.host == self.claim.host && lease.epoch <= self.claim.epoch)
    }

    /// What is refused to this host.
    fn elsewhere(&self, disk: Uuid, lease: Option<NfsLease>) -> StorageError {
        match lease {
            Some(NfsLease { host, epoch, .. }) => StorageError::DiskElsewhere { disk, host, epoch },
            None => StorageError::DiskMissing { disk },
        }
    }

    async fn file(&self, session: &mut Session, disk: Uuid) -> Result<Handle, StorageError> {
        let found = session.find(&file_of(disk)).await.map_err(self.failed("reading disk", disk))?;
        found.map(|(file, _)| file).ok_or(StorageError::DiskMissing { disk })
    }

    /// The name that a disk's header gets for its image, which has to be here and fit below it.
    async fn name_below(&self, session: &mut Session, spec: &DiskSpec) -> Result<Option<String>, StorageError> {
        let Some(image) = spec.image else { return disk::check_size(spec, None).map(|()| None) };
        let found = session.find(&image_file(image)).await.map_err(self.pool.failed("looking for an image in"))?;
        let (file, attributes) = found.ok_or(StorageError::ImageMissing { image })?;
        let start = session.read(&file, HEADER_BYTES).await.map_err(self.pool.failed("reading an image in"))?;
        let name = self.pool.image_location(image).to_string();
        let header = probe::qcow2_header(&Start { bytes: start, size_bytes: attributes.size });
        let header = header.map_err(|reason| StorageError::Refused { path: name.clone().into(), reason })?;
        disk::check_size(spec, Some((image, header.virtual_size_bytes)))?;
        Ok(Some(name))
    }

    /// Has `qemu-img` write to a disk of this host's.
    async fn write(&self, disk: Uuid, arguments: [&str; 3], doing: &'static str) -> Result<(), StorageError> {
        let mut session = self.pool.enter().await?;
        let found = self.pool.there(&mut session, disk).await?;
        let failed = || StorageError::io(doing, &found.info.path);
        let before = self.last(&mut session, disk).await?;
        if !self.is_ours(before.as_ref()) {
            return Err(self.elsewhere(disk, before));
        }
        let user = fresh_user();
        session.give(&found.file, user).await.map_err(failed())?;
        let verifier = session.commit(&found.file).await.map_err(failed())?;
        let now = self.last(&mut session, disk).await?;
        if now != before {
            let now = self.settle(&mut session, disk, &found.file, true).await?;
            return Err(self.elsewhere(disk, now));
        }
        let node = json!({"driver": "qcow2", "backing": null, "file": self.pool.node_for(disk, user)});
        let node = format!("json:{node}");
        let arguments: Vec<_> = arguments.into_iter().chain([&*node]).collect();
        let done = self.pool.run_qemu_img(WORKER_UID, &arguments, doing, &found.info.path).await;
        let mut session = self.pool.enter().await?;
        let kept = session.commit(&found.file).await.map_err(failed())?;
        self.settle(&mut session, disk, &found.file, true).await?;
        done?;
        // `qemu-img` does not write again what was lost.
        if kept == verifier { Ok(()) } else { Err(failed()(io::Error::other(LOST))) }
    }

    /// The disk over its image, opened as the user that has it.
    fn source(&self, found: &Found, read_only: bool) -> Value {
        let file = self.pool.node_for(found.info.disk, found.owner);
        json!({
            "driver": "qcow2", "read-only": read_only, "backing": NfsPool::below(found.info.image), "file": file,
        })
    }

    async fn write_lease(
        &self,
        session: &mut Session,
        disk: Uuid,
        lease: &NfsLease,
        before: Option<&NfsLease>,
    ) -> Result<(), StorageError> {
        match leases::append(session, disk, lease).await {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let holder = before.map(|before| before.host.clone());
                Err(StorageError::DiskInUse { disk, holder })
            }
            done => done.map_err(self.failed("writing the lease of disk", disk)),
        }
    }
}

#[async_trait]
impl VmDisks for NfsDisks {
    fn place(&self) -> String {
        self.pool.export.to_string()
    }

    async fn space(&self) -> Result<PoolSpace, StorageError> {
        self.pool.enter().await?.space().await.map_err(self.pool.failed("measuring"))
    }

    fn scratch(&self) -> &DirPool {
        &self.pool.scratch
    }

    async fn image_location(&self, image: Sha256Digest) -> Result<Option<DiskLocation>, StorageError> {
        let found = self.pool.enter().await?.find(&image_file(image)).await;
        let found = found.map_err(self.pool.failed("looking for an image in"))?;
        Ok(found.map(|_| self.pool.image_location(image)))
    }

    async fn add_image(&self, image: Sha256Digest, file: &Path) -> Result<(), StorageError> {
        let path = file.to_owned();
        let content = blocking(move || DiskFile::open(&path)).await?;
        let mut session = self.pool.enter().await?;
        match session.store(&image_file(image), &content, ROOT, true).await {
            // Another host was faster with the same content.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            done => done.map_err(self.pool.failed("storing an image in")),
        }
    }

    async fn remove_image(&self, image: Sha256Digest) -> Result<(), StorageError> {
        let mut session = self.pool.enter().await?;
        let entries = session.list().await.map_err(self.pool.failed("listing"))?;
        if !entries.iter().any(|entry| entry.name == image_file(image)) {
            return Ok(());
        }
        for disk in entries.iter().filter_map(|entry| volume_in(&entry.name)) {
            let found = match self.pool.find_in(&mut session, disk).await {
                Err(StorageError::DiskDamaged { .. }) => None,
                found => found?,
            };
            if found.is_some_and(|found| found.info.image == Some(image)) {
                return Err(StorageError::ImageInUse { image, disk });
            }
        }
        session.remove(&image_file(image)).await.map_err(self.pool.failed("removing an image from"))
    }

    async fn has_disk(&self, disk: Uuid) -> Result<bool, StorageError> {
        let found = self.pool.enter().await?.find(&file_of(disk)).await;
        Ok(found.map_err(self.failed("looking for disk", disk))?.is_some())
    }

    async fn disk(&self, disk: Uuid) -> Result<Option<DiskInfo>, StorageError> {
        let mut session = self.pool.enter().await?;
        Ok(self.pool.find_in(&mut session, disk).await?.map(|found| found.info))
    }

    /// It is nobody's until it is claimed.
    async fn create_disk(&self, spec: &DiskSpec) -> Result<DiskInfo, StorageError> {
        let mut session = self.pool.enter().await?;
        let below = self.name_below(&mut session, spec).await?;
        Ok(self.pool.make(&mut session, spec, below.as_deref(), ROOT).await?.info)
    }

    async fn delete_disk(&self, disk: Uuid) -> Result<(), StorageError> {
        let mut session = self.pool.enter().await?;
        session.remove(&file_of(disk)).await.map_err(self.failed("deleting disk", disk))?;
        leases::remove_all(&mut session, disk).await.map_err(self.failed("deleting the lease of disk", disk))
    }

    async fn location(&self, disk: Uuid) -> Result<DiskLocation, StorageError> {
        let mut session = self.pool.enter().await?;
        let last = self.last(&mut session, disk).await?;
        let user = match &last {
            Some(lease) if self.is_ours(Some(lease)) => lease.user,
            last => leases::arriving_user(disk, &self.claim, last.as_ref()),
        };
        Ok(DiskLocation::Nfs { export: self.pool.export.clone(), file: file_of(disk), user: Some(user) })
    }

    async fn lease(&self, disk: Uuid) -> Result<Option<Lease>, StorageError> {
        let mut session = self.pool.enter().await?;
        Ok(self.last(&mut session, disk).await?.map(|lease| lease.lease()))
    }

    async fn claim_disk(&self, disk: Uuid, claiming: Claiming) -> Result<DiskHold, StorageError> {
        let mut session = self.pool.enter().await?;
        let file = self.file(&mut session, disk).await?;
        let before = self.last(&mut session, disk).await?;
        let judgement = judge(before.as_ref().map(NfsLease::lease).as_ref(), &self.claim);
        if judgement == Judgement::Refuse {
            return Err(self.elsewhere(disk, before));
        }
        // What runs here already goes on as whom it is; one that is started is somebody new.
        let known = before.as_ref().filter(|_| judgement != Judgement::Overtake && claiming != Claiming::Start);
        let wanted = NfsLease {
            host: self.claim.host.clone(),
            epoch: self.claim.epoch,
            generation: before.as_ref().map_or(0, |before| before.generation) + 1,
            user: match (known, claiming) {
                (Some(known), _) => known.user,
                (None, Claiming::Arrived) => leases::arriving_user(disk, &self.claim, before.as_ref()),
                (None, Claiming::Start | Claiming::Keep) => fresh_user(),
            },
        };
        let is_known = known.is_some();
        let stands = judgement == Judgement::Keep && is_known;
        let ours = match before {
            Some(before) if stands => before,
            before => {
                self.write_lease(&mut session, disk, &wanted, before.as_ref()).await?;
                wanted
            }
        };
        // Whoever has claimed it since has it.
        let last = self.settle(&mut session, disk, &file, !is_known).await?;
        if last.as_ref() != Some(&ours) {
            return Err(self.elsewhere(disk, last));
        }
        let removed = leases::remove_before(&mut session, disk, ours.generation).await;
        removed.map_err(self.failed("removing the former lease of disk", disk))?;
        Ok(DiskHold { lease: ours.lease(), _disk: None })
    }

    async fn share_disk(&self, disk: Uuid, _: u32) -> Result<(), StorageError> {
        let mut session = self.pool.enter().await?;
        let file = self.file(&mut session, disk).await?;
        let last = self.last(&mut session, disk).await?;
        let user = leases::arriving_user(disk, &self.claim, last.as_ref());
        session.share(&file, user).await.map_err(self.failed("giving away disk", disk))
    }

    async fn unshare_disk(&self, disk: Uuid, _: u32) -> Result<(), StorageError> {
        let mut session = self.pool.enter().await?;
        let file = self.file(&mut session, disk).await?;
        let last = self.settle(&mut session, disk, &file, true).await?;
        if self.is_ours(last.as_ref()) { Ok(()) } else { Err(self.elsewhere(disk, last)) }
    }

    async fn disk_snapshots(&self, disk: Uuid) -> Result<Vec<InternalSnapshot>, StorageError> {
        self.pool.snapshots_in(self.pool.enter().await?, disk).await
    }

    async fn create_disk_snapshot(&self, disk: Uuid, name: &str) -> Result<(), StorageError> {
        if self.pool.has_snapshot(disk, name).await? {
            return Ok(());
        }
        self.write(disk, ["snapshot", "-c", name], "taking a snapshot of disk").await
    }

    async fn apply_disk_snapshot(&self, disk: Uuid, name: &str) -> Result<(), StorageError> {
        if !self.pool.has_snapshot(disk, name).await? {
            return Err(StorageError::SnapshotMissing { disk, snapshot: name.to_owned() });
        }
        self.write(disk, ["snapshot", "-a", name], "going back to a snapshot of disk").await
    }

    async fn delete_disk_snapshot(&self, disk: Uuid, name: &str) -> Result<(), StorageError> {
        if !self.pool.has_snapshot(disk, name).await? {
            return Ok(());
        }
        self.write(disk, ["snapshot", "-d", name], "deleting a snapshot of disk").await
    }

    async fn read_disk(&self, disk: Uuid) -> Result<DiskFile, StorageError> {
        let mut session = self.pool.enter().await?;
        let file = self.file(&mut session, disk).await?;
        let attributes = session.attributes(&file).await.map_err(self.failed("reading disk", disk))?;
        let (session, length_bytes, allocated_bytes) = (Mutex::new(session), attributes.size, attributes.used);
        Ok(DiskFile::of(RemoteDisk { session, file, length_bytes, allocated_bytes }))
    }

    /// On this host: it is sent when it is whole.
    async fn stage_disk(&self) -> Result<StagedDisk, StorageError> {
        self.pool.scratch.stage_disk().await
    }

    async fn adopt_disk(&self, spec: &DiskSpec, arrived: StagedDisk) -> Result<DiskInfo, StorageError> {
        let path = self.pool.volume_path(spec.disk);
        let below = self.name_below(&mut self.pool.enter().await?, spec).await?;
        let StagedDisk { staging, file } = &arrived;
        disk::lay_over(spec, staging, file, below.as_deref().map(OsStr::new), &path).await?;
        let content = arrived.to_send().map_err(StorageError::io("receiving disk", &path))?;
        let mut session = self.pool.enter().await?;
        match session.store(&file_of(spec.disk), &content, ROOT, false).await {
            // The one that is there stays.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            done => done.map_err(StorageError::io("receiving disk", &path))?,
        }
        let found = self.pool.there(&mut session, spec.disk).await?;
        disk::expect_same(spec, &found.info)?;
        Ok(found.info)
    }

    async fn stage_copy(&self, disk: Uuid, uid: u32) -> Result<StagedDisk, StorageError> {
        let mut session = self.pool.enter().await?;
        let found = self.pool.there(&mut session, disk).await?;
        let below = found.info.image.map(|image| self.pool.image_location(image).to_string());
        self.pool.scratch.stage_copy_of(&found.info, below.as_deref(), uid).await
    }

    async fn fill_copy(&self, disk: Uuid, copy: &StagedDisk, snapshot: Option<&str>) -> Result<(), StorageError> {
        let found = self.pool.there(&mut self.pool.enter().await?, disk).await?;
        let path = copy.path();
        let uid = copy.file.metadata().map_err(StorageError::io("copying disk", &path))?.uid();
        let mut arguments = [&["convert"][..], OVERWRITING].concat();
        let state = snapshot.map(|name| format!("snapshot.name={name}"));
        if let Some(state) = &state {
            arguments.extend(["-l", state.as_str()]);
        }
        let below = found.info.image.map(|image| self.pool.image_location(image).to_string());
        if let Some(below) = &below {
            // What the disk does not have itself, the copy does not get either.
            arguments.extend(["-F", "qcow2", "-B", below.as_str()]);
        }
        let source = format!("json:{}", self.source(&found, true));
        let target = json!({
            "driver": "qcow2", "backing": NfsPool::below(found.info.image),
            "file": {"driver": "file", "filename": path.to_string_lossy()},
        });
        let target = format!("json:{target}");
        arguments.extend([source.as_str(), target.as_str()]);
        self.pool.run_qemu_img(uid, &arguments, "copying disk", &found.info.path).await
    }

    async fn serve_disk(&self, disk: Uuid, socket: &Path, mode: ServeMode) -> Result<DiskServer, StorageError> {
        let mut session = self.pool.enter().await?;
        let last = self.last(&mut session, disk).await?;
        if mode == ServeMode::Writable && !self.is_ours(last.as_ref()) {
            return Err(self.elsewhere(disk, last));
        }
        let found = self.pool.there(&mut session, disk).await?;
        let directory = socket.parent().unwrap_or(Path::new("/"));
        let uid = std::fs::metadata(directory).map_err(StorageError::io("serving disk", directory))?.uid();
        let source = self.source(&found, mode == ServeMode::ReadOnly);
        DiskServer::start(&found.info, source, uid, socket, mode).await
    }
}
