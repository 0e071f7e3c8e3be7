//! Content of files in an export: read and written by the agent itself, without `qemu-img`.

use std::io;

use async_trait::async_trait;
use tokio::runtime::Handle as Runtime;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::session::{Handle, LOST, Session, UNFINISHED};
use crate::disk_transfer::{DiskContent, DiskFile, PART_BYTES};
use crate::probe::ReadAt;

/// Servers give less at once if they want to.
const READ_BYTES: u32 = 256 << 10;

/// A file that nobody writes to, to be read from its beginning to its end.
pub(super) struct RemoteDisk {
    pub session: Mutex<Session>,
    pub file: Handle,
    pub length_bytes: u64,
    pub allocated_bytes: u64,
}

#[async_trait]
impl DiskContent for RemoteDisk {
    fn allocated_bytes(&self) -> io::Result<u64> {
        Ok(self.allocated_bytes)
    }

    fn length_bytes(&self) -> io::Result<u64> {
        Ok(self.length_bytes)
    }

    /// NFSv3 does not tell where a file has holes: they are read, and left out.
    async fn next_part(&self, offset: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
        let (mut session, mut at) = (self.session.lock().await, offset);
        while at < self.length_bytes {
            let count = u64::from(READ_BYTES).min(self.length_bytes - at) as u32;
            let bytes = session.read_at(&self.file, at, count).await?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(Some((at, bytes)));
            }
            at += bytes.len() as u64;
        }
        Ok(None)
    }
}

/// A file that a QEMU may be writing to, for the parsers of its tables. These block: to be read on a thread that may.
pub(super) struct RemoteFile {
    pub session: std::sync::Mutex<Session>,
    pub file: Handle,
    pub length_bytes: u64,
    pub runtime: Runtime,
}

impl ReadAt for RemoteFile {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.length_bytes)
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut session = self.session.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut done = 0;
        while done < buffer.len() {
            let count = (buffer.len() - done).min(READ_BYTES as usize) as u32;
            let bytes = self.runtime.block_on(session.read_at(&self.file, offset + done as u64, count))?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let length = bytes.len().min(buffer.len() - done);
            buffer[done..done + length].copy_from_slice(&bytes[..length]);
            done += length;
        }
        Ok(())
    }
}

impl Session {
    /// A file appears with this content, whole and for good, or not at all; one that has the name is not replaced
    /// ([`io::ErrorKind::AlreadyExists`]). Everybody can read it if it is public, otherwise only this user.
    pub(super) async fn store(&mut self, name: &str, content: &DiskFile, uid: u32, public: bool) -> io::Result<()> {
        let fresh = format!("{UNFINISHED}{}", Uuid::new_v4());
        let file = self.create(&fresh, uid).await?;
        let stored = async {
            self.fill(&file, content).await?;
            if public {
                self.make_public(&file).await?;
            }
            self.link(&file, name).await
        };
        let stored = stored.await;
        self.remove(&fresh).await?;
        stored
    }

    async fn fill(&mut self, file: &Handle, content: &DiskFile) -> io::Result<()> {
        let before = self.commit(file).await?;
        let mut offset = 0;
        while let Some((at, bytes)) = content.next_part(offset).await? {
            debug_assert!(bytes.len() <= PART_BYTES);
            let verifier = self.write_at(file, at, &bytes).await?;
            if verifier.is_some_and(|now| now != before) {
                return Err(io::Error::other(LOST));
            }
            offset = at + bytes.len() as u64;
        }
        self.resize(file, content.length_bytes()?).await?;
        if self.commit(file).await? == before { Ok(()) } else { Err(io::Error::other(LOST)) }
    }
}
