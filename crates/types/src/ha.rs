//! High availability of a VM: what its host does when it fails, and what it has done.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Name, Problem, Timestamp};

const DEPENDENCIES_MAX: usize = 16;

/// What is done when the VM fails: its QEMU ends, its kernel panics, it hangs or does not feed its watchdog, it fails a
/// liveness probe, or its QEMU no longer answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HaSpec {
    pub policy: HaPolicy,
    /// Among the VMs that are to be started again, those of a higher one come first.
    #[serde(skip_serializing_if = "Priority::is_default")]
    pub priority: Priority,
    /// VMs that have to be ready before it is started again after its host has failed, at most 16. One that does not exist,
    /// or that is not protected, is not waited for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<Name>,
    /// With `restart`: what is done when its guest fails: its kernel panics, it hangs, or does not feed its watchdog.
    #[serde(skip_serializing_if = "FailureReaction::is_default")]
    pub on_guest_failure: FailureReaction,
    /// With `restart`: what is done when its application fails a liveness probe.
    #[serde(skip_serializing_if = "FailureReaction::is_default")]
    pub on_application_failure: FailureReaction,
    /// What is done when its host has lost a pool that a disk of it is in, while it lives itself.
    #[serde(skip_serializing_if = "LossReaction::is_pool_default")]
    pub on_pool_loss: LossReaction,
    /// What is done when the interface that its network needs has no link on its host, which answers all the same.
    #[serde(skip_serializing_if = "LossReaction::is_network_default")]
    pub on_network_loss: LossReaction,
    /// The seconds after which a pool or a link that is gone counts as lost, 10–3600.
    #[serde(skip_serializing_if = "is_usual_loss")]
    pub loss_s: u32,
    /// With `restart`: its disk goes back to its last known good state when guest or application have failed this often,
    /// 1–20, without having been good in between; never if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roll_back_after: Option<u32>,
    /// With `restart`: how often within an hour, 1–60, something is done. Then it stays failed until somebody starts it.
    pub restarts_per_hour: u32,
    /// With `restart`: the seconds after which silence counts as failure, 10–3600: of QEMU, or of the guest's agent *and*
    /// its disk and network together.
    pub hang_s: u32,
    /// The machine has a watchdog (i6300esb): a guest that has begun to feed it and then does not has failed. Changed while
    /// it is stopped.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub watchdog: bool,
}

/// Longer than a storage path takes to fail over, and than a switch's port to come up again.
const LOSS_S: u32 = 60;

fn is_usual_loss(loss_s: &u32) -> bool {
    *loss_s == LOSS_S
}

impl Default for HaSpec {
    fn default() -> Self {
        Self {
            policy: HaPolicy::None,
            priority: Priority::Medium,
            depends_on: Vec::new(),
            on_guest_failure: FailureReaction::Restart,
            on_application_failure: FailureReaction::Restart,
            on_pool_loss: LossReaction::RestartElsewhere,
            on_network_loss: LossReaction::Alarm,
            loss_s: LOSS_S,
            roll_back_after: None,
            restarts_per_hour: 5,
            hang_s: 30,
            watchdog: false,
        }
    }
}

impl HaSpec {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what is wrong with it to the problem's fields.
    pub fn validate(&self, mut problem: Problem) -> Problem {
        if !(1..=60).contains(&self.restarts_per_hour) {
            problem = problem
                .field("spec.ha.restarts_per_hour", format!("{} is out of range, use 1 to 60", self.restarts_per_hour));
        }
        if !(10..=3600).contains(&self.hang_s) {
            problem = problem.field("spec.ha.hang_s", format!("{} is out of range, use 10 to 3600", self.hang_s));
        }
        if !(10..=3600).contains(&self.loss_s) {
            problem = problem.field("spec.ha.loss_s", format!("{} is out of range, use 10 to 3600", self.loss_s));
        }
        if let Some(failures) = self.roll_back_after.filter(|failures| !(1..=20).contains(failures)) {
            problem = problem
                .field("spec.ha.roll_back_after", format!("{failures} is out of range, use 1 to 20, or leave it out"));
        }
        let count = self.depends_on.len();
        if count > DEPENDENCIES_MAX {
            let message = format!("{count} are too many, use at most {DEPENDENCIES_MAX}");
            problem = problem.field("spec.ha.depends_on", message);
        }
        for (index, name) in self.depends_on.iter().enumerate() {
            if self.depends_on[..index].contains(name) {
                problem = problem.field(format!("spec.ha.depends_on[{index}]"), format!("'{name}' is there twice"));
            }
        }
        problem
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HaPolicy {
    /// It stays failed until somebody starts it.
    #[default]
    None,
    /// Its host starts it again, also while the controller is away: at once, then after pauses that double, from 5 s.
    Restart,
}

/// What is done about a guest or an application that fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureReaction {
    /// Its QEMU is ended and started again by the same host.
    #[default]
    Restart,
    /// Its machine is reset, as by the button. One that fails again before the pause between two reactions is over is restarted.
    Reset,
    /// Its QEMU is ended, and the controller starts it on another host if its disk can be reached there; otherwise where it was.
    RestartElsewhere,
    /// It is told of and nothing is done. A guest that panicked, or whose watchdog has halted it, stays failed.
    Alarm,
}

impl FailureReaction {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What is done about a VM whose host has lost what it needs, and lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossReaction {
    /// It is told of and nothing is done.
    Alarm,
    /// With the policy `restart`: once another host can take it, its host ends its QEMU, and it is started there.
    RestartElsewhere,
}

impl LossReaction {
    fn is_pool_default(&self) -> bool {
        *self == Self::RestartElsewhere
    }
    fn is_network_default(&self) -> bool {
        *self == Self::Alarm
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    Low,
    #[default]
    Medium,
    High,
}

impl Priority {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What its host has done about its failures since the VM came there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HaStatus {
    /// With those from an older state of its disk, without resets.
    pub restarts: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub resets: u64,
    /// How often its disk went back to a good state.
    #[serde(skip_serializing_if = "is_zero")]
    pub roll_backs: u64,
    /// Failures of guest or application since it was last known to be good.
    #[serde(skip_serializing_if = "is_zero")]
    pub failures_in_a_row: u64,
    /// How often something was done within the last hour; `spec.ha.restarts_per_hour` is the limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub within_hour: u64,
    /// It has failed and is started again then (the host's clock).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// What is wrong with it, where nothing is done about that, or not yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<String>,
    /// Its host has lost what it needs and gives it up as soon as another one can take it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stranded: bool,
    /// It has failed, and its host leaves it to the controller to start it elsewhere.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub elsewhere: bool,
    /// Why something was done last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_cause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_at: Option<Timestamp>,
    /// The limit of restarts was reached: it stays failed until somebody starts it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub given_up: bool,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl HaStatus {
    /// Something is done now about a failure.
    pub fn done_about(&mut self, cause: Option<String>, at: Timestamp) {
        (self.last_cause, self.last_at, self.given_up) = (cause, Some(at), false);
    }

    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A VM whose host was shut out while it ran there, or has given it up to others: it surely runs nowhere, and is to run again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Displaced {
    /// Where it ran.
    pub from: Name,
    pub since: Timestamp,
    /// The VM failed there; its host is fine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// Why it does not run again yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
}
