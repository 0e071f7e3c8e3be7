//! `backup_delete` and `backup_verify`: a host that reaches the repository deletes a backup there, or reads all of it.
//!
//! Nobody can say what a host has done that did not answer, so a deletion that fails leaves the backup `deleting`, and deleting it
//! again goes on. A verification changes nothing but what is known.

use async_trait::async_trait;
use gantry_api::backup::BackupCheck;
use gantry_types::{Action, BackupPhase, Problem, Resource, Severity};

use super::{
    backup_place::{at_repository, follow, place_of, target},
    step::{Ending, Procedure, Step, StepContext},
};
use crate::objects::Change;

const CHECK: &str = "check";
/// What is lost beyond is counted.
const LOST_MAX: usize = 100;

pub struct BackupDelete;
pub struct BackupVerify;

#[async_trait]
impl Procedure for BackupDelete {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(Delete)]
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let mut backup = target(context).await?;
        backup.status.operation = None;
        let name = backup.name().to_owned();
        let typed = backup.typed();
        let again = format!("to go on: gantry backup delete {typed}; to forget it without its repository: add --force");
        backup.status.reason = Some(match ending {
            Ending::Succeeded => {
                let by = &context.operation.spec.requested_by;
                let message = format!("backup '{name}' was deleted by {by}");
                change.delete(&backup).event(&context.event(Severity::Normal, "BackupDeleted", message, None))?;
                return Ok(());
            }
            Ending::Failed(problem) | Ending::Incomplete(problem) => format!("deleting it failed: {problem}; {again}"),
            Ending::Cancelled => format!("deleting it was cancelled; {again}"),
        });
        change.update(&backup)?;
        Ok(())
    }
}

struct Delete;

#[async_trait]
impl Step for Delete {
    fn name(&self) -> &'static str {
        "delete"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        if matches!(context.operation.spec.action, Action::BackupDelete { force: true }) {
            return Ok(());
        }
        let backup = target(context).await?;
        let (host, agent) = at_repository(context, &backup)?;
        let place = place_of(&context.app, &backup).await?;
        let message = format!("deleting on host '{host}'");
        while follow(context, &message, agent.delete_backup(&place).await?).await?.is_none() {}
        Ok(())
    }
}

#[async_trait]
impl Procedure for BackupVerify {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(Check)]
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let mut backup = target(context).await?;
        backup.status.operation = None;
        if let Ending::Succeeded = ending {
            let BackupCheck { mut lost, checked } = context.need(CHECK)?;
            let count = lost.len();
            lost.truncate(LOST_MAX);
            let status = &mut backup.status;
            status.verified_at = Some(context.app.clock.now());
            status.phase = if lost.is_empty() { BackupPhase::Ready } else { BackupPhase::Damaged };
            status.reason = lost.first().map(|first| {
                format!(
                    "{count} parts are lost; the first: {} bytes at {} of disk '{}': {}",
                    first.length_bytes, first.offset_bytes, first.disk, first.why
                )
            });
            status.lost = lost;
            let name = backup.name();
            let (severity, reason, message) = match &backup.status.reason {
                None => {
                    let message = format!("backup '{name}' was read and is whole: {}", checked.approximate());
                    (Severity::Normal, "BackupVerified", message)
                }
                Some(reason) => (Severity::Warning, "BackupDamaged", format!("backup '{name}' is damaged: {reason}")),
            };
            change.event(&context.event(severity, reason, message, None))?;
        }
        change.update(&backup)?;
        Ok(())
    }
}

struct Check;

#[async_trait]
impl Step for Check {
    fn name(&self) -> &'static str {
        "check"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let backup = target(context).await?;
        let (host, agent) = at_repository(context, &backup)?;
        let place = place_of(&context.app, &backup).await?;
        let message = format!("reading on host '{host}'");
        loop {
            if let Some(check) = follow(context, &message, agent.check_backup(&place).await?).await? {
                return context.note(CHECK, &check);
            }
        }
    }
}
