//! `snapshot_delete`: have the host give its space back, then take it out of the tree.
//!
//! What grew from it moves to its parent. Nobody can say what a host has done that did not answer, so a deletion that
//! fails leaves the snapshot `deleting`, and deleting it again goes on.

use async_trait::async_trait;
use gantry_types::{Problem, Resource, Severity, Snapshot};

use super::{
    snapshot_create::subject,
    step::{Ending, Procedure, Step, StepContext},
    vm_power::back_to_former,
    vm_start::{at_host, or_absent},
};
use crate::{objects::Change, snapshot_tree};

pub struct SnapshotDelete;

#[async_trait]
impl Procedure for SnapshotDelete {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(Delete)]
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let mut vm = context.vm().await?;
        vm.status.operation = None;
        let name = subject(context)?;
        if let Some(mut snapshot) = context.app.objects.find::<Snapshot>(name.as_str()).await? {
            match ending {
                Ending::Succeeded => {
                    let mut all: Vec<Snapshot> = context.app.objects.list().await?;
                    all.retain(|other| other.spec.vm == vm.metadata.name);
                    for child in snapshot_tree::take_out(&snapshot, all, &mut vm.status.snapshot) {
                        change.update(&child)?;
                    }
                    change.delete(&snapshot);
                    let (short, by) = (snapshot.short_name(), &context.operation.spec.requested_by);
                    let message = format!("snapshot '{short}' of VM '{}' was deleted by {by}", vm.name());
                    let host = vm.status.host.as_ref();
                    change.event(&context.event(Severity::Normal, "SnapshotDeleted", message, host))?;
                }
                Ending::Failed(problem) | Ending::Incomplete(problem) => {
                    snapshot.status.reason = Some(format!("deleting it failed: {problem}"));
                    change.update(&snapshot)?;
                }
                Ending::Cancelled => {
                    let short = snapshot.short_name();
                    let again = format!("gantry snapshot delete {} {short}", vm.name());
                    snapshot.status.reason = Some(format!("deleting it was cancelled; to go on: {again}"));
                    change.update(&snapshot)?;
                }
            }
        }
        back_to_former(context, &mut vm)?;
        change.update(&vm)?;
        Ok(())
    }
}

struct Delete;

#[async_trait]
impl Step for Delete {
    fn name(&self) -> &'static str {
        "delete"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let (vm, _, agent) = at_host(context).await?;
        let Some(snapshot) = context.app.objects.find::<Snapshot>(subject(context)?.as_str()).await? else {
            return Ok(());
        };
        or_absent(agent.delete_snapshot(vm.metadata.uuid, vm.status.epoch, snapshot.metadata.uuid).await)
    }
}
