//! Runs `qemu-img` on files that may be hostile.
//!
//! The process has its own session, a cleared environment, resource limits, a wall-clock limit,
//! no way to gain privileges, and, if we are root, an unprivileged uid. It starts inside the
//! staging directory and is only given names in it, so it needs no rights on the way there.
//! It is killed when the future that waits for it is dropped.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use crate::error::StorageError;
use crate::staging::StagingDir;

/// Debian's `nobody` and `nogroup`: owns nothing but the files staged for a job.
pub(crate) const WORKER_UID: u32 = 65534;
const MAX_MESSAGE_BYTES: u64 = 64 * 1024;
const SIGKILL: i32 = rustix::process::Signal::KILL.as_raw();
const SIGXCPU: i32 = rustix::process::Signal::XCPU.as_raw();
const SIGXFSZ: i32 = rustix::process::Signal::XFSZ.as_raw();

#[derive(Debug, Clone, Copy)]
pub(crate) struct RunLimits {
    pub(crate) address_space_bytes: u64,
    pub(crate) cpu_seconds: u64,
    pub(crate) file_bytes: u64,
    pub(crate) wall_clock: Duration,
}

/// One invocation: what it does to which object, for messages.
pub(crate) struct Run<'a> {
    pub(crate) staging: &'a StagingDir,
    /// Who it runs as, if we are root.
    pub(crate) uid: u32,
    pub(crate) limits: RunLimits,
    pub(crate) doing: &'static str,
    pub(crate) object: &'a Path,
}

pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    /// Standard error, at most 64 KiB, in one line.
    pub(crate) message: String,
}

impl Run<'_> {
    /// Runs to the end; failures that are not limits are the caller's to judge by exit code.
    pub(crate) async fn run(
        &self,
        arguments: &[&OsStr],
        on_percent: impl Fn(f32) + Send,
    ) -> Result<Outcome, StorageError> {
        let mut child = self.command(arguments).spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => StorageError::ToolMissing { source },
            _ => StorageError::Io { doing: self.doing, path: self.object.to_owned(), source },
        })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let work = async {
            let (status, (), message) =
                tokio::join!(child.wait(), read_percents(stdout, on_percent), read_message(stderr));
            status.map(|status| Outcome { status, message })
        };
        let outcome = match tokio::time::timeout(self.limits.wall_clock, work).await {
            Ok(outcome) => outcome.map_err(StorageError::io(self.doing, self.object))?,
            // Dropping the child at the end of this scope kills it.
            Err(_) => return Err(self.limit(format!("{} s", self.limits.wall_clock.as_secs()))),
        };
        self.check_limits(&outcome)?;
        Ok(outcome)
    }

    /// Runs to the end and takes every exit code but 0 for a failure.
    pub(crate) async fn expect_success(
        &self,
        arguments: &[&OsStr],
        on_percent: impl Fn(f32) + Send,
    ) -> Result<(), StorageError> {
        let outcome = self.run(arguments, on_percent).await?;
        if outcome.status.success() {
            return Ok(());
        }
        let message = if outcome.message.is_empty() { outcome.status.to_string() } else { outcome.message };
        Err(StorageError::Tool { doing: self.doing, path: self.object.to_owned(), message })
    }

    fn command(&self, arguments: &[&OsStr]) -> Command {
        let mut command = Command::new("qemu-img");
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/local/bin")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if rustix::process::geteuid().is_root() {
            command.uid(self.uid).gid(self.uid);
        }
        let limits = self.limits;
        let Ok(directory) = self.staging.as_fd().try_clone_to_owned() else {
            // Out of descriptors: spawning fails for the same reason and reports it.
            return command;
        };
        let prepare = move || {
            rustix::process::setsid()?;
            rustix::process::fchdir(directory.as_fd())?;
            rustix::thread::set_no_new_privs(true)?;
            for (resource, limit) in [
                (Resource::As, limits.address_space_bytes),
                (Resource::Cpu, limits.cpu_seconds),
                (Resource::Fsize, limits.file_bytes),
                (Resource::Core, 0),
                (Resource::Nofile, 64),
            ] {
                rustix::process::setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec `prepare` only makes system calls; it neither allocates
        // nor takes a lock.
        unsafe { command.pre_exec(prepare) };
        command
    }

    fn check_limits(&self, outcome: &Outcome) -> Result<(), StorageError> {
        let signal = outcome.status.signal();
        if !outcome.status.success() && outcome.message.contains("No space left on device") {
            return Err(StorageError::NoSpace { doing: self.doing, path: self.object.to_owned() });
        }
        if signal == Some(SIGXFSZ) || (!outcome.status.success() && outcome.message.contains("File too large")) {
            return Err(self.limit(format!("{} bytes of output", self.limits.file_bytes)));
        }
        if signal == Some(SIGXCPU) || signal == Some(SIGKILL) {
            return Err(self.limit(format!("{} s of CPU time", self.limits.cpu_seconds)));
        }
        Ok(())
    }

    fn limit(&self, limit: String) -> StorageError {
        StorageError::ToolLimit { doing: self.doing, path: self.object.to_owned(), limit }
    }
}

/// `qemu-img -p` prints `    (12.34/100%)\r` again and again.
async fn read_percents(stream: Option<impl AsyncRead + Unpin>, on_percent: impl Fn(f32)) {
    let Some(mut stream) = stream else { return };
    let mut pending = String::new();
    let mut buffer = [0; 1024];
    while let Ok(filled @ 1..) = stream.read(&mut buffer).await {
        pending.push_str(&String::from_utf8_lossy(&buffer[..filled]));
        let Some((complete, rest)) = pending.rsplit_once('\r') else {
            // Output without progress lines is of no use here and must not pile up.
            if pending.len() > buffer.len() {
                pending.clear();
            }
            continue;
        };
        let last = complete.rsplit('\r').next().unwrap_or(complete);
        if let Some(percent) = parse_percent(last) {
            on_percent(percent);
        }
        pending = rest.to_owned();
    }
}

fn parse_percent(text: &str) -> Option<f32> {
    text.trim().strip_prefix('(')?.strip_suffix("/100%)")?.parse().ok()
}

async fn read_message(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut bytes = Vec::new();
    // A message that ends early is better than none, so read errors only end it.
    let kept = (&mut stream).take(MAX_MESSAGE_BYTES).read_to_end(&mut bytes).await;
    if kept.is_ok() {
        // Keep the pipe moving: a full one would stop the process for ever.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.ok();
    }
    let text = String::from_utf8_lossy(&bytes);
    text.lines()
        .map(|line| line.trim().trim_start_matches("qemu-img: "))
        .filter(|line| !line.is_empty())
        .take(5)
        .collect::<Vec<_>>()
        .join("; ")
}

/// The pseudo-filename that opens a staged file as exactly one format and nothing behind it.
pub(crate) fn closed_source(qemu_format: &str, name: &str) -> String {
    format!(r#"json:{{"driver":"{qemu_format}","backing":null,"file":{{"driver":"file","filename":"{name}"}}}}"#)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::staging::StagingArea;

    const LIMITS: RunLimits = RunLimits {
        address_space_bytes: 4 << 30,
        cpu_seconds: 60,
        file_bytes: 64 << 20,
        wall_clock: Duration::from_secs(60),
    };

    async fn run(staging: &StagingDir, arguments: &[&str]) -> Result<(), StorageError> {
        let run = Run { staging, uid: WORKER_UID, limits: LIMITS, doing: "testing", object: Path::new("test") };
        let arguments: Vec<_> = arguments.iter().map(AsRef::as_ref).collect();
        run.expect_success(&arguments, |_| {}).await
    }

    /// As root: the staging directory and everything in it are ours, so an unprivileged worker
    /// can neither make a file there nor open one that was not given to it.
    #[tokio::test]
    async fn runs_without_our_rights() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let staging = StagingArea::open(root.path().join("staging")).unwrap().create().unwrap();
        staging.create_file("ours").unwrap().set_len(1 << 20).unwrap();
        for arguments in [&["create", "-f", "qcow2", "new", "1M"][..], &["info", "-f", "raw", "ours"]] {
            let error = run(&staging, arguments).await.unwrap_err();
            assert!(
                matches!(&error, StorageError::Tool { message, .. } if message.contains("Permission denied")),
                "{error}"
            );
        }
    }

    /// The second line of defence, behind the inspection.
    #[tokio::test]
    async fn a_closed_source_never_opens_a_backing_file() {
        let root = tempfile::tempdir().unwrap();
        let staging = StagingArea::open(root.path().join("staging")).unwrap().create().unwrap();
        let secret = root.path().join("secret");
        fs::write(&secret, [0x5a; 65536]).unwrap();
        let path = |name| staging.file_path(name).to_str().unwrap().to_owned();
        let made = std::process::Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret.to_str().unwrap(), &path("input")])
            .status();
        assert!(made.unwrap().success());
        for name in ["input", "output"] {
            fs::write(staging.file_path("output"), "").unwrap();
            let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o666);
            fs::set_permissions(staging.file_path(name), everyone).unwrap();
        }
        let source = closed_source("qcow2", "input");
        run(&staging, &["convert", "-f", "qcow2", "-O", "raw", &source, "output"]).await.unwrap();
        assert!(fs::read(staging.file_path("output")).unwrap() == [0; 65536]);
    }

    #[tokio::test]
    async fn reads_the_last_of_several_percents_across_reads() {
        let (mut writer, reader) = tokio::io::duplex(4);
        let seen = std::sync::Mutex::new(Vec::new());
        let write = async move {
            use tokio::io::AsyncWriteExt;
            writer.write_all(b"    (0.00/100%)\r    (57.25/100%)\rnoise\r    (100.00/100%)\r\n").await.unwrap();
        };
        tokio::join!(write, read_percents(Some(reader), |percent| seen.lock().unwrap().push(percent)));
        assert_eq!(*seen.lock().unwrap(), [0.0, 57.25, 100.0]);
    }
}
