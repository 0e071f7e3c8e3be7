//! Keeps second copies of each VM's disks that are in mirrored pools, all of a VM on one host.
//!
//! ```text
//!   first seen ──▶ alone ── a host is chosen, serves, is joined ──▶ paired ──▶ settled ──▶ recorded: two are current
//!                    ▲                                                                          │
//!                    └── recorded: one is current ◀── the host asks for it, or the peer is lost ┘
//! ```
//! What hosts report is compared with what is recorded, and the next step is taken; a controller that starts goes on from there. In
//! memory is only where a copy is served that is catching up.

mod joining;
mod left_copies;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use gantry_api::{
    AgentApi,
    agent::VmObservation,
    mirror::{CopyObservation, CopyServing, SettleCopy},
};
use gantry_types::{DiskCopies, Host, HostState, Name, Problem, Resource, Vm};
use uuid::Uuid;

use self::joining::{Joining, join};
use crate::{
    app::{
        App,
        copies::{self, CopiedDisk},
        pool,
    },
    objects::Change,
};

const INTERVAL: Duration = Duration::from_millis(500);
const LEFT_INTERVAL: Duration = Duration::from_secs(10);

pub async fn run(app: Arc<App>) {
    let mut memory = Memory::default();
    loop {
        app.clock.sleep(INTERVAL).await;
        pass(&app, &mut memory).await;
    }
}

/// What is forgotten with the controller.
#[derive(Default)]
pub struct Memory {
    joining: BTreeMap<Uuid, Joining>,
    /// When it is looked next for copies that nobody needs.
    look_for_left_at: Duration,
}

/// One look at all VMs in mirrored pools.
pub async fn pass(app: &App, memory: &mut Memory) {
    let mut mirrored = app.model.read(copies::copied_vms);
    mirrored.retain(|vm| vm.status.host.is_some());
    memory.joining.retain(|vm, _| mirrored.iter().any(|known| known.metadata.uuid == *vm));
    let steps = mirrored.iter().map(|vm| {
        let joining = memory.joining.get(&vm.metadata.uuid).cloned();
        async move { (vm, step(app, vm, joining).await) }
    });
    for (vm, stepped) in futures::future::join_all(steps).await {
        let next = stepped.unwrap_or_else(|problem| {
            tracing::warn!(vm = %vm.metadata.name, %problem, "the copies of its disks are as they were");
            None
        });
        match next {
            Some(joining) => memory.joining.insert(vm.metadata.uuid, joining),
            None => memory.joining.remove(&vm.metadata.uuid),
        };
    }
    // Hosts look at their pools every five seconds.
    if app.clock.elapsed() >= memory.look_for_left_at {
        memory.look_for_left_at = app.clock.elapsed() + LEFT_INTERVAL;
        left_copies::delete(app).await;
    }
}

/// What a host said last of a VM, if that was said after the last operation on it.
fn seen(app: &App, host: &str, vm: Uuid) -> Option<VmObservation> {
    app.model.overlay(|overlay| {
        let report = overlay.hosts.get(host)?;
        let trusted = overlay.is_trusted(host, vm, report.agent_instance, report.sequence);
        report.vms.get(&vm).filter(|_| trusted).cloned()
    })
}

/// Takes a VM's copies one step further; what is remembered of it until the next.
async fn step(app: &App, vm: &Vm, joining: Option<Joining>) -> Result<Option<Joining>, Problem> {
    let Some(host) = vm.status.host.clone().filter(|_| vm.status.displaced.is_none()) else { return Ok(None) };
    let Some(copies) = vm.status.copies.clone() else { return begin(app, vm, &host).await.map(|()| None) };
    let at = app.model.get::<Host>(host.as_str());
    if !at.is_some_and(|at| at.status.state == HostState::Ready && at.status.fence.is_none()) {
        return Ok(None);
    }
    let Some(seen) = seen(app, host.as_str(), vm.metadata.uuid).filter(|seen| seen.epoch == vm.status.epoch) else {
        return Ok(joining);
    };
    let Some(told) = seen.copies.clone() else { return Ok(None) };
    if let Some(peer) = copies.other(&host) {
        let why = match (&told.peer, is_lost(app, peer)) {
            _ if told.wants_alone => format!("host '{peer}' has not got what was written, or the VM is started anew"),
            (_, true) => format!("host '{peer}' is lost"),
            (Some(told), _) if told == peer => return Ok(None),
            _ => format!("host '{peer}' is not joined any more"),
        };
        return go_alone(app, vm, &host, &told, &why).await.map(|()| None);
    }
    match &told.peer {
        Some(peer) if !told.wants_alone && told.generation == copies.generation => {
            match settle(app, vm, &host, peer, (copies.generation, &told.servings)).await {
                Err(problem) if problem.code() == "copy-stale" => {
                    go_alone(app, vm, &host, &told, "its copy was served anew meanwhile").await.map(|()| None)
                }
                settled => settled.map(|()| None),
            }
        }
        Some(_) => go_alone(app, vm, &host, &told, "an attempt to copy it was given up").await.map(|()| None),
        None if told.generation < copies.generation => tell_alone(app, vm, &host, &copies).await.map(|()| None),
        // It would only have to be parted again.
        None if vm.status.moving_to.is_some() => Ok(None),
        None => join(app, vm, &host, &copies, &seen, joining).await,
    }
}

/// A disk that was never copied is on its host only.
async fn begin(app: &App, vm: &Vm, host: &Name) -> Result<(), Problem> {
    if vm.status.operation.is_some() || vm.status.disk.is_none() {
        return Ok(());
    }
    app.objects
        .racing(|| async {
            let Some(mut vm) = app.objects.find::<Vm>(vm.name()).await? else { return Ok(()) };
            let is_it = vm.status.host.as_ref() == Some(host) && vm.status.operation.is_none();
            if !is_it || vm.status.copies.is_some() || !app.model.read(|tables| copies::is_copied(tables, &vm)) {
                return Ok(());
            }
            vm.status.copies = Some(DiskCopies::first(host.clone()));
            let mut change = Change::new();
            change.update(&vm)?;
            app.commit(change).await.map(drop)
        })
        .await
}

/// A host that was shut out, or does not answer, gets no write any more.
fn is_lost(app: &App, peer: &Name) -> bool {
    let host = app.model.get::<Host>(peer.as_str());
    !host.is_some_and(|host| host.status.state == HostState::Ready && host.status.fence.is_none())
}

async fn go_alone(app: &App, vm: &Vm, host: &Name, told: &CopyObservation, why: &str) -> Result<(), Problem> {
    let copies = copies::alone(app, vm, host, told.generation, why).await?;
    tell_alone(app, vm, host, &copies).await
}

async fn tell_alone(app: &App, vm: &Vm, host: &Name, copies: &DiskCopies) -> Result<(), Problem> {
    copies::tell_alone(app, vm, host, &*agent(app, host)?, copies.generation).await
}

/// What the VM's host says that it has brought up to date there, and nothing that was served anew since.
async fn settle(
    app: &App,
    vm: &Vm,
    host: &Name,
    peer: &Name,
    (generation, servings): (u64, &[CopyServing]),
) -> Result<(), Problem> {
    for CopiedDisk { pool, disk, .. } in app.model.read(|tables| copies::disks_of(tables, vm)) {
        let Some(served) = servings.iter().find(|serving| serving.disk == disk) else {
            let detail = format!("host '{host}' has not said which copy of disk {disk} on host '{peer}' it writes to");
            return Err(Problem::transient("copy-not-joined", detail).object(vm.reference()));
        };
        let request = SettleCopy { pool: pool::assignment(&pool), disk, generation, serving: served.serving };
        agent(app, peer)?.settle_copy(&request).await?;
    }
    copies::paired(app, vm, host, peer, generation).await?;
    copies::decided(app, vm, host);
    Ok(())
}

fn agent(app: &App, host: &Name) -> Result<Arc<dyn AgentApi>, Problem> {
    let found = app.model.get::<Host>(host.as_str()).ok_or_else(|| Problem::not_found(Host::KIND, host.as_str()))?;
    Ok(app.links.agent(&found))
}
