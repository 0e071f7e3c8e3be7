//! A VM's disk on its way to the pool of another host: as it is, with all states inside it.
//!
//! ```text
//!  magic  "gantry-disk-1\n"
//!  files  u32 count, then each: u32 length, name, u32 length, bytes     small ones that go along
//!  parts  u64 offset, u32 length, bytes     ...     only where the file has data
//!  end    u64 length of the file, u32 0
//! ```
//! Integers are big-endian. Whatever breaks off lacks its end and is refused. The sender is a host of this datacenter, but
//! what is in the file was written by a guest's QEMU: it gets the new pool's image below it before anything opens it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::blocking::blocking;
use crate::error::StorageError;
use crate::staging::StagingDir;

const MAGIC: &[u8; 14] = b"gantry-disk-1\n";
pub(crate) const PART_BYTES: usize = 1 << 20;
/// A VM has its firmware's variables, and a copy of them for each of its states.
const FILES_MAX: u32 = 2048;
const FILE_BYTES_MAX: u32 = 64 << 20;
/// Far above every disk, far below what overflows.
const OFFSET_MAX: u64 = 1 << 56;
pub(crate) const STAGED: &str = "arriving.qcow2";

/// Small files that go along with a disk, by name: at most 2048, of 64 MiB each. What they mean is the callers' affair.
pub type AlongFiles = BTreeMap<String, Vec<u8>>;

/// A disk that arrives, or a copy that is being made: gone with what there is of it, unless a pool takes it.
#[derive(Debug)]
pub struct StagedDisk {
    pub(crate) staging: StagingDir,
    pub(crate) file: File,
}

impl std::fmt::Debug for DiskFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskFile").field("length_bytes", &self.length_bytes()).finish_non_exhaustive()
    }
}

/// What is in a disk file, wherever that lies.
#[async_trait]
pub(crate) trait DiskContent: Send + Sync {
    /// What it takes where it is.
    fn allocated_bytes(&self) -> io::Result<u64>;
    fn length_bytes(&self) -> io::Result<u64>;
    /// The next data at `offset` or behind it, at most [`PART_BYTES`]; `None` where only zeros follow.
    async fn next_part(&self, offset: u64) -> io::Result<Option<(u64, Vec<u8>)>>;
}

#[async_trait]
impl DiskContent for Arc<File> {
    fn allocated_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.blocks() * 512)
    }

    fn length_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    async fn next_part(&self, offset: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
        let file = Self::clone(self);
        blocking(move || next_part(&file, offset)).await
    }
}

/// A disk file that is to be sent, opened once: it may be renamed meanwhile, but not changed.
#[derive(Clone)]
pub struct DiskFile {
    content: Arc<dyn DiskContent>,
}

impl DiskFile {
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let file = File::open(path).map_err(StorageError::io("opening", path))?;
        Ok(Self::of(Arc::new(file)))
    }

    pub(crate) fn of(content: impl DiskContent + 'static) -> Self {
        Self { content: Arc::new(content) }
    }

    /// What it takes in its pool, and about what is sent.
    pub fn allocated_bytes(&self) -> io::Result<u64> {
        self.content.allocated_bytes()
    }

    pub(crate) fn length_bytes(&self) -> io::Result<u64> {
        self.content.length_bytes()
    }

    pub(crate) async fn next_part(&self, offset: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
        self.content.next_part(offset).await
    }

    /// Writes it all to `to`.
    pub async fn send(&self, along: &AlongFiles, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        to.write_all(MAGIC).await?;
        to.write_u32(bounded(along.len(), FILES_MAX)?).await?;
        for bytes in along.iter().flat_map(|(name, content)| [name.as_bytes(), content]) {
            to.write_u32(bounded(bytes.len(), FILE_BYTES_MAX)?).await?;
            to.write_all(bytes).await?;
        }
        let length = self.length_bytes()?;
        let mut offset = 0;
        while let Some((at, bytes)) = self.next_part(offset).await? {
            to.write_u64(at).await?;
            // A part has at most PART_BYTES.
            to.write_u32(bytes.len() as u32).await?;
            to.write_all(&bytes).await?;
            offset = at + bytes.len() as u64;
        }
        to.write_u64(length).await?;
        to.write_u32(0).await?;
        to.flush().await
    }
}

/// The next data at `offset` or behind it; `None` where only a hole follows.
fn next_part(file: &File, offset: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
    let begin = match seek(file, SeekFrom::Data(offset)) {
        Err(Errno::NXIO) => return Ok(None),
        found => found?,
    };
    let end = seek(file, SeekFrom::Hole(begin))?;
    let mut bytes = vec![0; (end - begin).min(PART_BYTES as u64) as usize];
    file.read_exact_at(&mut bytes, begin)?;
    Ok(Some((begin, bytes)))
}

impl StagedDisk {
    pub fn path(&self) -> PathBuf {
        self.staging.file_path(STAGED)
    }

    /// For sending it elsewhere; this must be kept until then.
    pub fn to_send(&self) -> io::Result<DiskFile> {
        Ok(DiskFile::of(Arc::new(self.file.try_clone()?)))
    }

    /// Takes the whole of a disk of this host; `on_progress` hears how much has come.
    pub async fn copy_of(&mut self, disk: &DiskFile, mut on_progress: impl FnMut(u64)) -> io::Result<()> {
        let (mut offset, mut copied) = (0, 0);
        while let Some((at, bytes)) = disk.next_part(offset).await? {
            let (to, length) = (self.file.try_clone()?, bytes.len() as u64);
            blocking(move || to.write_all_at(&bytes, at)).await?;
            offset = at + length;
            copied += length;
            on_progress(copied);
        }
        let (to, length) = (self.file.try_clone()?, disk.length_bytes()?);
        blocking(move || to.set_len(length).and_then(|()| to.sync_all())).await
    }

    /// Takes what a [`DiskFile`] sends; `on_progress` hears how much has come.
    ///
    /// # Errors
    /// I/O errors of either end, and [`io::ErrorKind::InvalidData`] for what is not a whole disk.
    pub async fn fill(
        &mut self,
        content: &mut (impl AsyncRead + Unpin),
        mut on_progress: impl FnMut(u64),
    ) -> io::Result<AlongFiles> {
        let mut magic = [0; MAGIC.len()];
        content.read_exact(&mut magic).await?;
        if &magic != MAGIC {
            return Err(invalid("it is no disk, or one of another version of Gantry"));
        }
        let mut along = AlongFiles::new();
        for _ in 0..bounded(content.read_u32().await? as usize, FILES_MAX)? {
            let name = String::from_utf8(bytes(content).await?).map_err(|_| invalid("a file's name is not UTF-8"))?;
            along.insert(name, bytes(content).await?);
        }
        let mut received = 0;
        loop {
            let (offset, length) = (content.read_u64().await?, content.read_u32().await? as usize);
            if offset > OFFSET_MAX || length > PART_BYTES {
                return Err(invalid("a part of impossible size"));
            }
            let file = self.file.try_clone()?;
            if length == 0 {
                blocking(move || file.set_len(offset).and_then(|()| file.sync_all())).await?;
                return Ok(along);
            }
            let mut bytes = vec![0; length];
            content.read_exact(&mut bytes).await?;
            blocking(move || file.write_all_at(&bytes, offset)).await?;
            received += length as u64;
            on_progress(received);
        }
    }
}

async fn bytes(content: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; bounded(content.read_u32().await? as usize, FILE_BYTES_MAX)? as usize];
    content.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn bounded(number: usize, limit: u32) -> io::Result<u32> {
    let bounded = u32::try_from(number).ok().filter(|number| *number <= limit);
    bounded.ok_or_else(|| invalid("too much goes along with the disk"))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
