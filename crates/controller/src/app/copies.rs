//! Who is current of a VM's disk in a mirrored pool: each decision is one transaction on the VM, before anybody acts on it.

use gantry_api::{
    AgentApi,
    agent::{VmObservation, VmRunState},
    mirror::{GoAlone, TakeCopy},
};
use gantry_types::{DiskCopies, Name, Pool, Problem, Resource, Severity, Vm};

use super::{App, pool};
use crate::objects::Change;

/// The mirrored pool that the VM's disk is in.
pub(crate) fn pool_of(app: &App, vm: &Vm) -> Option<std::sync::Arc<Pool>> {
    let name = vm.spec.pool.as_ref()?;
    app.model.get::<Pool>(name.as_str()).filter(|pool| pool.is_mirrored())
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
    let message = format!("the disk of VM '{}' is only on host '{host}' now: {why}", vm.name());
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
    let message = format!("the disk of VM '{}' is on hosts '{host}' and '{peer}' now", vm.name());
    decide(app, vm, host, Some((Severity::Normal, "DiskCopied", message)), |copies| {
        // Parted since: the peer is not current.
        let holds = copies.generation == generation && !copies.is_current(peer);
        holds.then(|| copies.paired(peer.clone()))
    })
    .await
}

/// Has the VM's new host make its copy the disk; that it is current was decided when it became the VM's host.
pub(crate) async fn take(app: &App, vm: &Vm, agent: &dyn AgentApi) -> Result<(), Problem> {
    let (Some(pool), Some(copies)) = (pool_of(app, vm), &vm.status.copies) else { return Ok(()) };
    if copies.generation <= DiskCopies::FIRST {
        // Nobody had it before.
        return Ok(());
    }
    let (pool, disk, generation) = (pool::assignment(&pool), vm.metadata.uuid, copies.generation);
    agent.take_copy(&TakeCopy { pool, disk, from: generation - 1, generation }).await
}

/// Before the VM executes: every run of it begins alone.
pub(crate) async fn begin_alone(app: &App, vm: &Vm, host: &Name, agent: &dyn AgentApi) -> Result<(), Problem> {
    if vm.status.copies.is_none() {
        return Ok(());
    }
    let seen = agent.observe().await?.into_iter().find(|seen| seen.uuid == vm.metadata.uuid);
    if seen.as_ref().is_some_and(|seen| matches!(seen.state, VmRunState::Running | VmRunState::Paused)) {
        return Ok(());
    }
    part(app, vm, host, agent, seen, "it is started there").await
}

/// Before the VM is sent to another host: whatever dies on the way, only the host that it leaves has its disk by the record.
pub(crate) async fn part_to_move(app: &App, vm: &Vm, host: &Name, agent: &dyn AgentApi) -> Result<(), Problem> {
    let seen = agent.observe().await?.into_iter().find(|seen| seen.uuid == vm.metadata.uuid);
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
    let request = GoAlone { epoch: vm.status.epoch, generation: copies.generation };
    agent.go_alone(vm.metadata.uuid, &request).await?;
    app.model.overlay_mut(|overlay| overlay.settled(vm.metadata.uuid, host.as_str()));
    Ok(())
}
