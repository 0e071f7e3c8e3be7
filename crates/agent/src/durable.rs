//! Small files that survive a crash at any moment: the old content or the new one, never a mixture.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Replaces `path`. When this returns, the content and its name are on disk.
///
/// One writer per path: the temporary file has a fixed name, so that a crash leaves one leftover at most.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let fresh = path.with_added_extension("new");
    write_synced(&fresh, content)?;
    fs::rename(&fresh, path)?;
    sync_parent(path)
}

/// Creates `path` unless it exists; says whether it did. The first of two callers wins, also across a crash.
pub(crate) fn create(path: &Path, content: &[u8]) -> io::Result<bool> {
    let fresh = path.with_added_extension("new");
    write_synced(&fresh, content)?;
    let linked = fs::hard_link(&fresh, path);
    fs::remove_file(&fresh)?;
    match linked {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(error),
    }
    sync_parent(path)?;
    Ok(true)
}

/// Reads what was written here by a process that may have ended before its name was on disk; now it is.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let content = fs::read(path)?;
    sync_parent(path)?;
    Ok(content)
}

/// Removes `path` for good. A missing file is a success.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the entries of `directory` durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leftover_of_a_crash_is_neither_read_nor_in_the_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.json");
        replace(&path, b"old").unwrap();
        // A crash in the middle of the next write leaves half a temporary file.
        fs::write(directory.path().join("record.json.new"), b"ha").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_first_creation_is_final() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("verdict");
        fs::write(directory.path().join("verdict.new"), b"half of a crashed one").unwrap();
        assert!(create(&path, b"first").unwrap());
        assert!(!create(&path, b"second").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"first");
        remove(&path).unwrap();
        remove(&path).unwrap();
    }
}
