//! Files of a VM that its unprivileged user may write: made, read and kept short by the agent, which is root.
//!
//! They lie in the VM's directory, which belongs to root. So a guest that has taken over its QEMU can change what is in
//! its files, but it can't put a link, a pipe or another file in their place. The one directory it can write to, `run/`, has
//! nothing but sockets, and what is connected to there is checked (`gantry_qemu::connect_socket`).
//!
//! On failure nothing is left that is neither root's nor complete. A log that can't be kept short is tried again.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_storage::AlongFiles;
use rustix::fs::OFlags;

use crate::records::blocking;

/// Read and written by its owner alone.
const MODE: u32 = 0o600;
/// What of a log is kept when it is cut, and what is shown of it first.
pub(crate) const LOG_TAIL_BYTES: u64 = 64 << 10;
/// A firmware's variables are some hundred KiB.
const READ_BYTES_MAX: u64 = 64 << 20;
const LOG_BYTES_MAX: u64 = 8 << 20;
/// A guest that prints as fast as it can adds some MiB in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Makes the directory for QEMU's sockets, which the VM's user may write to.
pub(crate) fn make_socket_dir(path: &Path, uid: u32) -> io::Result<()> {
    match fs::DirBuilder::new().create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let directory = OpenOptions::new().read(true).custom_flags(custom(flags)).open(path)?;
    directory.set_permissions(Permissions::from_mode(0o700))?;
    fchown(&directory, Some(uid), Some(uid))
}

/// Copies `template` to `path` for the VM's user; a file that is there is left as it is.
pub(crate) fn copy_once(template: &Path, path: &Path, uid: u32) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        return Ok(());
    }
    write(&mut File::open(template)?, path, uid)
}

/// Makes a file with this content for the VM's user, complete or not at all; one that is there is replaced.
fn write(content: &mut impl Read, path: &Path, uid: u32) -> io::Result<()> {
    let fresh = path.with_added_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&fresh)?;
    io::copy(content, &mut file)?;
    fchown(&file, Some(uid), Some(uid))?;
    file.sync_all()?;
    fs::rename(fresh, path)
}

/// The content of the files in `directory` whose names are wanted.
pub(crate) fn read_all(directory: &Path, wanted: impl Fn(&str) -> bool) -> io::Result<AlongFiles> {
    let mut files = AlongFiles::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().filter(|name| wanted(name)).map(str::to_owned) else { continue };
        let mut content = Vec::new();
        open(&entry.path(), OpenOptions::new().read(true))?.take(READ_BYTES_MAX).read_to_end(&mut content)?;
        files.insert(name, content);
    }
    Ok(files)
}

/// Makes files with this content for the VM's user; those that are there are replaced.
pub(crate) fn write_all(directory: &Path, files: &AlongFiles, uid: u32) -> io::Result<()> {
    files.iter().try_for_each(|(name, content)| write(&mut content.as_slice(), &directory.join(name), uid))
}

/// Makes sure of a log that the VM's user appends to.
pub(crate) fn make_log(path: &Path, uid: u32) -> io::Result<()> {
    let file = open(path, OpenOptions::new().create(true).append(true).mode(MODE))?;
    fchown(&file, Some(uid), Some(uid))
}

/// The end of a log; empty if there is none.
pub(crate) fn log_tail(path: &Path) -> io::Result<Vec<u8>> {
    match open(path, OpenOptions::new().read(true)) {
        Ok(mut file) => read_tail(&mut file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Keeps logs that others append to short, until it is dropped.
pub(crate) async fn keep_short(logs: Vec<PathBuf>) {
    loop {
        for path in logs.clone() {
            let shown = path.display().to_string();
            if let Err(error) = blocking(move || cut(&path, LOG_BYTES_MAX)).await {
                tracing::warn!(path = shown, %error, "this log can't be kept short");
            }
        }
        tokio::time::sleep(LOG_INTERVAL).await;
    }
}

/// Cuts a log above `max_bytes` down to its end. Its writers must append (O_APPEND): they go on behind what is kept. What
/// they write in this very moment may be lost or come before it.
fn cut(path: &Path, max_bytes: u64) -> io::Result<()> {
    let mut file = match open(path, OpenOptions::new().read(true).append(true)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    if file.metadata()?.len() <= max_bytes {
        return Ok(());
    }
    let tail = read_tail(&mut file)?;
    file.set_len(0)?;
    file.write_all(&tail)
}

fn read_tail(file: &mut File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a plain file and nothing else: no link is followed, no pipe or device is waited for.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.custom_flags(custom(OFlags::NOFOLLOW | OFlags::NONBLOCK)).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file: remove it"));
    }
    Ok(file)
}

fn custom(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    const OWNER: u32 = 200_001;

    #[test]
    fn no_link_leads_to_a_file_of_the_host() {
        assert!(rustix::process::geteuid().is_root(), "root is needed");
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("template"), b"empty variables").unwrap();
        fs::write(at("shadow"), b"root:secret").unwrap();
        let untouched = || {
            assert_eq!(fs::read(at("shadow")).unwrap(), b"root:secret");
            assert_eq!(fs::metadata(at("shadow")).unwrap().uid(), 0);
        };
        for name in ["vars", "vars.new", "console.log"] {
            symlink(at("shadow"), at(name)).unwrap();
        }
        copy_once(&at("template"), &at("vars"), OWNER).unwrap();
        untouched();
        fs::remove_file(at("vars")).unwrap();
        copy_once(&at("template"), &at("vars"), OWNER).unwrap();
        untouched();
        assert_eq!(fs::read(at("vars")).unwrap(), b"empty variables");
        let made = fs::symlink_metadata(at("vars")).unwrap();
        assert_eq!((made.uid(), made.mode() & 0o777), (OWNER, MODE));

        make_log(&at("console.log"), OWNER).unwrap_err();
        log_tail(&at("console.log")).unwrap_err();
        cut(&at("console.log"), 0).unwrap_err();
        untouched();
        symlink(directory.path(), at("run")).unwrap();
        make_socket_dir(&at("run"), OWNER).unwrap_err();
        assert_eq!(fs::metadata(directory.path()).unwrap().uid(), 0);
    }

    #[test]
    fn a_pipe_in_the_place_of_a_log_blocks_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("console.log");
        nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).unwrap();
        log_tail(&log).unwrap_err();
        cut(&log, 0).unwrap_err();
        make_log(&log, OWNER).unwrap_err();
    }

    #[test]
    fn a_log_stays_short_and_its_writer_goes_on_behind_what_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("console.log");
        cut(&log, 1 << 20).unwrap();
        let mut guest = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        guest.write_all(b"short").unwrap();
        cut(&log, 1 << 20).unwrap();
        assert_eq!(log_tail(&log).unwrap(), b"short");

        guest.write_all(&vec![b'.'; 1 << 20]).unwrap();
        guest.write_all(b"the end").unwrap();
        cut(&log, 1 << 20).unwrap();
        assert_eq!(fs::metadata(&log).unwrap().len(), LOG_TAIL_BYTES);
        guest.write_all(b", and more").unwrap();
        assert_eq!(fs::metadata(&log).unwrap().len(), LOG_TAIL_BYTES + 10);
        assert!(log_tail(&log).unwrap().ends_with(b"..the end, and more"));
    }
}
