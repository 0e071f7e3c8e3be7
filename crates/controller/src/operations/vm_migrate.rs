//! `vm_migrate`: move a running VM. Its disk moves with it, unless that is in a pool that both hosts reach; nothing else
//! needs to be shared between the hosts.
//!
//! ```text
//!  check -> image -> receive -> part -> transfer -> record | release
//!                                          |               ^ point of no return; from here on: migration_ending.rs
//!                            outcome decided by the hosts; see migration_outcome.rs
//! ```
//! A disk in a mirrored pool is parted from its copy before it goes, so that the copy is never taken for what it was; the next
//! copy is made by itself, wherever the VM is then.
//!
//! Before `record`, undoing stops the move and takes the destination's part away, unless the destination has committed
//! already: then the operation goes forward. From `record` on the VM is the destination's.

use async_trait::async_trait;
use gantry_api::agent::{MigrationEndpoint, ReceiveMigration, SendMigration};
use gantry_placement::{Likeness, Request};
use gantry_types::{
    Action, ByteSize, Host, HostState, MigrationPolicy, Name, Operation, PowerState, Problem, RecoveryPoint, Resource,
    Severity, Vm, VmPhase,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    assignment::{assignment, image_of},
    migration_ending::{LAG_BEFORE, NOT_ALIVE, Record, Release},
    migration_outcome::{Outcome, abandon, follow, take_away},
    placing::choose,
    step::{Ending, Patience, Procedure, Step, StepContext, Undone},
    vm_power::back_to_former,
    vm_start::observe,
};
use crate::{
    app::{copies, pool},
    objects::Change,
};

const PLAN: &str = "plan";
const ENDPOINT: &str = "endpoint";

/// The host that a migration leaves, once that is decided.
pub(super) fn source_of(operation: &Operation) -> Option<Name> {
    let plan = operation.status.memo.get(PLAN)?;
    serde_json::from_value::<Plan>(plan.clone()).ok().map(|plan| plan.source)
}

/// Decided once, at the beginning.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Plan {
    pub migration: Uuid,
    pub source: Name,
    pub destination: Name,
    /// The VM's epoch at the source; at the destination it has the next one.
    pub source_epoch: u64,
    pub paused: bool,
    pub post_copy: bool,
    pub guest_agent: bool,
}

impl Plan {
    pub(super) fn epoch(&self) -> u64 {
        self.source_epoch + 1
    }
    pub(super) fn of(context: &StepContext) -> Result<Option<Self>, Problem> {
        context.memo(PLAN)
    }
    pub(super) fn need(context: &StepContext) -> Result<Self, Problem> {
        context.need(PLAN)
    }
}

pub struct VmMigrate;

#[async_trait]
impl Procedure for VmMigrate {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![
            Box::new(Check),
            Box::new(FetchImage),
            Box::new(Receive),
            Box::new(Part),
            Box::new(Transfer),
            Box::new(Record),
            Box::new(Release),
        ]
    }

    async fn explain(&self, context: &StepContext, problem: Problem) -> Problem {
        let Ok(Some(plan)) = Plan::of(context) else { return problem };
        let target = &context.operation.spec.target;
        let vm = &target.name;
        // Hosts know a VM by its uuid.
        let cause = problem.detail.replace(&target.uuid.to_string(), vm.as_str());
        let detail = format!(
            "VM '{vm}' stays on host '{}': the move to host '{}' failed: {cause}",
            plan.source, plan.destination
        );
        let remedy = problem.remedy.clone().unwrap_or_else(|| {
            let to = &plan.destination;
            format!("look at host '{to}' (gantry describe host {to}), then: gantry vm migrate {vm} --to {to}")
        });
        Problem { detail, ..problem }.object(target.clone()).remedy(remedy)
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let mut vm = context.vm().await?;
        vm.status.operation = None;
        let plan = Plan::of(context)?;
        let moved = plan.as_ref().is_some_and(|plan| vm.status.epoch == plan.epoch());
        match (ending, &plan) {
            (Ending::Succeeded | Ending::Incomplete(_), Some(plan)) if moved => {
                vm.status.phase = if plan.paused { VmPhase::Paused } else { VmPhase::Running };
                vm.status.reason = None;
                vm.status.last_migration = context.operation.status.figures.clone();
                if let Some(evidence) = context.memo::<String>(NOT_ALIVE)? {
                    vm.status.phase = VmPhase::Failed;
                    vm.status.reason = Some(format!("its guest does not execute after the move: {evidence}"));
                }
                let mut message = format!("VM '{}' moved from '{}' to '{}'", vm.name(), plan.source, plan.destination);
                // Those that are in a disk which came along came with it.
                let travelled = disk_travels(context, &vm);
                let left = if travelled { std::mem::take(&mut vm.status.recovery_points) } else { Vec::new() };
                if !left.is_empty() {
                    let names: Vec<_> = left.iter().map(|point| point.name.as_str()).collect();
                    message = format!(
                        "{message}; its recovery points stayed behind and are gone: {}; the next good state is kept \
                         after {} s of health",
                        names.join(", "),
                        vm.spec.recovery.after_s
                    );
                }
                change.event(&context.event(Severity::Normal, "VmMigrated", message, Some(&plan.destination)))?;
            }
            _ => back_to_former(context, &mut vm)?,
        }
        change.update(&vm)?;
        Ok(())
    }
}

struct Check;

#[async_trait]
impl Step for Check {
    fn name(&self) -> &'static str {
        "check"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let app = std::sync::Arc::clone(&context.app);
        let vm = context.vm().await?;
        if vm.status.moving_to.is_some() {
            return Ok(());
        }
        let source = vm.status.host.clone().ok_or_else(|| {
            Problem::conflict("vm-without-host", format!("VM '{}' is on no host", vm.name()))
                .object(vm.reference())
                .remedy(format!("start it: gantry vm start {}", vm.name()))
        })?;
        let here = ready(context.host(&source).await?)?;
        let inventory = here.status.inventory.as_ref().ok_or_else(|| not_ready(&here))?;
        let (to, policy) = wanted(context)?;
        let observation = observe(&*app.links.agent(&here), vm.metadata.uuid).await?;
        let image = image_of(&app, &vm)?;
        let _placing = app.placement.lock().await;
        let mut request = Request::new(&vm);
        request.only = to.or(request.only);
        request.except = Some(source.clone());
        let fetched = image.filter(|_| disk_travels(context, &vm));
        request.disk_space = ByteSize(fetched.map_or(0, |image| image.file_size));
        request.like = Some(Likeness::of(inventory, vm.spec.cpu_model.as_deref().is_none_or(|model| model == "host")));
        let destination = choose(&app, &vm, &request)?.host;
        let there = context.host(&destination).await?;
        let capable = |host: &Host| host.status.inventory.as_ref().is_some_and(|inventory| inventory.post_copy);
        let plan = Plan {
            migration: app.clock.new_uuid(),
            source,
            destination: destination.clone(),
            source_epoch: vm.status.epoch,
            // What is wanted, not what is: one that waits for room, or has just gone on, goes on over there.
            paused: vm.spec.power == PowerState::Paused,
            post_copy: policy.post_copy != gantry_types::PostCopy::Never && capable(&here) && capable(&there),
            guest_agent: observation.is_some_and(|observation| observation.guest_agent),
        };
        context.note(PLAN, &plan)?;
        context.save().await?;
        context
            .update_vm(|vm| {
                vm.status.moving_to = Some(destination.clone());
            })
            .await?;
        Ok(())
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        context
            .update_vm(|vm| {
                vm.status.moving_to = None;
            })
            .await?;
        Ok(Undone::Yes)
    }
}

fn wanted(context: &StepContext) -> Result<(Option<Name>, MigrationPolicy), Problem> {
    match &context.operation.spec.action {
        Action::VmMigrate { to, policy } => Ok((to.clone(), *policy)),
        other => Err(Problem::permanent("unreadable-object", format!("{} is no migration", other.verb()))),
    }
}

fn not_ready(host: &Host) -> Problem {
    Problem::conflict("host-not-ready", format!("host '{}' is not ready", host.name()))
        .object(host.reference())
        .remedy("see what is wrong with it: gantry host list")
}

fn ready(host: Host) -> Result<Host, Problem> {
    if host.status.state == HostState::Ready { Ok(host) } else { Err(not_ready(&host)) }
}

fn disk_travels(context: &StepContext, vm: &Vm) -> bool {
    context.app.model.read(|tables| pool::disk_travels(tables, vm))
}

struct FetchImage;

#[async_trait]
impl Step for FetchImage {
    fn name(&self) -> &'static str {
        "image"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let plan = Plan::need(context)?;
        let vm = context.vm().await?;
        match image_of(&context.app, &vm)? {
            // It is beside the disk, where both hosts reach it.
            Some(_) if !disk_travels(context, &vm) => Ok(()),
            Some(image) => context.agent(&plan.destination).await?.ensure_image(&image).await,
            None => Ok(()),
        }
    }
}

struct Receive;

#[async_trait]
impl Step for Receive {
    fn name(&self) -> &'static str {
        "receive"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let plan = Plan::need(context)?;
        let vm = context.vm().await?;
        let recovery_points = match disk_travels(context, &vm) {
            true => Vec::new(),
            // As they are now: from here on it keeps no more.
            false => points_at(context, &plan.source, vm.metadata.uuid).await?,
        };
        let request = ReceiveMigration {
            migration: plan.migration,
            source: plan.source.clone(),
            assignment: assignment(&context.app, &vm, plan.epoch())?,
            paused: plan.paused,
            post_copy: plan.post_copy,
            probes: vm.status.probes.clone(),
            recovery_points,
        };
        let agent = context.agent(&plan.destination).await?;
        let endpoint = agent.receive_migration(vm.metadata.uuid, &request).await?;
        context.note(ENDPOINT, &endpoint)?;
        if !vm.status.nics.is_empty() {
            // The port must be there, inactive, before the destination can decide to let the guest run.
            if let Some(observation) = observe(&*agent, vm.metadata.uuid).await? {
                let host = plan.destination.as_str();
                context.app.model.overlay_mut(|overlay| overlay.observed(host, &observation));
            }
            context.app.distribute_now(&plan.destination).await?;
        }
        Ok(())
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        let Some(plan) = Plan::of(context)? else { return Ok(Undone::Yes) };
        take_away(context, &plan).await
    }
}

async fn points_at(context: &StepContext, host: &Name, vm: Uuid) -> Result<Vec<RecoveryPoint>, Problem> {
    let observation = observe(&*context.agent(host).await?, vm).await?;
    Ok(observation.map(|observation| observation.recovery_points).unwrap_or_default())
}

/// How far the guest's clock is behind the source's, by the source's last heartbeat; once, while the guest runs there.
fn note_lag_before(context: &mut StepContext, plan: &Plan, vm: Uuid) -> Result<(), Problem> {
    if context.memo::<i64>(LAG_BEFORE)?.is_some() {
        return Ok(());
    }
    let lag_ms = context.app.model.overlay(|overlay| {
        let observation = overlay.hosts.get(plan.source.as_str())?.vms.get(&vm)?;
        observation.metrics?.guest_clock_lag_ms
    });
    lag_ms.map_or(Ok(()), |lag_ms| context.note(LAG_BEFORE, &lag_ms))
}

struct Part;

#[async_trait]
impl Step for Part {
    fn name(&self) -> &'static str {
        "part"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let plan = Plan::need(context)?;
        let vm = context.vm().await?;
        if vm.status.copies.is_none() {
            return Ok(());
        }
        let agent = context.agent(&plan.source).await?;
        copies::part_to_move(&context.app, &vm, &plan.source, &*agent).await
    }
}

struct Transfer;

#[async_trait]
impl Step for Transfer {
    fn name(&self) -> &'static str {
        "transfer"
    }

    fn patience(&self) -> Patience {
        Patience::Unlimited
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let plan = Plan::need(context)?;
        let vm = context.vm().await?.metadata.uuid;
        note_lag_before(context, &plan, vm)?;
        let (_, policy) = wanted(context)?;
        let request = SendMigration {
            migration: plan.migration,
            epoch: plan.source_epoch,
            endpoint: context.need::<MigrationEndpoint>(ENDPOINT)?,
            destination: plan.destination.clone(),
            destination_agent: context.host(&plan.destination).await?.status.agent_address,
            policy,
            post_copy: plan.post_copy,
        };
        match follow(context, &plan, vm, &request).await? {
            Outcome::Moved => Ok(()),
            Outcome::Stayed(problem) => Err(problem),
        }
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        let Some(plan) = Plan::of(context)? else { return Ok(Undone::Yes) };
        abandon(context, &plan).await
    }
}
