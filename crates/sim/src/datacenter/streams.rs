//! What goes from one QEMU to another while a VM moves. It needs no agent to stand still, to be lost or to be complete.
//!
//! ```text
//!   listens ── the source connects ──▶ flows ── the guest is stopped ──▶ still ── the last of it is there ──▶ complete
//!      └────────────────── one of the two QEMUs ends, or the source gives it up ──▶ broken
//! ```
//! What is complete has left the source for good: nobody but an agent lets the guest execute then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_agent::lease::Process;
use gantry_types::Problem;
use rand::RngExt;
use uuid::Uuid;

use super::hub::{Event, Node};
use super::machine::SimMachine;

/// How soon what is sent over a cut cable is sent again.
const AGAIN_US: u64 = 100_000;

/// A process on a machine.
type At = (Node, Process);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Listens,
    Flows,
    Still,
    Complete,
    Broken,
}

struct Stream {
    vm: Uuid,
    flow: Flow,
    to: At,
    from: Option<At>,
    /// By this stream; it would go on if it were told to.
    is_guest_halted: bool,
}

/// Those of all machines, by move.
#[derive(Default)]
pub struct Streams(Mutex<BTreeMap<Uuid, Stream>>);

/// The last of a stream is on its way.
pub struct Rest {
    pub node: Node,
    migration: Uuid,
    process: Process,
}

impl Streams {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Uuid, Stream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn listen(&self, migration: Uuid, vm: Uuid, to: At) {
        let stream = Stream { vm, flow: Flow::Listens, to, from: None, is_guest_halted: false };
        self.lock().insert(migration, stream);
    }

    pub fn flow(&self, migration: Uuid) -> Flow {
        self.lock().get(&migration).map_or(Flow::Broken, |stream| stream.flow)
    }

    /// Its QEMU is gone.
    pub fn process_ends(&self, at: At) {
        for stream in self.lock().values_mut().filter(|stream| stream.to == at || stream.from == Some(at)) {
            stream.is_guest_halted &= stream.from != Some(at);
            if stream.flow != Flow::Complete {
                stream.flow = Flow::Broken;
            }
        }
    }
}

fn lost(why: &str) -> Problem {
    Problem::transient("stream-lost", why)
}

/// As its QEMU is told to by the source's agent.
impl SimMachine {
    /// # Errors
    /// Where nobody listens for it, or its QEMU has ended.
    pub fn connect(&self, vm: Uuid, migration: Uuid) -> Result<(), Problem> {
        let process = self.process_of(vm).ok_or_else(|| lost("its QEMU has ended"))?;
        let mut streams = self.streams.lock();
        let stream = streams.get_mut(&migration).filter(|stream| stream.flow == Flow::Listens);
        let stream = stream.ok_or_else(|| lost("the destination does not listen"))?;
        (stream.flow, stream.from) = (Flow::Flows, Some((self.node, process)));
        Ok(())
    }

    /// Whether something of it can get on now.
    pub fn reaches(&self, to: Node) -> bool {
        self.hub.network(|network| network.is_open(self.node, to) && network.is_open(to, self.node))
    }

    /// The guest stands still for the last of it.
    ///
    /// # Errors
    /// When it is broken.
    pub fn halt(&self, vm: Uuid, migration: Uuid) -> Result<(), Problem> {
        let mut streams = self.streams.lock();
        let stream = streams.get_mut(&migration).filter(|stream| stream.flow == Flow::Flows);
        let stream = stream.ok_or_else(|| lost("the stream is broken"))?;
        (stream.flow, stream.is_guest_halted) = (Flow::Still, true);
        drop(streams);
        self.hub.note(|| format!("{} halts {vm}", self.name));
        self.guests.guest_halts(&self.name, vm);
        Ok(())
    }

    /// Sends the last of it.
    pub fn finish(&self, vm: Uuid, migration: Uuid) {
        let Some(process) = self.process_of(vm) else { return };
        let delay_us = self.hub.draw(|rng| rng.random_range(1_000..30_000));
        let rest = Rest { node: self.node, migration, process };
        self.hub.put(self.hub.now_us() + delay_us, Event::RestArrives(rest));
    }

    /// The last of it arrives, if it still can; over a cut cable later.
    pub fn rest_arrives(&self, rest: Rest) {
        let mut streams = self.streams.lock();
        let from = Some((self.node, rest.process));
        let is_it = |stream: &&mut Stream| stream.flow == Flow::Still && stream.from == from;
        let Some(stream) = streams.get_mut(&rest.migration).filter(is_it) else { return };
        if !self.reaches(stream.to.0) {
            drop(streams);
            return self.hub.put(self.hub.now_us() + AGAIN_US, Event::RestArrives(rest));
        }
        let (vm, to) = (stream.vm, super::user::host_name(stream.to.0));
        let is_awaited = self.guests.disk_arrives(&self.name, &to, vm, rest.migration);
        stream.flow = if is_awaited { Flow::Complete } else { Flow::Broken };
        drop(streams);
        self.hub.note(|| format!("{} has handed {vm} over", self.name));
    }

    /// Gives the stream up, and the guest goes on here if it is to.
    ///
    /// # Errors
    /// If it is complete.
    pub fn give_up(&self, vm: Uuid, migration: Uuid, resume: bool) -> Result<(), Problem> {
        if let Some(stream) = self.streams.lock().get_mut(&migration) {
            if stream.flow == Flow::Complete {
                return Err(Problem::conflict("migration-handed-over", "everything is on the other side"));
            }
            stream.flow = Flow::Broken;
        }
        if resume {
            self.go_on(vm, migration);
        }
        Ok(())
    }

    /// Whether this move has halted the guest in a QEMU that is still there.
    pub fn is_halted(&self, vm: Uuid, migration: Uuid) -> bool {
        let Some(process) = self.process_of(vm) else { return false };
        let streams = self.streams.lock();
        let stream = streams.get(&migration).filter(|stream| stream.from == Some((self.node, process)));
        stream.is_some_and(|stream| stream.is_guest_halted)
    }

    /// A guest that this move has halted goes on where it was.
    pub fn go_on(&self, vm: Uuid, migration: Uuid) {
        if !self.is_halted(vm, migration) {
            return;
        }
        if let Some(stream) = self.streams.lock().get_mut(&migration) {
            stream.is_guest_halted = false;
        }
        self.hub.note(|| format!("{} goes on with {vm}", self.name));
        self.guests.guest_starts(&self.name, vm);
    }

    /// A guest that has come goes on here. Whether its QEMU is there.
    pub fn take_on(&self, vm: Uuid) -> bool {
        let is_there = self.process_of(vm).is_some();
        if is_there {
            self.hub.note(|| format!("{} takes {vm} on", self.name));
            self.guests.guest_starts(&self.name, vm);
        }
        is_there
    }

    /// What of it is here.
    pub fn flow(&self, migration: Uuid) -> Flow {
        self.streams.flow(migration)
    }

    /// A QEMU that waits for a guest ends when it hears that the stream is lost.
    pub fn hears_of_loss(&self, migration: Uuid) -> bool {
        let streams = self.streams.lock();
        let Some(stream) = streams.get(&migration).filter(|stream| stream.flow == Flow::Broken) else { return false };
        stream.from.is_some_and(|(from, _)| self.reaches(from))
    }
}
