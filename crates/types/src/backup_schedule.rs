//! Backups that are made by themselves.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Problem, RepositoryReference, Retention};

/// Where a VM is backed up to by itself while it runs, and how many of these backups are kept: one for each of the shortest
/// periods that count here. Together 1 to 500.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupSchedule {
    /// The name of a repository, or a directory, as in a backup's own spec. Each host on which the VM may run has to reach it.
    pub repository: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hourly: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub daily: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub weekly: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub monthly: u32,
    /// The guest's agent freezes its file systems for the instant, if it answers.
    #[serde(default = "yes")]
    pub quiesce: bool,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

fn yes() -> bool {
    true
}

const KEPT_MAX: u32 = 500;

impl BackupSchedule {
    pub fn retention(&self) -> Retention {
        let Self { hourly, daily, weekly, monthly, .. } = *self;
        Retention { hourly, daily, weekly, monthly }
    }

    pub(crate) fn check(&self, mut problem: Problem) -> Problem {
        let together = self.retention().together();
        if !(1..=KEPT_MAX).contains(&together) {
            let message = format!("keeps {together} backups together, use 1 to {KEPT_MAX}");
            problem = problem.field("spec.backups", message);
        }
        match self.repository.parse::<RepositoryReference>() {
            Err(message) => problem.field("spec.backups.repository", message),
            Ok(_) => problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_keeps_some_and_says_where() {
        let mistakes = |schedule: serde_json::Value| {
            let schedule: BackupSchedule = serde_json::from_value(schedule).unwrap();
            let problem = schedule.check(Problem::invalid("invalid-vm", "x"));
            problem.fields.into_iter().map(|field| format!("{}: {}", field.field, field.message)).collect::<Vec<_>>()
        };
        let good = serde_json::json!({"repository": "/srv/backup", "daily": 7});
        assert!(mistakes(good.clone()).is_empty());
        assert!(serde_json::from_value::<BackupSchedule>(good).unwrap().quiesce);
        for (wrong, expected) in [
            (serde_json::json!({"repository": "/srv/backup"}), "spec.backups: keeps 0 backups"),
            (serde_json::json!({"repository": "/srv/backup", "hourly": 501}), "spec.backups: keeps 501 backups"),
            (
                serde_json::json!({"repository": "./backup", "daily": 1}),
                "spec.backups.repository: './backup' is neither",
            ),
        ] {
            let found = mistakes(wrong);
            assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
        }
    }
}
