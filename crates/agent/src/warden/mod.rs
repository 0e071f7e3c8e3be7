//! What stops protected VMs when this host's lease is over: the warden, a process of its own.
//!
//! ```text
//!   agent ── the lease lasts until … ────────────────▶ warden ── lease over: SIGKILL ──▶ every QEMU it guards
//!     └─ fork ─▶ child that is to be QEMU ── may I? ─────▶ │
//!                exec ◀── yes, and you are guarded now ────┘
//! ```
//! It is plain and synchronous: a timer on CLOCK_BOOTTIME, pidfds that it holds open, one socket. A thread of the agent would
//! stand still when the agent is stopped (SIGSTOP), swapped out or hangs, and end when it ends; QEMU goes on in all of
//! these. It ignores the signals that end programs politely, and restarts of the agent don't concern it.
//!
//! On failure: without the warden's word no protected QEMU comes to be, because each asks by itself before it executes. A
//! warden that is killed is started again by the agent, which has it guard what runs. What it has stopped it writes
//! down (`warden.json`) for the agent to read, however much later that is. Where there is a hardware watchdog, it resets
//! the machine when the warden is gone while it guards something ([`watchdog`]).

mod link;
mod process;
mod term;
mod watchdog;

use gantry_ha::Moment;
use gantry_qemu::process::Gate;
use gantry_types::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(crate) use link::WardenLink;
pub use process::{WardenError, run};
pub use term::Term;

/// In the state directory: where the warden listens.
const SOCKET: &str = "warden.sock";
/// What it has stopped.
const REPORT: &str = "warden.json";
/// One warden at a time; the lock ends with the process.
const LOCK: &str = "warden.lock";

const ORDER_BYTES: usize = Gate::QUESTION_BYTES;
const ANSWER_BYTES: usize = Gate::ANSWER_BYTES;
const PID_AT: usize = 4;

/// This machine's clock for leases: it goes on while the machine is suspended and never steps.
pub(crate) fn boottime() -> Moment {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let (seconds, nanoseconds) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    Moment(seconds * 1_000 + nanoseconds / 1_000_000)
}

/// What the warden is told or asked: 40 bytes on its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The lease lasts until then; `None`: this host needs none.
    Lease(Option<Moment>),
    /// Stop this process when the lease is over. Its start is not known (0) if it asks itself.
    Guard { vm: Uuid, pid: u32, start_time_ticks: u64 },
    /// Stop everything guarded now, and let nothing in until the lease is renewed.
    EndAll,
}

impl Order {
    fn encode(self) -> [u8; ORDER_BYTES] {
        let mut bytes = [0; ORDER_BYTES];
        let (kind, pid, number, vm, ticks) = match self {
            Self::Lease(until) => (1, 0, until.map_or(u64::MAX, |until| until.0), Uuid::nil(), 0),
            Self::Guard { vm, pid, start_time_ticks } => (2, pid, 0, vm, start_time_ticks),
            Self::EndAll => (3, 0, 0, Uuid::nil(), 0),
        };
        bytes[0] = kind;
        bytes[PID_AT..8].copy_from_slice(&pid.to_le_bytes());
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
        bytes[16..32].copy_from_slice(vm.as_bytes());
        bytes[32..40].copy_from_slice(&ticks.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; ORDER_BYTES]) -> Option<Self> {
        let number = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        Some(match bytes[0] {
            1 => Self::Lease(Some(number(8)).filter(|until| *until != u64::MAX).map(Moment)),
            2 => Self::Guard {
                vm: Uuid::from_slice(&bytes[16..32]).ok()?,
                pid: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
                start_time_ticks: number(32),
            },
            3 => Self::EndAll,
            _ => return None,
        })
    }
}

/// What the warden answers to every order: 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub yes: bool,
    /// How many processes it guards that have not ended.
    pub guarded: u32,
}

impl Answer {
    fn encode(self) -> [u8; ANSWER_BYTES] {
        let mut bytes = [0; ANSWER_BYTES];
        bytes[0] = u8::from(self.yes);
        bytes[4..8].copy_from_slice(&self.guarded.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; ANSWER_BYTES]) -> Self {
        Self { yes: bytes[0] == 1, guarded: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) }
    }
}

/// A process that the warden has stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stopped {
    pub vm: Uuid,
    pub pid: u32,
    pub start_time_ticks: u64,
    pub at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_answers_arrive_as_they_were_sent() {
        let guard = Order::Guard { vm: Uuid::from_u128(7), pid: 4_242, start_time_ticks: 99 };
        for order in [Order::Lease(None), Order::Lease(Some(Moment(17))), guard, Order::EndAll] {
            assert_eq!(Order::decode(&order.encode()), Some(order));
        }
        assert_eq!(Order::decode(&[9; ORDER_BYTES]), None);
        for answer in [Answer { yes: true, guarded: 3 }, Answer { yes: false, guarded: 0 }] {
            assert_eq!(Answer::decode(&answer.encode()), answer);
        }
    }

    #[test]
    fn the_clock_goes_on() {
        let before = boottime();
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert!(boottime().ms_since(before) >= 4);
    }
}
