//! A host without its agent: what of it survives what.
//!
//! ```text
//!   lost with the agent:  its connection to the warden     kept on disk: lease.json, records of VMs, whom the warden stopped
//!   lost with the power:  warden, guests                   lost never:   the disk
//! ```
//! A warden that is killed while it guards something leaves a hardware watchdog that counts: nobody who guards something in time, and
//! the machine is reset. This one is as fast as the warden itself has to be.
//!
//! What its agent has of it is in `agent_machine.rs`, and what its QEMUs send in `streams.rs`.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_agent::lease::{Answer, Order, Process, Term};
use gantry_api::agent::VmRunState;
use gantry_ha::{Moment, Timing};
use gantry_hostlink::fake::FakeWorld;
use gantry_types::{Name, Problem};
use rand::RngExt;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::hub::{Event, Hub, Node};
use super::records::{Disk, VmRecord};
use super::streams::Streams;
use super::time::MachineClock;
use crate::Planted;
use crate::faults::Fault;

#[derive(Default)]
struct Warden {
    term: Term,
    guarded: BTreeMap<Process, Uuid>,
}

pub struct SimMachine {
    pub node: Node,
    pub name: Name,
    pub clock: Arc<MachineClock>,
    pub hub: Arc<Hub>,
    pub guests: Arc<FakeWorld>,
    pub streams: Arc<Streams>,
    pub planted: Option<Planted>,
    state: Mutex<State>,
}

/// How a QEMU begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// With the guest.
    Running,
    /// It waits for the guest that this move brings.
    Incoming(Uuid),
}

#[derive(Default)]
struct State {
    powered: bool,
    boot: u64,
    pids: u32,
    disk: Disk,
    stalled_until_us: u64,
    /// Its agent is killed when it has written down something of a move.
    dies_writing: bool,
    warden: Option<Warden>,
    /// How many wardens were killed; the last one's, while the watchdog counts.
    deaths: u64,
    watchdog: Option<u64>,
    /// The QEMUs that are there, by VM; whether their guests execute, those know.
    processes: BTreeMap<Uuid, Process>,
}

/// A process that is on its way to be a VM's QEMU. It needs its agent no more.
pub struct Start {
    pub node: Node,
    boot: u64,
    vm: Uuid,
    process: Process,
    guarded: bool,
    begin: Begin,
    done: oneshot::Sender<Result<Process, Problem>>,
}

impl SimMachine {
    pub fn new(
        (node, name): (Node, Name),
        clock: Arc<MachineClock>,
        hub: Arc<Hub>,
        (guests, streams): (Arc<FakeWorld>, Arc<Streams>),
        planted: Option<Planted>,
    ) -> Arc<Self> {
        guests.host(&name);
        Arc::new(Self { node, name, clock, hub, guests, streams, planted, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_powered(&self) -> bool {
        self.lock().powered
    }
    pub fn power_on(&self) {
        let mut state = self.lock();
        state.boot += u64::from(!state.powered);
        state.powered = true;
    }
    pub fn power_off(&self) {
        let mut state = self.lock();
        (state.powered, state.warden, state.watchdog) = (false, None, None);
        let ended = std::mem::take(&mut state.processes);
        drop(state);
        ended.into_iter().for_each(|gone| self.has_ended(gone, "the host lost power"));
    }

    fn has_ended(&self, (vm, process): (Uuid, Process), why: &str) {
        self.streams.process_ends((self.node, process));
        self.guests.guest_ends(&self.name, vm, why);
    }
    pub fn stall_disk(&self, until_us: u64) {
        self.lock().stalled_until_us = until_us;
    }

    pub fn let_die_writing(&self, dies: bool) {
        self.lock().dies_writing = dies;
    }
    /// Its agent may be killed now, or all of it lose power; either is there again soon.
    pub fn may_die_now(&self) {
        if !self.lock().dies_writing || self.hub.draw(|rng| rng.random_bool(0.5)) {
            return;
        }
        self.let_die_writing(false);
        let (node, now_us) = (self.node, self.hub.now_us());
        let (end, back, back_us) = self.hub.draw(|rng| match rng.random_bool(0.3) {
            true => (Fault::PowerOff(node), Fault::PowerOn(node), rng.random_range(3_000_000..20_000_000)),
            false => (Fault::Crash(node), Fault::Restart(node), rng.random_range(50_000..3_000_000)),
        });
        self.hub.put(now_us, Event::Fault(end));
        self.hub.put(now_us + back_us, Event::Fault(back));
    }

    pub fn disk<T>(&self, change: impl FnOnce(&mut Disk) -> T) -> T {
        change(&mut self.lock().disk)
    }
    pub fn record(&self, vm: Uuid) -> VmRecord {
        self.lock().disk.vms.get(&vm).cloned().unwrap_or_default()
    }

    /// The VM's QEMU, if there is one.
    pub fn process_of(&self, vm: Uuid) -> Option<Process> {
        self.lock().processes.get(&vm).copied()
    }
    pub fn processes(&self) -> Vec<(Uuid, Process)> {
        self.lock().processes.iter().map(|(vm, process)| (*vm, *process)).collect()
    }

    /// The VM's QEMU ends now.
    pub fn end(&self, vm: Uuid, why: &str) {
        let ended = self.lock().processes.remove(&vm);
        if let Some(process) = ended {
            self.hub.note(|| format!("{} ends {vm}: {why}", self.name));
            self.has_ended((vm, process), why);
        }
    }

    pub fn has_warden(&self) -> bool {
        self.lock().warden.is_some()
    }
    pub fn start_warden(&self) {
        self.lock().warden.get_or_insert_default();
    }

    /// Planted: what it was told to stop it starts again.
    pub fn forgets_stops(&self) -> bool {
        self.planted == Some(Planted::ForgottenStop)
    }

    /// Sends a process on its way.
    pub fn spawn(&self, vm: Uuid, guarded: bool, begin: Begin) -> oneshot::Receiver<Result<Process, Problem>> {
        let (done, receiver) = oneshot::channel();
        let mut state = self.lock();
        state.pids += 1;
        let (boot, process) = (state.boot, (state.pids, self.hub.now_us()));
        drop(state);
        let delay_us = self.hub.draw(|rng| rng.random_range(1_000..400_000));
        let start = Start { node: self.node, boot, vm, process, guarded, begin, done };
        self.hub.put(self.hub.now_us() + delay_us, Event::Execute(start));
        receiver
    }

    /// Whether the VM is here as this QEMU was made for.
    fn has(&self, vm: Uuid, begin: Begin) -> bool {
        self.guests.vms_on(&self.name).iter().any(|known| {
            known.uuid == vm
                && match begin {
                    Begin::Running => !matches!(known.state, VmRunState::Receiving | VmRunState::HandedOver),
                    Begin::Incoming(id) => known.migration.as_ref().is_some_and(|migration| migration.migration == id),
                }
        })
    }

    /// The process asks the warden, if it has to, and executes if it may.
    pub fn execute(&self, start: Start) {
        let Start { boot, vm, process, guarded, begin, done, .. } = start;
        let mut state = self.lock();
        if !state.powered || state.boot != boot {
            return;
        }
        let is_let_in = !guarded || state.guard(vm, process, self.clock.moment());
        let is_alone = !state.processes.contains_key(&vm);
        if is_let_in && is_alone && self.has(vm, begin) {
            state.processes.insert(vm, process);
            drop(state);
            match begin {
                Begin::Running => {
                    self.hub.note(|| format!("{} executes {vm}", self.name));
                    self.guests.guest_starts(&self.name, vm);
                }
                Begin::Incoming(migration) => {
                    self.hub.note(|| format!("{} waits for {vm}", self.name));
                    self.streams.listen(migration, vm, (self.node, process));
                }
            }
            drop(done.send(Ok(process)));
        } else {
            drop(state);
            let problem = Problem::transient("lease-not-held", "the warden does not let it in");
            drop(done.send(Err(problem)));
        }
    }

    pub fn warden_looks(&self, boot: u64) {
        let mut state = self.lock();
        let now = self.clock.moment();
        let is_over = state.warden.as_ref().is_some_and(|warden| warden.term.is_over(now));
        if state.boot != boot || !is_over || self.planted == Some(Planted::NoWarden) {
            return;
        }
        let stopped = state.stop_all();
        drop(state);
        self.tell_stopped(stopped);
    }

    /// It is killed; guests go on.
    pub fn warden_dies(&self) {
        let mut state = self.lock();
        let guarded = state.guarded();
        state.warden = None;
        if guarded == 0 || self.planted == Some(Planted::NoWatchdog) {
            return;
        }
        state.deaths += 1;
        state.watchdog = Some(state.deaths);
        let (node, boot, death) = (self.node, state.boot, state.deaths);
        drop(state);
        let at_us = self.hub.now_us() + Timing::DEFAULT.kill_margin_ms * 1_000;
        self.hub.put(at_us, Event::WatchdogLooks { node, boot, death });
    }

    /// Whether nobody has come to guard anything since this death of a warden.
    pub fn is_to_be_reset(&self, boot: u64, death: u64) -> bool {
        let state = self.lock();
        state.boot == boot && state.watchdog == Some(death)
    }

    fn tell_stopped(&self, stopped: Vec<(Uuid, Process)>) {
        for (vm, process) in stopped {
            self.hub.note(|| format!("warden of {} stops {vm}", self.name));
            self.has_ended((vm, process), "it was stopped");
        }
    }

    pub fn order(&self, order: Order) -> io::Result<Answer> {
        let mut state = self.lock();
        let (now, boot) = (self.clock.moment(), state.boot);
        let warden = state.warden.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let mut stopped = Vec::new();
        let yes = match order {
            Order::Lease(until) => {
                warden.term.renew(until);
                if let Some(until) = warden.term.until() {
                    let margin_us = Timing::DEFAULT.kill_margin_ms * 1_000;
                    let lateness_us = self.hub.draw(|rng| rng.random_range(0..margin_us));
                    let at_us = self.clock.true_us(until.0 * 1_000).max(self.hub.now_us());
                    self.hub.put(at_us + lateness_us, Event::WardenLooks { node: self.node, boot });
                }
                true
            }
            Order::Guard { vm, pid, start_time_ticks } => {
                let process = (pid, start_time_ticks);
                state.processes.get(&vm) == Some(&process) && state.guard(vm, process, now)
            }
            Order::EndAll => {
                warden.term.end();
                stopped = state.stop_all();
                true
            }
        };
        let guarded = state.guarded();
        drop(state);
        self.tell_stopped(stopped);
        Ok(Answer { yes, guarded })
    }

    /// How long the disk takes before something is on it, and until that is told.
    pub fn disk_delays(&self) -> (Duration, Duration) {
        let stall_us = self.lock().stalled_until_us.saturating_sub(self.hub.now_us());
        let (before_us, after_us) = self.hub.draw(|rng| (rng.random_range(0..3_000), rng.random_range(0..3_000)));
        (Duration::from_micros(stall_us + before_us), Duration::from_micros(after_us))
    }
}

impl State {
    fn guard(&mut self, vm: Uuid, process: Process, now: Moment) -> bool {
        let Some(warden) = self.warden.as_mut().filter(|warden| !warden.term.is_over(now)) else { return false };
        warden.guarded.insert(process, vm);
        self.watchdog = None;
        true
    }

    /// Of what it guards, what executes.
    fn guarded(&self) -> u32 {
        let guarded = self.warden.iter().flat_map(|warden| &warden.guarded);
        guarded.filter(|(process, vm)| self.processes.get(vm) == Some(process)).count() as u32
    }

    fn stop_all(&mut self) -> Vec<(Uuid, Process)> {
        let guarded = self.warden.as_mut().map(|warden| std::mem::take(&mut warden.guarded)).unwrap_or_default();
        let ends = |(process, vm): &(Process, Uuid)| self.processes.get(vm) == Some(process);
        let stopped: Vec<(Process, Uuid)> = guarded.into_iter().filter(ends).collect();
        self.disk.stopped.extend(stopped.iter().map(|(process, _)| *process));
        self.processes.retain(|vm, _| !stopped.iter().any(|(_, gone)| gone == vm));
        stopped.into_iter().map(|(process, vm)| (vm, process)).collect()
    }
}
