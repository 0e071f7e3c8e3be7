//! `snapshot_create`: have the host keep the VM's state, then note where in the tree it stands.
//!
//! Undone, nothing of it is left: neither in the disk nor as an object.

use async_trait::async_trait;
use gantry_api::agent::{TakeSnapshot, TakenSnapshot};
use gantry_types::{
    Action, ByteSize, Name, Problem, Resource, Severity, Snapshot, SnapshotMachine, SnapshotPhase, Timestamp, Vm,
    Volume,
};

use super::{
    step::{Ending, Procedure, Step, StepContext, Undone},
    vm_power::back_to_former,
    vm_start::{at_host, or_absent},
};
use crate::{app::volume, objects::Change};

const TAKEN: &str = "taken";
const TAKEN_AT: &str = "taken_at";

pub struct SnapshotCreate;

/// The snapshot that an operation is about.
pub(super) fn subject(context: &StepContext) -> Result<&Name, Problem> {
    match &context.operation.spec.action {
        Action::SnapshotCreate { snapshot }
        | Action::SnapshotDelete { snapshot }
        | Action::SnapshotRevert { snapshot, .. } => Ok(snapshot),
        other => Err(Problem::permanent("unreadable-object", format!("{} is about no snapshot", other.verb()))),
    }
}

pub fn machine_of(vm: &Vm) -> SnapshotMachine {
    let spec = &vm.spec;
    SnapshotMachine {
        cpus: spec.cpus,
        memory: spec.memory,
        firmware: spec.firmware,
        cpu_model: spec.cpu_model.clone(),
        watchdog: spec.ha.watchdog,
    }
}

#[async_trait]
impl Procedure for SnapshotCreate {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(Take)]
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let mut vm = context.vm().await?;
        vm.status.operation = None;
        let mut snapshot: Snapshot = context.app.objects.get(subject(context)?.as_str()).await?;
        if let Ending::Succeeded = ending {
            let taken: TakenSnapshot = context.need(TAKEN)?;
            snapshot.status.phase = SnapshotPhase::Ready;
            snapshot.status.taken_at = context.memo::<Timestamp>(TAKEN_AT)?;
            snapshot.status.parent = vm.status.snapshot.clone();
            snapshot.status.memory_size = snapshot.spec.memory.then_some(ByteSize(taken.memory_bytes));
            snapshot.status.pause_ms = taken.pause_ms;
            snapshot.status.machine = Some(machine_of(&vm));
            let volumes = context.app.model.read(|tables| volume::of_vm(tables, &vm));
            let is_part = |volume: &&std::sync::Arc<Volume>| taken.volumes.contains(&volume.metadata.uuid);
            snapshot.status.volumes =
                volumes.iter().filter(is_part).map(|volume| volume.metadata.name.clone()).collect();
            vm.status.snapshot = Some(snapshot.metadata.name.clone());
            change.update(&snapshot)?;
            let by = &context.operation.spec.requested_by;
            let message = format!("snapshot '{}' of VM '{}' was taken by {by}", snapshot.short_name(), vm.name());
            change.event(&context.event(Severity::Normal, "SnapshotTaken", message, vm.status.host.as_ref()))?;
        } else {
            change.delete(&snapshot);
        }
        back_to_former(context, &mut vm)?;
        change.update(&vm)?;
        Ok(())
    }
}

struct Take;

#[async_trait]
impl Step for Take {
    fn name(&self) -> &'static str {
        "take"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let (vm, _, agent) = at_host(context).await?;
        let snapshot: Snapshot = context.app.objects.get(subject(context)?.as_str()).await?;
        let request = TakeSnapshot {
            epoch: vm.status.epoch,
            snapshot: snapshot.metadata.uuid,
            memory: snapshot.spec.memory,
            quiesce: snapshot.spec.quiesce,
        };
        let taken = agent.take_snapshot(vm.metadata.uuid, &request).await?;
        context.note(TAKEN_AT, &context.app.clock.now())?;
        context.note(TAKEN, &taken)
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        let (vm, _, agent) = at_host(context).await?;
        let Some(snapshot) = context.app.objects.find::<Snapshot>(subject(context)?.as_str()).await? else {
            return Ok(Undone::Yes);
        };
        or_absent(agent.delete_snapshot(vm.metadata.uuid, vm.status.epoch, snapshot.metadata.uuid).await)?;
        Ok(Undone::Yes)
    }
}
