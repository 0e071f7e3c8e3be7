//! What a step is, and what it gets to work with.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use gantry_api::AgentApi;
use gantry_types::{Event, Host, Name, Operation, Problem, Progress, Resource, Severity, Vm};
use serde::{Serialize, de::DeserializeOwned};

use super::{FORMER, FormerState};
use crate::{app::App, objects::Change};

/// The code of a step's error if it ended because somebody cancelled it, whoever noticed that first.
pub const CANCELLED: &str = "cancelled";

/// How often progress is written down at most.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// How long a step may keep failing transiently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// As the configuration says.
    Default,
    /// Its outcome is decided elsewhere, or nothing else could be done: until it succeeds or is cancelled.
    Unlimited,
}

/// What became of undoing a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undone {
    Yes,
    /// The step's effect turned out to be final: the operation goes forward from here.
    NoGoForward,
}

/// One step of an operation. Each method may be run again after it ran, in part or wholly.
#[async_trait]
pub trait Step: Send + Sync {
    fn name(&self) -> &'static str;

    fn patience(&self) -> Patience {
        Patience::Default
    }

    /// False for the point of no return and the steps behind it: their failure ends the operation without undoing
    /// what was done, and a cancel is ignored.
    fn reversible(&self) -> bool {
        true
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem>;

    /// Also called if `run` never began or failed half-way.
    async fn undo(&self, _context: &mut StepContext) -> Result<Undone, Problem> {
        Ok(Undone::Yes)
    }
}

/// How an operation ended.
#[derive(Debug, Clone, Copy)]
pub enum Ending<'a> {
    Succeeded,
    /// Behind the point of no return, with this error noted.
    Incomplete(&'a Problem),
    Failed(&'a Problem),
    Cancelled,
}

/// The steps of an operation, and what is written about its target in the transaction that ends it.
#[async_trait]
pub trait Procedure: Send + Sync {
    fn steps(&self) -> Vec<Box<dyn Step>>;

    /// A step's failure, as it is told of the whole operation.
    async fn explain(&self, _context: &StepContext, problem: Problem) -> Problem {
        problem
    }

    /// Adds to the last transaction. Run again if that loses a race.
    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem>;
}

/// What a step works with. Memos are written with the step's result, or at once with [`StepContext::save`].
pub struct StepContext {
    pub app: Arc<App>,
    pub operation: Operation,
    progress_written: Option<Duration>,
}

impl StepContext {
    pub fn new(app: Arc<App>, operation: Operation) -> Self {
        Self { app, operation, progress_written: None }
    }

    /// What an earlier step or run noted.
    pub fn memo<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Problem> {
        let Some(value) = self.operation.status.memo.get(key) else { return Ok(None) };
        serde_json::from_value(value.clone()).map(Some).map_err(|error| {
            Problem::permanent(
                "unreadable-object",
                format!("memo '{key}' of operation '{}': {error}", self.operation.name()),
            )
        })
    }

    /// The same, where it must be there.
    pub fn need<T: DeserializeOwned>(&self, key: &str) -> Result<T, Problem> {
        self.memo(key)?.ok_or_else(|| {
            Problem::permanent(
                "unreadable-object",
                format!("memo '{key}' of operation '{}' is missing", self.operation.name()),
            )
        })
    }

    pub fn note<T: Serialize>(&mut self, key: &str, value: &T) -> Result<(), Problem> {
        let value = serde_json::to_value(value).map_err(|error| {
            Problem::permanent(
                "unwritable-object",
                format!("memo '{key}' of operation '{}': {error}", self.operation.name()),
            )
        })?;
        self.operation.status.memo.insert(key.into(), value);
        Ok(())
    }

    /// Writes the operation now: for memos that must be durable before an effect.
    ///
    /// # Errors
    /// `changed-meanwhile` and transient ones of the store; repeating is safe.
    pub async fn save(&mut self) -> Result<(), Problem> {
        let stored: Operation = self.app.objects.get(self.operation.name()).await?;
        // Only this flag is ever written by others.
        self.operation.status.cancel_requested |= stored.status.cancel_requested;
        self.operation.metadata.revision = stored.metadata.revision;
        if self.operation == stored {
            return Ok(());
        }
        let mut change = Change::new();
        change.update(&self.operation)?;
        self.operation.metadata.revision = self.app.objects.commit(change).await?;
        Ok(())
    }

    /// Shows progress: at once to readers, and every now and then in the object, for those who watch it.
    ///
    /// # Errors
    /// Transient ones of the store.
    pub async fn progress(&mut self, progress: Progress) -> Result<(), Problem> {
        let name = self.operation.name().to_owned();
        self.app.model.overlay_mut(|overlay| overlay.operations.insert(name, progress.clone()));
        let now = self.app.clock.elapsed();
        if self.progress_written.is_none_or(|at| now.saturating_sub(at) >= PROGRESS_INTERVAL) {
            self.progress_written = Some(now);
            self.operation.status.progress = Some(progress);
            self.save().await?;
        }
        Ok(())
    }

    /// Takes the progress away: it told of a step that is over.
    pub fn forget_progress(&mut self) {
        self.app.model.overlay_mut(|overlay| overlay.operations.remove(self.operation.name()));
        self.operation.status.progress = None;
        self.progress_written = None;
    }

    /// Whether somebody asked this operation to stop.
    pub fn cancel_requested(&self) -> bool {
        self.operation.status.cancel_requested
            || self
                .app
                .model
                .get::<Operation>(self.operation.name())
                .is_some_and(|operation| operation.status.cancel_requested)
    }

    pub fn target(&self) -> &Name {
        &self.operation.spec.target.name
    }

    /// The VM this operation is about, as stored now.
    pub async fn vm(&self) -> Result<Vm, Problem> {
        let target = &self.operation.spec.target;
        match self.app.objects.find::<Vm>(target.name.as_str()).await? {
            Some(vm) if vm.metadata.uuid == target.uuid => Ok(vm),
            _ => Err(Problem::not_found("vm", target.name.as_str())),
        }
    }

    /// Reads the VM, changes it, writes it; repeated if it loses a race. Writes nothing if nothing changed.
    pub async fn update_vm(&self, edit: impl Fn(&mut Vm) + Send + Sync) -> Result<Vm, Problem> {
        self.app
            .objects
            .racing(|| async {
                let before = self.vm().await?;
                let mut vm = before.clone();
                edit(&mut vm);
                if vm == before {
                    return Ok(vm);
                }
                let mut change = Change::new();
                change.update(&vm)?;
                vm.metadata.revision = self.app.commit(change).await?;
                Ok(vm)
            })
            .await
    }

    pub fn former(&self) -> Result<FormerState, Problem> {
        self.need(FORMER)
    }

    pub async fn host(&self, name: &Name) -> Result<Host, Problem> {
        self.app.objects.get(name.as_str()).await
    }

    pub async fn agent(&self, host: &Name) -> Result<Arc<dyn AgentApi>, Problem> {
        Ok(self.app.links.agent(&self.host(host).await?))
    }

    pub async fn sleep(&self, duration: Duration) {
        self.app.clock.sleep(duration).await;
    }

    /// An event of this operation about its target.
    pub fn event(&self, severity: Severity, reason: &str, message: impl Into<String>, host: Option<&Name>) -> Event {
        let mut event = self.app.event(self.operation.spec.target.clone(), severity, reason, message);
        event.spec.operation = Some(self.operation.metadata.name.clone());
        event.spec.host = host.cloned();
        event
    }
}
