//! `vm_reboot`, `vm_pause`, `vm_resume`: one command to the host each. And how all operations give such commands.

use async_trait::async_trait;
use gantry_api::agent::{PowerAction, PowerRequest};
use gantry_types::{Action, Host, HostState, Problem, Resource, Severity, Vm, VmPhase};

use super::{
    step::{Ending, Procedure, Step, StepContext, Undone},
    vm_start::{at_host, or_absent},
};
use crate::objects::Change;

pub struct VmPower;

/// The phase a VM had, or `unknown` if its host is lost now.
pub(super) fn back_to_former(context: &StepContext, vm: &mut Vm) -> Result<(), Problem> {
    let former = context.former()?;
    let host = vm.status.host.as_ref().and_then(|host| context.app.model.get::<Host>(host.as_str()));
    vm.spec.power = former.power;
    match host {
        Some(host) if host.status.state == HostState::Lost && former.phase.may_execute() => {
            vm.status.phase = VmPhase::Unknown;
            vm.status.reason = Some(format!("host '{}' is lost", host.name()));
        }
        _ => {
            vm.status.phase = former.phase;
            vm.status.reason = former.reason;
        }
    }
    Ok(())
}

#[async_trait]
impl Procedure for VmPower {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(Command)]
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let mut vm = context.vm().await?;
        vm.status.operation = None;
        if let Ending::Succeeded = ending {
            let (phase, reason, did) = match context.operation.spec.action {
                Action::VmPause => (VmPhase::Paused, "VmPaused", "paused"),
                Action::VmResume => (VmPhase::Running, "VmResumed", "resumed"),
                _ => (VmPhase::Running, "VmRebooted", "rebooted"),
            };
            vm.status.phase = phase;
            if phase == VmPhase::Paused || reason == "VmRebooted" {
                vm.status.forget_guest();
            }
            let message = format!("VM '{}' was {did} by {}", vm.name(), context.operation.spec.requested_by);
            change.event(&context.event(Severity::Normal, reason, message, vm.status.host.as_ref()))?;
        } else {
            back_to_former(context, &mut vm)?;
        }
        change.update(&vm)?;
        Ok(())
    }
}

/// The number of the next command that starts, stops, holds or brings back the VM. It is in the store before the command is
/// sent, so that whatever is decided later has a higher one, also after a controller died in between.
pub(super) async fn next_command(context: &StepContext) -> Result<u64, Problem> {
    // A store that was brought back from a copy has forgotten numbers that hosts have not; all of those are in the past.
    let now = u64::try_from(context.app.clock.now().unix_ms()).unwrap_or_default();
    let vm = context.update_vm(|vm| vm.status.last_command = now.max(vm.status.last_command + 1)).await?;
    Ok(vm.status.last_command)
}

/// Tells the VM's host.
pub(super) async fn command(context: &StepContext, action: PowerAction) -> Result<(), Problem> {
    let (vm, _, agent) = at_host(context).await?;
    let command = next_command(context).await?;
    let request = PowerRequest { epoch: vm.status.epoch, command, action };
    agent.power(vm.metadata.uuid, &request).await.map(drop)
}

struct Command;

#[async_trait]
impl Step for Command {
    fn name(&self) -> &'static str {
        "command"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let action = match context.operation.spec.action {
            Action::VmPause => PowerAction::Pause,
            Action::VmResume => PowerAction::Resume,
            Action::VmReboot { force: true } => PowerAction::Reset,
            _ => PowerAction::Reboot,
        };
        command(context, action).await.map_err(|problem| {
            if problem.code() == "no-guest-agent" {
                return problem.remedy(format!("reset it instead: gantry vm reboot {} --force", context.target()));
            }
            problem
        })
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        match context.operation.spec.action {
            Action::VmPause => or_absent(command(context, PowerAction::Resume).await)?,
            Action::VmResume => or_absent(command(context, PowerAction::Pause).await)?,
            // A reboot can't be taken back, and the guest runs either way.
            _ => {}
        }
        Ok(Undone::Yes)
    }
}
