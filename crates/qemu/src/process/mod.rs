//! A QEMU process: started in a session of its own as an unprivileged user, found again after the
//! program that started it was restarted, watched through a pidfd.
//!
//! The process stays in the caller's network namespace and outlives the caller. A process is identified
//! by its id *and* its start time, so that a reused id is never mistaken for it.
//!
//! Failure behaviour: dropping a [`QemuProcess`] does nothing to the process. `spawn` either returns a
//! running process or has left none behind. QEMU's own complaints go to the given log file;
//! [`QemuProcess::adopt`] says [`ProcessError::Gone`] whether the process ended or its id was reused.

mod procfs;
mod tap;

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use nix::unistd::{Gid, Uid};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::ErrorClass;
pub use procfs::ProcessUsage;
pub use tap::open_tap;

#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("cannot start {}", binary.display())]
    Spawn {
        binary: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot open the log file {} for QEMU", path.display())]
    Log {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot attach to tap device {ifname}: does it exist in this network namespace?")]
    Tap {
        ifname: String,
        #[source]
        source: io::Error,
    },
    #[error("process {pid} (started at tick {start_time_ticks}) is gone")]
    Gone { pid: u32, start_time_ticks: u64 },
    #[error("cannot {action} process {pid}")]
    System {
        pid: u32,
        action: &'static str,
        #[source]
        source: io::Error,
    },
}

impl ProcessError {
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Spawn { source, .. }
            | Self::Log { source, .. }
            | Self::Tap { source, .. }
            | Self::System { source, .. } => crate::class_of_io(source),
            Self::Gone { .. } => ErrorClass::NotFound,
        }
    }
}

/// The identity a QEMU process gets. Neither id needs an entry in the user database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Normally empty; the group that owns `/dev/kvm` where KVM is used.
    pub supplementary_gids: Vec<u32>,
}

#[derive(Debug)]
pub struct SpawnSpec {
    pub binary: PathBuf,
    pub argv: Vec<OsString>,
    /// `None` keeps the caller's.
    pub identity: Option<Identity>,
    /// Appended to; created with mode 0600.
    pub stderr_log: PathBuf,
    /// Kept open in the process under their present numbers (the taps of [`crate::machine::Launch`]).
    pub inherited: Vec<OwnedFd>,
    /// Where the new process asks before it executes QEMU; it need not ask if absent.
    pub gate: Option<Gate>,
}

/// A connection on which the new process asks whether it may become QEMU. It asks itself, so nothing that stops or ends
/// the starting program in between makes a QEMU that whoever is behind the gate does not know.
#[derive(Debug)]
pub struct Gate {
    /// With a limit on how long reading may take: the starting program waits meanwhile.
    pub connection: UnixStream,
    /// What is asked. The process's id is put in at `pid_at`, four bytes, little-endian.
    pub question: [u8; Self::QUESTION_BYTES],
    pub pid_at: usize,
}

impl Gate {
    pub const QUESTION_BYTES: usize = 40;
    /// The first byte of the answer is 1 for yes.
    pub const ANSWER_BYTES: usize = 16;

    /// Only async-signal-safe system calls, and nothing is allocated.
    fn pass(&mut self) -> io::Result<()> {
        let pid = std::process::id().to_le_bytes();
        self.question[self.pid_at..self.pid_at + pid.len()].copy_from_slice(&pid);
        self.connection.write_all(&self.question)?;
        let mut answer = [0; Self::ANSWER_BYTES];
        self.connection.read_exact(&mut answer)?;
        if answer[0] == 1 { Ok(()) } else { Err(rustix::io::Errno::PERM.into()) }
    }
}

/// A process that was running when this value was made.
#[derive(Debug)]
pub struct QemuProcess {
    pid: u32,
    start_time_ticks: u64,
    pidfd: AsyncFd<OwnedFd>,
}

impl QemuProcess {
    /// Starts QEMU. Must be called within a tokio runtime, as [`Self::adopt`].
    pub fn spawn(spec: SpawnSpec) -> Result<Self, ProcessError> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&spec.stderr_log)
            .map_err(|source| ProcessError::Log { path: spec.stderr_log.clone(), source })?;
        let failed = |source| ProcessError::Spawn { binary: spec.binary.clone(), source };
        let out = log.try_clone().map_err(failed)?;
        let mut command = Command::new(&spec.binary);
        command
            .args(&spec.argv)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(log)
            .current_dir("/")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let inherited: Vec<RawFd> = spec.inherited.iter().map(AsRawFd::as_raw_fd).collect();
        let identity = spec.identity.clone().map(|identity| {
            let groups: Vec<Gid> = identity.supplementary_gids.iter().map(|&gid| Gid::from_raw(gid)).collect();
            (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid), groups)
        });
        let mut gate = spec.gate;
        // SAFETY: between fork and exec only async-signal-safe system calls are made, nothing is
        // allocated, and the descriptors named in `inherited` are open: `spec` owns them until exec.
        unsafe {
            command.pre_exec(move || {
                for &fd in &inherited {
                    keep_open_across_exec(fd)?;
                }
                if let Some((uid, gid, groups)) = &identity {
                    nix::unistd::setgroups(groups)?;
                    nix::unistd::setgid(*gid)?;
                    nix::unistd::setuid(*uid)?;
                }
                nix::unistd::setsid()?;
                // Last: whoever let it in must meet the process as it will run.
                gate.as_mut().map_or(Ok(()), Gate::pass)
            });
        }
        let mut child = command.spawn().map_err(failed)?;
        // Not yet reaped, so the id cannot have been reused even if the process has ended already.
        Self::open(child.id()).inspect_err(|_| {
            // Nothing more can be done about a process that can be neither watched nor killed.
            child.kill().and_then(|()| child.wait()).ok();
        })
    }

    /// Takes up a process that an earlier run of this program started.
    pub fn adopt(pid: u32, start_time_ticks: u64) -> Result<Self, ProcessError> {
        // Open first, compare then: what the pidfd refers to can no longer change.
        let process = Self::open(pid).map_err(|error| match error {
            ProcessError::System { source, .. } if is_no_such_process(&source) => {
                ProcessError::Gone { pid, start_time_ticks }
            }
            other => other,
        })?;
        if process.start_time_ticks != start_time_ticks {
            return Err(ProcessError::Gone { pid, start_time_ticks });
        }
        Ok(process)
    }

    fn open(pid: u32) -> Result<Self, ProcessError> {
        let failed = |action| move |source| ProcessError::System { pid, action, source };
        let raw = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| failed("open")(io::ErrorKind::InvalidInput.into()))?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(|errno| failed("open")(errno.into()))?;
        let start_time_ticks = procfs::start_time_ticks(pid).map_err(failed("inspect"))?;
        // SAFETY: the pidfd is owned by the `AsyncFd` and never taken out or replaced.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }
            .map_err(|error| failed("watch")(error.into()))?;
        Ok(Self { pid, start_time_ticks, pidfd })
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Clock ticks after boot at which the process started; with the pid, its identity.
    pub fn start_time_ticks(&self) -> u64 {
        self.start_time_ticks
    }

    /// Waits until the process has ended and reaps it if it is a child of this program. The status is
    /// `None` for an adopted process that was another program's child.
    pub async fn wait_exit(&self) -> Result<Option<ExitStatus>, ProcessError> {
        loop {
            let mut ready = self.pidfd.readable().await.map_err(|source| self.failed("wait for", source))?;
            if self.has_exited()? {
                // Readiness is kept: every later call returns at once.
                break;
            }
            ready.clear_ready();
        }
        let waited = waitid(WaitId::PidFd(self.pidfd.get_ref().as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        match waited {
            Ok(Some(status)) => Ok(status
                .exit_status()
                .map(|code| ExitStatus::from_raw(code << 8))
                .or_else(|| status.terminating_signal().map(ExitStatus::from_raw))),
            // Already reaped, or not ours.
            Ok(None) | Err(rustix::io::Errno::CHILD) => Ok(None),
            Err(errno) => Err(self.failed("wait for", errno.into())),
        }
    }

    pub fn has_exited(&self) -> Result<bool, ProcessError> {
        let mut poll = [rustix::event::PollFd::new(self.pidfd.get_ref(), rustix::event::PollFlags::IN)];
        let ready = rustix::event::poll(&mut poll, Some(&rustix::event::Timespec::default()))
            .map_err(|errno| self.failed("poll", errno.into()))?;
        Ok(ready > 0)
    }

    /// Ends the process at once (SIGKILL). Not an error if it has ended.
    pub fn kill(&self) -> Result<(), ProcessError> {
        match pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(self.failed("kill", errno.into())),
        }
    }

    /// CPU time and memory used so far.
    pub fn usage(&self) -> Result<ProcessUsage, ProcessError> {
        procfs::usage(self.pid).map_err(|source| {
            if is_no_such_process(&source) {
                ProcessError::Gone { pid: self.pid, start_time_ticks: self.start_time_ticks }
            } else {
                self.failed("inspect", source)
            }
        })
    }

    fn failed(&self, action: &'static str, source: io::Error) -> ProcessError {
        ProcessError::System { pid: self.pid, action, source }
    }
}

fn is_no_such_process(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

fn keep_open_across_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: called in the child with numbers of descriptors that the parent holds open.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?)
}

/// The last lines of a log of QEMU's complaints, for an error message. Empty if it cannot be read.
pub fn log_tail(path: &Path) -> String {
    const TAIL_LINES: usize = 5;
    const TAIL_BYTES: u64 = 16 << 10;
    let read = || {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(io::SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut text = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut text)?;
        io::Result::Ok(text)
    };
    let text = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
