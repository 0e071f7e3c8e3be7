//! `volume_migrate`: a volume goes to another pool, while its guest writes if it has a VM that runs.
//!
//! ```text
//!  target -> copy -> record -> release
//! ```
//! The host decides where the volume is, in the moment in which both places have the same content; this operation only
//! asks how far it is. Cancelled or failed before that moment, the volume is whole where it was and nothing is left in the
//! other pool; after it, the operation goes forward. What can't be deleted in the old pool is told of.

use async_trait::async_trait;
use gantry_api::storage::{CopyVolume, MoveVolume, PoolAssignment, VolumeAssignment};
use gantry_types::{Action, DiskCopies, Name, Pool, Problem, Resource, Severity, Vm, VmPhase, Volume};
use std::sync::Arc;

use super::{
    move_report::{given_up, has_moved},
    step::{Ending, Patience, Procedure, Step, StepContext, Undone},
    volume_attach::{apply, release, user},
    volume_make::{make_at, volume},
};
use crate::{
    app::{
        pool::{self, Reach},
        volume::assignment,
    },
    objects::Change,
};

/// The pool that it leaves.
const FROM: &str = "from";
/// The host that copies it, if no VM has it.
const AT: &str = "at";

pub struct VolumeMigrate;

/// What the steps need to know, looked up anew by each.
struct Moving {
    volume: Volume,
    vm: Option<Vm>,
    /// As it is where it was.
    here: VolumeAssignment,
    to: PoolAssignment,
    host: Name,
    agent: Arc<dyn gantry_api::AgentApi>,
}

impl Moving {
    async fn look(context: &StepContext) -> Result<Self, Problem> {
        let Action::VolumeMigrate { to } = &context.operation.spec.action else {
            return Err(Problem::permanent("unreadable-object", "this operation moves no volume"));
        };
        let volume = volume(context).await?;
        let vm = user(context, &volume).await?;
        let find = async |name: &Name| context.app.objects.get::<Pool>(name.as_str()).await;
        let from: Name = context.memo(FROM)?.unwrap_or_else(|| volume.spec.pool.clone());
        let (from, to) = (find(&from).await?, find(to).await?);
        let host = match vm.as_ref().and_then(|vm| vm.status.host.clone()) {
            Some(host) => host,
            None => match context.memo(AT)? {
                Some(host) => host,
                None => pool::common_host(&context.app, Reach::of_volume(&from, &volume), Reach::of(&to))?,
            },
        };
        let here = VolumeAssignment { pool: pool::assignment(&from), ..assignment(&context.app, &volume)? };
        let agent = context.agent(&host).await?;
        Ok(Self { volume, vm, here, to: pool::assignment(&to), host, agent })
    }

    fn there(&self) -> VolumeAssignment {
        VolumeAssignment { pool: self.to.clone(), ..self.here.clone() }
    }

    /// The VM whose QEMU has the volume open.
    fn running(&self) -> Option<&Vm> {
        self.vm.as_ref().filter(|vm| matches!(vm.status.phase, VmPhase::Running | VmPhase::Paused))
    }

    fn request(&self, vm: &Vm) -> MoveVolume {
        MoveVolume { epoch: vm.status.epoch, volume: self.here.uuid, to: self.to.clone() }
    }
}

#[async_trait]
impl Procedure for VolumeMigrate {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(Target), Box::new(CopyOver), Box::new(Record), Box::new(Release)]
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let (volume, host) = release(context, change).await?;
        let from: Option<Name> = context.memo(FROM)?;
        let from = from.map(|from| from.to_string()).unwrap_or_default();
        let (name, to, by) = (volume.name(), &volume.spec.pool, &context.operation.spec.requested_by);
        let moved = format!("volume '{name}' was moved from pool '{from}' to pool '{to}' by {by}");
        let told = match ending {
            Ending::Succeeded => Some((Severity::Normal, moved)),
            Ending::Incomplete(problem) => Some((
                Severity::Warning,
                format!("{moved}; its old copy in pool '{from}' could not be deleted and still takes space: {problem}"),
            )),
            Ending::Failed(_) | Ending::Cancelled => None,
        };
        if let Some((severity, message)) = told {
            change.event(&context.event(severity, "VolumeMoved", message, host.as_ref()))?;
        }
        change.update(&volume)?;
        Ok(())
    }
}

/// Room for it in the new pool.
struct Target;

#[async_trait]
impl Step for Target {
    fn name(&self) -> &'static str {
        "target"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let moving = Moving::look(context).await?;
        if context.memo::<Name>(FROM)?.is_none() {
            context.note(FROM, &moving.volume.spec.pool)?;
            context.note(AT, &moving.host)?;
            context.save().await?;
        }
        if moving.volume.spec.pool == moving.to.name {
            return Ok(());
        }
        make_at(context, moving.volume.clone(), &moving.host).await?;
        moving.agent.create_volume(&moving.there()).await
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        let moving = Moving::look(context).await?;
        moving.agent.delete_volume(&moving.to, moving.here.uuid).await?;
        Ok(Undone::Yes)
    }
}

struct CopyOver;

#[async_trait]
impl Step for CopyOver {
    fn name(&self) -> &'static str {
        "copy"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        loop {
            let moving = Moving::look(context).await?;
            if moving.volume.spec.pool == moving.to.name {
                return Ok(());
            }
            let Some(vm) = moving.running() else {
                let request = CopyVolume { from: moving.here.clone(), to: moving.to.clone(), clone: None };
                return moving.agent.copy_volume(&request).await;
            };
            let report = moving.agent.move_volume(vm.metadata.uuid, &moving.request(vm)).await?;
            if has_moved(context, &moving.host, report).await? {
                return Ok(());
            }
        }
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        let moving = Moving::look(context).await?;
        let Some(vm) = &moving.vm else { return Ok(Undone::Yes) };
        given_up(moving.agent.cancel_volume_move(vm.metadata.uuid, &moving.request(vm)).await)
    }
}

/// From here on it is in the new pool for everybody.
struct Record;

#[async_trait]
impl Step for Record {
    fn name(&self) -> &'static str {
        "record"
    }

    fn patience(&self) -> Patience {
        Patience::Unlimited
    }

    fn reversible(&self) -> bool {
        false
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let moving = Moving::look(context).await?;
        let mut volume = moving.volume.clone();
        if volume.spec.pool != moving.to.name {
            volume.spec.pool = moving.to.name.clone();
            let before = volume.status.copies.take().map_or(0, |copies| copies.generation);
            let copies = DiskCopies { generation: before + 1, current: vec![moving.host.clone()] };
            volume.status.copies = Some(copies).filter(|_| moving.to.is_mirrored());
        }
        if let Some(vm) = &moving.vm {
            // The host of a VM that does not run learns it here; that of one that runs knows.
            apply(context, &volume, vm).await?;
        }
        if volume == moving.volume {
            return Ok(());
        }
        let mut change = Change::new();
        change.update(&volume)?;
        context.app.commit(change).await?;
        Ok(())
    }
}

struct Release;

#[async_trait]
impl Step for Release {
    fn name(&self) -> &'static str {
        "release"
    }

    fn reversible(&self) -> bool {
        false
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let moving = Moving::look(context).await?;
        moving.agent.delete_volume(&moving.here.pool, moving.here.uuid).await
    }
}
