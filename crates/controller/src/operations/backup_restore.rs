//! `backup_restore`: a new VM whose disk is filled from a backup.
//!
//! ```text
//!  place -> addresses -> define -> fill -> | keep -> start
//! ```
//! Until the disk is filled nothing of the VM is worth anything: failed or cancelled before, all of it is taken away, the
//! object too. After that the VM is there; one that then does not start is `failed`, and can be started again.

use async_trait::async_trait;
use gantry_api::backup::FillDisk;
use gantry_types::{Action, PowerState, Problem, Resource, Severity, VmPhase};

use super::{
    addresses::Addresses,
    backup_place::{follow, place_of, subject},
    step::{Ending, Patience, Procedure, Step, StepContext, Undone},
    vm_delete::give_back,
    vm_start::{Define, JoinNetwork, Place, Running, Start, at_host},
};
use crate::objects::Change;

pub struct BackupRestore {
    pub start: bool,
}

#[async_trait]
impl Procedure for BackupRestore {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        let mut steps: Vec<Box<dyn Step>> =
            vec![Box::new(Place), Box::new(Addresses), Box::new(Define), Box::new(Fill), Box::new(Keep)];
        if self.start {
            steps.push(Box::new(StartUp));
        }
        steps
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let mut vm = context.vm().await?;
        let backup = subject(context).await?;
        vm.status.operation = None;
        let host = vm.status.host.clone();
        let by = &context.operation.spec.requested_by;
        let message = format!("VM '{}' was restored from backup '{}' by {by}", vm.name(), backup.name());
        match ending {
            Ending::Failed(_) | Ending::Cancelled => {
                give_back(context, &vm, change).await?;
                change.delete(&vm);
                return Ok(());
            }
            Ending::Succeeded if self.start => {
                vm.status.phase = if vm.spec.power == PowerState::Paused { VmPhase::Paused } else { VmPhase::Running };
                vm.status.accelerator = context.memo("accelerator")?.flatten();
                vm.status.started_at = Some(context.app.clock.now());
                change.event(&context.event(Severity::Normal, "VmRestored", message, host.as_ref()))?;
            }
            Ending::Succeeded => {
                vm.status.phase = VmPhase::Stopped;
                change.event(&context.event(Severity::Normal, "VmRestored", message, host.as_ref()))?;
            }
            Ending::Incomplete(problem) => {
                vm.status.phase = VmPhase::Failed;
                vm.status.reason = Some(problem.detail.clone());
                let message = format!("{message}, but did not start: {problem}");
                change.event(&context.event(Severity::Warning, "VmRestored", message, host.as_ref()))?;
            }
        }
        change.update(&vm)?;
        Ok(())
    }
}

/// The disk's content. Done again, it is the same: nothing runs on it before.
struct Fill;

#[async_trait]
impl Step for Fill {
    fn name(&self) -> &'static str {
        "fill"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let (vm, host, agent) = at_host(context).await?;
        let request =
            FillDisk { epoch: vm.status.epoch, place: place_of(&context.app, &subject(context).await?).await? };
        let message = format!("filling the disk on host '{host}'");
        while follow(context, &message, agent.fill_disk(vm.metadata.uuid, &request).await?).await?.is_none() {}
        Ok(())
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        let (vm, _, agent) = at_host(context).await?;
        agent.cancel_backup(vm.metadata.uuid, subject(context).await?.metadata.uuid).await?;
        Ok(Undone::Yes)
    }
}

/// From here on it is a VM like any other.
struct Keep;

#[async_trait]
impl Step for Keep {
    fn name(&self) -> &'static str {
        "keep"
    }

    fn patience(&self) -> Patience {
        Patience::Unlimited
    }

    fn reversible(&self) -> bool {
        false
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let Action::BackupRestore { .. } = &context.operation.spec.action else {
            return Err(Problem::permanent("unreadable-object", "this operation restores nothing"));
        };
        Ok(())
    }
}

/// Not taken back any more: a guest that does not come up is ended, and the VM stays with its disk.
struct StartUp;

#[async_trait]
impl Step for StartUp {
    fn name(&self) -> &'static str {
        "start"
    }

    fn reversible(&self) -> bool {
        false
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let steps: [&dyn Step; 3] = [&JoinNetwork, &Start, &Running];
        for step in steps {
            if let Err(problem) = step.run(context).await {
                // Tried again, it is started anew; told as failed, it must not run.
                if let Err(error) = Start.undo(context).await {
                    tracing::warn!(vm = %context.target(), %error, "the guest could not be ended");
                }
                return Err(problem);
            }
        }
        Ok(())
    }
}
