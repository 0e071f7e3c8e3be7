//! The agent's end: finds the warden or starts one, and talks to it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gantry_qemu::process::Gate;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use uuid::Uuid;

use super::{ANSWER_BYTES, Answer, Order, PID_AT, REPORT, SOCKET, Stopped};

/// It answers in microseconds. One that is stopped is of no use.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// For a new one to listen, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Every call blocks for a moment.
pub(crate) struct WardenLink {
    state_dir: PathBuf,
    /// Program and arguments.
    program: Vec<OsString>,
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    connection: Option<UnixStream>,
    /// The last one started from here: to be reaped when it ends.
    child: Option<Child>,
}

impl WardenLink {
    pub fn new(state_dir: PathBuf, program: Vec<OsString>) -> Self {
        Self { state_dir, program, line: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a connection; without one the warden may be another that knows nothing.
    pub fn is_connected(&self) -> bool {
        let mut line = self.lock();
        if line.connection.as_ref().is_some_and(has_hung_up) {
            line.connection = None;
        }
        line.connection.is_some()
    }

    /// Connects to the warden that there is, or to a new one.
    pub fn connect(&self) -> io::Result<()> {
        let mut line = self.lock();
        line.connection = Some(match self.dial() {
            Ok(connection) => connection,
            Err(_) => self.start(&mut line)?,
        });
        Ok(())
    }

    pub fn ask(&self, order: Order) -> io::Result<Answer> {
        let mut line = self.lock();
        let connection = line.connection.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let answered = exchange(connection, order);
        if answered.is_err() {
            // An answer that comes late must not be taken for the next one.
            line.connection = None;
        }
        answered
    }

    /// Where the QEMU of this VM has to ask before it executes.
    pub fn gate(&self, vm: Uuid) -> io::Result<Gate> {
        let question = Order::Guard { vm, pid: 0, start_time_ticks: 0 }.encode();
        Ok(Gate { connection: self.dial()?, question, pid_at: PID_AT })
    }

    /// Whether this process was stopped by a warden.
    pub fn has_stopped(&self, pid: u32, start_time_ticks: u64) -> bool {
        let Ok(text) = fs::read(self.state_dir.join(REPORT)) else { return false };
        let stopped: Vec<Stopped> = serde_json::from_slice(&text).unwrap_or_default();
        stopped.iter().any(|one| (one.pid, one.start_time_ticks) == (pid, start_time_ticks))
    }

    fn dial(&self) -> io::Result<UnixStream> {
        let connection = UnixStream::connect(self.state_dir.join(SOCKET))?;
        connection.set_read_timeout(Some(ANSWER_LIMIT))?;
        connection.set_write_timeout(Some(ANSWER_LIMIT))?;
        Ok(connection)
    }

    /// In a session of its own, as QEMU processes are: it outlives the agent.
    fn start(&self, line: &mut Line) -> io::Result<UnixStream> {
        if let Some(child) = &mut line.child {
            // One that has ended is reaped; one that is being started is waited for below.
            child.try_wait()?;
        }
        let log = File::options().create(true).append(true).open(self.state_dir.join("warden.log"))?;
        let (program, arguments) = self.program.split_first().ok_or(io::ErrorKind::NotFound)?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir("/").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // SAFETY: setsid is async-signal-safe and touches no memory of the parent.
        unsafe {
            command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?));
        }
        line.child = Some(command.spawn()?);
        let deadline = Instant::now() + START_LIMIT;
        loop {
            match self.dial() {
                Ok(connection) => return Ok(connection),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => std::thread::sleep(LOOK_AGAIN),
            }
        }
    }
}

/// The kernel closes what a process that was killed had open. The warden says nothing unasked.
fn has_hung_up(connection: &UnixStream) -> bool {
    let looked = recv(connection.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
    looked != Err(Errno::EAGAIN)
}

fn exchange(connection: &mut UnixStream, order: Order) -> io::Result<Answer> {
    connection.write_all(&order.encode())?;
    let mut answer = [0; ANSWER_BYTES];
    connection.read_exact(&mut answer)?;
    Ok(Answer::decode(&answer))
}
