//! Runs operations: forward with retries, or backward; each on a task of its own.
//!
//! Before a step runs, that it does is written down; its result is written together with the next step's beginning.
//! So after a crash at any moment the stored operation says which steps may have had an effect, and each can be run
//! or undone again. A store that is away for a while only delays this.

use std::{collections::HashSet, sync::Arc, time::Duration};

use gantry_types::{Operation, OperationPhase, Problem, Resource, Severity, StepState};
use tokio::{sync::broadcast::error::RecvError, task::JoinSet};

use super::{
    procedure,
    step::{CANCELLED, Ending, Patience, Procedure, Step, StepContext, Undone},
};
use crate::{
    app::App,
    model::Kind,
    objects::{CHANGED_MEANWHILE, Change},
};

const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LAST_BACKOFF: Duration = Duration::from_secs(5);
/// How soon a cancel is noticed while waiting.
const CANCEL_LATENCY: Duration = Duration::from_millis(200);

/// Runs every unfinished operation there is, and each new one, for ever.
pub async fn run(app: Arc<App>) {
    let mut tasks = JoinSet::new();
    let mut at_work = HashSet::new();
    loop {
        let mut subscription = app.model.subscribe::<Operation>();
        for operation in &subscription.objects {
            begin(&app, operation, &mut tasks, &mut at_work);
        }
        loop {
            tokio::select! {
                biased;
                Some(ended) = tasks.join_next() => match ended {
                    Ok(name) => { at_work.remove(&name); }
                    // The name is lost with the panic, so the operation stays as it is until the next start.
                    Err(error) => tracing::error!(%error, "an operation's task ended unexpectedly"),
                },
                change = subscription.changes.recv() => match change {
                    Ok(change) => if let Some(operation) = Operation::of(&change.object) {
                        begin(&app, operation, &mut tasks, &mut at_work);
                    },
                    Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }
}

fn begin(app: &Arc<App>, operation: &Operation, tasks: &mut JoinSet<String>, at_work: &mut HashSet<String>) {
    let name = operation.name().to_owned();
    if operation.status.phase.is_finished() || !at_work.insert(name.clone()) {
        return;
    }
    let app = Arc::clone(app);
    tasks.spawn(async move {
        if let Err(problem) = execute(&app, &name).await {
            tracing::error!(operation = name, %problem, "the operation can't go on");
        }
        name
    });
}

/// Takes one operation from wherever it is to its end.
///
/// # Errors
/// Only if the store is broken or its content damaged; every other failure is the operation's own result.
pub async fn execute(app: &Arc<App>, name: &str) -> Result<(), Problem> {
    let operation = loop {
        match app.objects.find::<Operation>(name).await {
            Ok(Some(operation)) => break operation,
            Ok(None) => return Ok(()),
            Err(problem) if problem.is_transient() => app.clock.sleep(FIRST_BACKOFF).await,
            Err(problem) => return Err(problem),
        }
    };
    if operation.status.phase.is_finished() {
        return Ok(());
    }
    let procedure = procedure(&operation.spec.action);
    let steps = procedure.steps();
    let stored: Vec<_> = operation.status.steps.iter().map(|step| step.name.as_str()).collect();
    if !stored.iter().copied().eq(steps.iter().map(|step| step.name())) {
        return Err(Problem::permanent(
            "unreadable-object",
            format!("operation '{name}' has the steps {}, which this version does not know", stored.join(", ")),
        )
        .remedy("finish it with the version of gantry that began it"));
    }
    let context = StepContext::new(Arc::clone(app), operation);
    Execution { context, procedure, steps }.run().await
}

struct Execution {
    context: StepContext,
    procedure: Box<dyn Procedure>,
    steps: Vec<Box<dyn Step>>,
}

/// Why the way forward ended.
enum Halt {
    Finished,
    Cancelled,
    Failed(Problem),
    /// At or behind the point of no return.
    Stuck(Problem),
}

impl Execution {
    async fn run(mut self) -> Result<(), Problem> {
        loop {
            if self.context.operation.status.phase != OperationPhase::Unwinding {
                match self.forward().await? {
                    Halt::Finished => return self.end(Ending::Succeeded).await,
                    Halt::Stuck(problem) => return self.end(Ending::Incomplete(&problem)).await,
                    Halt::Cancelled => {}
                    Halt::Failed(problem) => {
                        let problem = self.procedure.explain(&self.context, problem).await;
                        self.context.operation.status.error = Some(problem);
                    }
                }
                self.context.operation.status.phase = OperationPhase::Unwinding;
                self.save().await?;
            }
            if !self.backward().await? {
                continue;
            }
            let error = self.context.operation.status.error.clone();
            return match &error {
                None => self.end(Ending::Cancelled).await,
                Some(problem) => self.end(Ending::Failed(problem)).await,
            };
        }
    }

    async fn forward(&mut self) -> Result<Halt, Problem> {
        let now = self.context.app.clock.now();
        let status = &mut self.context.operation.status;
        status.phase = OperationPhase::Running;
        status.started_at.get_or_insert(now);
        for index in 0..self.steps.len() {
            if self.context.operation.status.steps[index].state == StepState::Done {
                continue;
            }
            let reversible = self.steps[index].reversible();
            if reversible && self.context.cancel_requested() {
                return Ok(Halt::Cancelled);
            }
            let ended = self.step(index).await?;
            self.context.forget_progress();
            match ended {
                None => {
                    let now = self.context.app.clock.now();
                    let step = &mut self.context.operation.status.steps[index];
                    step.state = StepState::Done;
                    step.finished_at = Some(now);
                    step.error = None;
                }
                Some(problem) => {
                    let cancelled = self.context.cancel_requested() || problem.code() == CANCELLED;
                    let step = &mut self.context.operation.status.steps[index];
                    step.state = StepState::Failed;
                    step.error = Some(problem.to_string());
                    return Ok(match (reversible, cancelled) {
                        (false, _) => Halt::Stuck(problem),
                        (true, true) => Halt::Cancelled,
                        (true, false) => Halt::Failed(problem),
                    });
                }
            }
        }
        Ok(Halt::Finished)
    }

    /// Tries one step until it is done; otherwise why it is not.
    async fn step(&mut self, index: usize) -> Result<Option<Problem>, Problem> {
        let clock = Arc::clone(&self.context.app.clock);
        let (began, mut backoff) = (clock.elapsed(), FIRST_BACKOFF);
        let reversible = self.steps[index].reversible();
        let patience = match self.steps[index].patience() {
            Patience::Default => self.context.app.config.step_patience,
            Patience::Unlimited => Duration::MAX,
        };
        loop {
            let step = &mut self.context.operation.status.steps[index];
            step.state = StepState::Running;
            step.attempts += 1;
            step.started_at.get_or_insert_with(|| clock.now());
            self.save().await?;
            let problem = match self.steps[index].run(&mut self.context).await {
                Ok(()) => return Ok(None),
                Err(problem) => problem,
            };
            let waited = clock.elapsed().saturating_sub(began);
            if !may_pass(&problem) || waited >= patience || (reversible && self.context.cancel_requested()) {
                return Ok(Some(problem));
            }
            self.context.operation.status.steps[index].error = Some(problem.to_string());
            self.back_off(backoff, reversible).await;
            backoff = (backoff * 2).min(LAST_BACKOFF);
        }
    }

    /// Undoes what may have had an effect, last first. False if the operation must go forward after all.
    async fn backward(&mut self) -> Result<bool, Problem> {
        for index in (0..self.steps.len()).rev() {
            if matches!(self.context.operation.status.steps[index].state, StepState::Pending | StepState::Undone) {
                continue;
            }
            match self.undo(index).await? {
                Undone::Yes => {
                    self.context.operation.status.steps[index].state = StepState::Undone;
                    self.save().await?;
                }
                Undone::NoGoForward => {
                    let status = &mut self.context.operation.status;
                    status.phase = OperationPhase::Running;
                    status.error = None;
                    status.steps[index].state = StepState::Done;
                    status.steps[index].error = None;
                    for later in &mut status.steps[index + 1..] {
                        later.state = StepState::Pending;
                    }
                    self.save().await?;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Until it is undone, or can't be: then that is told and the rest is undone all the same.
    async fn undo(&mut self, index: usize) -> Result<Undone, Problem> {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let problem = match self.steps[index].undo(&mut self.context).await {
                Ok(undone) => return Ok(undone),
                Err(problem) => problem,
            };
            let step = &mut self.context.operation.status.steps[index];
            if may_pass(&problem) {
                step.error = Some(format!("undoing failed and is repeated: {problem}"));
                self.save().await?;
                self.back_off(backoff, false).await;
                backoff = (backoff * 2).min(LAST_BACKOFF);
                continue;
            }
            step.error = Some(format!("undoing failed: {problem}"));
            let message = format!("step '{}' could not be undone: {problem}", step.name);
            let event = self.context.event(Severity::Warning, "UndoFailed", message, None);
            let mut change = Change::new();
            change.event(&event)?;
            if let Err(problem) = self.context.app.objects.commit(change).await {
                tracing::warn!(%problem, "could not write the event of a failed undo");
            }
            return Ok(Undone::Yes);
        }
    }

    /// Writes the end of the operation and of its mark on the target, in one transaction.
    async fn end(mut self, ending: Ending<'_>) -> Result<(), Problem> {
        let mut backoff = FIRST_BACKOFF;
        loop {
            match self.try_end(ending).await {
                Err(problem) if may_pass(&problem) => {
                    self.back_off(backoff, false).await;
                    backoff = (backoff * 2).min(LAST_BACKOFF);
                }
                ended => return ended,
            }
        }
    }

    async fn try_end(&mut self, ending: Ending<'_>) -> Result<(), Problem> {
        let app = Arc::clone(&self.context.app);
        let name = self.context.operation.name().to_owned();
        let revision = match app.objects.find::<Operation>(&name).await? {
            None => 0,
            Some(stored) if stored.status.phase.is_finished() => stored.metadata.revision,
            Some(stored) => {
                // Before the end can be seen: a heartbeat from before it must not be believed after it.
                app.settled(&self.context.operation.spec.target);
                self.write_end(ending, &stored).await?
            }
        };
        app.model.wait_for(revision).await;
        app.model.overlay_mut(|overlay| overlay.operation_ended(&self.context.operation.spec.target, &name));
        app.settled(&self.context.operation.spec.target);
        app.wakeups.networks.notify_one();
        app.wakeups.stray_vms.notify_one();
        Ok(())
    }

    async fn write_end(&mut self, ending: Ending<'_>, stored: &Operation) -> Result<u64, Problem> {
        let operation = &mut self.context.operation;
        operation.metadata.revision = stored.metadata.revision;
        operation.status.cancel_requested |= stored.status.cancel_requested;
        operation.status.finished_at = Some(self.context.app.clock.now());
        operation.status.phase = match ending {
            Ending::Succeeded => OperationPhase::Succeeded,
            Ending::Cancelled => OperationPhase::Cancelled,
            Ending::Failed(_) | Ending::Incomplete(_) => OperationPhase::Failed,
        };
        let mut change = Change::new();
        if let Ending::Failed(problem) | Ending::Incomplete(problem) = ending {
            operation.status.error = Some(problem.clone());
            let message = format!("{} failed: {problem}", operation.spec.action.verb());
            change.event(&self.context.event(Severity::Warning, "OperationFailed", message, None))?;
        }
        change.update(&self.context.operation)?;
        self.procedure.conclude(&self.context, ending, &mut change).await?;
        self.context.app.objects.commit(change).await
    }

    /// Writes the operation, waiting for the store if it is away.
    async fn save(&mut self) -> Result<(), Problem> {
        let mut backoff = FIRST_BACKOFF;
        loop {
            match self.context.save().await {
                Err(problem) if may_pass(&problem) => {
                    tracing::warn!(operation = self.context.operation.name(), %problem, "can't write the operation yet");
                    self.back_off(backoff, false).await;
                    backoff = (backoff * 2).min(LAST_BACKOFF);
                }
                saved => return saved,
            }
        }
    }

    async fn back_off(&self, duration: Duration, until_cancelled: bool) {
        let clock = &self.context.app.clock;
        let until = clock.elapsed() + duration;
        while let Some(left) = until.checked_sub(clock.elapsed()).filter(|left| !left.is_zero()) {
            if until_cancelled && self.context.cancel_requested() {
                return;
            }
            clock.sleep(left.min(CANCEL_LATENCY)).await;
        }
    }
}

/// Whether trying again makes sense.
fn may_pass(problem: &Problem) -> bool {
    problem.is_transient() || problem.code() == CHANGED_MEANWHILE
}
