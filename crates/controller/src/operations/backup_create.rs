//! `backup_create`: have the VM's host write its disks into the repository, then note what came of it.
//!
//! Undone, nothing of it is left: neither at the VM, nor in the repository, nor as an object.

use async_trait::async_trait;
use gantry_api::backup::{BackUp, BackedUp, BackupLabel, Work};
use gantry_types::{Backup, BackupDisk, BackupPhase, ErrorClass, Problem, Resource, Severity, Timestamp, Vm, VmSpec};

use super::{
    backup_place::{follow, place_of, subject},
    step::{Ending, Procedure, Step, StepContext, Undone},
    vm_power::back_to_former,
    vm_start::{at_host, or_absent},
};
use crate::objects::Change;

const TAKEN: &str = "taken";
const TAKEN_AT: &str = "taken_at";

pub struct BackupCreate;

/// The VM with the identity that it has, so that it can be had again.
pub(crate) fn machine_with_identity(vm: &Vm) -> VmSpec {
    let mut machine = vm.spec.clone();
    for (nic, has) in machine.nics.iter_mut().zip(&vm.status.nics) {
        // A port that was made beforehand brings its own.
        if nic.port.is_none() {
            (nic.address, nic.mac) = (Some(has.address), Some(has.mac));
        }
    }
    machine
}

#[async_trait]
impl Procedure for BackupCreate {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(Write)]
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let mut vm = context.vm().await?;
        vm.status.operation = None;
        let mut backup = subject(context).await?;
        if let Ending::Succeeded = ending {
            let taken: BackedUp = context.need(TAKEN)?;
            let disk = |disk: gantry_api::backup::BackedUpDisk| BackupDisk { name: disk.name, size: disk.size };
            let status = &mut backup.status;
            status.phase = BackupPhase::Ready;
            status.operation = None;
            status.taken_at = context.memo::<Timestamp>(TAKEN_AT)?;
            status.disks = taken.disks.into_iter().map(disk).collect();
            (status.read, status.written) = (Some(taken.read), Some(taken.written));
            status.frozen_ms = taken.frozen_ms;
            change.update(&backup)?;
            let (spec, by) = (&backup.spec, &context.operation.spec.requested_by);
            let message = format!(
                "VM '{}' was backed up to '{}' as '{}' by {by}: {} read, {} added there",
                vm.name(),
                spec.repository,
                backup.short_name(),
                taken.read.approximate(),
                taken.written.approximate()
            );
            change.event(&context.event(Severity::Normal, "BackupCreated", message, vm.status.host.as_ref()))?;
        } else {
            change.delete(&backup);
        }
        back_to_former(context, &mut vm)?;
        change.update(&vm)?;
        Ok(())
    }
}

struct Write;

#[async_trait]
impl Step for Write {
    fn name(&self) -> &'static str {
        "write"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let (vm, host, agent) = at_host(context).await?;
        let backup = subject(context).await?;
        if context.memo::<Timestamp>(TAKEN_AT)?.is_none() {
            context.note(TAKEN_AT, &context.app.clock.now())?;
        }
        let request = BackUp {
            epoch: vm.status.epoch,
            place: place_of(&context.app, &backup).await?,
            quiesce: backup.spec.quiesce && vm.status.guest_agent,
            name: vm.metadata.name.clone(),
            spec: machine_with_identity(&vm),
            label: BackupLabel {
                name: backup.short_name().to_owned(),
                taken_at: context.need(TAKEN_AT)?,
                description: backup.spec.description.clone(),
            },
        };
        let message = format!("backing up on host '{host}'");
        loop {
            let work = agent.back_up(vm.metadata.uuid, &request).await?;
            if let Some(taken) = follow(context, &message, work).await? {
                return context.note(TAKEN, &taken);
            }
        }
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        let (vm, _, agent) = at_host(context).await?;
        let Some(backup) = found(context).await? else { return Ok(Undone::Yes) };
        or_absent(agent.cancel_backup(vm.metadata.uuid, backup.metadata.uuid).await)?;
        let place = place_of(&context.app, &backup).await?;
        loop {
            match agent.delete_backup(&place).await {
                Ok(Work::Working { .. }) => context.sleep(std::time::Duration::from_millis(300)).await,
                Ok(Work::Done(())) => return Ok(Undone::Yes),
                // Nothing was written where there is no repository.
                Err(problem) if matches!(problem.class, ErrorClass::NotFound | ErrorClass::Invalid) => {
                    return Ok(Undone::Yes);
                }
                Err(problem) => return Err(problem),
            }
        }
    }
}

async fn found(context: &StepContext) -> Result<Option<Backup>, Problem> {
    match subject(context).await {
        Ok(backup) => Ok(Some(backup)),
        Err(problem) if problem.class == ErrorClass::NotFound => Ok(None),
        Err(problem) => Err(problem),
    }
}
