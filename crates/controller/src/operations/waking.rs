//! A start for which there is no room among the hosts that are awake wakes one that sleeps and waits for it.

use std::time::Duration;

use gantry_api::rest::WriteQuery;
use gantry_placement::Request;
use gantry_types::{Host, HostState, Name, OperationPhase, Problem, Progress, Vm};

use super::{
    children::{self, caller_of},
    placing::choose,
    step::{CANCELLED, StepContext},
};
use crate::app::host_work;

const POLL: Duration = Duration::from_millis(200);

/// Returns once a host is awake that could take the VM; the caller asks placement again. Does not hold
/// `App::placement`.
///
/// # Errors
/// `refusal`, if no sleeping host could take it either.
pub(super) async fn wake_one(
    context: &mut StepContext,
    vm: &Vm,
    request: &Request,
    refusal: Problem,
) -> Result<(), Problem> {
    let asleep_too = Request { may_wake: true, ..request.clone() };
    let host = match choose(&context.app, vm, &asleep_too) {
        Ok(placement) => placement.host,
        Err(_) => return Err(refusal),
    };
    let message = format!("waiting for host '{host}' to wake");
    context.progress(Progress { message, ..Progress::default() }).await?;
    loop {
        let Some(now) = context.app.model.get::<Host>(host.as_str()) else { return Err(refusal) };
        if now.status.state == HostState::Ready {
            return Ok(());
        }
        if context.cancel_requested() {
            return Err(Problem::conflict(CANCELLED, format!("waiting for host '{host}' to wake was cancelled")));
        }
        if has_failed(context, &host) {
            let detail = format!("{}; host '{host}' was to be woken for it and did not come", refusal.detail);
            return Err(Problem { detail, ..refusal });
        }
        if now.status.operation.is_none() {
            let query = WriteQuery::default();
            match host_work::wake(&context.app, &caller_of(context), host.as_str(), &query).await {
                Err(problem) if problem.code() == "host-busy" => {}
                woken => drop(woken?),
            }
        }
        context.sleep(POLL).await;
    }
}

fn has_failed(context: &StepContext, host: &Name) -> bool {
    let ended = children::started(context, "host-wake", host).pop().map(|wake| wake.status.phase);
    matches!(ended, Some(OperationPhase::Failed | OperationPhase::Cancelled))
}
