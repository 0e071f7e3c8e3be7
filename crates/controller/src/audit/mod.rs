//! The audit log: files of JSON lines that are only ever appended to.
//!
//! ```text
//!   audit/00000000000000000001.jsonl   audit/00000000000000004711.jsonl ◀── append
//!         └ named by its first entry         └ a new one every 16 MiB
//! ```
//! Whole files are dropped, oldest first, when all of them together are too large or the youngest entry of one is too
//! old. An entry is handed to the kernel before the request it tells of is answered, and is on the disk within a second
//! (`loops/audit_keeper.rs`). One that can't be written is told of in the program's log and the request goes on: what it
//! did is done. A last line that a power loss cut is skipped when it is read, and the next entry begins a new file.

mod reading;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use gantry_api::audit::AuditEntry;

pub use reading::page;

const SUFFIX: &str = ".jsonl";

#[derive(Debug, Clone, Copy)]
pub struct AuditLimits {
    /// A file that has grown beyond this is followed by another.
    pub file_bytes: u64,
    /// All files together.
    pub total_bytes: u64,
    pub age: Duration,
}

impl Default for AuditLimits {
    fn default() -> Self {
        Self { file_bytes: 16 << 20, total_bytes: 1 << 30, age: Duration::from_secs(400 * 86_400) }
    }
}

/// See the module's head.
pub struct AuditLog {
    directory: PathBuf,
    limits: AuditLimits,
    state: Mutex<State>,
}

struct State {
    file: Option<File>,
    bytes: u64,
    next_id: u64,
    is_dirty: bool,
}

impl AuditLog {
    /// Opens the log in this directory, which is made if it is not there.
    pub fn open(directory: &Path, limits: AuditLimits) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let next_id = match segments(directory)?.last() {
            None => 1,
            Some((first, path)) => reading::last_id(path)?.map_or(*first, |last| last + 1),
        };
        let state = State { file: None, bytes: 0, next_id, is_dirty: false };
        Ok(Self { directory: directory.to_owned(), limits, state: Mutex::new(state) })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends; the entry's id is given here.
    pub fn append(&self, mut entry: AuditEntry) -> io::Result<()> {
        let mut state = self.lock();
        entry.id = state.next_id;
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        if state.file.is_none() || state.bytes >= self.limits.file_bytes {
            if let Some(full) = state.file.take() {
                full.sync_data()?;
            }
            let path = self.directory.join(format!("{:020}{SUFFIX}", entry.id));
            // One that is there holds nothing that could be read, or its entry would have been counted.
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
            File::open(&self.directory)?.sync_all()?;
            (state.file, state.bytes) = (Some(file), 0);
        }
        let written = state.file.as_mut().map_or(Ok(()), |file| file.write_all(&line));
        if let Err(error) = written {
            // Half a line may be there: nothing must be appended to it.
            state.file = None;
            return Err(error);
        }
        state.bytes += line.len() as u64;
        state.next_id += 1;
        state.is_dirty = true;
        Ok(())
    }

    /// Puts what was appended on the disk.
    pub fn sync(&self) -> io::Result<()> {
        let file = {
            let mut state = self.lock();
            if !std::mem::take(&mut state.is_dirty) {
                return Ok(());
            }
            state.file.as_ref().map(File::try_clone).transpose()?
        };
        file.map_or(Ok(()), |file| file.sync_data())
    }

    /// Drops the oldest files that are too many or too old; how many those were.
    pub fn trim(&self, now: SystemTime) -> io::Result<usize> {
        let segments = segments(&self.directory)?;
        let mut dropped = 0;
        let mut total_bytes = 0;
        // The newest is being written to.
        for (index, (_, path)) in segments.iter().rev().enumerate() {
            let found = fs::metadata(path)?;
            total_bytes += found.len();
            let age = now.duration_since(found.modified()?).unwrap_or_default();
            if index > 0 && (total_bytes > self.limits.total_bytes || age > self.limits.age) {
                fs::remove_file(path)?;
                dropped += 1;
            }
        }
        Ok(dropped)
    }
}

/// The files, oldest first, each with the id of its first entry.
fn segments(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if let Some(first) = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)?.parse().ok()) {
            found.push((first, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests;
