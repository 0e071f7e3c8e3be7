//! What follows in a migration once the VM is the destination's: it is recorded, every host is told, the guest is looked
//! at, and the source is rid of it.
//!
//! Nothing of this can be undone. All but the last step happen as soon as the destination has committed: during
//! post-copy the guest runs there already, while its memory is still being fetched. The last step waits for the
//! source's own end of the migration, which brings the figures; a source that is lost does not hold it up, and then
//! there are none.

use std::time::Duration;

use async_trait::async_trait;
use gantry_api::{
    AgentApi,
    agent::{Liveness, MigrationState},
};
use gantry_types::{ErrorClass, Host, HostState, MigrationFigures, Problem, Resource, Vm};
use uuid::Uuid;

use super::{
    migration_outcome::{POLL, show},
    step::{Patience, Step, StepContext},
    vm_migrate::Plan,
};

/// How far the guest's clock was behind its host's, before the move and after it.
pub(super) const LAG_BEFORE: &str = "lag_before_ms";
const LAG_AFTER: &str = "lag_after_ms";
pub(super) const NOT_ALIVE: &str = "not_alive";
/// How long the destination may take to show that the guest executes.
const LIVENESS_LIMIT: Duration = Duration::from_secs(15);
const LIVENESS_POLL: Duration = Duration::from_millis(200);

pub(super) struct Record;

#[async_trait]
impl Step for Record {
    fn name(&self) -> &'static str {
        "record"
    }

    fn patience(&self) -> Patience {
        Patience::Unlimited
    }

    fn reversible(&self) -> bool {
        false
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let plan = Plan::need(context)?;
        context
            .update_vm(|vm| {
                vm.status.host = Some(plan.destination.clone());
                vm.status.epoch = plan.epoch();
                vm.status.moving_to = None;
            })
            .await?;
        Ok(())
    }
}

/// The other hosts hear where the VM is now; then its guest has to show that it executes.
pub(super) struct Arrival;

#[async_trait]
impl Step for Arrival {
    fn name(&self) -> &'static str {
        "arrival"
    }

    fn patience(&self) -> Patience {
        Patience::Unlimited
    }

    fn reversible(&self) -> bool {
        false
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let plan = Plan::need(context)?;
        let vm = context.vm().await?;
        // First: until then others don't reach the guest. It was asked as soon as it ran, and answers meanwhile.
        tell_hosts(context, &plan, &vm).await?;
        match look_for_life(context, &plan, &vm).await? {
            Some(Liveness { alive: false, evidence, .. }) => {
                // The move itself is done; the last step reports this.
                context.note(NOT_ALIVE, &evidence)
            }
            Some(Liveness { guest_clock_lag_ms: Some(lag_ms), .. }) => context.note(LAG_AFTER, &lag_ms),
            _ => Ok(()),
        }
    }
}

async fn tell_hosts(context: &StepContext, plan: &Plan, vm: &Vm) -> Result<(), Problem> {
    match vm.status.nics.is_empty() {
        true => Ok(()),
        false => context.app.distribute_everywhere(&plan.destination).await,
    }
}

/// Until the guest shows that it executes, or its time is over. `None` for a guest that is paused.
async fn look_for_life(context: &StepContext, plan: &Plan, vm: &Vm) -> Result<Option<Liveness>, Problem> {
    if plan.paused {
        return Ok(None);
    }
    let agent = context.agent(&plan.destination).await?;
    let clock = std::sync::Arc::clone(&context.app.clock);
    let until = clock.elapsed() + LIVENESS_LIMIT;
    loop {
        let liveness = agent.check_liveness(vm.metadata.uuid, plan.guest_agent).await?;
        if liveness.alive || clock.elapsed() >= until {
            return Ok(Some(liveness));
        }
        context.sleep(LIVENESS_POLL).await;
    }
}

pub(super) struct Release;

#[async_trait]
impl Step for Release {
    fn name(&self) -> &'static str {
        "release"
    }

    fn patience(&self) -> Patience {
        Patience::Unlimited
    }

    fn reversible(&self) -> bool {
        false
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let plan = Plan::need(context)?;
        let vm = context.vm().await?;
        let uuid = vm.metadata.uuid;
        let source = context.app.model.get::<Host>(plan.source.as_str());
        match source {
            // What it still has is removed when it comes back: the stray VM loop knows the VM is elsewhere.
            None => {}
            Some(host) if host.status.state == HostState::Lost => {}
            Some(host) => {
                let agent = context.app.links.agent(&host);
                await_source(context, &plan, uuid, &*agent).await?;
                agent.release_migration(uuid, plan.migration).await?;
            }
        }
        context.app.model.overlay_mut(|overlay| overlay.left(plan.source.as_str(), uuid));
        look_again(context, &plan, uuid).await?;
        match context.memo::<String>(NOT_ALIVE)? {
            None => Ok(()),
            Some(evidence) => Err(Problem::permanent(
                "guest-not-alive",
                format!(
                    "VM '{}' was moved to host '{}', but its guest does not execute: {evidence}",
                    vm.name(),
                    plan.destination
                ),
            )
            .object(vm.reference())
            .remedy(format!("look at its console, then: gantry vm reboot {} --force", vm.name()))),
        }
    }
}

/// Waits until the source needs nothing more of the migration, and keeps its figures.
///
/// # Errors
/// Transient ones, while it does not answer.
async fn await_source(context: &mut StepContext, plan: &Plan, vm: Uuid, source: &dyn AgentApi) -> Result<(), Problem> {
    loop {
        let report = match source.migration_report(vm, plan.migration).await {
            // Released by an earlier attempt.
            Err(problem) if problem.class == ErrorClass::NotFound => return Ok(()),
            report => report?,
        };
        if report.state == MigrationState::Moved {
            if let Some(figures) = report.figures {
                context.operation.status.figures = Some(MigrationFigures {
                    from: plan.source.to_string(),
                    to: plan.destination.to_string(),
                    guest_gap_ms: guest_gap_ms(context)?,
                    ..figures
                });
                // Once released, the source can't be asked again.
                context.save().await?;
            }
            return Ok(());
        }
        // It has yet to learn that the destination committed, or still sends memory.
        show(context, vm, &report.progress).await?;
        context.sleep(POLL).await;
    }
}

/// What the guest's clock lost on the way, if both hosts could ask for it.
fn guest_gap_ms(context: &StepContext) -> Result<Option<u64>, Problem> {
    let lags = context.memo::<i64>(LAG_BEFORE)?.zip(context.memo::<i64>(LAG_AFTER)?);
    Ok(lags.map(|(before, after)| after.saturating_sub(before).max(0).unsigned_abs()))
}

/// A guest that waited for memory when it was looked at first may execute by now.
async fn look_again(context: &mut StepContext, plan: &Plan, vm: Uuid) -> Result<(), Problem> {
    if context.memo::<String>(NOT_ALIVE)?.is_none() {
        return Ok(());
    }
    let liveness = context.agent(&plan.destination).await?.check_liveness(vm, plan.guest_agent).await?;
    match liveness.alive {
        true => context.forget(NOT_ALIVE),
        false => context.note(NOT_ALIVE, &liveness.evidence)?,
    }
    Ok(())
}
