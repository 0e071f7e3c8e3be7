//! Finding out where a migration ended: the hosts decide, the controller only asks.
//!
//! ```text
//!  source says     moved                      -> forward
//!                  failed, cancelled          -> the guest is at the source
//!                  sending                    -> ask again
//!                  committing, or nothing     -> look at the destination: once it is committed, forward; else ask again
//!                  nothing for long: lost     -> ask the destination to abort; its verdict is final:
//!  destination     committed                  -> forward
//!                  aborted                    -> it will never run there; the source has it, whenever it is back
//! ```
//! Nobody answering is not an outcome: then this goes on asking.

use std::{sync::Arc, time::Duration};

use gantry_api::{
    AgentApi,
    agent::{MigrationReport, MigrationState, SendMigration, Verdict},
};
use gantry_types::{ErrorClass, Host, HostState, MigrationProgress, Problem, Progress};
use uuid::Uuid;

use super::{
    step::{CANCELLED, StepContext, Undone},
    vm_migrate::Plan,
    vm_start::or_absent,
};

pub(super) const POLL: Duration = Duration::from_millis(50);
/// While the guest stands still or has just moved: until the other hosts know, they send its frames to its old host.
pub(super) const SWITCHOVER_POLL: Duration = Duration::from_millis(10);

pub(super) enum Outcome {
    /// The destination has committed.
    Moved,
    Stayed(Problem),
}

/// Starts the transfer, or goes on with it, and stays with it to its end.
///
/// # Errors
/// Transient ones: nothing is decided yet.
pub(super) async fn follow(
    context: &mut StepContext,
    plan: &Plan,
    vm: Uuid,
    request: &SendMigration,
) -> Result<Outcome, Problem> {
    let source = context.agent(&plan.source).await?;
    // A migration that is over already must not be asked for again: the answer would be its error.
    let begun = match source.migration_report(vm, plan.migration).await {
        Err(problem) if problem.class == ErrorClass::NotFound => source.send_migration(vm, request).await,
        Err(problem) => Err(problem),
        Ok(_) => Ok(()),
    };
    match begun {
        Ok(()) => {}
        Err(problem) if problem.is_transient() => return lost_source(context, plan, vm, problem).await,
        Err(problem) => return Ok(Outcome::Stayed(problem)),
    }
    let mut cancelling = false;
    loop {
        let report = match source.migration_report(vm, plan.migration).await {
            Ok(report) => report,
            Err(problem) if problem.is_transient() => return lost_source(context, plan, vm, problem).await,
            Err(problem) => return Ok(Outcome::Stayed(problem)),
        };
        show(context, vm, &report.progress).await?;
        let committing = report.state == MigrationState::Committing;
        if committing && committed(context, plan, vm).await? {
            return Ok(Outcome::Moved);
        }
        let pause = if committing || report.progress.phase == "switchover" { SWITCHOVER_POLL } else { POLL };
        if let Some(outcome) = outcome_of(report) {
            return Ok(outcome);
        }
        if !cancelling && context.cancel_requested() {
            // Whether it comes in time is told by the report.
            match source.cancel_migration(vm, plan.migration).await {
                Err(problem) if problem.class != ErrorClass::Conflict => return Err(problem),
                _ => cancelling = true,
            }
        }
        context.sleep(pause).await;
    }
}

fn outcome_of(report: MigrationReport) -> Option<Outcome> {
    match report.state {
        MigrationState::Moved => Some(Outcome::Moved),
        MigrationState::Cancelled => {
            Some(Outcome::Stayed(Problem::conflict(CANCELLED, "the migration was cancelled; the VM is where it was")))
        }
        MigrationState::Failed => {
            let problem = report.error.unwrap_or_else(|| {
                Problem::permanent("migration-failed", "the source gave the migration up without saying why")
            });
            // Whatever class the host gave it: this migration is over.
            Some(Outcome::Stayed(Problem { class: ErrorClass::Permanent, ..problem }))
        }
        _ => None,
    }
}

/// Whether the destination has the guest for good. In post-copy the source learns it at once and needs long to end.
async fn committed(context: &StepContext, plan: &Plan, vm: Uuid) -> Result<bool, Problem> {
    let destination = context.agent(&plan.destination).await?;
    match destination.migration_report(vm, plan.migration).await {
        Ok(report) => Ok(report.state == MigrationState::Committed),
        // It can't be asked now, or knows nothing of it: the source, or the next look, will tell.
        Err(_) => Ok(false),
    }
}

/// The source does not answer. If it is lost, the destination's verdict decides.
async fn lost_source(context: &StepContext, plan: &Plan, vm: Uuid, problem: Problem) -> Result<Outcome, Problem> {
    if committed(context, plan, vm).await? {
        return Ok(Outcome::Moved);
    }
    let state = context.app.model.get::<Host>(plan.source.as_str()).map(|host| host.status.state);
    if state == Some(HostState::Ready) || state == Some(HostState::Joining) {
        return Err(problem);
    }
    let destination = context.agent(&plan.destination).await?;
    match verdict(&*destination, vm, plan).await? {
        Verdict::Committed => Ok(Outcome::Moved),
        Verdict::Aborted => Ok(Outcome::Stayed(
            Problem::permanent(
                "source-lost",
                format!("host '{}' was lost while the VM moved to '{}'", plan.source, plan.destination),
            )
            .remedy(format!("bring host '{}' back, then start the VM there", plan.source)),
        )),
    }
}

/// The destination's final word; a destination that knows nothing of the migration can never commit it.
async fn verdict(destination: &dyn AgentApi, vm: Uuid, plan: &Plan) -> Result<Verdict, Problem> {
    match destination.abort_migration(vm, plan.migration).await {
        Err(problem) if problem.class == ErrorClass::NotFound => Ok(Verdict::Aborted),
        answer => answer,
    }
}

/// Stops the transfer and makes sure how it ended.
///
/// # Errors
/// Transient ones, for as long as no host can tell.
pub(super) async fn abandon(context: &mut StepContext, plan: &Plan) -> Result<Undone, Problem> {
    let vm = context.operation.spec.target.uuid;
    let destination = context.agent(&plan.destination).await?;
    let source = context.agent(&plan.source).await?;
    let unreachable = match stop(context, &source, plan, vm).await {
        Ok(undone) => return Ok(undone),
        Err(problem) => problem,
    };
    // Only the destination can let the guest run there: if it says it never will, that is enough.
    match verdict(&*destination, vm, plan).await {
        Ok(Verdict::Committed) => Ok(Undone::NoGoForward),
        Ok(Verdict::Aborted) => Ok(Undone::Yes),
        Err(_) => Err(Problem::transient(
            "migration-undecided",
            format!(
                "neither '{}' nor '{}' can say how the migration ended: {unreachable}",
                plan.source, plan.destination
            ),
        )),
    }
}

async fn stop(context: &StepContext, source: &Arc<dyn AgentApi>, plan: &Plan, vm: Uuid) -> Result<Undone, Problem> {
    match source.cancel_migration(vm, plan.migration).await {
        // It never began there.
        Err(problem) if problem.class == ErrorClass::NotFound => return Ok(Undone::Yes),
        // Too late: handed over.
        Err(problem) if problem.class == ErrorClass::Conflict => {}
        cancelled => cancelled?,
    }
    loop {
        let report = match source.migration_report(vm, plan.migration).await {
            Err(problem) if problem.class == ErrorClass::NotFound => return Ok(Undone::Yes),
            report => report?,
        };
        match report.state {
            MigrationState::Moved => return Ok(Undone::NoGoForward),
            MigrationState::Failed | MigrationState::Cancelled => return Ok(Undone::Yes),
            MigrationState::Committing if committed(context, plan, vm).await? => return Ok(Undone::NoGoForward),
            _ => context.sleep(POLL).await,
        }
    }
}

/// Takes the destination's part away; goes forward if the guest is committed there. Called when the source, if it was
/// asked to send at all, has given the migration up for good: so it can't be committed any more, and a destination that
/// is lost keeps a remainder that the stray VM loop removes when it is back.
pub(super) async fn take_away(context: &mut StepContext, plan: &Plan) -> Result<Undone, Problem> {
    let vm = context.operation.spec.target.uuid;
    let destination = context.agent(&plan.destination).await?;
    let aborted = match verdict(&*destination, vm, plan).await {
        Ok(Verdict::Committed) => return Ok(Undone::NoGoForward),
        Ok(Verdict::Aborted) => or_absent(destination.remove_vm(vm, plan.epoch()).await),
        Err(problem) => Err(problem),
    };
    if let Err(problem) = aborted {
        let state = context.app.model.get::<Host>(plan.destination.as_str()).map(|host| host.status.state);
        if !problem.is_transient() || state == Some(HostState::Ready) {
            return Err(problem);
        }
    }
    context.app.model.overlay_mut(|overlay| overlay.left(plan.destination.as_str(), vm));
    Ok(Undone::Yes)
}

pub(super) async fn show(context: &mut StepContext, vm: Uuid, progress: &MigrationProgress) -> Result<(), Problem> {
    context.app.model.overlay_mut(|overlay| overlay.migrations.insert(vm, progress.clone()));
    let rate = |value: u64| Some(value).filter(|value| *value > 0);
    context
        .progress(Progress {
            message: progress.phase.clone(),
            bytes_done: progress.disk_bytes_done + progress.memory_bytes_done,
            bytes_total: progress.disk_bytes_total + progress.memory_bytes_total,
            rate_bytes_per_s: rate(progress.rate_bytes_per_s),
            dirty_bytes_per_s: rate(progress.dirty_bytes_per_s),
            remaining_ms: progress.remaining_ms,
        })
        .await
}
