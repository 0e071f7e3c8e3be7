//! Whether an export is this pool's, and how it is.

use std::io;

use gantry_types::{DiskLocation, PoolHealth};
use serde_json::json;
use uuid::Uuid;

use super::session::{Entry, OpenError, Session, UNFINISHED};
use super::{HEADER_BYTES, NfsPool, ROOT, leases, volume_in};
use crate::driver::PoolFinding;
use crate::error::StorageError;
use crate::mark::{self, MARK};
use crate::pool::FULL_BELOW_BYTES;
use crate::qemu_img::WORKER_UID;

/// What is older was left behind.
const UNFINISHED_LIMIT_S: u32 = 3600;
const SQUASHED: &str =
    "the server does not let root give files to VMs' users: export it with no_root_squash, read-write";

impl NfsPool {
    pub(super) async fn connect(&self) -> Result<Session, StorageError> {
        Session::open(&self.export, ROOT).await.map_err(|error| match error {
            OpenError::Refused(status) => {
                let reason = format!(
                    "its server does not export it to this host ({status}): export it, read-write, to all hosts of the pool \
                     and to ports above 1023 (insecure)"
                );
                self.fault(PoolHealth::Missing, reason)
            }
            OpenError::Io(source) => StorageError::Unreachable { path: self.path(), source },
        })
    }

    /// Whose the export is.
    pub(super) async fn mark(&self, session: &mut Session) -> Result<Option<Uuid>, StorageError> {
        let found = session.find(MARK).await.map_err(self.failed("reading the mark of"))?;
        let Some((file, _)) = found else { return Ok(None) };
        let text = session.read(&file, HEADER_BYTES).await.map_err(self.failed("reading the mark of"))?;
        mark::read(&text).map(Some).map_err(|error| {
            let reason = format!("its mark {MARK} is damaged: {error}; put it back from a backup");
            self.fault(PoolHealth::Missing, reason)
        })
    }

    /// A conversation about this pool.
    pub(super) async fn enter(&self) -> Result<Session, StorageError> {
        let mut session = self.connect().await?;
        match self.mark(&mut session).await? {
            Some(pool) if pool == self.pool => Ok(session),
            Some(_) => Err(self.fault(PoolHealth::Missing, "another pool is there: export the right directory")),
            None => Err(self.fault(PoolHealth::Missing, "it is not this pool's: export the right directory")),
        }
    }

    /// Whether a VM's user can write to a file that it was given here; with `by_qemu`, whether its QEMU could, too.
    pub(super) async fn check_user(&self, session: &mut Session, by_qemu: bool) -> Result<(), StorageError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => self.fault(PoolHealth::NotWritable, format!("{SQUASHED} ({error})")),
            io::ErrorKind::ReadOnlyFilesystem => {
                self.fault(PoolHealth::ReadOnly, "it is exported, or its file system mounted, read-only")
            }
            _ => self.failed("trying to write in")(error),
        };
        let probe = format!("{UNFINISHED}{}", Uuid::new_v4());
        let tried = async {
            let file = session.create(&probe, WORKER_UID).await?;
            session.as_user(WORKER_UID).await?.write(&file, &[0]).await
        };
        let tried = tried.await.map_err(failed);
        let opened = match tried {
            Ok(()) if by_qemu => self.open_by_qemu(&probe).await,
            tried => tried,
        };
        session.remove(&probe).await.map_err(failed)?;
        opened
    }

    async fn open_by_qemu(&self, file: &str) -> Result<(), StorageError> {
        let location = DiskLocation::Nfs { export: self.export.clone(), file: file.to_owned(), user: None };
        let source = format!("json:{}", json!({"driver": "raw", "file": location.node()}));
        let opened = self.run_qemu_img(WORKER_UID, &["info", &source], "opening", &self.path()).await;
        opened.map_err(|error| match error {
            StorageError::Tool { message, .. } => {
                let reason = format!(
                    "QEMU can't open a file there ({message}): its NFS client is in Debian's package qemu-block-extra, and it \
                     uses a port above 1023 (insecure)"
                );
                self.fault(PoolHealth::NotWritable, reason)
            }
            other => other,
        })
    }

    pub(super) async fn look(&self) -> Result<PoolFinding, StorageError> {
        let mut session = self.enter().await?;
        let space = session.space().await.map_err(self.failed("measuring"))?;
        let entries = session.list().await.map_err(self.failed("listing"))?;
        let mut volumes = Vec::new();
        for id in entries.iter().filter_map(|entry| volume_in(&entry.name)) {
            match self.find_in(&mut session, id).await {
                Ok(found) => volumes.extend(found.map(|found| found.info)),
                Err(error @ StorageError::DiskDamaged { .. }) => {
                    tracing::warn!(disk = %id, %error, "disk left out");
                }
                Err(error) => return Err(error),
            }
        }
        if space.free.bytes() < FULL_BELOW_BYTES {
            let reason = Some("no space is left: delete what is not needed".to_owned());
            return Ok(PoolFinding {
                health: PoolHealth::Full,
                reason,
                space: Some(space),
                volumes,
                copies: Vec::new(),
            });
        }
        self.check_user(&mut session, false).await?;
        self.sweep(&mut session, &entries).await.map_err(self.failed("tidying up"))?;
        leases::sweep(&mut session, &entries).await.map_err(self.failed("tidying up"))?;
        Ok(PoolFinding { health: PoolHealth::Healthy, reason: None, space: Some(space), volumes, copies: Vec::new() })
    }

    /// Removes what crashed work has left.
    async fn sweep(&self, session: &mut Session, entries: &[Entry]) -> io::Result<()> {
        let unfinished: Vec<_> = entries.iter().filter(|entry| entry.name.starts_with(UNFINISHED)).collect();
        if unfinished.is_empty() {
            return Ok(());
        }
        let now = session.changed_at().await?;
        for entry in unfinished {
            if now.saturating_sub(entry.attributes.mtime.seconds) > UNFINISHED_LIMIT_S {
                session.remove(&entry.name).await?;
            }
        }
        Ok(())
    }
}
