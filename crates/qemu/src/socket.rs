//! Connecting to a socket in a directory that an unprivileged QEMU may write to.
//!
//! A guest that has taken over its QEMU can put anything there, also a link to a socket of another VM or of the host's
//! own services, and we connect as root. So the name must be a socket itself, and belong to whom the directory
//! belongs to. What was checked is what is connected to: the name is resolved once.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use tokio::net::UnixStream;

/// Fails with [`io::ErrorKind::NotFound`] or [`io::ErrorKind::ConnectionRefused`] while nobody listens there yet, and
/// with [`io::ErrorKind::PermissionDenied`] if `path` is not a socket of the directory's owner.
pub async fn connect_socket(path: &Path) -> io::Result<UnixStream> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a socket"));
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(CWD, directory, flags | OFlags::DIRECTORY, Mode::empty())?;
    let socket = openat(&directory, name, flags, Mode::empty())?;
    let found = fstat(&socket)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket || found.st_uid != fstat(&directory)?.st_uid {
        let reason = "it is not a socket made by the user its directory belongs to: somebody has put it there";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    }
    UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{chown, symlink};
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn only_the_owners_own_socket_is_connected_to() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("qmp.sock");
        assert_eq!(connect_socket(&own).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        let listener = UnixListener::bind(&own).unwrap();
        connect_socket(&own).await.unwrap();

        let link = directory.path().join("link.sock");
        symlink(&own, &link).unwrap();
        assert_eq!(connect_socket(&link).await.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        let file = directory.path().join("file.sock");
        std::fs::write(&file, b"").unwrap();
        assert_eq!(connect_socket(&file).await.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        if rustix::process::geteuid().is_root() {
            chown(directory.path(), Some(200_001), None).unwrap();
            assert_eq!(connect_socket(&own).await.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            chown(directory.path(), Some(0), None).unwrap();
        }
        drop(listener);
        assert_eq!(connect_socket(&own).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
