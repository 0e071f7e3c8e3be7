//! A copy, served over NBD by `qemu-nbd` to the one host that writes to it.
//!
//! The server ends when its handle is dropped, and with this process. QEMU's lock on the file keeps every other one away.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::bound_process::spawn_bound;
use crate::disk_server::{EXPORT, directory_of, message};
use crate::error::StorageError;

const START_LIMIT: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const DOING: &str = "serving the copy";

/// How, and to whom, a copy is served.
#[derive(Debug, Clone)]
pub struct ServeCopy {
    pub address: IpAddr,
    /// The first free one is taken.
    pub ports: RangeInclusive<u16>,
    pub tls: Option<CopyTls>,
    /// Whom the server runs as; the copy is his until somebody is given the disk.
    pub uid: u32,
}

#[derive(Debug, Clone)]
pub struct CopyTls {
    /// `ca-cert.pem`, `server-cert.pem`, `server-key.pem`; readable by the server, and only read while it starts.
    pub creds_dir: PathBuf,
    /// The distinguished name of the only certificate that is let in, its parts in the certificate's order.
    pub authorized: String,
}

/// A running server; ended when it is dropped.
#[derive(Debug)]
pub struct CopyServer {
    child: Child,
    port: u16,
    serving: Uuid,
    _directory: tempfile::TempDir,
}

enum Start {
    Listens,
    PortTaken,
}

impl CopyServer {
    pub(super) async fn start(
        disk: Uuid,
        file: &Path,
        size_bytes: u64,
        serve: &ServeCopy,
        serving: Uuid,
    ) -> Result<Self, StorageError> {
        let directory = directory_of(serve.uid).map_err(StorageError::io(DOING, file))?;
        // Written when it listens.
        let mark = directory.path().join("pid");
        for port in serve.ports.clone() {
            let command = command(file, size_bytes, serve, port, &mark);
            let spawned = spawn_bound(command).await.map_err(|source| match source.kind() {
                std::io::ErrorKind::NotFound => StorageError::ToolMissing { source },
                _ => StorageError::io(DOING, file)(source),
            });
            let mut child = spawned?;
            match listening(&mut child, disk, file, &mark).await? {
                Start::Listens => {
                    if let Some(mut said) = child.stderr.take() {
                        // It tells of each client that goes away, and would wait for somebody to read that.
                        tokio::spawn(async move { tokio::io::copy(&mut said, &mut tokio::io::sink()).await });
                    }
                    return Ok(Self { child, port, serving, _directory: directory });
                }
                Start::PortTaken => {}
            }
        }
        Err(StorageError::NoFreePort { address: serve.address, first: *serve.ports.start(), last: *serve.ports.end() })
    }

    pub fn port(&self) -> u16 {
        self.port
    }
    /// Another one each time.
    pub fn serving(&self) -> Uuid {
        self.serving
    }
    /// What the client is to ask for.
    pub fn export(&self) -> &'static str {
        EXPORT
    }
    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
    /// Ends it and waits for its end: afterwards nobody has the copy open.
    pub async fn end(mut self) {
        drop(self.child.kill().await);
    }
}

fn command(file: &Path, size_bytes: u64, serve: &ServeCopy, port: u16, mark: &Path) -> Command {
    let mut command = Command::new("qemu-nbd");
    command.arg("--pid-file").arg(mark).args(["--bind", &serve.address.to_string(), "--port", &port.to_string()]);
    // Any number of clients: a connection that only looks whether somebody is there counts, too.
    command.args(["--export-name", EXPORT, "--persistent", "--shared", "0", "--discard", "unmap"]);
    command.args(["--detect-zeroes", "off"]);
    if let Some(tls) = &serve.tls {
        let credentials = json!({
            "qom-type": "tls-creds-x509", "id": "tls", "endpoint": "server", "verify-peer": true,
            "dir": tls.creds_dir.to_string_lossy(),
        });
        let authorized = json!({"qom-type": "authz-simple", "id": "peer", "identity": tls.authorized});
        command.args(["--object", &credentials.to_string(), "--object", &authorized.to_string()]);
        command.args(["--tls-creds", "tls", "--tls-authz", "peer"]);
    }
    let file = json!({"driver": "file", "filename": file.to_string_lossy(), "discard": "unmap"});
    let node = json!({"driver": "raw", "size": size_bytes, "discard": "unmap", "file": file});
    command.arg(format!("json:{node}"));
    command.env_clear().env("PATH", "/usr/bin:/bin:/usr/local/bin").env("LC_ALL", "C");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    if rustix::process::geteuid().is_root() {
        command.uid(serve.uid).gid(serve.uid);
    }
    command
}

async fn listening(child: &mut Child, disk: Uuid, file: &Path, mark: &Path) -> Result<Start, StorageError> {
    let until = Instant::now() + START_LIMIT;
    loop {
        if let Some(status) = child.try_wait().map_err(StorageError::io(DOING, file))? {
            let message = message(child).await;
            return match message.as_str() {
                taken if taken.contains("Address already in use") => Ok(Start::PortTaken),
                locked if locked.contains("lock") => Err(StorageError::DiskBusy { disk }),
                other => {
                    let message = if other.is_empty() { status.to_string() } else { other.to_owned() };
                    Err(StorageError::Tool { doing: DOING, path: file.to_owned(), message })
                }
            };
        }
        if tokio::fs::try_exists(mark).await.unwrap_or(false) {
            return Ok(Start::Listens);
        }
        if Instant::now() >= until {
            let limit = format!("{} s to start", START_LIMIT.as_secs());
            return Err(StorageError::ToolLimit { doing: DOING, path: file.to_owned(), limit });
        }
        sleep(LOOK_AGAIN).await;
    }
}
