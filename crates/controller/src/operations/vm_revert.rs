//! `snapshot_revert` and `vm_recover`: the VM's disk becomes what it was, and the VM runs again.
//!
//! ```text
//!  choose -> swap -> start -> running
//! ```
//! What is replaced is kept on the host as a recovery point for a day, so that going back can be undone, by its owner and
//! by this operation: undone, the disk is what it was, and a VM that ran is started from it. Its memory is not brought
//! back.

use async_trait::async_trait;
use gantry_api::agent::{PowerAction, RevertVm};
use gantry_types::{
    Action, ErrorClass, Name, Problem, RecoveryPoint, RecoveryPointKind, Resource, Severity, Snapshot, Timestamp, Vm,
    VmPhase,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    step::{Ending, Procedure, Step, StepContext, Undone},
    vm_power::{back_to_former, command, next_command},
    vm_start::{Running, Start, at_host, or_absent},
};
use crate::objects::Change;

const PLAN: &str = "plan";
const POINTS: &str = "points";

/// Decided once, at the beginning.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Plan {
    to: Uuid,
    name: Name,
    /// When the state was taken that is gone back to.
    taken_at: Option<Timestamp>,
    memory: bool,
    keep_as: Uuid,
    revert: Uuid,
    /// The request by which it is undone.
    back: Uuid,
    runs_afterwards: bool,
}

pub struct VmRevert;

#[async_trait]
impl Procedure for VmRevert {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(Choose), Box::new(Swap), Box::new(StartAgain), Box::new(RunningAgain)]
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let mut vm = context.vm().await?;
        vm.status.operation = None;
        match (ending, context.memo::<Plan>(PLAN)?) {
            (Ending::Succeeded, Some(plan)) => {
                vm.status.phase = if plan.runs_afterwards { VmPhase::Running } else { VmPhase::Stopped };
                vm.status.reason = None;
                vm.status.forget_guest();
                if plan.runs_afterwards {
                    vm.status.started_at = Some(context.app.clock.now());
                }
                if let Some(points) = context.memo::<Vec<RecoveryPoint>>(POINTS)? {
                    vm.status.recovery_points = points;
                }
                let by = &context.operation.spec.requested_by;
                let (reason, message) = match &context.operation.spec.action {
                    Action::SnapshotRevert { snapshot, .. } => {
                        vm.status.snapshot = Some(snapshot.clone());
                        ("VmReverted", format!("VM '{}' was taken back to snapshot '{snapshot}' by {by}", vm.name()))
                    }
                    _ => {
                        vm.status.snapshot = grown_from(context, &vm, &plan).await?;
                        let taken = plan.taken_at.map(|at| format!(" of {at}")).unwrap_or_default();
                        let message = format!("VM '{}' was brought back to its state{taken} by {by}", vm.name());
                        ("VmRecovered", message)
                    }
                };
                let message =
                    format!("{message}; what was replaced is kept for a day: gantry vm recover {} --undo", vm.name());
                change.event(&context.event(Severity::Normal, reason, message, vm.status.host.as_ref()))?;
            }
            _ => back_to_former(context, &mut vm)?,
        }
        change.update(&vm)?;
        Ok(())
    }
}

/// The snapshot that a recovery point's state grew from: the nearest one on the way up that is older.
async fn grown_from(context: &StepContext, vm: &Vm, plan: &Plan) -> Result<Option<Name>, Problem> {
    let mut at = vm.status.snapshot.clone();
    while let Some(name) = &at {
        let Some(snapshot) = context.app.objects.find::<Snapshot>(name.as_str()).await? else { break };
        if snapshot.status.taken_at <= plan.taken_at {
            break;
        }
        at = snapshot.status.parent;
    }
    Ok(at)
}

/// # Errors
/// `no-recovery-point` if there is none that is asked for.
pub fn choose_point<'a>(vm: &'a Vm, to: Option<&Name>, undo: bool) -> Result<&'a RecoveryPoint, Problem> {
    let kind = if undo { RecoveryPointKind::Replaced } else { RecoveryPointKind::Good };
    let wanted = |point: &&RecoveryPoint| match to {
        Some(name) => point.name == *name,
        None => point.kind == kind,
    };
    vm.status.recovery_points.iter().find(wanted).ok_or_else(|| {
        let names: Vec<_> = vm.status.recovery_points.iter().map(|point| point.name.as_str()).collect();
        let (what, remedy) = match (to, undo) {
            (Some(name), _) if names.is_empty() => (format!("no recovery point '{name}', and no other"), None),
            (Some(name), _) => {
                (format!("no recovery point '{name}'"), Some(format!("choose one of: {}", names.join(", "))))
            }
            (None, true) => ("nothing that was replaced within the last day".to_owned(), None),
            (None, false) => ("no state that is known to be good".to_owned(), None),
        };
        let policy = vm.spec.recovery;
        let remedy = remedy.unwrap_or_else(|| match policy.keep {
            0 => {
                "let states be kept: set spec.recovery.keep; or go back to a snapshot: gantry snapshot list".to_owned()
            }
            _ => format!(
                "one is kept when the guest's agent has answered for {} s; or go back to a snapshot: gantry snapshot \
                 list",
                policy.after_s
            ),
        });
        Problem::conflict("no-recovery-point", format!("VM '{}' has {what}", vm.name()))
            .object(vm.reference())
            .remedy(remedy)
    })
}

struct Choose;

#[async_trait]
impl Step for Choose {
    fn name(&self) -> &'static str {
        "choose"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        if context.memo::<Plan>(PLAN)?.is_some() {
            return Ok(());
        }
        let vm = context.vm().await?;
        let ran = matches!(context.former()?.phase, VmPhase::Running | VmPhase::Paused);
        let clock = &context.app.clock;
        let fresh = |to, name, taken_at, memory, runs_afterwards| Plan {
            to,
            name,
            taken_at,
            memory,
            keep_as: clock.new_uuid(),
            revert: clock.new_uuid(),
            back: clock.new_uuid(),
            runs_afterwards,
        };
        let plan = match &context.operation.spec.action {
            Action::SnapshotRevert { snapshot, disk_only } => {
                let snapshot: Snapshot = context.app.objects.get(snapshot.as_str()).await?;
                let memory = snapshot.spec.memory && !disk_only;
                let metadata = snapshot.metadata;
                fresh(metadata.uuid, metadata.name, snapshot.status.taken_at, memory, memory || ran)
            }
            Action::VmRecover { to, undo } => {
                let point = choose_point(&vm, to.as_ref(), *undo)?;
                fresh(point.uuid, point.name.clone(), Some(point.taken_at), false, true)
            }
            other => return Err(Problem::permanent("unreadable-object", format!("{} goes nowhere", other.verb()))),
        };
        context.note(PLAN, &plan)?;
        context.save().await
    }
}

struct Swap;

#[async_trait]
impl Step for Swap {
    fn name(&self) -> &'static str {
        "swap"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let plan: Plan = context.need(PLAN)?;
        let (vm, _, agent) = at_host(context).await?;
        let request = RevertVm {
            epoch: vm.status.epoch,
            command: next_command(context).await?,
            revert: plan.revert,
            to: plan.to,
            memory: plan.memory,
            keep_as: Some(plan.keep_as),
        };
        let observation = agent.revert_vm(vm.metadata.uuid, &request).await.map_err(|problem| match problem.class {
            ErrorClass::NotFound => {
                let detail = format!("the disk of VM '{}' no longer has '{}'", vm.name(), plan.name);
                Problem::permanent("state-missing", detail)
                    .object(vm.reference())
                    .remedy(format!("choose another one: gantry describe vm {}", vm.name()))
            }
            _ => problem,
        })?;
        context.note(POINTS, &observation.recovery_points)
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        let Some(plan) = context.memo::<Plan>(PLAN)? else { return Ok(Undone::Yes) };
        let (vm, _, agent) = at_host(context).await?;
        let (uuid, epoch) = (vm.metadata.uuid, vm.status.epoch);
        let number = next_command(context).await?;
        let back =
            RevertVm { epoch, command: number, revert: plan.back, to: plan.keep_as, memory: false, keep_as: None };
        match agent.revert_vm(uuid, &back).await {
            Ok(_) => {}
            // Nothing was kept, so nothing was replaced.
            Err(problem) if problem.class == ErrorClass::NotFound => {}
            Err(problem) => return Err(problem),
        }
        match context.former()?.phase {
            VmPhase::Running => command(context, PowerAction::Start).await?,
            VmPhase::Paused => {
                command(context, PowerAction::Start).await?;
                command(context, PowerAction::Pause).await?;
            }
            _ => or_absent(command(context, PowerAction::Kill).await)?,
        }
        or_absent(agent.delete_snapshot(uuid, epoch, plan.keep_as).await)?;
        Ok(Undone::Yes)
    }
}

struct StartAgain;

#[async_trait]
impl Step for StartAgain {
    fn name(&self) -> &'static str {
        "start"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        match context.need::<Plan>(PLAN)?.runs_afterwards {
            true => Start.run(context).await,
            false => Ok(()),
        }
    }
}

struct RunningAgain;

#[async_trait]
impl Step for RunningAgain {
    fn name(&self) -> &'static str {
        "running"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        match context.need::<Plan>(PLAN)?.runs_afterwards {
            true => Running.run(context).await,
            false => Ok(()),
        }
    }
}
