//! What a lease keeper needs of the machine that it runs on, as a trait: so the simulation runs the same keeper on machines
//! that exist in its memory only.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use gantry_ha::Moment;
use gantry_qemu::process::{Gate, QemuProcess};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::kept::Kept;
use crate::config::AgentConfig;
use crate::warden::{Answer, Order, WardenLink, boottime};

/// A process by its pid and the ticks at which it was started, so that it is not taken for another of the same pid.
pub type Process = (u32, u64);

/// Clock, disk and warden of a machine. Everything but the clock may block: it is called within [`Machine::apart`] only.
pub trait Machine: Send + Sync + 'static {
    /// Goes on while the machine is suspended and never steps.
    fn boottime(&self) -> Moment;
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;

    /// # Errors
    /// Also if what is there can't be understood.
    fn load(&self) -> io::Result<Kept>;
    /// On disk when it returns.
    fn save(&self, kept: &Kept) -> io::Result<()>;

    /// Whether there is a connection to a warden that has not ended; without one it may be another that knows nothing. Does not
    /// block.
    fn has_warden(&self) -> bool;
    /// Connects to the warden that there is, or to a new one.
    fn call_warden(&self) -> io::Result<()>;
    fn tell_warden(&self, order: Order) -> io::Result<Answer>;
    /// Where the QEMU of this VM has to ask before it executes.
    fn gate(&self, vm: Uuid) -> io::Result<Gate>;
    /// Whether this process was stopped by a warden.
    fn was_stopped(&self, process: Process) -> bool;
    /// Ends a process that no warden guards; one that has ended is success.
    fn kill(&self, process: Process) -> io::Result<()>;

    /// Does what blocks beside the tasks that must go on.
    fn apart(&self, blocks: Blocks, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;
}

/// What may keep work waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocks {
    OnDisk,
    OnWarden,
}

/// What `work` returns, done apart.
pub(super) async fn apart<T: Send + 'static>(
    machine: &Arc<dyn Machine>,
    blocks: Blocks,
    work: impl FnOnce(&dyn Machine) -> T + Send + 'static,
) -> T {
    let (sender, receiver) = oneshot::channel();
    let its = Arc::clone(machine);
    let done = machine.apart(blocks, Box::new(move || drop(sender.send(work(&*its)))));
    done.await;
    receiver.await.unwrap_or_else(|_| panic!("what was to be done apart was not done"))
}

/// The machine on which this program runs.
pub(crate) struct ThisMachine {
    state_dir: PathBuf,
    warden: WardenLink,
}

impl ThisMachine {
    pub fn new(config: &AgentConfig) -> Self {
        let state_dir = config.state_dir.clone();
        Self { warden: WardenLink::new(state_dir.clone(), config.warden_program()), state_dir }
    }
}

impl Machine for ThisMachine {
    fn boottime(&self) -> Moment {
        boottime()
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn load(&self) -> io::Result<Kept> {
        Kept::load(&self.state_dir)
    }
    fn save(&self, kept: &Kept) -> io::Result<()> {
        kept.save(&self.state_dir)
    }

    fn has_warden(&self) -> bool {
        self.warden.is_connected()
    }
    fn call_warden(&self) -> io::Result<()> {
        self.warden.connect()
    }
    fn tell_warden(&self, order: Order) -> io::Result<Answer> {
        self.warden.ask(order)
    }
    fn gate(&self, vm: Uuid) -> io::Result<Gate> {
        self.warden.gate(vm)
    }
    fn was_stopped(&self, (pid, start_time_ticks): Process) -> bool {
        self.warden.has_stopped(pid, start_time_ticks)
    }
    fn kill(&self, (pid, start_time_ticks): Process) -> io::Result<()> {
        match QemuProcess::adopt(pid, start_time_ticks) {
            Ok(process) => process.kill().map_err(io::Error::other),
            Err(_) => Ok(()),
        }
    }

    fn apart(&self, _blocks: Blocks, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        Box::pin(crate::records::blocking(work))
    }
}
