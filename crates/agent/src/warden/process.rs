//! The warden itself: one thread that waits for orders, for the end of the lease, and for the end of what it guards.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_ha::Moment;
use gantry_types::Timestamp;
use nix::sys::signal::{SigHandler, Signal, signal};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use uuid::Uuid;

use super::watchdog::Watchdog;
use super::{ANSWER_BYTES, Answer, LOCK, ORDER_BYTES, Order, REPORT, SOCKET, Stopped, Term, boottime};
use crate::durable;
use crate::vm::start_time_ticks;

/// How often it looks around without being woken; a watchdog must be petted.
const LOOK: Duration = Duration::from_secs(1);
/// Whoever connects and says half of something keeps it no longer than this.
const ORDER_LIMIT: Duration = Duration::from_millis(100);
/// With nobody to obey and nothing to guard it ends by itself.
const IDLE_LOOKS: u32 = 60;
const REPORTED_MAX: usize = 256;

#[derive(Debug, thiserror::Error)]
pub enum WardenError {
    #[error("another warden guards this host's VMs")]
    AlreadyRunning,
    #[error("the warden cannot {action}")]
    System {
        action: &'static str,
        #[source]
        source: io::Error,
    },
}

fn failed<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> WardenError {
    move |source| WardenError::System { action, source: source.into() }
}

/// Guards the VMs of the host whose agent has this state directory, until there has been nothing to do for a while.
pub fn run(state_dir: &Path) -> Result<(), WardenError> {
    let lock = File::create(state_dir.join(LOCK)).map_err(failed("make its lock"))?;
    lock.try_lock().map_err(|error| match error {
        fs::TryLockError::WouldBlock => WardenError::AlreadyRunning,
        fs::TryLockError::Error(source) => WardenError::System { action: "take its lock", source },
    })?;
    stand_firm();
    let path = state_dir.join(SOCKET);
    // Left by one that was killed: the lock says that there is no other.
    fs::remove_file(&path).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(failed("remove an old socket")(error)),
    })?;
    let listener = UnixListener::bind(&path).map_err(failed("listen"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed("protect its socket"))?;
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
        .map_err(failed("make a timer"))?;
    let mut warden = Warden {
        timer,
        term: Term::default(),
        guarded: Vec::new(),
        connections: Vec::new(),
        reports: Reports::open(state_dir.join(REPORT)),
        watchdog: Watchdog::default(),
        idle_looks: 0,
    };
    eprintln!("warden: process {} guards what it is told", std::process::id());
    while warden.idle_looks < IDLE_LOOKS {
        warden.turn(&listener)?;
    }
    Ok(())
}

/// What can be done so that it is not the one that is ended, swapped out or kept waiting.
fn stand_firm() {
    for ignored in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGPIPE] {
        // SAFETY: ignoring a signal runs no code of ours.
        if let Err(error) = unsafe { signal(ignored, SigHandler::SigIgn) } {
            eprintln!("warden: {ignored} is not ignored: {error}");
        }
    }
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        eprintln!("warden: it may be ended when memory runs out: {error}");
    }
    let pages = rustix::mm::MlockAllFlags::CURRENT | rustix::mm::MlockAllFlags::FUTURE;
    let pages = pages | rustix::mm::MlockAllFlags::ONFAULT;
    if let Err(error) = rustix::mm::mlockall(pages) {
        eprintln!("warden: it may be swapped out: {error}");
    }
    if let Err(error) = rustix::process::setpriority_process(None, -20) {
        eprintln!("warden: it has no priority: {error}");
    }
}

struct Guarded {
    vm: Uuid,
    pid: u32,
    start_time_ticks: u64,
    pidfd: OwnedFd,
    told: bool,
}

struct Warden {
    timer: OwnedFd,
    term: Term,
    guarded: Vec<Guarded>,
    connections: Vec<UnixStream>,
    reports: Reports,
    watchdog: Watchdog,
    idle_looks: u32,
}

impl Warden {
    fn is_over(&self) -> bool {
        self.term.is_over(boottime())
    }

    /// Waits for whatever comes first, and does what follows from it.
    fn turn(&mut self, listener: &UnixListener) -> Result<(), WardenError> {
        let ready = self.wait(listener)?;
        // It stays readable until it is read; that it has run out is seen by the clock.
        let _expirations = rustix::io::read(&self.timer, &mut [0; 8]);
        // First: an order that comes too late must find that it is over.
        if self.is_over() {
            self.stop_all("the lease is over");
        }
        self.guarded.retain(|guarded| !has_ended(&guarded.pidfd));
        let connections = std::mem::take(&mut self.connections);
        for (index, mut connection) in connections.into_iter().enumerate() {
            let is_asked = ready.connections.contains(&index);
            if !is_asked || self.serve(&mut connection).is_ok() {
                self.connections.push(connection);
            }
        }
        if ready.listener
            && let Ok((connection, _)) = listener.accept()
            && connection.set_read_timeout(Some(ORDER_LIMIT)).is_ok()
            && connection.set_write_timeout(Some(ORDER_LIMIT)).is_ok()
        {
            self.connections.push(connection);
        }
        self.watchdog.look_after(!self.guarded.is_empty());
        let is_idle = ready.nothing && self.connections.is_empty() && self.guarded.is_empty();
        self.idle_looks = if is_idle { self.idle_looks + 1 } else { 0 };
        Ok(())
    }

    fn wait(&self, listener: &UnixListener) -> Result<Ready, WardenError> {
        let mut waits = vec![PollFd::new(listener, PollFlags::IN), PollFd::new(&self.timer, PollFlags::IN)];
        waits.extend(self.connections.iter().map(|connection| PollFd::new(connection, PollFlags::IN)));
        waits.extend(self.guarded.iter().map(|guarded| PollFd::new(&guarded.pidfd, PollFlags::IN)));
        let limit = Timespec { tv_sec: LOOK.as_secs().cast_signed(), tv_nsec: 0 };
        match poll(&mut waits, Some(&limit)) {
            Ok(count) => {
                let has = |index: usize| !waits[index].revents().is_empty();
                let connections = (0..self.connections.len()).filter(|index| has(2 + index)).collect();
                Ok(Ready { nothing: count == 0, listener: has(0), connections })
            }
            Err(rustix::io::Errno::INTR) => Ok(Ready::default()),
            Err(errno) => Err(failed("wait")(errno)),
        }
    }

    /// Reads one order and answers it. An error ends the connection.
    fn serve(&mut self, connection: &mut UnixStream) -> io::Result<()> {
        let mut bytes = [0; ORDER_BYTES];
        connection.read_exact(&mut bytes)?;
        let order = Order::decode(&bytes).ok_or(io::ErrorKind::InvalidData)?;
        let yes = match order {
            Order::Lease(until) => self.renew(until),
            Order::Guard { vm, pid, start_time_ticks } => self.guard(vm, pid, start_time_ticks),
            Order::EndAll => {
                self.term.end();
                self.stop_all("this host is shut out");
                true
            }
        };
        let answer: [u8; ANSWER_BYTES] = Answer { yes, guarded: self.guarded.len() as u32 }.encode();
        connection.write_all(&answer)
    }

    fn renew(&mut self, until: Option<Moment>) -> bool {
        self.term.renew(until);
        let expiry = self.term.until().map_or(0, |until| until.0.max(1));
        let at = Timespec {
            tv_sec: (expiry / 1_000).cast_signed(),
            tv_nsec: i64::try_from(expiry % 1_000 * 1_000_000).unwrap_or(0),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once) {
            // Without a timer it could only be late.
            eprintln!("warden: the timer can't be set: {error}");
            self.stop_all("the timer can't be set");
            return false;
        }
        if self.is_over() {
            self.stop_all("the lease is over");
        }
        true
    }

    fn guard(&mut self, vm: Uuid, pid: u32, expected_ticks: u64) -> bool {
        if self.is_over() {
            return false;
        }
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        // Open first, compare then: what the pidfd refers to can no longer change.
        let Some(Ok(pidfd)) = raw.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else { return false };
        let Some(start_time_ticks) = start_time_ticks(pid) else { return false };
        if expected_ticks != 0 && expected_ticks != start_time_ticks {
            return false;
        }
        let same = |known: &Guarded| (known.pid, known.start_time_ticks) == (pid, start_time_ticks);
        if !self.guarded.iter().any(same) {
            self.guarded.push(Guarded { vm, pid, start_time_ticks, pidfd, told: false });
        }
        true
    }

    fn stop_all(&mut self, why: &str) {
        let mut stopped = Vec::new();
        for guarded in &mut self.guarded {
            match pidfd_send_signal(&guarded.pidfd, rustix::process::Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => {
                    eprintln!("warden: process {} of VM {} can't be killed: {error}", guarded.pid, guarded.vm)
                }
            }
            if !std::mem::replace(&mut guarded.told, true) {
                let (vm, pid, start_time_ticks) = (guarded.vm, guarded.pid, guarded.start_time_ticks);
                stopped.push(Stopped { vm, pid, start_time_ticks, at: Timestamp::from(std::time::SystemTime::now()) });
            }
        }
        if stopped.is_empty() {
            return;
        }
        eprintln!("warden: {why}: {} protected VMs are stopped", stopped.len());
        self.reports.add(stopped);
    }
}

/// What has come while waiting.
#[derive(Default)]
struct Ready {
    nothing: bool,
    listener: bool,
    connections: Vec<usize>,
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    let fd = pidfd.as_fd();
    let mut waits = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut waits, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|count| count > 0)
}

/// The newest of what was stopped, on disk.
struct Reports {
    path: PathBuf,
    stopped: Vec<Stopped>,
}

impl Reports {
    fn open(path: PathBuf) -> Self {
        let stopped = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Self { path, stopped: stopped.unwrap_or_default() }
    }

    fn add(&mut self, stopped: Vec<Stopped>) {
        self.stopped.extend(stopped);
        let excess = self.stopped.len().saturating_sub(REPORTED_MAX);
        self.stopped.drain(..excess);
        let text = serde_json::to_vec(&self.stopped).unwrap_or_default();
        if let Err(error) = durable::replace(&self.path, &text) {
            eprintln!("warden: what was stopped is not in {}: {error}", self.path.display());
        }
    }
}
