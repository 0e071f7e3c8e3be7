//! What a host does about a VM when it has lost something that the VM needs: a pool, or its network's link.
//!
//! ```text
//!   there ── gone ──▶ gone for a while ── limit ──▶ only to be told of ──▶ tell
//!     ▲                 │                            └── to be given up ──▶ await ── another host can take it ──▶ leave
//!     └── there again ──┴────────────────────────────────────────────────────┘
//! ```
//! A VM is given up only on the word of who would start it elsewhere. Without that it stays: what is lost may come back,
//! and a guest that waits for its disk is worth more than one that is off.

use gantry_types::{HaPolicy, HaSpec, LossReaction};

use crate::Moment;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// A disk of the VM is in a pool that this host no longer reaches.
    Pool,
    /// The interface that its network needs has no link.
    Network,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It may come back by then.
    Wait {
        until: Moment,
    },
    Tell,
    /// It is told of, and left as soon as it may be.
    Await,
    /// Its QEMU is ended here, for another host to start it.
    Leave,
}

/// What is known of a loss.
#[derive(Debug, Clone, Copy)]
pub struct Situation {
    pub loss: Loss,
    pub since: Moment,
    pub now: Moment,
    /// The controller has just said that another host can take the VM.
    pub may_leave: bool,
}

pub fn decide(spec: &HaSpec, situation: Situation) -> Decision {
    let Situation { loss, since, now, may_leave } = situation;
    let until = since + u64::from(spec.loss_s) * 1000;
    if now < until {
        return Decision::Wait { until };
    }
    let reaction = match loss {
        Loss::Pool => spec.on_pool_loss,
        Loss::Network => spec.on_network_loss,
    };
    match (spec.policy, reaction) {
        (HaPolicy::None, _) | (_, LossReaction::Alarm) => Decision::Tell,
        (HaPolicy::Restart, LossReaction::RestartElsewhere) if may_leave => Decision::Leave,
        (HaPolicy::Restart, LossReaction::RestartElsewhere) => Decision::Await,
    }
}
