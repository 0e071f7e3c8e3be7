//! `pool_create` and `pool_delete`: its first host marks the place as this pool's, the others find the mark, or make one of their
//! own if each has its own place; or it is taken off.
//!
//! A pool that can't be made leaves nothing. One that can't be deleted is ready again, with the reason.

use async_trait::async_trait;
use gantry_types::{Pool, PoolPhase, Problem, Resource, Severity};

use super::step::{Ending, Procedure, Step, StepContext, Undone};
use crate::{app::pool::assignment, objects::Change};

pub struct PoolCreate;
pub struct PoolDelete;

/// The pool that an operation is about.
async fn pool(context: &StepContext) -> Result<Pool, Problem> {
    let target = &context.operation.spec.target;
    match context.app.objects.find::<Pool>(target.name.as_str()).await? {
        Some(pool) if pool.metadata.uuid == target.uuid => Ok(pool),
        _ => Err(Problem::not_found(Pool::KIND, target.name.as_str())),
    }
}

async fn on_all(context: &StepContext, open: bool) -> Result<(), Problem> {
    let pool = pool(context).await?;
    for (index, host) in pool.spec.hosts.iter().enumerate() {
        let agent = context.agent(host).await?;
        let assignment = assignment(&pool);
        let done = match (open, index) {
            (true, 0) => agent.open_pool(&assignment).await,
            (true, _) if pool.is_mirrored() => agent.open_pool(&assignment).await,
            // The mark that the first host has made proves that they see the same place.
            (true, _) => agent.join_pool(&assignment).await,
            (false, _) => agent.close_pool(&assignment).await,
        };
        done.map_err(|problem| match pool.spec.hosts.len() > 1 {
            true => Problem { detail: format!("on host '{host}': {}", problem.detail), ..problem },
            false => problem,
        })?;
    }
    Ok(())
}

/// `open`, undone by closing; or `close`, undone by opening.
struct Mark {
    open: bool,
}

#[async_trait]
impl Step for Mark {
    fn name(&self) -> &'static str {
        if self.open { "open" } else { "close" }
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        on_all(context, self.open).await
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        on_all(context, !self.open).await?;
        Ok(Undone::Yes)
    }
}

#[async_trait]
impl Procedure for PoolCreate {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(Mark { open: true })]
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let mut pool = pool(context).await?;
        pool.status.operation = None;
        let Ending::Succeeded = ending else {
            change.delete(&pool);
            return Ok(());
        };
        pool.status.phase = PoolPhase::Ready;
        let (place, by) = (pool.spec.place(), &context.operation.spec.requested_by);
        let message = format!("pool '{}' was made at {place} by {by}", pool.name());
        change.update(&pool)?.event(&context.event(
            Severity::Normal,
            "PoolCreated",
            message,
            pool.spec.hosts.first(),
        ))?;
        Ok(())
    }
}

#[async_trait]
impl Procedure for PoolDelete {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(Mark { open: false })]
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let mut pool = pool(context).await?;
        pool.status.operation = None;
        let reason = match ending {
            Ending::Succeeded => {
                let message = format!("pool '{}' was deleted by {}", pool.name(), context.operation.spec.requested_by);
                change.delete(&pool).event(&context.event(Severity::Normal, "PoolDeleted", message, None))?;
                return Ok(());
            }
            Ending::Failed(problem) | Ending::Incomplete(problem) => format!("deleting it failed: {problem}"),
            Ending::Cancelled => "deleting it was cancelled".to_owned(),
        };
        pool.status.phase = PoolPhase::Ready;
        pool.status.reason = Some(reason);
        change.update(&pool)?;
        Ok(())
    }
}
