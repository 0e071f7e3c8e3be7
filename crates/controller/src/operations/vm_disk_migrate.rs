//! `vm_disk_migrate`: a VM's own disk goes to another pool of its host, while the guest writes or while the VM is stopped.
//!
//! ```text
//!  check -> image -> copy -> record | release
//!                     ^ decided by the host   ^ point of no return
//! ```
//! The host decides where the disk is, and writes that down, in the moment in which both places have the same content; this
//! operation only asks how far it is. Cancelled or failed before that moment, the disk is where it was and nothing is left
//! in the other pool; after it, the operation goes forward. A host that does not answer is waited for, because only it knows
//! where the disk is. What can't be deleted in the old pool is told of.

use async_trait::async_trait;
use gantry_api::storage::{LeftDisk, MoveDisk, PoolAssignment};
use gantry_types::{Action, Name, Pool, Problem, Resource, Severity, Vm, VmPhase};
use serde::{Deserialize, Serialize};

use super::{
    assignment::image_of,
    move_report::{given_up, has_moved},
    step::{Ending, Patience, Procedure, Step, StepContext, Undone},
    vm_power::back_to_former,
    vm_start::{at_host, observe},
};
use crate::{
    app::{copies, pool, vm_disk},
    objects::Change,
};

const PLAN: &str = "plan";

/// Decided once, at the beginning. No pool is the host's own.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Plan {
    from: Option<Name>,
    to: Option<Name>,
    /// What the disk held besides, by name.
    points: Vec<Name>,
}

impl Plan {
    fn of(context: &StepContext) -> Result<Option<Self>, Problem> {
        context.memo(PLAN)
    }
    fn need(context: &StepContext) -> Result<Self, Problem> {
        context.need(PLAN)
    }
}

async fn assigned(context: &StepContext, pool: Option<&Name>) -> Result<Option<PoolAssignment>, Problem> {
    let Some(name) = pool else { return Ok(None) };
    Ok(Some(pool::assignment(&context.app.objects.get::<Pool>(name.as_str()).await?)))
}

async fn request(context: &StepContext, vm: &Vm, plan: &Plan) -> Result<MoveDisk, Problem> {
    let to = assigned(context, plan.to.as_ref()).await?;
    Ok(MoveDisk { epoch: vm.status.epoch, to, image: image_of(&context.app, vm)? })
}

fn shown(pool: Option<&Name>, vm: &Vm) -> String {
    match (pool, &vm.status.host) {
        (Some(pool), _) => format!("pool '{pool}'"),
        (None, Some(host)) => format!("host '{host}' own pool"),
        (None, None) => "its host's own pool".to_owned(),
    }
}

pub struct VmDiskMigrate;

#[async_trait]
impl Procedure for VmDiskMigrate {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(Check), Box::new(FetchImage), Box::new(CopyOver), Box::new(Record), Box::new(Release)]
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let mut vm = context.vm().await?;
        vm.status.operation = None;
        let mut told = None;
        if let Some(plan) = Plan::of(context)? {
            let by = &context.operation.spec.requested_by;
            let from = shown(plan.from.as_ref(), &vm);
            let mut moved = format!(
                "the disk of VM '{}' was moved from {from} to {} by {by}",
                vm.name(),
                shown(plan.to.as_ref(), &vm)
            );
            if !plan.points.is_empty() {
                let names: Vec<_> = plan.points.iter().map(Name::as_str).collect();
                moved = format!(
                    "{moved}; its recovery points stayed behind and are gone: {}; the next good state is kept after {} s \
                     of health",
                    names.join(", "),
                    vm.spec.recovery.after_s
                );
            }
            told = match ending {
                Ending::Succeeded => Some((Severity::Normal, moved)),
                Ending::Incomplete(problem) => Some((
                    Severity::Warning,
                    format!("{moved}; what it left in {from} could not be deleted and still takes space: {problem}"),
                )),
                Ending::Failed(_) | Ending::Cancelled => None,
            };
        }
        match told {
            Some((severity, message)) => {
                let event = context.event(severity, "VmDiskMoved", message, vm.status.host.as_ref());
                change.event(&event)?;
            }
            None => back_to_former(context, &mut vm)?,
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
        if Plan::of(context)?.is_some() {
            return Ok(());
        }
        let Action::VmDiskMigrate { to } = &context.operation.spec.action else {
            return Err(Problem::permanent("unreadable-object", "this operation moves no disk"));
        };
        let (vm, _, agent) = at_host(context).await?;
        let to = vm_disk::place(&context.app, &vm, to)?;
        // Of a VM that is off, all comes along.
        let stays = matches!(vm.status.phase, VmPhase::Running | VmPhase::Paused);
        let observation = if stays { observe(&*agent, vm.metadata.uuid).await? } else { None };
        let points = observation.map(|seen| seen.recovery_points).unwrap_or_default();
        let points = points.into_iter().map(|point| point.name).collect();
        context.note(PLAN, &Plan { from: vm.spec.pool, to, points })
    }
}

struct FetchImage;

#[async_trait]
impl Step for FetchImage {
    fn name(&self) -> &'static str {
        "image"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let (vm, _, agent) = at_host(context).await?;
        match image_of(&context.app, &vm)? {
            // In a pool it is laid beside the disk from there.
            Some(image) => agent.ensure_image(&image).await,
            None => Ok(()),
        }
    }
}

struct CopyOver;

#[async_trait]
impl Step for CopyOver {
    fn name(&self) -> &'static str {
        "copy"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let plan = Plan::need(context)?;
        loop {
            let (vm, host, agent) = at_host(context).await?;
            let report = agent.move_disk(vm.metadata.uuid, &request(context, &vm, &plan).await?).await?;
            if has_moved(context, &host, report).await? {
                return Ok(());
            }
        }
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        let Some(plan) = Plan::of(context)? else { return Ok(Undone::Yes) };
        let (vm, _, agent) = at_host(context).await?;
        given_up(agent.cancel_disk_move(vm.metadata.uuid, &request(context, &vm, &plan).await?).await)
    }
}

/// From here on it is in the new pool for everybody.
struct Record;

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
        let Plan { to, points, .. } = Plan::need(context)?;
        let vm = context.vm().await?;
        let disks = context.app.model.read(|tables| copies::disks_of(tables, &vm));
        let has_others = disks.iter().any(|disk| !disk.is_own);
        context
            .update_vm(|vm| {
                vm.spec.pool.clone_from(&to);
                // Those of where it was are of no use, and where it is there are none yet.
                let alone = vm.status.copies.take().zip(vm.status.host.clone()).filter(|_| has_others);
                vm.status.copies = alone.map(|(copies, host)| copies.alone(host));
                vm.status.recovery_points.retain(|point| !points.contains(&point.name));
            })
            .await?;
        Ok(())
    }
}

struct Release;

#[async_trait]
impl Step for Release {
    fn name(&self) -> &'static str {
        "release"
    }

    fn reversible(&self) -> bool {
        false
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let plan = Plan::need(context)?;
        let (vm, _, agent) = at_host(context).await?;
        let left = LeftDisk { epoch: vm.status.epoch, from: assigned(context, plan.from.as_ref()).await? };
        agent.clear_left_disk(vm.metadata.uuid, &left).await
    }
}
