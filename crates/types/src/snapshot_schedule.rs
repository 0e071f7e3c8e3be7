//! Snapshots that are taken by themselves.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Problem, Retention};

/// How many snapshots of a VM are kept that are taken by themselves while it runs: without memory, one for each of the
/// shortest periods that count here. Together at most 60.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotSchedule {
    #[serde(skip_serializing_if = "is_zero")]
    pub hourly: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub daily: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub weekly: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub monthly: u32,
    /// Quiesced by the guest's agent, when that answers.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub quiesce: bool,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// Room for those that people take remains.
const KEPT_MAX: u32 = 60;

impl SnapshotSchedule {
    pub fn retention(&self) -> Retention {
        let Self { hourly, daily, weekly, monthly, quiesce: _ } = *self;
        Retention { hourly, daily, weekly, monthly }
    }

    /// Takes none.
    pub fn is_empty(&self) -> bool {
        self.retention().is_empty()
    }

    pub(crate) fn check(&self, mut problem: Problem) -> Problem {
        let together = self.retention().together();
        if together > KEPT_MAX {
            let message = format!("{together} snapshots are too many, keep at most {KEPT_MAX} together");
            problem = problem.field("spec.snapshots", message);
        }
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_are_refused() {
        let check = |hourly, daily, weekly, monthly| {
            let schedule = SnapshotSchedule { hourly, daily, weekly, monthly, quiesce: false };
            schedule.check(Problem::invalid("invalid-vm", "x")).fields.len()
        };
        assert_eq!((check(24, 14, 12, 10), check(24, 14, 12, 11), check(u32::MAX, 1, 0, 0)), (0, 1, 1));
    }
}
