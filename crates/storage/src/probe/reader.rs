//! Bounded reading of an untrusted file: no offset or length from the file is used unchecked.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use gantry_types::ImageFormat;

use super::Refusal;

/// Random access to an image file's bytes.
pub trait ReadAt {
    fn size_bytes(&self) -> io::Result<u64>;
    /// Fills `buffer` from `offset` or fails.
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

impl ReadAt for File {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

impl ReadAt for &[u8] {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let range = usize::try_from(offset).ok().and_then(|start| self.get(start..start.checked_add(buffer.len())?));
        buffer.copy_from_slice(range.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// How much of a table is held in memory at a time.
const CHUNK_BYTES: u64 = 64 * 1024;

/// Reads one image file on behalf of the inspection of one format.
pub(super) struct Reader<'a> {
    source: &'a dyn ReadAt,
    format: ImageFormat,
    file_bytes: u64,
}

/// Up to `count` bytes from the start of the file; fewer if it is shorter.
pub(super) fn start_of(source: &dyn ReadAt, count: u64) -> Result<Vec<u8>, Refusal> {
    let size_bytes = source.size_bytes().map_err(Refusal::Read)?;
    let mut start = vec![0; size_bytes.min(count) as usize];
    source.read_exact_at(0, &mut start).map_err(Refusal::Read)?;
    Ok(start)
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a dyn ReadAt, format: ImageFormat) -> Result<Self, Refusal> {
        let file_bytes = source.size_bytes().map_err(Refusal::Read)?;
        Ok(Self { source, format, file_bytes })
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// `count` bytes at `offset`; the caller bounds `count`.
    pub(super) fn bytes(&self, what: &'static str, offset: u64, count: u64) -> Result<Vec<u8>, Refusal> {
        self.require(what, offset, count)?;
        let mut bytes = vec![0; count as usize];
        self.source.read_exact_at(offset, &mut bytes).map_err(Refusal::Read)?;
        Ok(bytes)
    }

    /// Up to `count` bytes at `offset`; fewer where the file ends.
    pub(super) fn bytes_up_to(&self, offset: u64, count: u64) -> Result<Vec<u8>, Refusal> {
        let available = self.file_bytes.saturating_sub(offset).min(count);
        self.bytes("a text", offset, available)
    }

    /// Refuses the file unless it reaches from `offset` over `count` bytes.
    pub(super) fn require(&self, what: &'static str, offset: u64, count: u64) -> Result<(), Refusal> {
        let found_bytes = self.file_bytes;
        let needed_bytes = offset.saturating_add(count);
        if needed_bytes > found_bytes {
            return Err(Refusal::Truncated { format: self.format, what, needed_bytes, found_bytes });
        }
        Ok(())
    }

    /// Refuses tables that are used more often than the file has room for them: that many would
    /// have to overlap, and reading them could take for ever.
    pub(super) fn require_distinct(&self, what: &str, count: u64, each_bytes: u64) -> Result<(), Refusal> {
        if count.saturating_mul(each_bytes) > self.file_bytes {
            return Err(self.corrupt(format!("{what} that overlap")));
        }
        Ok(())
    }

    pub(super) fn require_size(&self, size_bytes: u64, limit_bytes: u64) -> Result<(), Refusal> {
        if size_bytes == 0 {
            return Err(self.corrupt("a disk of no bytes"));
        }
        if size_bytes > limit_bytes {
            return Err(Refusal::TooLarge { format: self.format, size_bytes, limit_bytes });
        }
        Ok(())
    }

    /// Calls `visit(index, entry)` for each entry of a table of `count` entries of `N` bytes.
    pub(super) fn for_each_entry<const N: usize>(
        &self,
        what: &'static str,
        offset: u64,
        count: u64,
        mut visit: impl FnMut(u64, [u8; N]) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let entry_bytes = N as u64;
        let Some(table_bytes) = count.checked_mul(entry_bytes) else {
            return Err(self.corrupt("a table longer than any file"));
        };
        self.require(what, offset, table_bytes)?;
        let mut done = 0;
        while done < count {
            let chunk_entries = (count - done).min(CHUNK_BYTES / entry_bytes);
            let chunk = self.bytes(what, offset + done * entry_bytes, chunk_entries * entry_bytes)?;
            for (index, entry) in (done..).zip(chunk.as_chunks::<N>().0) {
                visit(index, *entry)?;
            }
            done += chunk_entries;
        }
        Ok(())
    }

    pub(super) fn corrupt(&self, detail: impl Into<String>) -> Refusal {
        Refusal::Corrupt { format: self.format, detail: detail.into() }
    }

    pub(super) fn unsupported(&self, detail: impl Into<String>) -> Refusal {
        Refusal::Unsupported { format: self.format, detail: detail.into() }
    }

    pub(super) fn external(&self, what: impl Into<String>) -> Refusal {
        Refusal::ExternalReference { format: self.format, what: what.into() }
    }
}

/// A fixed-size field inside a header that was read whole; `offset` is a constant of the format.
fn field<const N: usize>(header: &[u8], offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&header[offset..offset + N]);
    bytes
}

pub(super) fn be16(header: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes(field(header, offset))
}

pub(super) fn be32(header: &[u8], offset: usize) -> u32 {
    u32::from_be_bytes(field(header, offset))
}

pub(super) fn be64(header: &[u8], offset: usize) -> u64 {
    u64::from_be_bytes(field(header, offset))
}

pub(super) fn le16(header: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(field(header, offset))
}

pub(super) fn le32(header: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(field(header, offset))
}

pub(super) fn le64(header: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(field(header, offset))
}

pub(super) fn guid(header: &[u8], offset: usize) -> uuid::Uuid {
    uuid::Uuid::from_bytes_le(field(header, offset))
}
