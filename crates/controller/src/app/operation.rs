//! Operations: read and cancel. They come into being in the transaction of the change they carry out.

use gantry_types::{Operation, OperationPhase, Problem, Resource};

use super::{App, Caller};
use crate::objects::Change;

/// Asks an operation to stop; it unwinds at the next point where that is safe. Asking again is fine.
pub async fn cancel(app: &App, caller: &Caller, name: &str) -> Result<Operation, Problem> {
    caller.may_change()?;
    app.objects
        .racing(|| async {
            let mut operation: Operation = app.objects.get(name).await?;
            if operation.status.phase.is_finished() {
                return Err(Problem::conflict(
                    "operation-finished",
                    format!("operation '{name}' is finished already ({})", phase_text(operation.status.phase)),
                )
                .object(operation.reference()));
            }
            if !operation.status.cancel_requested {
                operation.status.cancel_requested = true;
                let mut change = Change::new();
                change.update(&operation)?;
                operation.metadata.revision = app.commit(change).await?;
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
