//! `vm_clone`: make a VM as a copy of another one, which may run on meanwhile.
//!
//! ```text
//!  place -> addresses -> image -> copy -> let go -> define [-> network -> start -> running]
//! ```
//! The steps are those of `vm_start`, with the copy of the source's disk in between. Until it is made, the operation is the
//! source's, too: nothing else is done to that VM. Undone, there is no clone, and nothing of it anywhere.

use async_trait::async_trait;
use gantry_api::relocation::ExpectDisk;
use gantry_types::{Action, Name, Problem, Resource, Severity, Snapshot, Vm, VmPhase};
use uuid::Uuid;

use super::{
    addresses::Addresses,
    assignment::assignment,
    disk_sending::{Origin, send, take_back},
    step::{Ending, Procedure, Step, StepContext, Undone},
    vm_delete::give_back,
    vm_start::{Define, FetchImage, JoinNetwork, Place, Running, Start, at_host},
};
use crate::objects::Change;

/// The memo under which the id of the copy is kept: a repeated step asks for the same one.
const COPY: &str = "copy";

pub struct VmClone {
    pub start: bool,
}

#[async_trait]
impl Procedure for VmClone {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        let mut steps: Vec<Box<dyn Step>> = vec![
            Box::new(Place),
            Box::new(Addresses),
            Box::new(FetchImage),
            Box::new(CopyDisk),
            Box::new(LetGo),
            Box::new(Define),
        ];
        if self.start {
            steps.extend([Box::new(JoinNetwork) as Box<dyn Step>, Box::new(Start), Box::new(Running)]);
        }
        steps
    }

    async fn explain(&self, context: &StepContext, problem: Problem) -> Problem {
        let Action::VmClone { source, .. } = &context.operation.spec.action else { return problem };
        let target = &context.operation.spec.target;
        // Hosts know a VM by its uuid.
        let cause = problem.detail.replace(&target.uuid.to_string(), target.name.as_str());
        let detail = format!("VM '{source}' was not cloned as '{}', which is removed again: {cause}", target.name);
        let remedy = problem
            .remedy
            .clone()
            .unwrap_or_else(|| format!("mend that, then: gantry vm clone {source} {}", target.name));
        Problem { detail, ..problem }.remedy(remedy)
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let source = source(context).await?;
        if let Some(source) = &source {
            let_go(context, source, change)?;
        }
        let mut vm = context.vm().await?;
        if !matches!(ending, Ending::Succeeded) {
            change.delete(&vm);
            return give_back(context, &vm, change).await;
        }
        vm.status.operation = None;
        vm.status.reason = None;
        if self.start {
            vm.status.phase = VmPhase::Running;
            vm.status.accelerator = context.memo("accelerator")?.flatten();
            vm.status.started_at = Some(context.app.clock.now());
        } else {
            vm.status.phase = VmPhase::Stopped;
        }
        let host = vm.status.host.clone();
        let at = host.as_ref().map(|host| format!(" on host '{host}'")).unwrap_or_default();
        let message = format!("VM '{}' was cloned as '{}'{at}", source_name(context)?, vm.name());
        change.update(&vm)?.event(&context.event(Severity::Normal, "VmCloned", message, host.as_ref()))?;
        Ok(())
    }
}

fn source_name(context: &StepContext) -> Result<Name, Problem> {
    match &context.operation.spec.action {
        Action::VmClone { source, .. } => Ok(source.clone()),
        other => Err(Problem::permanent("unreadable-object", format!("{} clones nothing", other.verb()))),
    }
}

async fn source(context: &StepContext) -> Result<Option<Vm>, Problem> {
    context.app.objects.find::<Vm>(source_name(context)?.as_str()).await
}

/// What it begins with, if not with what the source's disk holds now.
async fn snapshot(context: &StepContext) -> Result<Option<Uuid>, Problem> {
    let Action::VmClone { snapshot: Some(name), .. } = &context.operation.spec.action else { return Ok(None) };
    Ok(Some(context.app.objects.get::<Snapshot>(name.as_str()).await?.metadata.uuid))
}

/// The source is free for other operations.
fn let_go(context: &StepContext, source: &Vm, change: &mut Change) -> Result<(), Problem> {
    if source.status.operation.as_ref() == Some(&context.operation.metadata.name) {
        let mut source = source.clone();
        source.status.operation = None;
        change.update(&source)?;
    }
    Ok(())
}

struct CopyDisk;

#[async_trait]
impl Step for CopyDisk {
    fn name(&self) -> &'static str {
        "copy"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let (vm, destination, _) = at_host(context).await?;
        let relocation = match context.memo::<Uuid>(COPY)? {
            Some(known) => known,
            None => {
                let fresh = context.app.clock.new_uuid();
                context.note(COPY, &fresh)?;
                context.save().await?;
                fresh
            }
        };
        let name = source_name(context)?;
        let source = source(context).await?.ok_or_else(|| Problem::not_found(Vm::KIND, name.as_str()))?;
        let host = source.status.host.clone().ok_or_else(|| {
            Problem::conflict("vm-without-host", format!("VM '{name}' is on no host")).object(source.reference())
        })?;
        let assignment = assignment(&context.app, &vm, vm.status.epoch)?;
        let expected = ExpectDisk { relocation, assignment, source: host.clone() };
        let from =
            Origin { host, vm: source.metadata.uuid, epoch: source.status.epoch, snapshot: snapshot(context).await? };
        send(context, &from, &destination, &expected).await
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        let vm = context.vm().await?;
        if let Some(host) = &vm.status.host {
            take_back(context, host, vm.metadata.uuid, vm.status.epoch).await?;
        }
        Ok(Undone::Yes)
    }
}

struct LetGo;

#[async_trait]
impl Step for LetGo {
    fn name(&self) -> &'static str {
        "let-go"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        context
            .app
            .objects
            .racing(|| async {
                let Some(source) = source(context).await? else { return Ok(()) };
                let mut change = Change::new();
                let_go(context, &source, &mut change)?;
                if !change.is_empty() {
                    context.app.commit(change).await?;
                }
                Ok(())
            })
            .await
    }
}
