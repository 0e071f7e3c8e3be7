//! `volume_create` and `volume_delete`: a host that reaches the pool makes the volume, or deletes it.
//!
//! A volume that can't be made leaves nothing. Nobody can say what a host has done that did not answer, so a deletion that
//! fails leaves the volume `deleting`, and deleting it again goes on.

use async_trait::async_trait;
use gantry_api::{
    AgentApi,
    backup::RestoreVolume,
    mirror::DropCopy,
    storage::{CopyVolume, FillVolume},
};
use gantry_types::{
    BackedUpVolume, Backup, DiskCopies, Host, HostState, Name, Pool, Problem, Resource, Severity, Volume, VolumePhase,
};
use std::sync::Arc;

use super::{
    assignment::ready_image,
    backup_place::{follow, place_of},
    step::{Ending, Procedure, Step, StepContext, Undone},
};
use crate::{
    app::{
        pool::{self, Reach},
        volume::assignment,
    },
    objects::Change,
};

pub struct VolumeCreate;
pub struct VolumeDelete;

/// The volume that an operation is about.
pub(super) async fn volume(context: &StepContext) -> Result<Volume, Problem> {
    let target = &context.operation.spec.target;
    match context.app.objects.find::<Volume>(target.name.as_str()).await? {
        Some(volume) if volume.metadata.uuid == target.uuid => Ok(volume),
        _ => Err(Problem::not_found(Volume::KIND, target.name.as_str())),
    }
}

/// Where it lies, if it is in a mirrored pool and was made there.
fn owner(volume: &Volume) -> Option<&Name> {
    volume.status.copies.as_ref()?.owner()
}

/// A host that has the volume and answers, if there is one.
pub(super) async fn at_volume(context: &StepContext, volume: &Volume) -> Result<(Name, Arc<dyn AgentApi>), Problem> {
    match owner(volume) {
        Some(owner) => Ok((owner.clone(), context.agent(owner).await?)),
        None => at_pool(context, &volume.spec.pool).await,
    }
}

/// Makes it on this host, if it is in a mirrored pool and was never made there. It is made once: whoever found nothing in its place
/// later would make an empty one.
pub(super) async fn make_at(context: &StepContext, mut volume: Volume, host: &Name) -> Result<Volume, Problem> {
    let (assignment, agent) = (assignment(&context.app, &volume)?, context.agent(host).await?);
    if !assignment.pool.is_mirrored() || volume.status.copies.is_some() {
        return Ok(volume);
    }
    // Of another size, from an attempt that nobody knows of.
    agent.delete_volume(&assignment.pool, assignment.uuid).await?;
    agent.create_volume(&assignment).await?;
    volume.status.copies = Some(DiskCopies::first(host.clone()));
    let mut change = Change::new();
    change.update(&volume)?;
    volume.metadata.revision = context.app.commit(change).await?;
    Ok(volume)
}

/// A host that reaches the pool and answers, if there is one.
pub(super) async fn at_pool(context: &StepContext, pool: &Name) -> Result<(Name, Arc<dyn AgentApi>), Problem> {
    let pool: Pool = context.app.objects.get(pool.as_str()).await?;
    let answers = |host: &&Name| {
        let host = context.app.model.get::<Host>(host.as_str());
        host.is_some_and(|host| host.status.state == HostState::Ready)
    };
    let host = pool.spec.hosts.iter().find(answers).or(pool.spec.hosts.first()).ok_or_else(|| {
        Problem::permanent("unreadable-object", format!("pool '{}' has no hosts", pool.name())).object(pool.reference())
    })?;
    Ok((host.clone(), context.agent(host).await?))
}

#[async_trait]
impl Procedure for VolumeCreate {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(Make), Box::new(Fill)]
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let mut volume = volume(context).await?;
        volume.status.operation = None;
        if let Some(mut source) = source(context, &volume).await?
            && source.status.operation.as_ref() == Some(&context.operation.metadata.name)
        {
            source.status.operation = None;
            change.update(&source)?;
        }
        let Ending::Succeeded = ending else {
            change.delete(&volume);
            return Ok(());
        };
        volume.status.phase = VolumePhase::Ready;
        let (spec, by) = (&volume.spec, &context.operation.spec.requested_by);
        let of = match (&spec.clone_of, &spec.image, &spec.backup) {
            (Some(source), ..) => format!(", a clone of '{source}',"),
            (_, Some(image), _) => format!(" from image '{image}'"),
            (.., Some(BackedUpVolume { name, disk })) => format!(" from '{disk}' in backup '{name}'"),
            (None, None, None) => String::new(),
        };
        let message =
            format!("volume '{}'{of} of {} was made in pool '{}' by {by}", volume.name(), spec.size, spec.pool);
        change.update(&volume)?.event(&context.event(Severity::Normal, "VolumeCreated", message, None))?;
        Ok(())
    }
}

#[async_trait]
impl Procedure for VolumeDelete {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(Delete)]
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let mut volume = volume(context).await?;
        volume.status.operation = None;
        let again = format!("to go on: gantry volume delete {}", volume.name());
        volume.status.reason = Some(match ending {
            Ending::Succeeded => {
                let by = &context.operation.spec.requested_by;
                let message = format!("volume '{}' was deleted by {by}", volume.name());
                change.delete(&volume).event(&context.event(Severity::Normal, "VolumeDeleted", message, None))?;
                return Ok(());
            }
            Ending::Failed(problem) | Ending::Incomplete(problem) => format!("deleting it failed: {problem}; {again}"),
            Ending::Cancelled => format!("deleting it was cancelled; {again}"),
        });
        change.update(&volume)?;
        Ok(())
    }
}

struct Make;

#[async_trait]
impl Step for Make {
    fn name(&self) -> &'static str {
        "make"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let volume = volume(context).await?;
        let pool: Pool = context.app.objects.get(volume.spec.pool.as_str()).await?;
        if !pool.is_mirrored() {
            let (_, agent) = at_pool(context, &volume.spec.pool).await?;
            return agent.create_volume(&assignment(&context.app, &volume)?).await;
        }
        let spec = &volume.spec;
        if spec.clone_of.is_none() && spec.image.is_none() && spec.backup.is_none() {
            // Made empty where it is first attached.
            return Ok(());
        }
        let host = match source(context, &volume).await? {
            Some(source) => {
                let from: Pool = context.app.objects.get(source.spec.pool.as_str()).await?;
                pool::common_host(&context.app, Reach::of_volume(&from, &source), Reach::of_volume(&pool, &volume))?
            }
            None => match &spec.backup {
                Some(from) => {
                    let backup: Backup = context.app.objects.get(from.name.as_str()).await?;
                    reaching_both(context, &volume, &backup).await?
                }
                None => at_volume(context, &volume).await?.0,
            },
        };
        make_at(context, volume, &host).await.map(drop)
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        delete(context).await?;
        Ok(Undone::Yes)
    }
}

/// The volume that it begins as.
async fn source(context: &StepContext, volume: &Volume) -> Result<Option<Volume>, Problem> {
    match &volume.spec.clone_of {
        Some(source) => context.app.objects.find::<Volume>(source.as_str()).await,
        None => Ok(None),
    }
}

async fn fill_with_image(context: &StepContext, volume: &Volume, name: &Name) -> Result<(), Problem> {
    let (_, agent) = at_volume(context, volume).await?;
    let image = ready_image(&context.app, name)?;
    agent.ensure_image(&image).await?;
    agent.fill_volume(&FillVolume { volume: assignment(&context.app, volume)?, image }).await
}

async fn fill_from_backup(context: &mut StepContext, volume: &Volume, from: &BackedUpVolume) -> Result<(), Problem> {
    let backup: Backup = context.app.objects.get(from.name.as_str()).await?;
    let host = reaching_both(context, volume, &backup).await?;
    let agent = context.agent(&host).await?;
    let request = RestoreVolume {
        volume: assignment(&context.app, volume)?,
        place: place_of(&context.app, &backup).await?,
        disk: from.disk.clone(),
    };
    let message = format!("filling the volume on host '{host}'");
    while follow(context, &message, agent.restore_volume(&request).await?).await?.is_none() {}
    Ok(())
}

/// The host that made the backup, which surely reaches its repository, if it reaches the pool, too; else one that reaches the
/// pool, and says if it does not find the repository.
async fn reaching_both(context: &StepContext, volume: &Volume, backup: &Backup) -> Result<Name, Problem> {
    if let Some(owner) = owner(volume) {
        return Ok(owner.clone());
    }
    let pool: Pool = context.app.objects.get(volume.spec.pool.as_str()).await?;
    let maker = backup.status.host.as_ref().filter(|maker| pool.spec.hosts.contains(maker));
    let answers = |name: &&Name| {
        context.app.model.get::<Host>(name.as_str()).is_some_and(|host| host.status.state == HostState::Ready)
    };
    match maker.filter(answers) {
        Some(maker) => Ok(maker.clone()),
        None => Ok(at_pool(context, &volume.spec.pool).await?.0),
    }
}

/// A clone's content, an image's, or that of a disk in a backup. Done again, it is the same: what it is taken from does not change.
struct Fill;

#[async_trait]
impl Step for Fill {
    fn name(&self) -> &'static str {
        "fill"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let volume = volume(context).await?;
        if let Some(image) = &volume.spec.image {
            return fill_with_image(context, &volume, image).await;
        }
        if let Some(backup) = &volume.spec.backup {
            return fill_from_backup(context, &volume, backup).await;
        }
        let Some(source) = source(context, &volume).await? else { return Ok(()) };
        let find = async |pool: &Name| context.app.objects.get::<Pool>(pool.as_str()).await;
        let (from, to) = (find(&source.spec.pool).await?, find(&volume.spec.pool).await?);
        let (from, there) = (Reach::of_volume(&from, &source), Reach::of_volume(&to, &volume));
        let host = pool::common_host(&context.app, from, there)?;
        let source = make_at(context, source, &host).await?;
        let request = CopyVolume {
            from: assignment(&context.app, &source)?,
            to: pool::assignment(&to),
            clone: Some(volume.metadata.uuid),
        };
        context.agent(&host).await?.copy_volume(&request).await
    }
}

async fn delete(context: &StepContext) -> Result<(), Problem> {
    let volume = volume(context).await?;
    let (pool, disk) = (assignment(&context.app, &volume)?.pool, volume.metadata.uuid);
    if !pool.is_mirrored() {
        let (_, agent) = at_pool(context, &volume.spec.pool).await?;
        return agent.delete_volume(&pool, disk).await;
    }
    let Some(copies) = &volume.status.copies else { return Ok(()) };
    for host in &copies.current {
        let agent = context.agent(host).await?;
        match copies.owner() == Some(host) {
            true => agent.delete_volume(&pool, disk).await?,
            false => agent.drop_copy(&DropCopy { pool: pool.clone(), disk }).await?,
        }
    }
    Ok(())
}

struct Delete;

#[async_trait]
impl Step for Delete {
    fn name(&self) -> &'static str {
        "delete"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        delete(context).await
    }
}
