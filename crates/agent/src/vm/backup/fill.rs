//! Fills the disk of a VM that does not run, or a volume that no VM has, from a backup.
//!
//! The disk is new: what the backup has no chunk for is zero already. Interrupted and begun again, the same is written again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_api::backup::BackupPlace;
use gantry_backup::{CHUNK_BYTES, DiskReader};
use gantry_storage::{NbdClient, SERVED_EXPORT, ServeMode};
use gantry_types::Problem;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::source::DiskPool;
use crate::backups::{open_as, repository_problem};
use crate::storage::pool_problem;
use crate::work::Progress;

const SOCKET: &str = "fill.sock";

pub(crate) struct Fill {
    pub what: String,
    pub disk: Uuid,
    pub pool: DiskPool,
    /// The disk's owner can write to it.
    pub sockets: PathBuf,
    pub place: BackupPlace,
    /// What the disk is called in the backup.
    pub name: String,
}

impl Fill {
    pub async fn run(self, progress: Arc<Progress>, cancel: CancellationToken) -> Result<(), Problem> {
        let failed = |error| repository_problem(&self.what, &error);
        let repository = open_as(&self.place.repository, false).await.map_err(failed)?;
        let manifest = repository.manifest(self.place.backup).await.map_err(failed)?;
        let reader = DiskReader::new(&repository, manifest.disk(&self.name).map_err(failed)?);
        let served = self.pool.serve(self.disk, &self.sockets.join(SOCKET), ServeMode::Writable).await;
        let server = served.map_err(|error| pool_problem("disk-not-filled", &self.what, &error))?;
        let done = tokio::select! {
            done = self.copy(reader, server.socket(), &progress) => done,
            () = cancel.cancelled() => Err(Problem::conflict(
                "restore-given-up", format!("filling {} was given up", self.what)
            )),
        };
        server.end().await;
        done
    }

    async fn copy(&self, mut reader: DiskReader, socket: &Path, progress: &Progress) -> Result<(), Problem> {
        let unwritten = |error: std::io::Error| {
            Problem::transient("disk-not-filled", format!("{} can't be written: {error}", self.what))
                .remedy("make room in its pool: gantry pool list")
        };
        let stream = gantry_qemu::connect_socket(socket).await.map_err(unwritten)?;
        let mut client = NbdClient::connect(stream, SERVED_EXPORT, None).await.map_err(unwritten)?;
        let (size, chunk) = (reader.size_bytes(), CHUNK_BYTES as u64);
        if client.size_bytes() < size {
            let detail = format!("{} has {} bytes, the backup {size}", self.what, client.size_bytes());
            return Err(Problem::permanent("disk-not-filled", detail).remedy("make one as large"));
        }
        progress.add_total(size);
        for place in 0..reader.chunks() {
            let length = chunk.min(size - place * chunk);
            let content = reader.chunk_at(place).await.map_err(|error| repository_problem(&self.what, &error))?;
            if let Some(content) = content {
                client.write(place * chunk, &content[..length as usize]).await.map_err(unwritten)?;
            }
            progress.add_done(length);
        }
        client.flush().await.map_err(unwritten)
    }
}
