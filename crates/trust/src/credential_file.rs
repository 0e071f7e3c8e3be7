//! Credential files: written atomically and fsynced, private keys with mode 0600, and keys that
//! others could read are refused on the way in.
//!
//! A crash leaves either the old file or the new one, never a part. What it doesn't do: keep two
//! files consistent with each other (so a key and its certificate share one file where that
//! matters).

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::unistd::Uid;

use crate::TrustError;

/// No credential file is anywhere near this; a larger one is a mistake or an attack.
const FILE_SIZE_MAX_BYTES: u64 = 64 * 1024;

pub(crate) const SECRET_MODE: u32 = 0o600;
pub(crate) const PUBLIC_MODE: u32 = 0o644;

/// Makes `directory` (mode 0700 where it is new).
pub(crate) fn make_directory(directory: &Path) -> Result<(), TrustError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(TrustError::file("create directory", directory))
}

/// Replaces `path` with `contents`, or leaves it untouched.
pub(crate) fn write(path: &Path, contents: &[u8], mode: u32) -> Result<(), TrustError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let failed = |source| TrustError::File { action: "write", path: path.to_path_buf(), source };
    // NamedTempFile starts as 0600, so a secret is never readable, not even for a moment.
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(directory).map_err(failed)?;
    file.write_all(contents).map_err(failed)?;
    file.as_file().set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    sync_directory(directory)
}

pub(crate) fn sync_directory(directory: &Path) -> Result<(), TrustError> {
    File::open(directory).and_then(|handle| handle.sync_all()).map_err(TrustError::file("sync directory", directory))
}

/// Reads a public file.
pub(crate) fn read(path: &Path) -> Result<String, TrustError> {
    let file = File::open(path).map_err(TrustError::file("open", path))?;
    read_text(file, path)
}

/// Reads a file with a private key, unless its owner or mode exposes it. The check is made on
/// the opened file, so swapping the path in between gains nothing.
pub(crate) fn read_secret(path: &Path) -> Result<String, TrustError> {
    let file = File::open(path).map_err(TrustError::file("open", path))?;
    let metadata = file.metadata().map_err(TrustError::file("inspect", path))?;
    let expected_uid = Uid::effective().as_raw();
    let exposed = |found| TrustError::ExposedKey { path: path.to_path_buf(), found, expected_uid };
    if metadata.mode() & 0o077 != 0 {
        return Err(exposed(format!("its mode is {:03o}", metadata.mode() & 0o777)));
    }
    if metadata.uid() != expected_uid && metadata.uid() != 0 {
        return Err(exposed(format!("it belongs to uid {}", metadata.uid())));
    }
    read_text(file, path)
}

fn read_text(file: File, path: &Path) -> Result<String, TrustError> {
    let mut text = String::new();
    let length =
        file.take(FILE_SIZE_MAX_BYTES + 1).read_to_string(&mut text).map_err(TrustError::file("read", path))?;
    if length as u64 > FILE_SIZE_MAX_BYTES {
        return Err(TrustError::BrokenFile {
            path: path.to_path_buf(),
            reason: format!("it is larger than {FILE_SIZE_MAX_BYTES} bytes"),
            remedy: "restore it from a backup",
        });
    }
    Ok(text)
}
