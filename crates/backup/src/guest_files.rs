//! Files in a backed-up disk, without restoring or mounting it: the disk's partitions, and the ext file systems in them.
//!
//! All of it is read in this process, lazily: a small file of a large disk takes a handful of chunks. Partitions are found by
//! MBR or GPT, a file system may also fill the disk. ext2, ext3 and ext4 are read; what else is there is named in the error.
//! The content is a guest's, so nothing that it says about sizes is believed.

use std::error::Error;

use ext4_view::{Ext4, Ext4Error, Ext4Read, Path};
use tokio::runtime::Handle;

use crate::error::{Class, RepositoryError};
use crate::reader::DiskReader;

const SECTOR: u64 = 512;
const MBR_ENTRIES_AT: usize = 446;
const GPT_ENTRIES_MAX: u64 = 128;
const ENTRIES_MAX: usize = 10_000;
/// At most so much of a file is returned at once.
pub const PART_BYTES_MAX: usize = 4 << 20;

/// Kinds of content that people want to hear of by name, with where their mark is.
const OTHERS: [(&str, u64, &[u8]); 6] = [
    ("XFS", 0, b"XFSB"),
    ("btrfs", 0x10040, b"_BHRfS_M"),
    ("an LVM physical volume", 512, b"LABELONE"),
    ("LUKS encryption", 0, b"LUKS\xba\xbe"),
    ("NTFS", 3, b"NTFS    "),
    ("FAT", 510, b"\x55\xaa"),
];
const EXT_MAGIC: (u64, &[u8]) = (1080, b"\x53\xef");

#[derive(Debug, thiserror::Error)]
pub enum GuestFilesError {
    #[error("the disk has no file system that can be read: only ext2, ext3 and ext4 can, and there is {found}")]
    NoFileSystem { found: String },
    #[error("'{path}' is in none of the disk's {count} ext file systems")]
    NotFound { path: String, count: usize },
    #[error("'{path}' is no absolute path")]
    NotAPath { path: String },
    #[error("'{path}' is neither a file nor a directory")]
    NotAFile { path: String },
    #[error("the file system in partition {partition} can't be read")]
    Damaged {
        partition: u32,
        #[source]
        source: Ext4Error,
    },
}

impl GuestFilesError {
    pub fn class(&self) -> Class {
        match self {
            Self::NotFound { .. } => Class::NotFound,
            Self::NotAPath { .. } | Self::NotAFile { .. } => Class::Invalid,
            Self::NoFileSystem { .. } | Self::Damaged { .. } => Class::Permanent,
        }
    }
}

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A part of its content.
    File { size_bytes: u64, part: Vec<u8> },
    /// Names of what is in it, directories with a slash at the end; sorted, at most 10,000.
    Directory { entries: Vec<String> },
}

/// Where a file system may be; partition 0 is the whole disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    partition: u32,
    begin_bytes: u64,
}

/// Looks a path up; of a file, returns what is at `offset_bytes`, at most [`PART_BYTES_MAX`]. The first file system that has
/// the path counts.
///
/// # Errors
/// [`GuestFilesError`], and what reading the disk gives.
pub async fn look_up(disk: DiskReader, path: &str, offset_bytes: u64) -> Result<Found, RepositoryError> {
    let (path, runtime) = (path.to_owned(), Handle::current());
    let looked = move || Disk { reader: disk, runtime, begin_bytes: 0 }.look_up(&path, offset_bytes);
    let looked = tokio::task::spawn_blocking(looked).await;
    looked.unwrap_or_else(|error| {
        let source = std::io::Error::other(error);
        Err(RepositoryError::Place { doing: "read files from", place: "a backup".to_owned(), source })
    })
}

/// A disk, or a part of it, for those that read without waiting.
struct Disk {
    reader: DiskReader,
    runtime: Handle,
    begin_bytes: u64,
}

impl Disk {
    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), RepositoryError> {
        let at = self.begin_bytes.saturating_add(offset);
        if at.saturating_add(into.len() as u64) > self.reader.size_bytes() {
            into.fill(0);
            return Ok(());
        }
        self.runtime.block_on(self.reader.read_at(at, into))
    }

    fn has(&mut self, place: Place, (at, mark): (u64, &[u8])) -> Result<bool, RepositoryError> {
        let mut found = vec![0; mark.len()];
        self.read(place.begin_bytes.saturating_add(at), &mut found)?;
        Ok(found == mark)
    }

    fn places(&mut self) -> Result<Vec<Place>, RepositoryError> {
        let mut places = vec![Place { partition: 0, begin_bytes: 0 }];
        let mut sector = [0; SECTOR as usize];
        self.read(0, &mut sector)?;
        if sector[510..] != [0x55, 0xaa] {
            return Ok(places);
        }
        for (number, entry) in sector[MBR_ENTRIES_AT..510].chunks_exact(16).enumerate() {
            let begin = u64::from(u32::from_le_bytes([entry[8], entry[9], entry[10], entry[11]]));
            match entry[4] {
                0 => {}
                0xee => return self.gpt_places(places),
                _ => places.push(Place { partition: number as u32 + 1, begin_bytes: begin * SECTOR }),
            }
        }
        Ok(places)
    }

    fn gpt_places(&mut self, mut places: Vec<Place>) -> Result<Vec<Place>, RepositoryError> {
        let mut header = [0; SECTOR as usize];
        self.read(SECTOR, &mut header)?;
        if &header[..8] != b"EFI PART" {
            return Ok(places);
        }
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let table = u64::from(word(72)) | u64::from(word(76)) << 32;
        let (count, size) = (u64::from(word(80)).min(GPT_ENTRIES_MAX), u64::from(word(84)).clamp(128, 4096));
        for number in 0..count {
            let mut entry = [0; 40];
            self.read(table.saturating_mul(SECTOR).saturating_add(number * size), &mut entry)?;
            let mut begin = [0; 8];
            begin.copy_from_slice(&entry[32..40]);
            if entry[..16] != [0; 16] {
                let begin_bytes = u64::from_le_bytes(begin).saturating_mul(SECTOR);
                places.push(Place { partition: number as u32 + 1, begin_bytes });
            }
        }
        Ok(places)
    }

    fn look_up(mut self, path: &str, offset: u64) -> Result<Found, RepositoryError> {
        let not_a_path = || GuestFilesError::NotAPath { path: path.to_owned() };
        let wanted = Path::try_from(path).ok().filter(|path| path.is_absolute()).ok_or_else(not_a_path)?;
        let (mut count, mut others) = (0, Vec::new());
        for place in self.places()? {
            if !self.has(place, EXT_MAGIC)? {
                for (name, at, mark) in OTHERS {
                    if place.partition > 0 && self.has(place, (at, mark))? {
                        others.push(format!("{name} in partition {}", place.partition));
                        break;
                    }
                }
                continue;
            }
            count += 1;
            let reader =
                Disk { reader: self.reader.clone(), runtime: self.runtime.clone(), begin_bytes: place.begin_bytes };
            let damaged = |source| GuestFilesError::Damaged { partition: place.partition, source };
            let system = Ext4::load(Box::new(reader)).map_err(damaged)?;
            match found_in(&system, wanted, path, offset) {
                Err(Looked::Ext4(Ext4Error::NotFound)) => {}
                Err(Looked::Ext4(error)) => return Err(damaged(error).into()),
                Err(Looked::Refused(error)) => return Err(error.into()),
                Ok(found) => return Ok(found),
            }
        }
        let found = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
        Err(match count {
            0 => GuestFilesError::NoFileSystem { found }.into(),
            count => GuestFilesError::NotFound { path: path.to_owned(), count }.into(),
        })
    }
}

impl Ext4Read for Disk {
    fn read(&mut self, start_byte: u64, into: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync + 'static>> {
        Ok(Disk::read(self, start_byte, into)?)
    }
}

enum Looked {
    Ext4(Ext4Error),
    Refused(GuestFilesError),
}

impl From<Ext4Error> for Looked {
    fn from(error: Ext4Error) -> Self {
        Self::Ext4(error)
    }
}

fn found_in(system: &Ext4, wanted: Path<'_>, path: &str, offset: u64) -> Result<Found, Looked> {
    let metadata = system.metadata(wanted)?;
    if metadata.is_dir() {
        let mut entries = Vec::new();
        for entry in system.read_dir(wanted)?.take(ENTRIES_MAX) {
            let entry = entry?;
            let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
            let name = entry.file_name();
            if ![".", ".."].contains(&name.as_str().unwrap_or_default()) {
                entries.push(format!("{}{slash}", name.display()));
            }
        }
        entries.sort();
        return Ok(Found::Directory { entries });
    }
    if !metadata.file_type().is_regular_file() {
        return Err(Looked::Refused(GuestFilesError::NotAFile { path: path.to_owned() }));
    }
    let size_bytes = metadata.len();
    let wanted_bytes = size_bytes.saturating_sub(offset).min(PART_BYTES_MAX as u64) as usize;
    let mut file = system.open(wanted)?;
    file.seek_to(offset)?;
    let (mut part, mut filled) = (vec![0; wanted_bytes], 0);
    while filled < wanted_bytes {
        match file.read_bytes(&mut part[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    part.truncate(filled);
    Ok(Found::File { size_bytes, part })
}
