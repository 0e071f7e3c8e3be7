//! Following an operation to its end.

use std::{ops::ControlFlow, time::Duration};

use gantry_types::{ByteSize, MigrationFigures, MigrationMode, Operation, OperationPhase, Problem, Progress, Resource};
use tokio::time::Instant;

use crate::{
    client::Client,
    exit::Failure,
    output::{Retry, current_step, duration},
    progress::{Indicator, Stage},
    wait::observe,
};

/// An operation may take any time; a controller that stays away this long may not.
const UNREACHABLE_LIMIT: Duration = Duration::from_secs(60);

/// Shows the operation's progress until it is finished. Anything but success is a failure; so is Ctrl-C, which leaves
/// the operation running.
pub async fn follow(client: &Client, operation: &Operation) -> Result<Operation, Failure> {
    let name = operation.name().to_owned();
    let mut indicator = Indicator::new(format!("{} {}", operation.spec.action.verb(), operation.spec.target));
    let finished = tokio::select! {
        finished = until_finished(client, &name, &mut indicator) => finished?,
        _ = tokio::signal::ctrl_c() => {
            indicator.clear();
            return Err(Failure::Interrupted(format!(
                "operation {name} goes on; follow it: gantry operation wait {name}, \
                 stop it: gantry operation cancel {name}"
            )));
        }
    };
    indicator.clear();
    if finished.status.phase == OperationPhase::Succeeded {
        Ok(finished)
    } else {
        Err(Failure::Operation(Box::new(finished)))
    }
}

async fn until_finished(client: &Client, name: &str, indicator: &mut Indicator) -> Result<Operation, Problem> {
    let mut view = View::default();
    loop {
        let mut seen = false;
        let look = |operation: Option<&Operation>| {
            seen = true;
            let Some(operation) = operation else {
                return ControlFlow::Break(Err(Problem::not_found(Operation::KIND, name)));
            };
            if operation.status.phase.is_finished() {
                return ControlFlow::Break(Ok(operation.clone()));
            }
            indicator.update(&view.stage(operation));
            ControlFlow::Continue(())
        };
        let finished = observe::<Operation, _>(client, name, Instant::now() + UNREACHABLE_LIMIT, look).await;
        match finished {
            Ok(Some(result)) => return result,
            Ok(None) => {}
            // It answered within this round, so it gets another one.
            Err(problem) if problem.is_transient() && seen => {}
            Err(problem) => {
                return Err(problem.remedy(format!(
                    "the operation goes on without this command; follow it again: gantry operation wait {name}"
                )));
            }
        }
    }
}

/// Turns an operation into what is shown of it. Progress stands in the operation after its step has ended; then it is
/// not shown any more.
#[derive(Default)]
struct View {
    shown: Option<Progress>,
    step: String,
}

impl View {
    fn stage(&mut self, operation: &Operation) -> Stage {
        let step = current_step(operation);
        let undoing = if operation.status.phase == OperationPhase::Unwinding { "undoing, " } else { "" };
        let mut stage = Stage { step: format!("{undoing}{step}"), retry: Retry::of(operation), ..Stage::default() };
        let progress = operation.status.progress.as_ref();
        let stale = step != self.step && progress == self.shown.as_ref();
        if !stale {
            self.step = step;
            self.shown = progress.cloned();
            if let Some(progress) = progress {
                stage.detail = detail(progress);
                (stage.bytes_done, stage.bytes_total) = (progress.bytes_done, progress.bytes_total);
            }
        }
        stage
    }
}

fn detail(progress: &Progress) -> String {
    let mut parts = Vec::new();
    if !progress.message.is_empty() {
        parts.push(progress.message.clone());
    }
    if let Some(rate) = progress.rate_bytes_per_s {
        parts.push(format!("{}/s", ByteSize(rate).approximate()));
    }
    if let Some(dirty) = progress.dirty_bytes_per_s {
        parts.push(format!("dirtied {}/s", ByteSize(dirty).approximate()));
    }
    if let Some(remaining_ms) = progress.remaining_ms {
        parts.push(format!("{} left", duration(Duration::from_millis(remaining_ms))));
    }
    parts.join(", ")
}

/// A finished migration in one or two lines.
pub fn figures_text(figures: &MigrationFigures) -> String {
    let span = |ms| duration(Duration::from_millis(ms));
    let mode = match figures.mode {
        Some(MigrationMode::PostCopy) => "post-copy",
        Some(MigrationMode::PreCopy) => "pre-copy",
        None => "mode not known",
    };
    let measured = |ms: Option<u64>| ms.map_or_else(|| "not measured".to_owned(), span);
    let gap = measured(figures.guest_gap_ms);
    format!(
        "moved from {} to {} in {} ({mode}, {} passes)\n\
         downtime {} (QEMU), blackout {}, gap seen by the guest {gap}; disk {}, memory {}\n",
        figures.from,
        figures.to,
        span(figures.total_ms),
        figures.passes,
        measured(figures.downtime_ms),
        measured(figures.blackout_ms),
        ByteSize(figures.disk_bytes).approximate(),
        ByteSize(figures.memory_bytes).approximate(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn migration(running: usize, progress: Option<u64>) -> Operation {
        let steps = ["check", "transfer", "release"];
        let state = |at: usize| match at.cmp(&running) {
            std::cmp::Ordering::Less => "done",
            std::cmp::Ordering::Equal => "running",
            std::cmp::Ordering::Greater => "pending",
        };
        let steps: Vec<_> = (0..3).map(|at| json!({"name": steps[at], "state": state(at), "attempts": 1})).collect();
        let progress = progress
            .map(|done| json!({"message": "memory", "bytes_done": done, "bytes_total": 9, "remaining_ms": 250}));
        serde_json::from_value(json!({
            "metadata": {"name": "m"},
            "spec": {
                "action": {"action": "vm_pause"}, "target": {"kind": "vm", "name": "web"}, "requested_by": "token/admin",
            },
            "status": {"phase": "running", "steps": steps, "progress": progress},
        }))
        .unwrap()
    }

    #[test]
    fn progress_is_shown_only_while_its_step_is_at_work() {
        let mut view = View::default();
        assert_eq!(view.stage(&migration(0, None)), Stage { step: "1/3 check".into(), ..Stage::default() });
        let transfer = view.stage(&migration(1, Some(4)));
        assert_eq!((transfer.step.as_str(), transfer.detail.as_str()), ("2/3 transfer", "memory, 250ms left"));
        assert_eq!((transfer.bytes_done, transfer.bytes_total), (4, 9));
        assert_eq!(view.stage(&migration(1, Some(4))), transfer, "nothing new, the same step");
        for _ in 0..2 {
            let release = view.stage(&migration(2, Some(4)));
            assert_eq!(release, Stage { step: "3/3 release".into(), ..Stage::default() });
        }
    }
}
