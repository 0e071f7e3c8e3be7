//! Following an operation to its end.

use std::{ops::ControlFlow, time::Duration};

use gantry_types::{ByteSize, MigrationFigures, MigrationMode, Operation, OperationPhase, Problem, Progress, Resource};
use tokio::time::Instant;

use crate::{
    client::Client,
    exit::Failure,
    output::{current_step, duration},
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
        let mut stage = Stage { step: format!("{undoing}{step}"), ..Stage::default() };
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
        _ => "pre-copy",
    };
    let gap = figures.guest_gap_ms.map_or_else(|| "not measured".to_owned(), span);
    format!(
        "moved from {} to {} in {} ({mode}, {} passes)\n\
         downtime {} (QEMU), blackout {}, gap seen by the guest {gap}; disk {}, memory {}\n",
        figures.from,
        figures.to,
        span(figures.total_ms),
        figures.passes,
        span(figures.downtime_ms),
        span(figures.blackout_ms),
        ByteSize(figures.disk_bytes).approximate(),
        ByteSize(figures.memory_bytes).approximate(),
    )
}
