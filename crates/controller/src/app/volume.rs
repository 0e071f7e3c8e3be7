//! Volumes: create, change, attach, detach, delete. Each is an operation on the volume. While a VM has the volume, the
//! operation is the VM's, too, so that nothing else happens to the VM meanwhile.

use gantry_api::{
    rest::{AttachRequest, Changed, MigrateVolumeRequest, WriteQuery},
    storage::VolumeAssignment,
};
use gantry_types::{Action, Name, Pool, Problem, Resource, VOLUMES_PER_VM_MAX, Vm, Volume, VolumePhase, VolumeSpec};

use super::{
    App, Caller, already_exists, check_labels, check_name, check_precondition,
    pool::{self, Reach},
    snapshot, vm, volume_content, volume_place,
};
use crate::{
    model::Tables,
    objects::Change,
    operations::{FORMER_SPEC, new_operation},
};

/// A volume as a host gets it.
pub(crate) fn assignment(app: &App, volume: &Volume) -> Result<VolumeAssignment, Problem> {
    let name = volume.spec.pool.as_str();
    let pool = app.model.get::<Pool>(name).ok_or_else(|| Problem::not_found(Pool::KIND, name))?;
    Ok(VolumeAssignment {
        uuid: volume.metadata.uuid,
        name: volume.metadata.name.clone(),
        pool: pool::assignment(&pool),
        size: volume.spec.size,
        limits: volume.spec.limits,
        cache: volume.spec.cache,
        discard: volume.spec.discard,
        slot: volume.status.slot.unwrap_or(0),
    })
}

/// The VM that has the volume; not one that is just about to get it.
pub(crate) fn user_of(volume: &Volume) -> Option<&Name> {
    let has = matches!(volume.status.phase, VolumePhase::Attached | VolumePhase::Detaching);
    volume.status.vm.as_ref().filter(|_| has)
}

/// The volumes that a VM has, by slot; not those that it is just about to get.
pub(crate) fn of_vm(tables: &Tables, vm: &Vm) -> Vec<std::sync::Arc<Volume>> {
    let has = |volume: &&std::sync::Arc<Volume>| user_of(volume) == Some(&vm.metadata.name);
    let mut volumes: Vec<_> = tables.volumes.values().filter(has).cloned().collect();
    volumes.sort_by_key(|volume| volume.status.slot);
    volumes
}

/// The names of the volumes that a VM has.
pub(crate) fn names_of(app: &App, vm: &Vm) -> Vec<Name> {
    let volumes = app.model.read(|tables| of_vm(tables, vm));
    volumes.iter().map(|volume| volume.metadata.name.clone()).collect()
}

/// Refuses what can't be done with a VM that has volumes.
///
/// # Errors
/// `vm-has-volumes`, naming them.
pub(crate) fn expect_none(app: &App, vm: &Vm, cannot: &str) -> Result<(), Problem> {
    let volumes = app.model.read(|tables| of_vm(tables, vm));
    let Some(first) = volumes.first() else { return Ok(()) };
    let names: Vec<_> = volumes.iter().map(|volume| volume.name()).collect();
    let detail = format!("VM '{}' can't {cannot} while it has volumes: {}", vm.name(), names.join(", "));
    Err(Problem::conflict("vm-has-volumes", detail)
        .object(vm.reference())
        .remedy(format!("detach them first: gantry volume detach {}", first.name())))
}

pub async fn create(app: &App, caller: &Caller, sent: Volume, query: &WriteQuery) -> Result<Changed<Volume>, Problem> {
    caller.may_change()?;
    check_labels(&sent.metadata)?;
    sent.validate()?;
    // Alone: what a pool may promise is promised once, and the pool is not deleted meanwhile.
    let _alone = app.references.write().await;
    if app.objects.find::<Volume>(sent.name()).await?.is_some() {
        return Err(already_exists(&sent));
    }
    let wrong = |field: &str, message: String| {
        Problem::invalid("invalid-volume", format!("volume '{}' can't be made", sent.name())).field(field, message)
    };
    let pool = app.model.read(|tables| pool::find_ready(tables, &sent.spec.pool));
    let pool = pool.map_err(|message| wrong("spec.pool", message))?;
    pool::check_promise(app, &pool, sent.spec.size.bytes()).map_err(|message| wrong("spec.size", message))?;
    volume_content::check_image(app, &sent).map_err(|(field, message)| wrong(field, message))?;
    volume_content::check_backup(app, &sent).map_err(|(field, message)| wrong(field, message))?;
    let source = match &sent.spec.clone_of {
        Some(name) => Some(clonable(app, &sent, &pool, name).await?),
        None => None,
    };
    let mut volume = Volume::new(sent.metadata.name.clone(), sent.spec.clone());
    volume.metadata.labels = sent.metadata.labels.clone();
    app.stamp(&mut volume.metadata);
    let mut operation = new_operation(app, caller, Action::VolumeCreate, &volume, None)?;
    volume.status.operation = Some(operation.metadata.name.clone());
    if !query.dry_run {
        let mut change = Change::new();
        change.create(&volume)?.create(&operation)?.require(&*pool);
        if let Some(mut source) = source {
            // It stays as it is until it is copied.
            source.status.operation = Some(operation.metadata.name.clone());
            change.update(&source)?;
        }
        let revision = app.commit(change).await?;
        (volume.metadata.revision, operation.metadata.revision) = (revision, revision);
    }
    Ok(Changed { object: volume, operation: Some(operation) })
}

/// The volume that a new one is to begin as.
async fn clonable(app: &App, sent: &Volume, pool: &Pool, name: &gantry_types::Name) -> Result<Volume, Problem> {
    let wrong = |field: &str, message: String| {
        Problem::invalid("invalid-volume", format!("volume '{}' can't be made", sent.name())).field(field, message)
    };
    let missing = || wrong("spec.clone_of", format!("volume '{name}' does not exist; see: gantry volume list"));
    let source = app.objects.find::<Volume>(name.as_str()).await?.ok_or_else(missing)?;
    if let Some(vm) = &source.status.vm {
        return Err(in_use(&source, vm.as_str()));
    }
    expect_phase(&source, &[VolumePhase::Ready], "clone")?;
    if sent.spec.size < source.spec.size {
        let message = format!("{} is less than the {} of volume '{name}'", sent.spec.size, source.spec.size);
        return Err(wrong("spec.size", message));
    }
    let from: Pool = app.objects.get(source.spec.pool.as_str()).await?;
    pool::common_host(app, Reach::of_volume(&from, &source), Reach::of(pool))?;
    Ok(source)
}

/// Creates it or changes it: larger, other limits, other modes.
pub async fn put(
    app: &App,
    caller: &Caller,
    name: &str,
    sent: Volume,
    query: &WriteQuery,
) -> Result<Changed<Volume>, Problem> {
    caller.may_change()?;
    check_name(name, &sent)?;
    check_labels(&sent.metadata)?;
    sent.validate()?;
    let found = app.objects.find::<Volume>(name).await?;
    if found.is_none() && query.revision.is_none() && sent.metadata.revision == 0 {
        return create(app, caller, sent, query).await;
    }
    let _alone = app.references.write().await;
    app.objects
        .racing(|| async {
            let current: Volume = app.objects.get(name).await?;
            check_precondition(&current, &sent.metadata, query)?;
            check_change(app, &current, &sent)?;
            let mut volume = current.clone();
            volume.spec = sent.spec.clone();
            volume.metadata.labels = sent.metadata.labels.clone();
            if volume == current {
                return Ok(Changed { object: app.model.decorate(&current), operation: None });
            }
            let is_felt = (volume.spec.size, volume.spec.limits) != (current.spec.size, current.spec.limits);
            if !is_felt {
                let mut change = Change::new();
                change.update(&volume)?;
                if !query.dry_run {
                    volume.metadata.revision = app.commit(change).await?;
                }
                return Ok(Changed { object: app.model.decorate(&volume), operation: None });
            }
            expect_phase(&current, &[VolumePhase::Ready, VolumePhase::Attached], "change")?;
            if volume.spec.size != current.spec.size {
                snapshot::expect_without(app, &current, "grow")?;
                volume_place::expect_may_grow(app, &current).await?;
            }
            launch(app, caller, volume, Action::VolumeUpdate, Some(&current), query).await
        })
        .await
}

fn check_change(app: &App, current: &Volume, sent: &Volume) -> Result<(), Problem> {
    let (old, new) = (&current.spec, &sent.spec);
    let mut wrong = Problem::invalid("unchangeable", format!("volume '{}' can't be changed like this", current.name()))
        .object(current.reference());
    for (field, changed) in [
        ("spec.pool", old.pool != new.pool),
        ("spec.clone_of", old.clone_of != new.clone_of),
        ("spec.image", old.image != new.image),
        ("spec.backup", old.backup != new.backup),
    ] {
        if changed {
            wrong = wrong.field(field, "is fixed when the volume is made");
        }
    }
    if new.size < old.size {
        let message = format!("{} is less than the {} it has: volumes never shrink", new.size, old.size);
        wrong = wrong.field("spec.size", message);
    } else if let Some(pool) = app.model.get::<Pool>(old.pool.as_str())
        && let Err(message) = pool::check_promise(app, &pool, new.size.bytes() - old.size.bytes())
    {
        wrong = wrong.field("spec.size", message);
    }
    if wrong.fields.is_empty() { Ok(()) } else { Err(wrong) }
}

/// Gives a VM the volume, also while it runs.
pub async fn attach(
    app: &App,
    caller: &Caller,
    name: &str,
    request: &AttachRequest,
    query: &WriteQuery,
) -> Result<Changed<Volume>, Problem> {
    caller.may_change()?;
    app.objects
        .racing(|| async {
            let current: Volume = app.objects.get(name).await?;
            check_precondition(&current, &current.metadata, query)?;
            let has = current.status.vm.as_ref() == Some(&request.vm);
            if has && current.status.phase == VolumePhase::Attached {
                return Ok(Changed { object: app.model.decorate(&current), operation: None });
            }
            if let Some(other) = &current.status.vm {
                return Err(in_use(&current, other.as_str()));
            }
            expect_phase(&current, &[VolumePhase::Ready], "attach")?;
            let vm: Vm = app.objects.get(request.vm.as_str()).await?;
            volume_place::expect_reached(app, &current, &vm)?;
            let mut volume = current.clone();
            volume.status.slot = Some(free_slot(app, &vm)?);
            volume.status.vm = Some(request.vm.clone());
            volume.status.phase = VolumePhase::Attaching;
            volume.status.reason = None;
            launch(app, caller, volume, Action::VolumeAttach { vm: request.vm.clone() }, None, query).await
        })
        .await
}

/// Moves it to another pool, while its guest writes if it has a VM that runs.
pub async fn migrate(
    app: &App,
    caller: &Caller,
    name: &str,
    request: &MigrateVolumeRequest,
    query: &WriteQuery,
) -> Result<Changed<Volume>, Problem> {
    caller.may_change()?;
    // Alone: what a pool may promise is promised once, and the pool is not deleted meanwhile.
    let _alone = app.references.write().await;
    app.objects
        .racing(|| async {
            let current: Volume = app.objects.get(name).await?;
            check_precondition(&current, &current.metadata, query)?;
            if current.spec.pool == request.to && current.status.operation.is_none() {
                return Ok(Changed { object: app.model.decorate(&current), operation: None });
            }
            expect_phase(&current, &[VolumePhase::Ready, VolumePhase::Attached], "move")?;
            snapshot::expect_without(app, &current, "go to another pool")?;
            let wrong = |message: String| {
                Problem::invalid("invalid-request", format!("volume '{name}' can't be moved")).field("to", message)
            };
            let to = app.model.read(|tables| pool::find_ready(tables, &request.to)).map_err(wrong)?;
            pool::check_promise(app, &to, current.spec.size.bytes()).map_err(wrong)?;
            if let Some(vm) = &current.status.vm {
                volume_place::expect_not_mirrored(app, &current, &to)?;
                let vm: Vm = app.objects.get(vm.as_str()).await?;
                let there =
                    Volume { spec: VolumeSpec { pool: request.to.clone(), ..current.spec.clone() }, ..current.clone() };
                volume_place::expect_reached(app, &there, &vm)?;
            } else {
                let from: Pool = app.objects.get(current.spec.pool.as_str()).await?;
                pool::common_host(app, Reach::of_volume(&from, &current), Reach::of(&to))?;
            }
            launch(app, caller, current, Action::VolumeMigrate { to: request.to.clone() }, None, query).await
        })
        .await
}

fn in_use(volume: &Volume, vm: &str) -> Problem {
    let name = volume.name();
    Problem::conflict("volume-in-use", format!("volume '{name}' is attached to VM '{vm}'"))
        .object(volume.reference())
        .remedy(format!("detach it first: gantry volume detach {name}"))
}

fn free_slot(app: &App, vm: &Vm) -> Result<u8, Problem> {
    let taken: Vec<u8> = app.model.read(|tables| {
        let its = tables.volumes.values().filter(|volume| volume.status.vm.as_ref() == Some(&vm.metadata.name));
        its.filter_map(|volume| volume.status.slot).collect()
    });
    let free = (0_u8..).take(VOLUMES_PER_VM_MAX).find(|slot| !taken.contains(slot));
    free.ok_or_else(|| {
        let detail = format!("VM '{}' has {VOLUMES_PER_VM_MAX} volumes, more it can't have", vm.name());
        Problem::conflict("volume-limit", detail).object(vm.reference()).remedy("detach one first, or grow one")
    })
}

/// Takes it from its VM. A running guest has to let it go.
pub async fn detach(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<Changed<Volume>, Problem> {
    caller.may_change()?;
    app.objects
        .racing(|| async {
            let current: Volume = app.objects.get(name).await?;
            check_precondition(&current, &current.metadata, query)?;
            if current.status.vm.is_none() {
                return Ok(Changed { object: app.model.decorate(&current), operation: None });
            }
            expect_phase(&current, &[VolumePhase::Attached, VolumePhase::Detaching], "detach")?;
            snapshot::expect_without(app, &current, "be detached")?;
            let mut volume = current.clone();
            volume.status.phase = VolumePhase::Detaching;
            volume.status.reason = None;
            launch(app, caller, volume, Action::VolumeDetach, None, query).await
        })
        .await
}

/// Refused while a VM has it.
pub async fn delete(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<Changed<Volume>, Problem> {
    caller.may_change()?;
    app.objects
        .racing(|| async {
            let current: Volume = app.objects.get(name).await?;
            check_precondition(&current, &current.metadata, query)?;
            if let Some(vm) = &current.status.vm {
                return Err(in_use(&current, vm.as_str()));
            }
            expect_phase(&current, &[VolumePhase::Ready, VolumePhase::Deleting], "delete")?;
            let mut volume = current.clone();
            volume.status.phase = VolumePhase::Deleting;
            volume.status.reason = None;
            launch(app, caller, volume, Action::VolumeDelete, None, query).await
        })
        .await
}

pub(super) fn expect_idle(volume: &Volume) -> Result<(), Problem> {
    let Some(operation) = &volume.status.operation else { return Ok(()) };
    let detail = format!("volume '{}' is busy: operation '{operation}' is at work on it", volume.name());
    Err(Problem::conflict("volume-busy", detail)
        .object(volume.reference())
        .remedy(format!("wait for it: gantry operation wait {operation}")))
}

pub(super) fn expect_phase(volume: &Volume, phases: &[VolumePhase], verb: &str) -> Result<(), Problem> {
    let name = volume.name();
    expect_idle(volume)?;
    if phases.contains(&volume.status.phase) {
        return Ok(());
    }
    let detail = format!("can't {verb} volume '{name}': it is {}", volume.status.phase);
    Err(Problem::conflict("wrong-phase", detail)
        .object(volume.reference())
        .remedy(format!("see its state: gantry describe volume {name}")))
}

/// Writes the operation, and its mark on the volume and on the VM that has it, in one transaction.
async fn launch(
    app: &App,
    caller: &Caller,
    mut volume: Volume,
    action: Action,
    former: Option<&Volume>,
    query: &WriteQuery,
) -> Result<Changed<Volume>, Problem> {
    let mut operation = new_operation(app, caller, action, &volume, None)?;
    if let Some(former) = former {
        let spec = serde_json::to_value(&former.spec)
            .map_err(|e| Problem::permanent("unwritable-object", format!("the volume's former spec: {e}")))?;
        operation.status.memo.insert(FORMER_SPEC.into(), spec);
    }
    volume.status.operation = Some(operation.metadata.name.clone());
    let mut change = Change::new();
    change.update(&volume)?.create(&operation)?;
    if let Some(vm) = &volume.status.vm {
        let mut vm: Vm = app.objects.get(vm.as_str()).await?;
        vm::expect_idle(&vm)?;
        vm.status.operation = Some(operation.metadata.name.clone());
        change.update(&vm)?;
    }
    if !query.dry_run {
        let revision = app.commit(change).await?;
        (volume.metadata.revision, operation.metadata.revision) = (revision, revision);
    }
    Ok(Changed { object: app.model.decorate(&volume), operation: Some(operation) })
}
