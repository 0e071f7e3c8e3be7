//! A disk that no QEMU has open, served over NBD on a unix socket by `qemu-nbd`.
//!
//! As everything that opens a disk, it runs with the rights of the disk's owner and no more, and opens only the image that the
//! pool knows to be below. It ends with its only client, or when its handle is dropped; QEMU's lock on the file keeps every
//! other program away meanwhile.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use uuid::Uuid;

use crate::blocking::blocking;
use crate::disk::DiskInfo;
use crate::error::StorageError;
use crate::pool::DirPool;
use crate::qemu_img::WORKER_UID;

/// The only export.
pub const EXPORT: &str = "disk";
const START_LIMIT: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const DOING: &str = "serving disk";
const MESSAGE_BYTES_MAX: u64 = 4096;

/// A directory for the socket of a disk that no VM has, gone with its handle: whatever serves such a disk can write there.
///
/// # Errors
/// Of the file system for temporary files.
pub fn loose_socket_dir() -> std::io::Result<TempDir> {
    directory_of(WORKER_UID)
}

/// The same for a server that runs as this user.
pub(crate) fn directory_of(uid: u32) -> std::io::Result<TempDir> {
    let directory = tempfile::Builder::new().prefix("gantry-serve-").tempdir()?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(directory.path(), Some(uid), Some(uid))?;
    }
    Ok(directory)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServeMode {
    ReadOnly,
    /// What is written and flushed is on the disk.
    Writable,
}

/// A running server; ended when it is dropped.
#[derive(Debug)]
pub struct DiskServer {
    child: Child,
    socket: PathBuf,
    mark: PathBuf,
}

impl DirPool {
    /// Serves a disk at `socket`, whose directory its owner can write to. No QEMU may have the disk open.
    ///
    /// # Errors
    /// [`StorageError::DiskMissing`]; [`StorageError::DiskBusy`] while another program has it open.
    pub async fn serve_disk(&self, disk: Uuid, socket: &Path, mode: ServeMode) -> Result<DiskServer, StorageError> {
        let found = self.disk(disk).await?.ok_or(StorageError::DiskMissing { disk })?;
        let below = match found.image {
            Some(image) => self.image(image).await?.ok_or(StorageError::ImageMissing { image })?.path,
            None => PathBuf::new(),
        };
        let path = found.path.clone();
        let owner = blocking(move || {
            std::fs::metadata(&path).map(|metadata| metadata.uid()).map_err(StorageError::io(DOING, &path))
        });
        DiskServer::start(&found, source(&found.path, &below, mode), owner.await?, socket, mode).await
    }
}

fn source(path: &Path, below: &Path, mode: ServeMode) -> Value {
    let file = |path: &Path| json!({"driver": "file", "filename": path.to_string_lossy()});
    let backing = match below.as_os_str().is_empty() {
        true => Value::Null,
        false => json!({"driver": "qcow2", "read-only": true, "backing": null, "file": file(below)}),
    };
    let read_only = mode == ServeMode::ReadOnly;
    json!({"driver": "qcow2", "read-only": read_only, "discard": "unmap", "backing": backing, "file": file(path)})
}

impl DiskServer {
    /// Serves what this node opens, with the rights of the disk's owner.
    pub(crate) async fn start(
        found: &DiskInfo,
        source: Value,
        owner: u32,
        socket: &Path,
        mode: ServeMode,
    ) -> Result<Self, StorageError> {
        // Written when it listens; the socket is there before.
        let mark = socket.with_extension("pid");
        let old = [socket.to_owned(), mark.clone()];
        // Those that a killed server has left.
        blocking(move || old.iter().for_each(|old| drop(std::fs::remove_file(old)))).await;
        let mut command = Command::new("qemu-nbd");
        command.arg("--pid-file").arg(&mark);
        command.arg("--socket").arg(socket).args(["--export-name", EXPORT, "--shared", "1", "--discard", "unmap"]);
        if mode == ServeMode::ReadOnly {
            command.arg("--read-only");
        }
        command.arg(format!("json:{source}"));
        command.env_clear().env("PATH", "/usr/bin:/bin:/usr/local/bin").env("LC_ALL", "C");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        if rustix::process::geteuid().is_root() {
            command.uid(owner).gid(owner);
        }
        let child = command.spawn().map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => StorageError::ToolMissing { source },
            _ => StorageError::io(DOING, &found.path)(source),
        })?;
        let mut server = Self { child, socket: socket.to_owned(), mark };
        server.listening(found.disk, &found.path).await?;
        Ok(server)
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    async fn listening(&mut self, disk: Uuid, path: &Path) -> Result<(), StorageError> {
        let until = tokio::time::Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().map_err(StorageError::io(DOING, path))? {
                let message = message(&mut self.child).await;
                if message.contains("lock") {
                    return Err(StorageError::DiskBusy { disk });
                }
                let message = if message.is_empty() { status.to_string() } else { message };
                return Err(StorageError::Tool { doing: DOING, path: path.to_owned(), message });
            }
            if tokio::fs::try_exists(&self.mark).await.unwrap_or(false) {
                return Ok(());
            }
            if tokio::time::Instant::now() >= until {
                let limit = format!("{} s to start", START_LIMIT.as_secs());
                return Err(StorageError::ToolLimit { doing: DOING, path: path.to_owned(), limit });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Ends it and waits for its end: afterwards nobody has the disk open.
    pub async fn end(mut self) {
        drop(self.child.kill().await);
        for left in [&self.socket, &self.mark] {
            drop(tokio::fs::remove_file(left).await);
        }
    }
}

/// What a server said that has ended.
pub(crate) async fn message(server: &mut Child) -> String {
    let mut text = Vec::new();
    if let Some(stderr) = &mut server.stderr {
        // What can't be read is not said.
        drop(stderr.take(MESSAGE_BYTES_MAX).read_to_end(&mut text).await);
    }
    String::from_utf8_lossy(&text).trim().to_owned()
}
