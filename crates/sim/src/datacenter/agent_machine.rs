//! The machine as one life of its agent has it: what the lease keeper sees as its [`Machine`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use gantry_agent::lease::{Answer, Blocks, Kept, Machine, Order, Process};
use gantry_ha::Moment;
use gantry_qemu::process::Gate;
use uuid::Uuid;

use super::machine::SimMachine;
use super::records::Disk;
use super::time::Timers;

pub struct AgentMachine {
    pub machine: Arc<SimMachine>,
    pub timers: Arc<Timers>,
    is_connected: AtomicBool,
}

impl AgentMachine {
    pub fn new(machine: Arc<SimMachine>, timers: Arc<Timers>) -> Arc<Self> {
        Arc::new(Self { machine, timers, is_connected: AtomicBool::new(false) })
    }

    /// Changes what is on disk, in the time that this takes.
    pub async fn write(&self, change: impl FnOnce(&mut Disk) + Send) {
        let (before, after) = self.machine.disk_delays();
        self.timers.sleep(before).await;
        self.machine.disk(change);
        self.timers.sleep(after).await;
    }

    /// The same for what is decided about a move, by whether the VM's QEMU is there at that moment. This is where an agent
    /// may be killed that is to die at the worst of moments: it is on disk, and nobody knows.
    pub async fn write_move(&self, vm: Uuid, change: impl FnOnce(&mut Disk, bool) + Send) {
        let (before, after) = self.machine.disk_delays();
        self.timers.sleep(before).await;
        let has_qemu = self.machine.process_of(vm).is_some();
        self.machine.disk(|disk| change(disk, has_qemu));
        self.machine.may_die_now();
        self.timers.sleep(after).await;
    }
}

impl Machine for AgentMachine {
    fn boottime(&self) -> Moment {
        self.machine.clock.moment()
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.timers.sleep(duration)
    }

    fn load(&self) -> io::Result<Kept> {
        Ok(self.machine.disk(|disk| disk.kept.clone()))
    }
    fn save(&self, kept: &Kept) -> io::Result<()> {
        self.machine.disk(|disk| disk.kept = kept.clone());
        Ok(())
    }

    fn has_warden(&self) -> bool {
        self.is_connected.load(Ordering::Relaxed) && self.machine.has_warden()
    }
    fn call_warden(&self) -> io::Result<()> {
        self.machine.start_warden();
        self.is_connected.store(true, Ordering::Relaxed);
        Ok(())
    }
    fn tell_warden(&self, order: Order) -> io::Result<Answer> {
        if !self.has_warden() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let answered = self.machine.order(order);
        self.is_connected.store(answered.is_ok(), Ordering::Relaxed);
        answered
    }
    fn gate(&self, _vm: Uuid) -> io::Result<Gate> {
        // Its processes ask the warden by themselves.
        Err(io::ErrorKind::Unsupported.into())
    }
    fn was_stopped(&self, process: Process) -> bool {
        self.machine.disk(|disk| disk.stopped.contains(&process))
    }
    fn kill(&self, process: Process) -> io::Result<()> {
        let found = self.machine.processes().into_iter().find(|(_, known)| *known == process);
        if let Some((vm, _)) = found {
            self.machine.end(vm, "nobody guards it");
        }
        Ok(())
    }

    fn apart(&self, blocks: Blocks, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let (before, after) = match blocks {
            Blocks::OnDisk => self.machine.disk_delays(),
            Blocks::OnWarden => (Duration::from_micros(100), Duration::from_micros(100)),
        };
        let timers = Arc::clone(&self.timers);
        Box::pin(async move {
            timers.sleep(before).await;
            work();
            timers.sleep(after).await;
        })
    }
}
