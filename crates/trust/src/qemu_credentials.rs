//! QEMU's `tls-creds-x509` directory, made from a `qemu`-role identity.
//!
//! QEMU wants six fixed file names; one certificate serves both ends. The directory is built
//! beside its place and swapped in whole, so a QEMU that starts meanwhile reads a matching set.
//! Only the given user or group can read it. Deleting it is up to its owner. Nothing waits for the disk: it is written
//! for one move, and what a power loss leaves of it is written anew for the next.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::credential_file;
use crate::{Identity, Role, TrustError};

/// `dh-params.pem`: the group of RFC 7919, appendix A.1, as PKCS #3. Where a server finds no `dh-params.pem`, QEMU searches for a prime of
/// its own each time: up to seconds of each move.
pub const DH_PARAMETERS: &str = include_str!("ffdhe2048.pem");

/// Who may read the credentials besides root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialReader {
    /// One user, who also becomes the owner.
    Uid(u32),
    /// The members of one group; the owner stays the caller.
    Gid(u32),
}

/// Writes (or replaces) `directory` with the files QEMU expects. Only a `qemu` identity is
/// accepted: a guest that takes over its QEMU can read them, so a host's own key must never be
/// among them.
pub fn write_qemu_credentials(
    directory: &Path,
    identity: &Identity,
    reader: CredentialReader,
) -> Result<(), TrustError> {
    if identity.peer().role() != Role::Qemu {
        return Err(TrustError::Invalid {
            what: "identity for QEMU",
            value: identity.peer().to_string(),
            reason: "a certificate of the role qemu is required".into(),
        });
    }
    let parent = match directory.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let fresh = tempfile::Builder::new()
        .prefix(".new-creds-")
        .tempdir_in(parent)
        .map_err(TrustError::file("create a directory in", parent))?;
    let (uid, gid, file_mode, directory_mode) = match reader {
        CredentialReader::Uid(uid) => (Some(uid), None, 0o400, 0o500),
        CredentialReader::Gid(gid) => (None, Some(gid), 0o440, 0o550),
    };
    let give = |path: &Path, mode: u32| {
        // Ownership first: changing it afterwards would clear nothing here, but until then the
        // file is 0600 and readable by nobody new.
        chown(path, uid, gid)
            .and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
            .map_err(TrustError::file("hand over", path))
    };
    let files = [
        ("ca-cert.pem", identity.ca_pem()),
        ("dh-params.pem", DH_PARAMETERS),
        ("server-cert.pem", identity.certificate_pem()),
        ("server-key.pem", identity.key_pem()),
        ("client-cert.pem", identity.certificate_pem()),
        ("client-key.pem", identity.key_pem()),
    ];
    for (name, contents) in files {
        let path = fresh.path().join(name);
        let file = File::options().write(true).create_new(true).mode(credential_file::SECRET_MODE).open(&path);
        file.and_then(|mut file| file.write_all(contents.as_bytes())).map_err(TrustError::file("write", &path))?;
        give(&path, file_mode)?;
    }
    give(fresh.path(), directory_mode)?;
    swap_in(fresh, directory)
}

/// Puts `fresh` at `directory`; what was there before is deleted.
fn swap_in(fresh: tempfile::TempDir, directory: &Path) -> Result<(), TrustError> {
    let failed = TrustError::file("replace", directory);
    let exists = directory.try_exists().map_err(TrustError::file("inspect", directory))?;
    let flags = if exists { RenameFlags::RENAME_EXCHANGE } else { RenameFlags::RENAME_NOREPLACE };
    renameat2(AT_FDCWD, fresh.path(), AT_FDCWD, directory, flags).map_err(|errno| failed(errno.into()))?;
    if !exists {
        // The temporary path is gone: there is nothing left to delete.
        let _moved_away = fresh.keep();
        return Ok(());
    }
    let old = fresh.path().to_path_buf();
    fs::set_permissions(&old, Permissions::from_mode(0o700))
        .and_then(|()| fresh.close())
        .map_err(TrustError::file("delete", &old))
}
