//! One backup: reads the disks chunk by chunk and keeps them in the repository.

use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use gantry_api::backup::{BackUp, BackedUp, BackedUpDisk, BackupLabel, StoredBackup};
use gantry_backup::{BackupWriter, CHUNK_BYTES, DiskWriter, Manifest, Repository, RepositoryError};
use gantry_qemu::backup::Point;
use gantry_storage::{DirPool, NbdClient};
use gantry_types::{ByteSize, Name, Problem};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::source::{Disk, Source, bitmap_of, scratch_of};
use crate::backups::{open_as, repository_problem};
use crate::work::Progress;

/// What a VM's own disk is called in a backup.
pub(super) const OWN_DISK: &str = "disk";
/// Chunks that are hashed, compressed and written at once.
const AT_ONCE: usize = 4;

/// What is kept with a backup besides the disks, for whoever has nothing but the repository.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    vm: Uuid,
    name: Name,
    spec: serde_json::Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    label: Option<BackupLabel>,
    taken: BackedUp,
}

pub(super) struct Job {
    pub what: String,
    pub vm: Uuid,
    pub host: Name,
    pub owner_uid: u32,
    /// Where what the guest overwrites is kept meanwhile.
    pub scratch_pool: DirPool,
    pub run_dir: PathBuf,
    pub source: Source,
    pub disks: Vec<Disk>,
    pub request: BackUp,
}

/// A disk of the backup that this one adds to.
type Earlier = Option<(Uuid, Manifest)>;

impl Job {
    pub async fn run(self, progress: Arc<Progress>, cancel: CancellationToken) -> Result<BackedUp, Problem> {
        let done = self.write(&progress, &cancel).await;
        let tidied = self.tidy_up(done.is_ok()).await;
        if let (Err(_), Err(error)) = (&done, &tidied) {
            tracing::warn!(vm = %self.vm, %error, "a backup that failed may have left something");
        }
        done.and_then(|made| tidied.map(|()| made))
    }

    fn given_up(&self) -> Problem {
        let detail = format!("the backup of {} was given up", self.what);
        Problem::conflict("backup-given-up", detail).remedy(
            "if nobody cancelled it, its VM's pool was full of what the guest overwrote meanwhile: make room there",
        )
    }

    async fn write(&self, progress: &Progress, cancel: &CancellationToken) -> Result<BackedUp, Problem> {
        let (place, failed) = (&self.request.place, |error| repository_problem(&self.what, &error));
        let repository = open_as(&place.repository, true).await.map_err(failed)?;
        match repository.manifest(place.backup).await {
            Ok(manifest) => return taken(&manifest).map_err(failed),
            Err(RepositoryError::BackupMissing { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
        let holder = format!("host '{}' for a backup of {}", self.host, self.what);
        let writer = repository.write(place.backup, &holder).await.map_err(failed)?;
        let written = tokio::select! {
            written = self.write_disks(&repository, &writer, progress) => written,
            () = cancel.cancelled() => Err(self.given_up()),
        };
        let (disks, read_bytes, frozen_ms) = match written {
            Ok(written) => written,
            Err(error) => {
                writer.abandon().await.map_err(failed)?;
                return Err(error);
            }
        };
        let mut made = None;
        let about = |figures: gantry_backup::Figures, sizes: &[(String, u64)]| {
            let disk = |(name, size): &(String, u64)| BackedUpDisk { name: name.clone(), size: ByteSize(*size) };
            let taken = BackedUp {
                disks: sizes.iter().map(disk).collect(),
                read: ByteSize(read_bytes),
                written: ByteSize(figures.written_bytes),
                frozen_ms,
            };
            made = Some(taken.clone());
            let spec = json!(self.request.spec);
            let label = Some(self.request.label.clone());
            json!(About { vm: self.vm, name: self.request.name.clone(), spec, label, taken })
        };
        writer.finish(about, disks).await.map_err(failed)?;
        made.ok_or_else(|| Problem::permanent("backup-not-made", format!("{}: the backup has no disks", self.what)))
    }

    async fn write_disks(
        &self,
        repository: &Repository,
        writer: &BackupWriter,
        progress: &Progress,
    ) -> Result<(Vec<DiskWriter>, u64, Option<u64>), Problem> {
        let mut earlier: Vec<Earlier> = Vec::new();
        let mut frozen_ms = None;
        match &self.source {
            Source::Stopped => earlier.resize_with(self.disks.len(), || None),
            Source::Running { qmp, guest } => {
                let mut points = Vec::new();
                for disk in &self.disks {
                    let noted = self.noted(qmp, disk).await?;
                    let since = find_earlier(repository, disk, noted).await;
                    points.push(Point {
                        node: disk.node.clone(),
                        scratch: self.scratch_pool.disk_path(scratch_of(disk.id)),
                        since: since.as_ref().map(|(backup, _)| bitmap_of(*backup)),
                        from_now: bitmap_of(self.request.place.backup),
                    });
                    earlier.push(since);
                }
                frozen_ms = self.begin(qmp, guest, &points).await?;
            }
        }
        let (mut writers, mut read_bytes) = (Vec::new(), 0);
        for ((place, disk), earlier) in self.disks.iter().enumerate().zip(earlier) {
            let mut opened = self.open(place, disk, earlier.as_ref().map(|(backup, _)| *backup)).await?;
            let size_bytes = opened.client.size_bytes();
            progress.add_total(size_bytes);
            let failed = |error| repository_problem(&self.what, &error);
            let like = earlier.filter(|_| opened.client.has_bitmap());
            let mut disk_writer = match &like {
                Some((_, manifest)) => DiskWriter::like(manifest.disk(&disk.name).map_err(failed)?, size_bytes),
                None => DiskWriter::empty(&disk.name, size_bytes),
            }
            .map_err(failed)?;
            read_bytes +=
                self.copy(disk, &mut opened.client, like.is_some(), writer, &mut disk_writer, progress).await?;
            opened.close().await;
            writers.push(disk_writer);
        }
        Ok((writers, read_bytes, frozen_ms))
    }

    /// Reads what may be something else than zeros, or what has changed; says how much that was.
    async fn copy(
        &self,
        disk: &Disk,
        client: &mut NbdClient,
        only_changed: bool,
        writer: &BackupWriter,
        to: &mut DiskWriter,
        progress: &Progress,
    ) -> Result<u64, Problem> {
        let unread = |error: std::io::Error| self.unread(disk, &error);
        let failed = |error| repository_problem(&self.what, &error);
        let (size, chunk) = (client.size_bytes(), CHUNK_BYTES as u64);
        let (mut at, mut next, mut read_bytes) = (0, 0, 0);
        let mut keeping = FuturesOrdered::new();
        while at < size {
            let extents = if only_changed { client.dirty(at).await } else { client.allocated(at).await };
            for extent in extents.map_err(unread)? {
                at = extent.offset_bytes + extent.length_bytes;
                progress.add_done(extent.length_bytes);
                if !extent.is_set {
                    continue;
                }
                for place in next.max(extent.offset_bytes / chunk)..at.div_ceil(chunk) {
                    let mut content = vec![0; chunk.min(size - place * chunk) as usize];
                    client.read(place * chunk, &mut content).await.map_err(unread)?;
                    read_bytes += content.len() as u64;
                    keeping.push_back(async move { (place, writer.keep(content).await) });
                    if keeping.len() >= AT_ONCE
                        && let Some((place, id)) = keeping.next().await
                    {
                        writer.note(to, place, id.map_err(failed)?).await.map_err(failed)?;
                    }
                    next = place + 1;
                }
            }
        }
        while let Some((place, id)) = keeping.next().await {
            writer.note(to, place, id.map_err(failed)?).await.map_err(failed)?;
        }
        Ok(read_bytes)
    }
}

/// The one of these backups that is in the repository with this disk: after each backup there is at most one.
async fn find_earlier(repository: &Repository, disk: &Disk, noted: Vec<Uuid>) -> Earlier {
    for backup in noted {
        if let Ok(manifest) = repository.manifest(backup).await
            && manifest.disk(&disk.name).is_ok()
        {
            return Some((backup, manifest));
        }
    }
    None
}

/// What a backup that is there took.
fn taken(manifest: &Manifest) -> Result<BackedUp, RepositoryError> {
    read_about(manifest).map(|about: About| about.taken)
}

fn read_about<T: serde::de::DeserializeOwned>(manifest: &Manifest) -> Result<T, RepositoryError> {
    serde_json::from_value(manifest.about.clone()).map_err(|error| RepositoryError::ManifestDamaged {
        backup: manifest.backup,
        why: format!("what it is of: {error}"),
    })
}

/// What a backup that is there says of itself.
pub(crate) fn stored(manifest: &Manifest) -> Result<StoredBackup, RepositoryError> {
    let About { name, spec, label, taken, .. } = read_about(manifest)?;
    let spec = serde_json::from_value(spec).map_err(|error| RepositoryError::ManifestDamaged {
        backup: manifest.backup,
        why: format!("the VM that it is of: {error}"),
    })?;
    Ok(StoredBackup { backup: manifest.backup, name, spec, label, taken })
}
