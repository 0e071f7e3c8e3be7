//! The driver of pools in NFS exports. No host mounts them: QEMU and `qemu-img` are NFS clients of their own (libnfs), and
//! what the agent does with files, it asks the server for itself ([`session`]).
//!
//! ```text
//! <export>/gantry-pool.json   the mark
//! <export>/<uuid>.qcow2       a volume; of one user, 0600, as in a directory
//! <export>/<uuid>.lease-<n>   whose a VM's own disk is ([`leases`])
//! <export>/<sha256>.qcow2     an image that own disks lie over; everybody can read it
//! <export>/.gantry-<uuid>     work in progress
//! ```
//! All lies at the top of the export, because QEMU's client mounts the directory that a file is in.
//!
//! There are no locks: QEMU's client has none. Ownership takes their place, because an NFS server looks at it with every
//! request. A `qemu-img` that is to write gets a user of its own, whom nobody had before; one that a dead agent has left
//! can't write any more from then on, nor can a QEMU that has lost the volume.

mod content;
mod disks;
mod leases;
mod place;
mod session;

pub use disks::NfsDisks;

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use gantry_types::{DiskLocation, ImageFormat, NfsExport, PoolHealth, PoolSpace};
use serde_json::{Value, json};
use uuid::Uuid;

use self::content::RemoteFile;
use self::session::{Handle, LOST, Session};
use crate::blocking::blocking;
use crate::disk::{self, DiskInfo, DiskSpec};
use crate::disk_server::{DiskServer, ServeMode};
use crate::disk_snapshot::OWNER_LIMITS;
use crate::driver::{Admission, PoolDriver, PoolFinding};
use crate::error::StorageError;
use crate::exchange::{self, ExportedDisk};
use crate::mark::{self, MARK};
use crate::pool::DirPool;
use crate::probe::{self, InternalSnapshot, ReadAt};
use crate::qemu_img::{Run, WORKER_UID};

const NEW: &str = "new.qcow2";
const ROOT: u32 = 0;
/// As much of a qcow2 as says how large it is.
const HEADER_BYTES: u32 = 4096;
/// Users that nobody is: above all that hosts give to VMs, and positive for servers that count in signed numbers.
const FRESH_USERS: u32 = 0x4000_0000;

/// An export that is, or is to become, a pool.
#[derive(Debug, Clone)]
pub struct NfsPool {
    export: NfsExport,
    pool: Uuid,
    /// Where this host works on files before they are sent, or after.
    scratch: DirPool,
}

fn file_of(volume: Uuid) -> String {
    format!("{}.qcow2", volume.as_hyphenated())
}

impl NfsPool {
    pub fn new(export: NfsExport, pool: Uuid, scratch: DirPool) -> Self {
        Self { export, pool, scratch }
    }

    /// For messages.
    fn path(&self) -> PathBuf {
        self.export.to_string().into()
    }

    fn volume_path(&self, volume: Uuid) -> PathBuf {
        self.location(volume).to_string().into()
    }

    fn fault(&self, health: PoolHealth, reason: impl Into<String>) -> StorageError {
        StorageError::PoolFault { path: self.path(), health, reason: reason.into() }
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(io::Error) -> StorageError + use<> {
        StorageError::io(doing, &self.path())
    }

    async fn find_in(&self, session: &mut Session, volume: Uuid) -> Result<Option<Found>, StorageError> {
        let failed = || StorageError::io("reading disk", &self.volume_path(volume));
        let Some((file, attributes)) = session.find(&file_of(volume)).await.map_err(failed())? else { return Ok(None) };
        let start = session.read(&file, HEADER_BYTES).await.map_err(failed())?;
        let start = Start { bytes: start, size_bytes: attributes.size };
        let header =
            probe::qcow2_header(&start).map_err(|reason| StorageError::DiskDamaged { disk: volume, reason })?;
        let info = DiskInfo {
            disk: volume,
            path: self.volume_path(volume),
            size_bytes: header.virtual_size_bytes,
            allocated_bytes: attributes.used,
            image: header.backing_file.and_then(|name| self.image_named(&name)),
        };
        Ok(Some(Found { file, info, owner: attributes.uid }))
    }

    async fn there(&self, session: &mut Session, volume: Uuid) -> Result<Found, StorageError> {
        self.find_in(session, volume).await?.ok_or(StorageError::DiskMissing { disk: volume })
    }

    async fn run_qemu_img(
        &self,
        uid: u32,
        arguments: &[&str],
        doing: &'static str,
        object: &Path,
    ) -> Result<(), StorageError> {
        let staging = self.scratch.staging().create().map_err(StorageError::io(doing, object))?;
        let arguments: Vec<_> = arguments.iter().map(OsStr::new).collect();
        let run = Run { staging: &staging, uid, limits: OWNER_LIMITS, doing, object };
        run.expect_success(&arguments, |_| {}).await
    }

    /// Has `qemu-img` write to a volume that no QEMU has open.
    async fn rewrite(&self, volume: Uuid, arguments: [&str; 3], doing: &'static str) -> Result<(), StorageError> {
        let admission = self.admit(volume, WORKER_UID).await?;
        let target = admission.target();
        let arguments: Vec<_> = arguments.into_iter().chain([&*target]).collect();
        let done = self.run_qemu_img(WORKER_UID, &arguments, doing, &self.volume_path(volume)).await;
        let settled = self.settle(volume, admission).await;
        done.and(settled)
    }

    /// The snapshots inside a file, oldest first.
    async fn snapshots_in(&self, mut session: Session, disk: Uuid) -> Result<Vec<InternalSnapshot>, StorageError> {
        let failed = || StorageError::io("reading disk", &self.volume_path(disk));
        let found = session.find(&file_of(disk)).await.map_err(failed())?;
        let (file, attributes) = found.ok_or(StorageError::DiskMissing { disk })?;
        let (session, runtime) = (std::sync::Mutex::new(session), tokio::runtime::Handle::current());
        let remote = RemoteFile { session, file, length_bytes: attributes.size, runtime };
        let found = blocking(move || probe::qcow2_snapshots(&remote)).await;
        found.map_err(|reason| StorageError::DiskDamaged { disk, reason })
    }

    async fn has_snapshot(&self, disk: Uuid, name: &str) -> Result<bool, StorageError> {
        let found = self.snapshots_in(self.enter().await?, disk).await?;
        Ok(found.iter().any(|snapshot| snapshot.name == name))
    }

    /// The volume, to be read with its owner's rights.
    fn source(&self, volume: Uuid, owner: u32) -> String {
        format!("json:{}", self.qcow2(volume, owner, true))
    }

    fn qcow2(&self, volume: Uuid, user: u32, is_read_only: bool) -> Value {
        let file = self.node_for(volume, user);
        json!({"driver": "qcow2", "backing": null, "read-only": is_read_only, "file": file})
    }

    /// What opens the volume as this user of the server's, whoever the process is here.
    fn node_for(&self, volume: Uuid, user: u32) -> Value {
        let mut node = self.location(volume).node().unwrap_or_default();
        (node["user"], node["group"]) = (user.into(), user.into());
        node
    }

    /// An empty disk over the image of this name, of this user, or the one that is there as wanted.
    async fn make(
        &self,
        session: &mut Session,
        spec: &DiskSpec,
        below: Option<&str>,
        owner: u32,
    ) -> Result<Found, StorageError> {
        if self.find_in(session, spec.disk).await?.is_none() {
            let content = self.blank(spec, below).await?;
            match session.publish(&file_of(spec.disk), &content, owner).await {
                // Another process was faster: its disk counts, if it is the one that is wanted.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(StorageError::io("creating disk", &self.volume_path(spec.disk)))?,
            }
        }
        let found = self.there(session, spec.disk).await?;
        disk::expect_same(spec, &found.info)?;
        Ok(found)
    }

    /// An empty qcow2, which is made here: it is small.
    async fn blank(&self, volume: &DiskSpec, below: Option<&str>) -> Result<Vec<u8>, StorageError> {
        let path = self.volume_path(volume.disk);
        let failed = || StorageError::io("creating disk", &path);
        let (staging, _) = disk::stage_empty(self.scratch.staging(), NEW).map_err(failed())?;
        disk::fill_empty(&staging, NEW, below, volume.size_bytes, &path).await?;
        blocking(move || std::fs::read(staging.file_path(NEW))).await.map_err(failed())
    }
}

/// A volume in the export.
struct Found {
    file: Handle,
    info: DiskInfo,
    owner: u32,
}

/// The beginning of a file.
struct Start {
    bytes: Vec<u8>,
    size_bytes: u64,
}

impl ReadAt for Start {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.size_bytes)
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.bytes.as_slice().read_exact_at(offset, buffer)
    }
}

/// Whom nobody was before.
fn fresh_user() -> u32 {
    FRESH_USERS | (Uuid::new_v4().as_fields().0 & (FRESH_USERS - 1))
}

fn volume_in(name: &str) -> Option<Uuid> {
    Uuid::try_parse(name.strip_suffix(".qcow2")?).ok()
}

#[async_trait]
impl PoolDriver for NfsPool {
    async fn open(&self) -> Result<(), StorageError> {
        let mut session = self.connect().await?;
        match self.mark(&mut session).await? {
            Some(pool) if pool == self.pool => return self.check_user(&mut session, true).await,
            Some(_) => return Err(self.fault(PoolHealth::Missing, "another pool is there: use another export")),
            None => self.check_user(&mut session, true).await?,
        }
        let text = mark::text(self.pool).map_err(|error| self.failed("marking")(error.into()))?;
        match session.publish(MARK, &text, ROOT).await {
            // Another host or pool was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.enter().await.map(drop),
            done => done.map_err(self.failed("marking")),
        }
    }

    async fn join(&self) -> Result<(), StorageError> {
        let mut session = self.enter().await?;
        self.check_user(&mut session, true).await
    }

    async fn close(&self) -> Result<(), StorageError> {
        let mut session = match self.connect().await {
            Err(StorageError::PoolFault { .. }) => return Ok(()),
            session => session?,
        };
        if self.mark(&mut session).await? != Some(self.pool) {
            return Ok(());
        }
        let entries = session.list().await.map_err(self.failed("listing"))?;
        let count = entries.iter().filter(|entry| volume_in(&entry.name).is_some()).count();
        if count > 0 {
            return Err(StorageError::PoolNotEmpty { path: self.path(), count });
        }
        // Nothing lies over them any more, and nobody would remove them later.
        for image in entries.iter().filter(|entry| disks::image_in(&entry.name).is_some()) {
            session.remove(&image.name).await.map_err(self.failed("removing an image from"))?;
        }
        session.remove(MARK).await.map_err(self.failed("taking the mark off"))
    }

    async fn examine(&self) -> PoolFinding {
        self.look().await.unwrap_or_else(|error| match error {
            StorageError::PoolFault { health, reason, .. } => PoolFinding::broken(health, reason),
            StorageError::NoSpace { .. } => PoolFinding::broken(PoolHealth::Full, error.to_string()),
            other => PoolFinding::broken(PoolHealth::Unreachable, crate::error::causes(&other)),
        })
    }

    async fn space(&self) -> Result<PoolSpace, StorageError> {
        self.enter().await?.space().await.map_err(self.failed("measuring"))
    }

    async fn create(&self, volume: &DiskSpec) -> Result<DiskInfo, StorageError> {
        disk::check_size(volume, None)?;
        if let Some(image) = volume.image {
            // Images are not kept here.
            return Err(StorageError::ImageMissing { image });
        }
        let (mut session, owner) = (self.enter().await?, volume.owner_uid.unwrap_or(WORKER_UID));
        let found = self.make(&mut session, volume, None, owner).await?;
        let given = session.give(&found.file, owner).await;
        given.map_err(StorageError::io("creating disk", &found.info.path))?;
        Ok(found.info)
    }

    async fn find(&self, volume: Uuid) -> Result<Option<DiskInfo>, StorageError> {
        let mut session = self.enter().await?;
        Ok(self.find_in(&mut session, volume).await?.map(|found| found.info))
    }

    async fn grow(&self, volume: Uuid, size_bytes: u64) -> Result<DiskInfo, StorageError> {
        let mut session = self.enter().await?;
        let found = self.there(&mut session, volume).await?;
        if found.info.size_bytes >= size_bytes {
            return Ok(found.info);
        }
        let admission = self.admit(volume, WORKER_UID).await?;
        let disk = admission.target();
        let resize = ["resize", "-q", &disk, &size_bytes.to_string()];
        self.run_qemu_img(WORKER_UID, &resize, "growing disk", &found.info.path).await?;
        self.settle(volume, admission).await?;
        Ok(self.there(&mut session, volume).await?.info)
    }

    async fn give(&self, volume: Uuid, owner_uid: Option<u32>) -> Result<DiskInfo, StorageError> {
        let mut session = self.enter().await?;
        let found = self.there(&mut session, volume).await?;
        let given = session.give(&found.file, owner_uid.unwrap_or(WORKER_UID)).await;
        given.map_err(StorageError::io("giving away disk", &found.info.path))?;
        Ok(found.info)
    }

    async fn share(&self, volume: Uuid, uid: u32) -> Result<(), StorageError> {
        let mut session = self.enter().await?;
        let found = self.there(&mut session, volume).await?;
        session.share(&found.file, uid).await.map_err(StorageError::io("giving away disk", &found.info.path))
    }

    async fn admit(&self, volume: Uuid, _: u32) -> Result<Admission, StorageError> {
        let mut session = self.enter().await?;
        let found = self.there(&mut session, volume).await?;
        let fresh = fresh_user();
        let failed = || StorageError::io("giving away disk", &found.info.path);
        session.give(&found.file, fresh).await.map_err(failed())?;
        let verifier = Some(session.commit(&found.file).await.map_err(failed())?);
        Ok(Admission { node: self.node_for(volume, fresh), owner: found.owner, verifier })
    }

    async fn settle(&self, volume: Uuid, admission: Admission) -> Result<(), StorageError> {
        let mut session = self.enter().await?;
        let found = self.there(&mut session, volume).await?;
        let failed = || StorageError::io("writing disk", &found.info.path);
        let verifier = session.commit(&found.file).await.map_err(failed())?;
        if Some(verifier) != admission.verifier {
            // `qemu-img` does not write again what was lost.
            return Err(failed()(io::Error::other(LOST)));
        }
        session.give(&found.file, admission.owner).await.map_err(failed())
    }

    async fn copy_to(&self, volume: Uuid, other: &dyn PoolDriver, copy: Uuid) -> Result<(), StorageError> {
        let found = self.there(&mut self.enter().await?, volume).await?;
        disk::expect_fits(&found.info, other.find(copy).await?, copy)?;
        let admission = other.admit(copy, WORKER_UID).await?;
        let (from, to) = (self.source(volume, found.owner), admission.target());
        let convert = [&["convert"][..], exchange::OVERWRITING, &[&from, &to]].concat();
        self.run_qemu_img(WORKER_UID, &convert, "copying disk", &found.info.path).await?;
        other.settle(copy, admission).await
    }

    async fn fill(&self, volume: Uuid, image: &Path) -> Result<(), StorageError> {
        let path = self.volume_path(volume);
        let admission = self.admit(volume, WORKER_UID).await?;
        let (from, to) = (exchange::image_source(image), admission.target());
        let convert = [&["convert"][..], exchange::OVERWRITING, &[&from, &to]].concat();
        self.run_qemu_img(WORKER_UID, &convert, "filling disk", &path).await?;
        self.settle(volume, admission).await
    }

    async fn export(&self, volume: Uuid, format: ImageFormat) -> Result<ExportedDisk, StorageError> {
        let found = self.there(&mut self.enter().await?, volume).await?;
        let source = self.source(volume, found.owner);
        let staged = exchange::stage_export(&self.scratch, &found.info, WORKER_UID)?;
        let target = staged.path();
        let convert = ["convert", "-q", "-O", probe::qemu_name(format), &source, &target.to_string_lossy()];
        self.run_qemu_img(WORKER_UID, &convert, "exporting disk", &found.info.path).await?;
        staged.finish(&found.info)
    }

    async fn serve(&self, volume: Uuid, socket: &Path, mode: ServeMode) -> Result<DiskServer, StorageError> {
        let found = self.there(&mut self.enter().await?, volume).await?;
        let source = self.qcow2(volume, found.owner, mode == ServeMode::ReadOnly);
        DiskServer::start(&found.info, source, found.owner, socket, mode).await
    }

    async fn snapshots(&self, volume: Uuid) -> Result<Vec<InternalSnapshot>, StorageError> {
        self.snapshots_in(self.enter().await?, volume).await
    }

    async fn create_snapshot(&self, volume: Uuid, name: &str) -> Result<(), StorageError> {
        match self.has_snapshot(volume, name).await? {
            true => Ok(()),
            false => self.rewrite(volume, ["snapshot", "-c", name], "taking a snapshot of disk").await,
        }
    }

    async fn apply_snapshot(&self, volume: Uuid, name: &str) -> Result<(), StorageError> {
        match self.has_snapshot(volume, name).await? {
            true => self.rewrite(volume, ["snapshot", "-a", name], "going back to a snapshot of disk").await,
            false => Err(StorageError::SnapshotMissing { disk: volume, snapshot: name.to_owned() }),
        }
    }

    async fn delete_snapshot(&self, volume: Uuid, name: &str) -> Result<(), StorageError> {
        match self.has_snapshot(volume, name).await? {
            true => self.rewrite(volume, ["snapshot", "-d", name], "deleting a snapshot of disk").await,
            false => Ok(()),
        }
    }

    async fn delete(&self, volume: Uuid) -> Result<(), StorageError> {
        let removed = self.enter().await?.remove(&file_of(volume)).await;
        removed.map_err(StorageError::io("deleting disk", &self.volume_path(volume)))
    }

    fn location(&self, volume: Uuid) -> DiskLocation {
        DiskLocation::Nfs { export: self.export.clone(), file: file_of(volume), user: None }
    }
}
