//! Operations that an operation starts on other objects. They are found again by who asked for them, so nothing about
//! them has to be noted, and a controller that starts in the middle sees what was begun.

use std::{sync::Arc, time::Duration};

use gantry_types::{Name, Operation, OperationPhase, Problem, Resource};

use super::step::{CANCELLED, StepContext};
use crate::app::{Caller, operation};

const POLL: Duration = Duration::from_millis(200);

/// As whom an operation asks for others.
pub(super) fn caller_of(context: &StepContext) -> Caller {
    Caller::operation(&context.operation.metadata.name)
}

/// What this operation has started with this verb on an object; the oldest first.
pub(super) fn started(context: &StepContext, verb: &str, target: &Name) -> Vec<Arc<Operation>> {
    let caller = caller_of(context).name;
    let mut found: Vec<_> = context.app.model.read(|tables| {
        let all = tables.operations.values();
        let ours = all.filter(|operation| {
            let spec = &operation.spec;
            spec.requested_by == caller && spec.action.verb() == verb && spec.target.name == *target
        });
        ours.cloned().collect()
    });
    found.sort_by_key(|operation| operation.metadata.created_at);
    found
}

/// Everything it has started and that is not finished.
pub(super) fn unfinished(context: &StepContext) -> Vec<Arc<Operation>> {
    let caller = caller_of(context).name;
    context.app.model.read(|tables| {
        let all = tables.operations.values();
        let ours = all.filter(|operation| operation.spec.requested_by == caller);
        ours.filter(|operation| !operation.status.phase.is_finished()).cloned().collect()
    })
}

/// Waits for the end of an operation; a cancel is passed on to it.
///
/// # Errors
/// The operation's own error if it failed.
pub(super) async fn follow(context: &StepContext, name: &Name) -> Result<(), Problem> {
    loop {
        let Some(child) = context.app.model.get::<Operation>(name.as_str()) else {
            return Err(Problem::not_found(Operation::KIND, name.as_str()));
        };
        match child.status.phase {
            OperationPhase::Succeeded => return Ok(()),
            OperationPhase::Cancelled => {
                return Err(Problem::conflict(CANCELLED, format!("operation '{name}' was cancelled")));
            }
            OperationPhase::Failed => {
                let unknown = || Problem::permanent("operation-failed", format!("operation '{name}' failed"));
                return Err(child.status.error.clone().unwrap_or_else(unknown));
            }
            _ => {}
        }
        if context.cancel_requested() && !child.status.cancel_requested {
            cancel(context, name).await?;
        }
        context.sleep(POLL).await;
    }
}

/// Cancels everything it has started and waits for the ends, whatever they are.
pub(super) async fn cancel_all(context: &StepContext) -> Result<(), Problem> {
    loop {
        let left = unfinished(context);
        if left.is_empty() {
            return Ok(());
        }
        for child in left.iter().filter(|child| !child.status.cancel_requested) {
            cancel(context, &child.metadata.name).await?;
        }
        context.sleep(POLL).await;
    }
}

async fn cancel(context: &StepContext, name: &Name) -> Result<(), Problem> {
    let query = Default::default();
    match operation::cancel(&context.app, &caller_of(context), name.as_str(), &query).await {
        Err(problem) if problem.code() == "operation-finished" => Ok(()),
        cancelled => cancelled.map(drop),
    }
}
