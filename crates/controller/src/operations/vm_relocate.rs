//! `vm_relocate`: move a stopped VM to another host with its disk, all states of it included.
//!
//! ```text
//!  check -> image -> copy -> record | release
//!                                  ^ point of no return
//! ```
//! Nothing runs, so one transaction decides: until `record` the VM is the source's, and what has been copied is removed
//! again if the move fails. From then on it is the destination's, and the source's disk goes.

use std::sync::Arc;

use async_trait::async_trait;
use gantry_api::relocation::ExpectDisk;
use gantry_placement::{Likeness, Request};
use gantry_types::{Action, ByteSize, Name, Problem, Resource, Severity};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    assignment::{assignment, image_of},
    disk_sending::{Origin, expect_answering, send, take_back},
    migration_ending::record_at,
    placing::choose,
    step::{Ending, Patience, Procedure, Step, StepContext, Undone},
    vm_power::back_to_former,
    vm_start::or_absent,
};
use crate::{app::snapshot, objects::Change};

const PLAN: &str = "plan";

/// Decided once, at the beginning.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Plan {
    relocation: Uuid,
    source: Name,
    destination: Name,
    /// The VM's epoch at the source; at the destination it has the next one.
    source_epoch: u64,
}

impl Plan {
    fn epoch(&self) -> u64 {
        self.source_epoch + 1
    }
    fn need(context: &StepContext) -> Result<Self, Problem> {
        context.need(PLAN)
    }
}

pub struct VmRelocate;

#[async_trait]
impl Procedure for VmRelocate {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(Check), Box::new(FetchImage), Box::new(Copy), Box::new(Record), Box::new(Release)]
    }

    async fn explain(&self, context: &StepContext, problem: Problem) -> Problem {
        let Ok(Some(plan)) = context.memo::<Plan>(PLAN) else { return problem };
        let target = &context.operation.spec.target;
        let vm = &target.name;
        // Hosts know a VM by its uuid.
        let cause = problem.detail.replace(&target.uuid.to_string(), vm.as_str());
        let (from, to) = (&plan.source, &plan.destination);
        let detail = format!("VM '{vm}' stays on host '{from}', stopped: its move to host '{to}' failed: {cause}");
        let remedy = problem.remedy.clone().unwrap_or_else(|| {
            format!("look at host '{to}' (gantry describe host {to}), then: gantry vm migrate {vm} --to {to}")
        });
        Problem { detail, ..problem }.object(target.clone()).remedy(remedy)
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let mut vm = context.vm().await?;
        vm.status.operation = None;
        let plan = context.memo::<Plan>(PLAN)?.filter(|plan| vm.status.epoch == plan.epoch());
        match (ending, &plan) {
            (Ending::Succeeded | Ending::Incomplete(_), Some(plan)) => {
                let message = format!(
                    "VM '{}' was moved from '{}' to '{}', stopped, with its disk",
                    vm.name(),
                    plan.source,
                    plan.destination
                );
                change.event(&context.event(Severity::Normal, "VmRelocated", message, Some(&plan.destination)))?;
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
        let app = Arc::clone(&context.app);
        let vm = context.vm().await?;
        if vm.status.moving_to.is_some() {
            return Ok(());
        }
        let Action::VmRelocate { to } = &context.operation.spec.action else {
            let detail = format!("{} moves no stopped VM", context.operation.spec.action.verb());
            return Err(Problem::permanent("unreadable-object", detail));
        };
        let source = vm.status.host.clone().ok_or_else(|| {
            Problem::conflict("vm-without-host", format!("VM '{}' is on no host", vm.name()))
                .object(vm.reference())
                .remedy(format!("start it: gantry vm start {}", vm.name()))
        })?;
        let here = expect_answering(context, &source)?;
        let image = image_of(&app, &vm)?;
        let _placing = app.placement.lock().await;
        let mut request = Request::new(&vm);
        request.only = to.clone().or(request.only);
        request.except = Some(source.clone());
        request.disk_space = ByteSize(image.map_or(0, |image| image.file_size));
        if snapshot::has_memory_state(&app, &vm) {
            // A state of its memory goes on only where it was taken, or on the like.
            let own = vm.spec.cpu_model.as_deref().is_none_or(|model| model == "host");
            request.like = here.status.inventory.as_ref().map(|inventory| Likeness::of(inventory, own));
        }
        let destination = choose(&app, &vm, &request)?.host;
        let relocation = app.clock.new_uuid();
        let plan = Plan { relocation, source, destination: destination.clone(), source_epoch: vm.status.epoch };
        context.note(PLAN, &plan)?;
        context.save().await?;
        context.update_vm(|vm| vm.status.moving_to = Some(destination.clone())).await?;
        Ok(())
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        context.update_vm(|vm| vm.status.moving_to = None).await?;
        Ok(Undone::Yes)
    }
}

struct FetchImage;

#[async_trait]
impl Step for FetchImage {
    fn name(&self) -> &'static str {
        "image"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let plan = Plan::need(context)?;
        match image_of(&context.app, &context.vm().await?)? {
            Some(image) => context.agent(&plan.destination).await?.ensure_image(&image).await,
            None => Ok(()),
        }
    }
}

struct Copy;

#[async_trait]
impl Step for Copy {
    fn name(&self) -> &'static str {
        "copy"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let plan = Plan::need(context)?;
        let vm = context.vm().await?;
        let expected = ExpectDisk {
            relocation: plan.relocation,
            assignment: assignment(&context.app, &vm, plan.epoch())?,
            source: plan.source.clone(),
        };
        let from = Origin { host: plan.source, vm: vm.metadata.uuid, epoch: plan.source_epoch, snapshot: None };
        send(context, &from, &plan.destination, &expected).await
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        let Some(plan) = context.memo::<Plan>(PLAN)? else { return Ok(Undone::Yes) };
        let vm = context.operation.spec.target.uuid;
        take_back(context, &plan.destination, vm, plan.epoch()).await?;
        Ok(Undone::Yes)
    }
}

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
        let plan = Plan::need(context)?;
        record_at(context, &plan.destination, plan.epoch()).await
    }
}

struct Release;

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
        // A host that is not there is told later: the destination when the VM is started, the source by the stray VM loop.
        if expect_answering(context, &plan.destination).is_ok() {
            let assignment = assignment(&context.app, &vm, plan.epoch())?;
            context.agent(&plan.destination).await?.define_vm(&assignment).await?;
        }
        if expect_answering(context, &plan.source).is_ok() {
            or_absent(context.agent(&plan.source).await?.remove_vm(uuid, plan.source_epoch).await)?;
        }
        context.app.model.overlay_mut(|overlay| overlay.left(plan.source.as_str(), uuid));
        Ok(())
    }
}
