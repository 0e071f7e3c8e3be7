//! What a host does about a protected VM that fails, by its policy.
//!
//! ```text
//!   QEMU ended or stands still ──────────────────────────────────────────────▶ restart
//!   guest or application ── only to be told of ──▶ tell; a guest that is halted stays so
//!     ├── failed too often without having been good in between ──▶ roll back, then start
//!     ├── reset, and its turn has come ──▶ reset
//!     └──▶ end QEMU, then start here │ leave it to the controller
//! ```
//! When a VM whose QEMU has ended is started, and when it is given up, [`crate::attempts`] says.

use gantry_types::{FailureReaction, HaPolicy, HaSpec};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// QEMU has ended or stands still.
    Machine,
    /// The guest panicked, or its watchdog has halted it: it executes nothing any more.
    GuestHalted,
    /// The guest shows no sign of life.
    GuestSilent,
    /// A liveness probe fails.
    Application,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It goes on as it is.
    Tell,
    Reset,
    /// Its QEMU is ended.
    End(Next),
}

/// What follows when a VM's QEMU has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// Nothing, until somebody starts it.
    Stay,
    #[default]
    Restart,
    /// Its disk goes back to a good state before it is started.
    RollBack,
    /// The controller starts it elsewhere.
    Elsewhere,
}

/// What is known when a VM fails.
#[derive(Debug, Clone, Copy)]
pub struct Situation {
    pub failure: Failure,
    /// Failures of guest or application since it was last known to be good, this one counted.
    pub in_a_row: u64,
    /// There is a good state of its disk that it can go back to.
    pub has_good: bool,
    /// Its machine can be reset now: it answers, does not move, and the pause after the last reaction is over.
    pub may_reset: bool,
}

pub fn decide(spec: &HaSpec, situation: Situation) -> Decision {
    let Situation { failure, in_a_row, has_good, may_reset } = situation;
    if spec.policy == HaPolicy::None {
        return Decision::End(Next::Stay);
    }
    let reaction = match failure {
        Failure::Machine => return Decision::End(Next::Restart),
        Failure::GuestHalted | Failure::GuestSilent => spec.on_guest_failure,
        Failure::Application => spec.on_application_failure,
    };
    let is_worn_out = spec.roll_back_after.is_some_and(|after| in_a_row >= u64::from(after));
    match reaction {
        FailureReaction::Alarm if failure == Failure::GuestHalted => Decision::End(Next::Stay),
        FailureReaction::Alarm => Decision::Tell,
        _ if is_worn_out && has_good => Decision::End(Next::RollBack),
        FailureReaction::Reset if may_reset => Decision::Reset,
        FailureReaction::Reset | FailureReaction::Restart => Decision::End(Next::Restart),
        FailureReaction::RestartElsewhere => Decision::End(Next::Elsewhere),
    }
}

/// The good state to go back to, of those that there are, newest first. One that it has gone back to already, and that no
/// newer one has followed, was not that good: then the next older one.
pub fn good_state<T: Copy + PartialEq>(good: &[T], last: Option<T>) -> Option<T> {
    let newest = good.first().copied()?;
    if last == Some(newest) { good.get(1).copied() } else { Some(newest) }
}
