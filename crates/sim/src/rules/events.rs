//! What happens, in the order in which it happens.

use std::collections::BTreeMap;

use gantry_ha::{Moment, lease::Answer};
use gantry_types::{Fence, Members, Name};

use crate::faults::Fault;
pub use crate::faults::{CONTROLLER, Node};

pub type VmId = usize;

#[derive(Debug, Clone)]
pub enum Event {
    /// A program looks around.
    Tick {
        node: Node,
        life: u64,
    },
    Arrive {
        from: Node,
        to: Node,
        message: Message,
    },
    /// The child that becomes QEMU looks at the clock a last time.
    Execute {
        host: Node,
        vm: VmId,
        boot: u64,
        deadline: Option<Moment>,
    },
    WardenWakes {
        host: Node,
        boot: u64,
    },
    Fault(Fault),
}

#[derive(Debug, Clone)]
pub enum Message {
    Heartbeat { sent: Moment, members_generation: u64, acknowledged: Option<u64>, vms: Vec<(VmId, u64, bool)> },
    Granted { sent: Moment, lifted: u64, members: Members },
    Fenced(Fence),
    Question { round: u64, lifted: u64 },
    Answer(Answer),
    Store(Fence),
    Stored { host: Name, generation: u64, ago_ms: u64 },
    Lift { host: Name, generation: u64 },
    Start { vm: VmId, epoch: u64, incarnation: u64 },
    Remove { vm: VmId, epoch: u64 },
}

/// Events by true time; among those of one moment the one that was put in first comes first.
#[derive(Debug, Default)]
pub struct Queue {
    events: BTreeMap<(u64, u64), Event>,
    count: u64,
}

impl Queue {
    pub fn put(&mut self, at_ms: u64, event: Event) {
        self.count += 1;
        self.events.insert((at_ms, self.count), event);
    }
    pub fn next(&mut self) -> Option<(u64, Event)> {
        self.events.pop_first().map(|((at_ms, _), event)| (at_ms, event))
    }
}
