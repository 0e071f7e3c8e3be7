//! What follows in a migration once the VM is the destination's: it is recorded, every host is told, the source is rid of
//! it, and the guest has to show that it executes.
//!
//! Nothing of this can be undone. It begins as soon as the destination has committed: during post-copy the guest runs
//! there already, while its memory is still being fetched. The last step tells the hosts at once, and waits for the
//! source's own end of the migration, which brings the figures; a source that is lost does not hold it up, and then
//! there are none. From then on the source has nothing that the guest could still need, so that its clearing away and
//! the guest's sign of life need not wait for each other, nor for the hosts.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use gantry_api::{
    AgentApi,
    agent::{Liveness, MigrationState},
};
use gantry_types::{ErrorClass, Host, HostState, MigrationFigures, Name, Problem, Resource, Vm};
use uuid::Uuid;

use super::{
    migration_outcome::{POLL, SWITCHOVER_POLL, show},
    step::{Patience, Step, StepContext},
    vm_migrate::Plan,
};
use crate::app::App;

/// How far the guest's clock was behind its host's before the move.
pub(super) const LAG_BEFORE: &str = "lag_before_ms";
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
        record_at(context, &plan.destination, plan.epoch()).await
    }
}

/// From now on the VM is this host's.
pub(super) async fn record_at(context: &mut StepContext, host: &Name, epoch: u64) -> Result<(), Problem> {
    context
        .update_vm(|vm| {
            // Its disk has come along, and no copy.
            if vm.status.host.as_ref() != Some(host) {
                vm.status.copies = vm.status.copies.as_ref().map(|copies| copies.alone(host.clone()));
            }
            vm.status.host = Some(host.clone());
            vm.status.epoch = epoch;
            vm.status.moving_to = None;
        })
        .await?;
    Ok(())
}

/// The other hosts hear where the VM is now: until then they don't reach its guest. The source knows by itself.
async fn tell_hosts(app: &App, vm: &Vm, plan: &Plan) -> Result<(), Problem> {
    match vm.status.nics.is_empty() {
        true => Ok(()),
        false => app.distribute_everywhere(&plan.destination, &plan.source).await,
    }
}

/// Until the guest shows that it executes, or its time is over. `None` for a guest that is paused.
async fn look_for_life(context: &StepContext, plan: &Plan, vm: Uuid) -> Result<Option<Liveness>, Problem> {
    if plan.paused {
        return Ok(None);
    }
    let agent = context.agent(&plan.destination).await?;
    let clock = std::sync::Arc::clone(&context.app.clock);
    let until = clock.elapsed() + LIVENESS_LIMIT;
    loop {
        let liveness = agent.check_liveness(vm, plan.guest_agent).await?;
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
        let lag_before = context.memo::<i64>(LAG_BEFORE)?;
        let app = Arc::clone(&context.app);
        let (told, liveness) = tokio::join!(tell_hosts(&app, &vm, &plan), leave(context, &plan, vm.metadata.uuid));
        told?;
        let Some(liveness) = liveness? else { return Ok(()) };
        if let Some(figures) = &mut context.operation.status.figures {
            figures.guest_gap_ms = lag_before.zip(liveness.guest_clock_lag_ms).map(gap_ms);
        }
        if liveness.alive {
            return Ok(());
        }
        context.note(NOT_ALIVE, &liveness.evidence)?;
        Err(Problem::permanent(
            "guest-not-alive",
            format!(
                "VM '{}' was moved to host '{}', but its guest does not execute: {}",
                vm.name(),
                plan.destination,
                liveness.evidence
            ),
        )
        .object(vm.reference())
        .remedy(format!("look at its console, then: gantry vm reboot {} --force", vm.name())))
    }
}

/// Rids the source of the VM once it needs nothing more of the migration, and looks whether the guest executes.
async fn leave(context: &mut StepContext, plan: &Plan, vm: Uuid) -> Result<Option<Liveness>, Problem> {
    let source = context.app.model.get::<Host>(plan.source.as_str());
    // What a lost one still has is removed when it comes back: the stray VM loop knows the VM is elsewhere.
    let source = source.filter(|host| host.status.state != HostState::Lost);
    let source = source.map(|host| context.app.links.agent(&host));
    if let Some(source) = &source {
        await_source(context, plan, vm, &**source).await?;
    }
    let released = async {
        match &source {
            Some(source) => source.release_migration(vm, plan.migration).await,
            None => Ok(()),
        }
    };
    let (liveness, released) = tokio::join!(look_for_life(context, plan, vm), released);
    released?;
    context.app.model.overlay_mut(|overlay| overlay.left(plan.source.as_str(), vm));
    liveness
}

/// Waits until the source needs nothing more of the migration, and keeps its figures.
///
/// # Errors
/// Transient ones, while it does not answer.
async fn await_source(context: &mut StepContext, plan: &Plan, vm: Uuid, source: &dyn AgentApi) -> Result<(), Problem> {
    // Mostly it is about to say so; only in post-copy it takes longer.
    let mut pause = SWITCHOVER_POLL;
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
                    ..figures
                });
                // Once released, the source can't be asked again.
                context.save().await?;
            }
            return Ok(());
        }
        // It has yet to learn that the destination committed, or still sends memory.
        show(context, vm, &report.progress).await?;
        context.sleep(pause).await;
        pause = (pause * 2).min(POLL);
    }
}

/// What the guest's clock lost on the way, from how far it was behind its host's before the move and is after it.
fn gap_ms((before, after): (i64, i64)) -> u64 {
    after.saturating_sub(before).max(0).unsigned_abs()
}
