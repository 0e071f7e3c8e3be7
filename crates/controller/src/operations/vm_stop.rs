//! `vm_stop`: ask the guest to shut down, and cut it off when its time is over.
//!
//! Given up, the VM is as before; if the guest shut down all the same, its host's next report says so.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use gantry_api::agent::{PowerAction, VmRunState};
use gantry_types::{Action, Problem, Resource, Severity, Timestamp, VmPhase};

use super::{
    step::{CANCELLED, Ending, Procedure, Step, StepContext},
    vm_power::{back_to_former, command},
    vm_start::{at_host, observe, or_absent},
};
use crate::objects::Change;

const POLL: Duration = Duration::from_millis(200);
/// A guest that is still booting misses the power button, so it is pressed again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

pub struct VmStop;

#[async_trait]
impl Procedure for VmStop {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(ShutDown), Box::new(CutOff)]
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let mut vm = context.vm().await?;
        vm.status.operation = None;
        if let Ending::Succeeded = ending {
            vm.status.phase = VmPhase::Stopped;
            vm.status.reason = None;
            vm.status.forget_guest();
            vm.status.guest = None;
            vm.status.started_at = None;
            let message = format!("VM '{}' was stopped by {}", vm.name(), context.operation.spec.requested_by);
            change.event(&context.event(Severity::Normal, "VmStopped", message, vm.status.host.as_ref()))?;
        } else {
            back_to_former(context, &mut vm)?;
        }
        change.update(&vm)?;
        Ok(())
    }
}

struct ShutDown;

#[async_trait]
impl Step for ShutDown {
    fn name(&self) -> &'static str {
        "shut-down"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let Action::VmStop { grace_s, force } = context.operation.spec.action else { return Ok(()) };
        if force || grace_s == 0 {
            return Ok(());
        }
        let (vm, _, agent) = at_host(context).await?;
        let clock = Arc::clone(&context.app.clock);
        // The grace time goes on while no controller runs.
        let began = match context.memo::<Timestamp>("asked_at")? {
            Some(began) => began,
            None => {
                let now = clock.now();
                context.note("asked_at", &now)?;
                context.save().await?;
                now
            }
        };
        let mut asked: Option<Duration> = None;
        loop {
            match observe(&*agent, vm.metadata.uuid).await?.map(|observation| observation.state) {
                None | Some(VmRunState::Stopped | VmRunState::Failed) => return Ok(()),
                // A paused guest can't shut down.
                Some(VmRunState::Paused) => command(context, PowerAction::Resume).await?,
                Some(_) => {}
            }
            if clock.now().since(began) >= Duration::from_secs(u64::from(grace_s)) {
                return Ok(());
            }
            if context.cancel_requested() {
                return Err(Problem::conflict(CANCELLED, "waiting for the guest to shut down was cancelled"));
            }
            let now = clock.elapsed();
            if asked.is_none_or(|at| now.saturating_sub(at) >= ASK_AGAIN) {
                command(context, PowerAction::ShutDown).await?;
                asked = Some(now);
            }
            context.sleep(POLL).await;
        }
    }
}

struct CutOff;

#[async_trait]
impl Step for CutOff {
    fn name(&self) -> &'static str {
        "power-off"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        or_absent(command(context, PowerAction::Kill).await)
    }
}
