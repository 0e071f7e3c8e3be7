//! `vm_start`: place, addresses, image, define, network, start, running.
//!
//! A VM that has a host and a disk starts where they are. If the disk is in a pool that other hosts reach and its host can't
//! start it, one of those adopts it, with the next epoch: from then on the lease beside the disk keeps the former host from
//! starting it, whatever that believes. In a mirrored pool that is the host with a current copy, which becomes the disk; whoever
//! starts is current alone first. The VM stays where it was adopted, whether it starts there or not. If no host that is awake can take it and one that sleeps could,
//! that one is woken first. Undone, a VM that never had a host has none again and no
//! disk is left; its addresses stay its own until it is deleted.

use async_trait::async_trait;
use gantry_api::agent::{AdoptVm, ImageRef, PowerAction, VmObservation, VmRunState};
use gantry_placement::Request;
use gantry_types::{Action, ByteSize, ErrorClass, Name, PowerState, Problem, Resource, Severity, Vm, VmPhase};
use std::time::Duration;

use super::{
    addresses::Addresses,
    assignment::{assignment, image_of},
    placing::{NO_HOST_FITS, choose},
    step::{Ending, Procedure, Step, StepContext, Undone},
    vm_power::command,
    waking::wake_one,
};
use crate::{
    app::{
        App, copies,
        pool::{Elsewhere, elsewhere},
    },
    objects::Change,
};

const POLL: Duration = Duration::from_millis(100);

pub struct VmStart;

#[async_trait]
impl Procedure for VmStart {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![
            Box::new(Place),
            Box::new(Addresses),
            Box::new(FetchImage),
            Box::new(TakeCopy),
            Box::new(Define),
            Box::new(JoinNetwork),
            Box::new(Start),
            Box::new(Running),
        ]
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let mut vm = context.vm().await?;
        let former = context.former()?;
        vm.status.operation = None;
        match ending {
            Ending::Succeeded => {
                vm.status.phase = if vm.spec.power == PowerState::Paused { VmPhase::Paused } else { VmPhase::Running };
                vm.status.reason = None;
                vm.status.accelerator = context.memo("accelerator")?.flatten();
                vm.status.started_at = Some(context.app.clock.now());
                let host = vm.status.host.clone();
                let at = host.as_ref().map(|host| format!(" on host '{host}'")).unwrap_or_default();
                let (reason, message) = match vm.status.displaced.take() {
                    None => ("VmStarted", format!("VM '{}' started{at}", vm.name())),
                    Some(before) => {
                        let from = before.from;
                        let why = match before.failed {
                            true => format!("it had failed on host '{from}'"),
                            false => format!("host '{from}' had been shut out"),
                        };
                        ("VmRunsAgain", format!("VM '{}' runs again{at}; {why}", vm.name()))
                    }
                };
                change.event(&context.event(Severity::Normal, reason, message, host.as_ref()))?;
            }
            Ending::Cancelled => {
                vm.status.phase = former.phase;
                vm.status.reason = former.reason;
                vm.spec.power = former.power;
            }
            Ending::Failed(problem) | Ending::Incomplete(problem) => {
                vm.status.phase = VmPhase::Failed;
                vm.status.reason = Some(problem.detail.clone());
            }
        }
        change.update(&vm)?;
        Ok(())
    }
}

/// The VM's host and what to say to it.
pub(super) async fn at_host(
    context: &StepContext,
) -> Result<(Vm, gantry_types::Name, std::sync::Arc<dyn gantry_api::AgentApi>), Problem> {
    let vm = context.vm().await?;
    let host = vm.status.host.clone().ok_or_else(|| {
        Problem::conflict("vm-without-host", format!("VM '{}' is on no host", vm.name())).object(vm.reference())
    })?;
    let agent = context.agent(&host).await?;
    Ok((vm, host, agent))
}

/// Success as well if there was nothing.
pub(super) fn or_absent<T: Default>(result: Result<T, Problem>) -> Result<T, Problem> {
    match result {
        Err(problem) if problem.class == ErrorClass::NotFound => Ok(T::default()),
        other => other,
    }
}

/// What a host has of one VM.
pub(crate) async fn observe(
    agent: &dyn gantry_api::AgentApi,
    vm: uuid::Uuid,
) -> Result<Option<VmObservation>, Problem> {
    Ok(agent.observe().await?.into_iter().find(|observation| observation.uuid == vm))
}

/// What placement is asked: for another host than the one that the VM leaves, otherwise for its own if it has one.
fn request(app: &App, vm: &Vm, image: Option<&ImageRef>, leaves: Option<&Name>) -> Request {
    let mut request = Request::new(vm);
    request.disk_space = ByteSize(image.map_or(0, |image| image.file_size));
    match (&vm.status.host, leaves) {
        (Some(_), Some(former)) => {
            request.except = Some(former.clone());
            if let Elsewhere::Copy(host) = app.model.read(|tables| elsewhere(tables, vm)) {
                request.only = Some(host);
            }
        }
        (Some(host), None) => {
            request.only = Some(host.clone());
            request.despite_cordon = true;
        }
        (None, _) => {}
    }
    request
}

/// Whether another host than its own could take the VM now.
///
/// # Errors
/// As placement says.
pub(crate) fn place_elsewhere(app: &App, vm: &Vm) -> Result<(), Problem> {
    let image = image_of(app, vm)?;
    choose(app, vm, &request(app, vm, image.as_ref(), vm.status.host.as_ref())).map(drop)
}

pub(super) struct Place;

#[async_trait]
impl Step for Place {
    fn name(&self) -> &'static str {
        "place"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let app = std::sync::Arc::clone(&context.app);
        let vm = context.vm().await?;
        let image = image_of(&app, &vm)?;
        let leaves = unfit_host(context, &vm).await?;
        let mut request = request(&app, &vm, image.as_ref(), leaves.as_ref());
        if let (None, Action::BackupRestore { host: Some(host), .. }) =
            (&vm.status.host, &context.operation.spec.action)
        {
            request.only = Some(host.clone());
        }
        // Not held while a host wakes: others are placed meanwhile.
        let (_placing, host) = loop {
            let placing = app.placement.lock().await;
            match choose(&app, &vm, &request) {
                Ok(placement) => break (placing, placement.host),
                Err(refusal) if refusal.code() == NO_HOST_FITS => {
                    drop(placing);
                    wake_one(context, &vm, &request, refusal).await?;
                }
                Err(problem) => return Err(problem),
            }
        };
        let disk = vm.spec.disk.or(image.as_ref().map(|image| ByteSize(image.virtual_size)));
        let placed = context
            .update_vm(|vm| {
                // Its former host was let go on alone since this one was chosen.
                let is_stale = vm.status.copies.as_ref().is_some_and(|copies| !copies.is_current(&host));
                if leaves.is_some() && vm.status.host == leaves && is_stale {
                    return;
                }
                // Defined anew, it is guarded or not: its host says so.
                vm.status.guarded_epoch = None;
                // Repeated, it is there already.
                if vm.status.host.is_none() || leaves.is_some() && vm.status.host == leaves {
                    vm.status.host = Some(host.clone());
                    vm.status.epoch += 1;
                    vm.status.copies = vm.status.copies.as_ref().map(|copies| copies.alone(host.clone()));
                }
                if vm.status.disk.is_none() {
                    vm.status.disk = disk;
                    vm.status.image_digest = image.as_ref().map(|image| image.digest.clone());
                }
            })
            .await?;
        if placed.status.host.as_ref() == Some(&host) {
            return Ok(());
        }
        let detail = format!("host '{host}' has not got what VM '{}' wrote last", vm.name());
        Err(Problem::transient("copy-stale", detail)
            .object(vm.reference())
            .remedy("its copy became stale while the VM was placed; the start is tried again"))
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        if context.former()?.host.is_none() {
            context
                .update_vm(|vm| {
                    vm.status.host = None;
                    vm.status.disk = None;
                    vm.status.copies = None;
                    vm.status.image_digest = None;
                })
                .await?;
        }
        Ok(Undone::Yes)
    }
}

/// The host of a VM that had better start elsewhere, where its disk can be reached as well.
async fn unfit_host(context: &StepContext, vm: &Vm) -> Result<Option<Name>, Problem> {
    let Some(name) = &vm.status.host else { return Ok(None) };
    if vm.spec.host.as_ref() == Some(name)
        || context.app.model.read(|tables| elsewhere(tables, vm)) == Elsewhere::Nowhere
    {
        return Ok(None);
    }
    let host = context.host(name).await?;
    let has_failed_there = vm.status.displaced.as_ref().is_some_and(|before| before.failed && before.from == *name);
    let leaves = !host.is_in_service() || has_failed_there && place_elsewhere(&context.app, vm).is_ok();
    Ok(leaves.then(|| name.clone()))
}

pub(super) struct FetchImage;

#[async_trait]
impl Step for FetchImage {
    fn name(&self) -> &'static str {
        "image"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let (vm, _, agent) = at_host(context).await?;
        match image_of(&context.app, &vm)? {
            Some(image) if vm.spec.pool.is_none() || context.former()?.host.is_none() => {
                agent.ensure_image(&image).await
            }
            // Under a disk in a pool it has been since that was made.
            _ => Ok(()),
        }
    }
}

/// The copy on the VM's new host becomes the disk.
struct TakeCopy;

#[async_trait]
impl Step for TakeCopy {
    fn name(&self) -> &'static str {
        "copy"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let (vm, _, agent) = at_host(context).await?;
        // A host that has the VM has its disk.
        if vm.status.copies.is_none() || observe(&*agent, vm.metadata.uuid).await?.is_some() {
            return Ok(());
        }
        copies::take(&context.app, &vm, &*agent).await
    }
}

pub(super) struct Define;

#[async_trait]
impl Step for Define {
    fn name(&self) -> &'static str {
        "define"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let (vm, host, agent) = at_host(context).await?;
        let assignment = assignment(&context.app, &vm, vm.status.epoch)?;
        let observation = if vm.spec.pool.is_some() && context.former()?.host.is_some() {
            let recovery_points = vm.status.recovery_points.clone();
            agent.adopt_vm(vm.metadata.uuid, &AdoptVm { assignment, recovery_points }).await?
        } else {
            agent.define_vm(&assignment).await?
        };
        context.app.model.overlay_mut(|overlay| overlay.observed(host.as_str(), &observation));
        Ok(())
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        if context.former()?.host.is_none() {
            let (vm, host, agent) = at_host(context).await?;
            or_absent(agent.remove_vm(vm.metadata.uuid, vm.status.epoch).await)?;
            context.app.model.overlay_mut(|overlay| overlay.left(host.as_str(), vm.metadata.uuid));
        }
        Ok(Undone::Yes)
    }
}

pub(super) struct JoinNetwork;

#[async_trait]
impl Step for JoinNetwork {
    fn name(&self) -> &'static str {
        "network"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let vm = context.vm().await?;
        match &vm.status.host {
            Some(host) if !vm.status.nics.is_empty() => context.app.distribute_now(host).await,
            _ => Ok(()),
        }
    }
}

pub(super) struct Start;

#[async_trait]
impl Step for Start {
    fn name(&self) -> &'static str {
        "start"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let (vm, host, agent) = at_host(context).await?;
        copies::begin_alone(&context.app, &vm, &host, &*agent).await?;
        command(context, PowerAction::Start).await?;
        // Others learn where the VM is by the loop; nobody could have talked to it before.
        context.app.wakeups.networks.notify_one();
        Ok(())
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        or_absent(command(context, PowerAction::Kill).await)?;
        Ok(Undone::Yes)
    }
}

pub(super) struct Running;

#[async_trait]
impl Step for Running {
    fn name(&self) -> &'static str {
        "running"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let (vm, host, agent) = at_host(context).await?;
        let not_started = |why: &str| {
            Problem::permanent("vm-not-started", format!("VM '{}' did not start on host '{host}': {why}", vm.name()))
                .object(vm.reference())
        };
        let clock = std::sync::Arc::clone(&context.app.clock);
        let until = clock.elapsed() + context.app.config.step_patience;
        let observation = loop {
            let observation =
                observe(&*agent, vm.metadata.uuid).await?.ok_or_else(|| not_started("the host does not have it"))?;
            match observation.state {
                VmRunState::Running | VmRunState::Paused => break observation,
                VmRunState::Starting if context.cancel_requested() || clock.elapsed() >= until => {
                    return Err(not_started("it takes too long"));
                }
                VmRunState::Starting => context.sleep(POLL).await,
                VmRunState::Stopped
                | VmRunState::Failed
                | VmRunState::Receiving
                | VmRunState::Arrived
                | VmRunState::HandedOver => {
                    return Err(not_started(observation.reason.as_deref().unwrap_or("it stopped at once")));
                }
            }
        };
        if vm.spec.power == PowerState::Paused && observation.state == VmRunState::Running {
            command(context, PowerAction::Pause).await?;
        }
        context.note("accelerator", &observation.accelerator)
    }
}
