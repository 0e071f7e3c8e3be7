//! Operations: read and cancel. They come into being in the transaction of the change they carry out.

use gantry_api::rest::WriteQuery;
use gantry_types::{Operation, OperationPhase, Problem, Resource};

use super::{App, Caller, check_precondition};
use crate::objects::Change;

/// Asks an operation to stop; it unwinds at the next point where that is safe. Asking again is fine.
pub async fn cancel(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<Operation, Problem> {
    caller.may_change()?;
    app.objects
        .racing(|| async {
            let mut operation: Operation = app.objects.get(name).await?;
            check_precondition(&operation, &operation.metadata, query)?;
            if operation.status.phase.is_finished() {
                let target = &operation.spec.target;
                return Err(Problem::conflict(
                    "operation-finished",
                    format!("operation '{name}' is finished already ({})", phase_text(operation.status.phase)),
                )
                .object(operation.reference())
                .remedy(format!("see what it did: gantry describe {} {}", target.kind, target.name)));
            }
            if !operation.status.cancel_requested {
                operation.status.cancel_requested = true;
                if !query.dry_run {
                    let mut change = Change::new();
                    change.update(&operation)?;
                    operation.metadata.revision = app.commit(change).await?;
                }
            }
            Ok(app.model.decorate(&operation))
        })
        .await
}

pub(crate) fn phase_text(phase: OperationPhase) -> &'static str {
    match phase {
        OperationPhase::Pending => "pending",
        OperationPhase::Running => "running",
        OperationPhase::Unwinding => "unwinding",
        OperationPhase::Succeeded => "succeeded",
        OperationPhase::Failed => "failed",
        OperationPhase::Cancelled => "cancelled",
    }
}
