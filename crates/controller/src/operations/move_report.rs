//! What a host says of a move between pools that is its own to decide: of a volume, or of a VM's disk.

use std::time::Duration;

use gantry_api::storage::VolumeMoveReport;
use gantry_types::{Name, Problem, Progress};

use super::{
    step::{CANCELLED, StepContext, Undone},
    vm_start::or_absent,
};

const POLL: Duration = Duration::from_millis(300);

/// Whether it has moved; otherwise shows how far it is, and waits a little before it is asked again.
///
/// # Errors
/// `cancelled`, and transient ones of the store.
pub(super) async fn has_moved(
    context: &mut StepContext,
    host: &Name,
    report: VolumeMoveReport,
) -> Result<bool, Problem> {
    let cancelled = || Problem::conflict(CANCELLED, "the move was cancelled");
    let (bytes_done, bytes_total) = match report {
        VolumeMoveReport::Moved => return Ok(true),
        VolumeMoveReport::Copying { done_bytes, total_bytes } => (done_bytes, total_bytes),
        VolumeMoveReport::Cancelled => return Err(cancelled()),
    };
    if context.cancel_requested() {
        return Err(cancelled());
    }
    let message = format!("copying on host '{host}'");
    context.progress(Progress { message, bytes_done, bytes_total, ..Progress::default() }).await?;
    context.sleep(POLL).await;
    Ok(false)
}

/// What giving it up has come to: the host may have moved it already.
pub(super) fn given_up(report: Result<VolumeMoveReport, Problem>) -> Result<Undone, Problem> {
    match report {
        Ok(VolumeMoveReport::Moved) => Ok(Undone::NoGoForward),
        other => or_absent(other.map(drop)).map(|()| Undone::Yes),
    }
}
