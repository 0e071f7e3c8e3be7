//! Copies an untrusted file into staging, unpacking one layer of gzip, xz or zstd on the way.
//!
//! The copy is what is inspected and converted later, so the original may change or vanish
//! without harm. Zeros become holes and cost no space. Bounds: the unpacked size, the ratio of
//! data (not zeros, blank disks compress without end) to compressed input, and decoder memory.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use async_compression::tokio::bufread::{GzipDecoder, XzDecoder, ZstdDecoder};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio_util::io::InspectReader;
use tokio_util::sync::CancellationToken;

use crate::digest::Sha256Digest;
use crate::error::StorageError;
use crate::import::ImportLimits;
use crate::probe::{Compression, Refusal};

const READ_BYTES: usize = 1 << 20;
/// The grain in which runs of zeros are left out of the copy.
const HOLE_BYTES: usize = 64 << 10;
static ZEROS: [u8; HOLE_BYTES] = [0; HOLE_BYTES];
/// What `xz -9` files need is 65 MiB.
const XZ_MEMORY_BYTES: u64 = 256 << 20;
/// Below this much data the ratio is not judged: small inputs are all headers.
const RATIO_GRACE_BYTES: u64 = 64 << 20;

pub(crate) struct Staged {
    /// Of the file as it was supplied.
    pub(crate) source_sha256: Sha256Digest,
    pub(crate) compression: Option<Compression>,
    pub(crate) size_bytes: u64,
}

pub(crate) struct StageJob<'a> {
    pub(crate) path: &'a Path,
    pub(crate) limits: &'a ImportLimits,
    pub(crate) cancel: &'a CancellationToken,
    pub(crate) on_percent: &'a dyn Fn(f32),
}

impl StageJob<'_> {
    /// Fills `output` from `source`. Blocks: call it where that is allowed, inside a runtime.
    pub(crate) fn run(&self, source: File, output: &File) -> Result<Staged, StorageError> {
        tokio::runtime::Handle::current().block_on(self.copy(source, output))
    }

    async fn copy(&self, source: File, output: &File) -> Result<Staged, StorageError> {
        let source_bytes = source.metadata().map_err(StorageError::io("reading", self.path))?.len();
        if source_bytes == 0 {
            return Err(self.refused(Refusal::Empty));
        }
        let mut start = [0; 6];
        let start_bytes = source.read_at(&mut start, 0).map_err(StorageError::io("reading", self.path))?;
        let compression = Compression::detect(&start[..start_bytes]);

        let hasher = RefCell::new(Sha256::new());
        let consumed_bytes = Cell::new(0);
        let mut source = tokio::fs::File::from_std(source);
        source.set_max_buf_size(READ_BYTES);
        let source = InspectReader::new(source, |bytes: &[u8]| {
            hasher.borrow_mut().update(bytes);
            consumed_bytes.set(consumed_bytes.get() + bytes.len() as u64);
        });
        let mut source = BufReader::with_capacity(READ_BYTES, source);
        let mut copy =
            Copy { job: self, output, consumed_bytes: &consumed_bytes, source_bytes, size_bytes: 0, data_bytes: 0 };
        match compression {
            None => copy.drain(&mut source, false).await?,
            Some(Compression::Gzip) => {
                let mut decoder = GzipDecoder::new(source);
                decoder.multiple_members(true);
                copy.drain(&mut decoder, true).await?;
            }
            Some(Compression::Xz) => {
                let mut decoder = XzDecoder::with_mem_limit(source, XZ_MEMORY_BYTES);
                decoder.multiple_members(true);
                copy.drain(&mut decoder, true).await?;
            }
            Some(Compression::Zstd) => {
                let mut decoder = ZstdDecoder::new(source);
                decoder.multiple_members(true);
                copy.drain(&mut decoder, true).await?;
            }
        }
        let size_bytes = copy.size_bytes;
        if size_bytes == 0 {
            return Err(self.refused(Refusal::Empty));
        }
        output.set_len(size_bytes).map_err(StorageError::io("unpacking", self.path))?;
        Ok(Staged { source_sha256: Sha256Digest::finish(hasher.into_inner()), compression, size_bytes })
    }

    fn refused(&self, reason: Refusal) -> StorageError {
        StorageError::Refused { path: self.path.to_owned(), reason }
    }
}

struct Copy<'a> {
    job: &'a StageJob<'a>,
    output: &'a File,
    consumed_bytes: &'a Cell<u64>,
    source_bytes: u64,
    size_bytes: u64,
    data_bytes: u64,
}

impl Copy<'_> {
    async fn drain(&mut self, reader: &mut (impl AsyncRead + Unpin), unpacking: bool) -> Result<(), StorageError> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            if self.job.cancel.is_cancelled() {
                let error = io::Error::from(io::ErrorKind::Interrupted);
                return Err(StorageError::io("reading", self.job.path)(error));
            }
            let filled = match reader.read(&mut buffer).await {
                Ok(0) => return Ok(()),
                Ok(filled) => filled,
                // A decoder's own complaints carry no errno.
                Err(error) if unpacking && error.raw_os_error().is_none() => {
                    return Err(self.job.refused(Refusal::BadCompression { detail: error.to_string() }));
                }
                Err(error) => return Err(StorageError::io("reading", self.job.path)(error)),
            };
            self.write(&buffer[..filled]).map_err(StorageError::io("unpacking", self.job.path))?;
            self.check_limits(unpacking)?;
            (self.job.on_percent)(self.consumed_bytes.get() as f32 * 100.0 / self.source_bytes as f32);
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(HOLE_BYTES) {
            if piece != &ZEROS[..piece.len()] {
                self.output.write_all_at(piece, self.size_bytes)?;
                self.data_bytes += piece.len() as u64;
            }
            self.size_bytes += piece.len() as u64;
        }
        Ok(())
    }

    fn check_limits(&self, unpacking: bool) -> Result<(), StorageError> {
        let ImportLimits { max_unpacked_bytes, max_ratio, .. } = *self.job.limits;
        if self.size_bytes > max_unpacked_bytes {
            return Err(self.job.refused(Refusal::ExpandsTooFar { limit_bytes: max_unpacked_bytes }));
        }
        let allowed_bytes = self.consumed_bytes.get().saturating_mul(max_ratio).max(RATIO_GRACE_BYTES);
        if unpacking && self.data_bytes > allowed_bytes {
            return Err(self.job.refused(Refusal::Bomb { limit_ratio: max_ratio }));
        }
        Ok(())
    }
}
