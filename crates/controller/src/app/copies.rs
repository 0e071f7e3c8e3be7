//! Who is current of a VM's disks in mirrored pools, its own and its volumes: each decision is one transaction on the VM, before
//! anybody acts on it.

use gantry_api::{
    AgentApi,
    agent::{VmObservation, VmRunState},
    mirror::{GoAlone, TakeCopy},
};
use gantry_types::{ByteSize, DiskCopies, Name, Pool, Problem, Resource, Severity, Vm, Volume};
use std::{collections::BTreeSet, sync::Arc};
use uuid::Uuid;

use super::{App, pool, volume};
use crate::{model::Tables, objects::Change, operations::observe};

/// A disk of a VM that has copies.
#[derive(Debug, Clone)]
pub(crate) struct CopiedDisk {
    pub pool: Arc<Pool>,
    /// The VM if it is its own, or the volume.
    pub disk: Uuid,
    pub size: ByteSize,
    /// It lies over the VM's image.
    pub is_own: bool,
}

fn mirrored(tables: &Tables, pool: &Name) -> Option<Arc<Pool>> {
    tables.pools.get(pool.as_str()).filter(|pool| pool.is_mirrored()).cloned()
}

/// The VM's disks that have copies, its own first.
pub(crate) fn disks_of(tables: &Tables, vm: &Vm) -> Vec<CopiedDisk> {
    let own = vm.spec.pool.as_ref().and_then(|pool| mirrored(tables, pool)).map(|pool| CopiedDisk {
        pool,
        disk: vm.metadata.uuid,
        size: vm.status.disk.unwrap_or_default(),
        is_own: true,
    });
    let of_volumes = volume::of_vm(tables, vm).into_iter().filter_map(|volume| {
        let pool = mirrored(tables, &volume.spec.pool)?;
        Some(CopiedDisk { pool, disk: volume.metadata.uuid, size: volume.spec.size, is_own: false })
    });
    own.into_iter().chain(of_volumes).collect()
}

/// Whether any of the VM's disks has copies.
pub(crate) fn is_copied(tables: &Tables, vm: &Vm) -> bool {
    !disks_of(tables, vm).is_empty()
}

/// The VMs of which any disk has copies.
pub(crate) fn copied_vms(tables: &Tables) -> Vec<Arc<Vm>> {
    // One look at all volumes, not one for each VM.
    let of_volumes = tables.volumes.values().filter(|volume| mirrored(tables, &volume.spec.pool).is_some());
    let having: BTreeSet<&Name> = of_volumes.filter_map(|volume| volume::user_of(volume)).collect();
    let is_it = |vm: &&Arc<Vm>| pool::is_mirrored(tables, vm) || having.contains(&vm.metadata.name);
    tables.vms.values().filter(is_it).cloned().collect()
}

/// Who has the content of a volume: its VM says that, if it has one.
pub(crate) fn of_volume(tables: &Tables, volume: &Volume) -> Option<DiskCopies> {
    match &volume.status.vm {
        Some(vm) if volume.status.copies.is_none() => tables.vms.get(vm.as_str())?.status.copies.clone(),
        _ => volume.status.copies.clone(),
    }
}

/// The volume has left its VM, and its copies with it.
pub(crate) fn leave_vm(tables: &Tables, volume: &mut Volume, vm: &mut Vm) {
    if mirrored(tables, &volume.spec.pool).is_some() {
        if volume.status.copies.is_none() {
            volume.status.copies.clone_from(&vm.status.copies);
        }
        if disks_of(tables, vm).iter().all(|disk| disk.disk == volume.metadata.uuid) {
            vm.status.copies = None;
        }
    }
}

/// Changes who is current, if the VM is still on this host and nobody has decided otherwise meanwhile. What holds afterwards.
async fn decide(
    app: &App,
    vm: &Vm,
    host: &Name,
    event: Option<(Severity, &str, String)>,
    decision: impl Fn(&DiskCopies) -> Option<DiskCopies> + Sync,
) -> Result<DiskCopies, Problem> {
    app.objects
        .racing(|| async {
            let mut now: Vm = app.objects.get(vm.name()).await?;
            let is_it = now.metadata.uuid == vm.metadata.uuid && now.status.host.as_ref() == Some(host);
            let Some(copies) = now.status.copies.clone().filter(|_| is_it && now.status.epoch == vm.status.epoch)
            else {
                let detail = format!("VM '{}' is not on host '{host}' any more", vm.name());
                return Err(Problem::conflict("vm-elsewhere", detail).object(vm.reference()));
            };
            let Some(decided) = decision(&copies) else { return Ok(copies) };
            now.status.copies = Some(decided.clone());
            let mut change = Change::new();
            change.update(&now)?;
            if let Some((severity, reason, message)) = &event {
                change.event(&app.event(vm.reference(), *severity, reason, message.clone()))?;
            }
            app.commit(change).await?;
            Ok(decided)
        })
        .await
}

/// From here on only the VM's host is current.
pub(crate) async fn alone(app: &App, vm: &Vm, host: &Name, above: u64, why: &str) -> Result<DiskCopies, Problem> {
    let message = format!("the disks of VM '{}' are only on host '{host}' now: {why}", vm.name());
    decide(app, vm, host, Some((Severity::Warning, "DiskCopyLost", message)), |copies| {
        let is_alone = copies.current == [host.clone()] && copies.generation > above;
        (!is_alone)
            .then(|| DiskCopies { generation: above.max(copies.generation), ..copies.clone() }.alone(host.clone()))
    })
    .await
}

/// The peer has caught up, and has said so on its disk.
pub(crate) async fn paired(
    app: &App,
    vm: &Vm,
    host: &Name,
    peer: &Name,
    generation: u64,
) -> Result<DiskCopies, Problem> {
    let message = format!("the disks of VM '{}' are on hosts '{host}' and '{peer}' now", vm.name());
    decide(app, vm, host, Some((Severity::Normal, "DiskCopied", message)), |copies| {
        // Parted since: the peer is not current.
        let holds = copies.generation == generation && !copies.is_current(peer);
        holds.then(|| copies.paired(peer.clone()))
    })
    .await
}

/// Has the VM's new host make its copies the disks; that they are current was decided when it became the VM's host.
pub(crate) async fn take(app: &App, vm: &Vm, agent: &dyn AgentApi) -> Result<(), Problem> {
    let Some(copies) = vm.status.copies.as_ref().filter(|copies| copies.generation > DiskCopies::FIRST) else {
        // Nobody had it before.
        return Ok(());
    };
    let generation = copies.generation;
    for CopiedDisk { pool, disk, .. } in app.model.read(|tables| disks_of(tables, vm)) {
        let pool = pool::assignment(&pool);
        agent.take_copy(&TakeCopy { pool, disk, from: generation - 1, generation }).await?;
    }
    Ok(())
}

/// A volume comes to the VM on its host, which has it: of both, only that host is current from here on.
pub(crate) async fn admit(
    app: &App,
    volume: &Volume,
    vm: &Vm,
    host: &Name,
    agent: &dyn AgentApi,
) -> Result<(), Problem> {
    let seen = observe(agent, vm.metadata.uuid).await?;
    let told = seen.and_then(|seen| seen.copies).map_or(0, |copies| copies.generation);
    let decided = app
        .objects
        .racing(|| async {
            let (mut vm, mut volume): (Vm, Volume) =
                (app.objects.get(vm.name()).await?, app.objects.get(volume.name()).await?);
            let generation_of = |copies: &Option<DiskCopies>| copies.as_ref().map_or(0, |copies| copies.generation);
            let above = told.max(generation_of(&vm.status.copies)).max(generation_of(&volume.status.copies));
            let copies = DiskCopies { generation: above + 1, current: vec![host.clone()] };
            (vm.status.copies, volume.status.copies) = (Some(copies.clone()), Some(copies.clone()));
            let mut change = Change::new();
            change.update(&vm)?.update(&volume)?;
            app.commit(change).await?;
            Ok(copies)
        })
        .await?;
    tell_alone(app, vm, host, agent, decided.generation).await
}

/// Tells the VM's host that it is current alone from this generation on, which is written down.
pub(crate) async fn tell_alone(
    app: &App,
    vm: &Vm,
    host: &Name,
    agent: &dyn AgentApi,
    generation: u64,
) -> Result<(), Problem> {
    agent.go_alone(vm.metadata.uuid, &GoAlone { epoch: vm.status.epoch, generation }).await?;
    decided(app, vm, host);
    Ok(())
}

/// What the host has said of the VM before this says nothing of what is decided now.
pub(crate) fn decided(app: &App, vm: &Vm, host: &Name) {
    app.model.overlay_mut(|overlay| overlay.settled(vm.metadata.uuid, host.as_str()));
}

/// Before the VM executes: every run of it begins alone.
pub(crate) async fn begin_alone(app: &App, vm: &Vm, host: &Name, agent: &dyn AgentApi) -> Result<(), Problem> {
    if vm.status.copies.is_none() {
        return Ok(());
    }
    let seen = observe(agent, vm.metadata.uuid).await?;
    if seen.as_ref().is_some_and(|seen| matches!(seen.state, VmRunState::Running | VmRunState::Paused)) {
        return Ok(());
    }
    part(app, vm, host, agent, seen, "it is started there").await
}

/// Before the VM is sent to another host: whatever dies on the way, only the host that it leaves has its disk by the record.
pub(crate) async fn part_to_move(app: &App, vm: &Vm, host: &Name, agent: &dyn AgentApi) -> Result<(), Problem> {
    let seen = observe(agent, vm.metadata.uuid).await?;
    part(app, vm, host, agent, seen, "it is moved to another host").await
}

async fn part(
    app: &App,
    vm: &Vm,
    host: &Name,
    agent: &dyn AgentApi,
    seen: Option<VmObservation>,
    why: &str,
) -> Result<(), Problem> {
    let Some(copies) = &vm.status.copies else { return Ok(()) };
    let told = seen.and_then(|seen| seen.copies).unwrap_or_default();
    let is_decided = copies.current == [host.clone()] && (told.peer.is_none() || copies.generation > told.generation);
    let copies = match is_decided {
        true => copies.clone(),
        // What runs from here on is not what the peer has.
        false => alone(app, vm, host, told.generation, why).await?,
    };
    tell_alone(app, vm, host, agent, copies.generation).await
}
