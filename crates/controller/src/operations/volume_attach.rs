//! `volume_attach`, `volume_detach` and `volume_update`: the VM's host gives the VM the volume, takes it away, or makes it
//! what its spec says.
//!
//! An attachment or a change that fails is undone. A guest that was asked to let a volume go may do so at any time later,
//! so a detachment that fails leaves the volume `detaching`, and detaching it again goes on.

use async_trait::async_trait;
use gantry_api::{mirror::TakeCopy, storage::AttachVolume};
use gantry_types::{Name, Pool, Problem, Resource, Severity, Vm, Volume, VolumePhase, VolumeSpec};

use super::{
    FORMER_SPEC,
    step::{Ending, Procedure, Step, StepContext, Undone},
    vm_start::or_absent,
    volume_make::{at_volume, make_at, volume},
};
use crate::{
    app::{copies, volume::assignment},
    objects::Change,
};

pub struct VolumeAttach;
pub struct VolumeDetach;
pub struct VolumeUpdate;

/// The VM that has, or gets, the volume.
pub(super) async fn user(context: &StepContext, volume: &Volume) -> Result<Option<Vm>, Problem> {
    match &volume.status.vm {
        Some(vm) => context.app.objects.get(vm.as_str()).await.map(Some),
        None => Ok(None),
    }
}

/// Takes this operation's mark off the volume and off its VM.
pub(super) async fn release(context: &StepContext, change: &mut Change) -> Result<(Volume, Option<Name>), Problem> {
    let (volume, vm) = unmarked(context).await?;
    if let Some(vm) = &vm {
        change.update(vm)?;
    }
    Ok((volume, vm.and_then(|vm| vm.status.host)))
}

async fn unmarked(context: &StepContext) -> Result<(Volume, Option<Vm>), Problem> {
    let mut volume = volume(context).await?;
    volume.status.operation = None;
    let mut vm = user(context, &volume).await?;
    if let Some(vm) = &mut vm
        && vm.status.operation.as_ref() == Some(&context.operation.metadata.name)
    {
        vm.status.operation = None;
    }
    Ok((volume, vm))
}

/// As [`release`], and the volume is nobody's; its copies are what its VM's were.
async fn release_loose(context: &StepContext, change: &mut Change) -> Result<(Volume, Option<Vm>), Problem> {
    let (mut volume, mut vm) = unmarked(context).await?;
    if let Some(vm) = &mut vm {
        context.app.model.read(|tables| copies::leave_vm(tables, &mut volume, vm));
        change.update(vm)?;
    }
    loosen(&mut volume);
    Ok((volume, vm))
}

/// It is nobody's.
pub(super) fn loosen(volume: &mut Volume) {
    volume.status.phase = VolumePhase::Ready;
    (volume.status.vm, volume.status.slot) = (None, None);
}

/// The VM has the volume as it is described.
pub(super) async fn apply(context: &StepContext, volume: &Volume, vm: &Vm) -> Result<(), Problem> {
    let host = vm.status.host.as_ref().ok_or_else(|| {
        Problem::conflict("vm-without-host", format!("VM '{}' is on no host", vm.name())).object(vm.reference())
    })?;
    let request = AttachVolume { epoch: vm.status.epoch, volume: assignment(&context.app, volume)? };
    context.agent(host).await?.attach_volume(vm.metadata.uuid, &request).await
}

async fn take_away(context: &StepContext) -> Result<(), Problem> {
    let volume = volume(context).await?;
    let Some(vm) = user(context, &volume).await? else { return Ok(()) };
    let Some(host) = &vm.status.host else { return Ok(()) };
    let agent = context.agent(host).await?;
    or_absent(agent.detach_volume(vm.metadata.uuid, vm.status.epoch, volume.metadata.uuid).await)
}

#[async_trait]
impl Procedure for VolumeAttach {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(TakeOver), Box::new(Admit), Box::new(Attach)]
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let Ending::Succeeded = ending else {
            let (volume, _) = release_loose(context, change).await?;
            change.update(&volume)?;
            return Ok(());
        };
        let (mut volume, host) = release(context, change).await?;
        volume.status.phase = VolumePhase::Attached;
        // From here on they are its VM's.
        volume.status.copies = None;
        let vm = volume.status.vm.as_ref().map(ToString::to_string).unwrap_or_default();
        let by = &context.operation.spec.requested_by;
        let message = format!("volume '{}' was attached to VM '{vm}' by {by}", volume.name());
        change.event(&context.event(Severity::Normal, "VolumeAttached", message, host.as_ref()))?;
        change.update(&volume)?;
        Ok(())
    }
}

/// A volume in a mirrored pool, if it is one: its host's, and that of its VM.
async fn mirrored(context: &StepContext) -> Result<Option<(Volume, Vm, Name)>, Problem> {
    let volume = volume(context).await?;
    let pool: Pool = context.app.objects.get(volume.spec.pool.as_str()).await?;
    let vm = user(context, &volume).await?.filter(|_| pool.is_mirrored());
    Ok(vm.and_then(|vm| {
        let host = vm.status.host.clone()?;
        Some((volume, vm, host))
    }))
}

/// The VM's host has a mirrored volume as its own: it makes one that was never made, and takes over the copy that it has. Nobody
/// writes to either meanwhile.
struct TakeOver;

#[async_trait]
impl Step for TakeOver {
    fn name(&self) -> &'static str {
        "copy"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let Some((volume, _, host)) = mirrored(context).await? else { return Ok(()) };
        let volume = make_at(context, volume, &host).await?;
        let Some(copies) = volume.status.copies.as_ref().filter(|copies| copies.owner() != Some(&host)) else {
            return Ok(());
        };
        let request = TakeCopy {
            pool: assignment(&context.app, &volume)?.pool,
            disk: volume.metadata.uuid,
            from: copies.generation,
            generation: copies.generation + 1,
        };
        context.agent(&host).await?.take_copy(&request).await
    }
}

/// Who is current of the VM's disks is its host alone, of this one as of the others, until they are copied together.
struct Admit;

#[async_trait]
impl Step for Admit {
    fn name(&self) -> &'static str {
        "alone"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let Some((volume, vm, host)) = mirrored(context).await? else { return Ok(()) };
        let agent = context.agent(&host).await?;
        copies::admit(&context.app, &volume, &vm, &host, &*agent).await
    }
}

struct Attach;

#[async_trait]
impl Step for Attach {
    fn name(&self) -> &'static str {
        "attach"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let volume = volume(context).await?;
        match user(context, &volume).await? {
            Some(vm) => apply(context, &volume, &vm).await,
            None => Err(Problem::permanent("unreadable-object", format!("volume '{}' has no VM", volume.name()))),
        }
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        take_away(context).await?;
        Ok(Undone::Yes)
    }
}

#[async_trait]
impl Procedure for VolumeDetach {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(Detach)]
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let failed = match ending {
            Ending::Succeeded => {
                let (volume, vm) = release_loose(context, change).await?;
                let host = vm.as_ref().and_then(|vm| vm.status.host.as_ref());
                let (vm, by) = (vm.as_ref().map(Vm::name).unwrap_or_default(), &context.operation.spec.requested_by);
                let message = format!("volume '{}' was detached from VM '{vm}' by {by}", volume.name());
                change.event(&context.event(Severity::Normal, "VolumeDetached", message, host))?.update(&volume)?;
                return Ok(());
            }
            Ending::Failed(problem) | Ending::Incomplete(problem) => format!("detaching it failed: {problem}"),
            Ending::Cancelled => "detaching it was cancelled".to_owned(),
        };
        let (mut volume, _) = release(context, change).await?;
        volume.status.reason = Some(format!("{failed}; to go on: gantry volume detach {}", volume.name()));
        change.update(&volume)?;
        Ok(())
    }
}

struct Detach;

#[async_trait]
impl Step for Detach {
    fn name(&self) -> &'static str {
        "detach"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        take_away(context).await
    }
}

#[async_trait]
impl Procedure for VolumeUpdate {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(Update)]
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let (mut volume, host) = release(context, change).await?;
        if let Ending::Succeeded = ending {
            let (size, by) = (volume.spec.size, &context.operation.spec.requested_by);
            let message = format!("volume '{}' was changed by {by}: {size}", volume.name());
            change.event(&context.event(Severity::Normal, "VolumeChanged", message, host.as_ref()))?;
        } else {
            volume.spec = context.need(FORMER_SPEC)?;
        }
        change.update(&volume)?;
        Ok(())
    }
}

struct Update;

/// Makes it what this spec says; what has grown stays so.
async fn change_to(context: &StepContext, spec: Option<VolumeSpec>) -> Result<(), Problem> {
    let mut volume = volume(context).await?;
    volume.spec = spec.unwrap_or(volume.spec);
    if let Some(vm) = user(context, &volume).await? {
        return apply(context, &volume, &vm).await;
    }
    if volume.status.copies.is_none() && assignment(&context.app, &volume)?.pool.is_mirrored() {
        // It is made as large as it is to be then.
        return Ok(());
    }
    let (_, agent) = at_volume(context, &volume).await?;
    agent.grow_volume(&assignment(&context.app, &volume)?).await
}

/// Copies are as long as their disk: those of a volume that grows are not current any more.
async fn leave_copies(context: &StepContext) -> Result<(), Problem> {
    let mut volume = volume(context).await?;
    let Some(copies) = volume.status.copies.take() else { return Ok(()) };
    let Some(owner) = copies.owner().filter(|_| copies.current.len() > 1) else { return Ok(()) };
    volume.status.copies = Some(copies.alone(owner.clone()));
    let mut change = Change::new();
    change.update(&volume)?;
    context.app.commit(change).await.map(drop)
}

#[async_trait]
impl Step for Update {
    fn name(&self) -> &'static str {
        "change"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        leave_copies(context).await?;
        change_to(context, None).await
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        change_to(context, Some(context.need(FORMER_SPEC)?)).await?;
        Ok(Undone::Yes)
    }
}
