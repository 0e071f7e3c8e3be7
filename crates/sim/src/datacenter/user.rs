//! The people of the datacenter: what they want there is wished for until it is there, in whatever life of the controller.

mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_api::rest::{StopRequest, WriteQuery};
use gantry_controller::app::{pool, vm};
use gantry_controller::objects::Change;
use gantry_controller::{App, Caller};
use gantry_types::{
    ByteSize, HaPolicy, Host, HostSpec, HostState, Name, Pool, PoolPhase, PoolSpec, PoolType, Priority, Problem, Vm,
    VmPhase, VmSpec,
};
use rand::{RngExt, rngs::StdRng};
use uuid::Uuid;

use super::agent::{address, inventory};
use super::hub::{Hub, Node};
use upkeep::{Standing, Tried, Upkeep};

const LOOK: Duration = Duration::from_millis(500);
pub const POOL: &str = "nas";

/// What is to be there.
pub struct Wishes {
    /// Hosts that have joined.
    pub hosts: Mutex<BTreeSet<Node>>,
    /// Those of the beginning: they reach the pool.
    pub first_hosts: usize,
    /// Each host has its own, with copies on others; otherwise all have the same.
    pub mirrored: bool,
    pub vms: usize,
    pub host_memory: ByteSize,
    pub vm_memory: ByteSize,
    /// VMs that are to be stopped. With their ids once a person has seen that they are.
    pub off: Mutex<BTreeMap<usize, Option<Uuid>>>,
    /// VMs that a person starts, until he has seen them run: a start that finds no room is tried again, by him alone.
    pub starting: Mutex<BTreeSet<usize>>,
    pub upkeep: Upkeep,
}

/// What a person wants from here on.
#[derive(Debug, Clone, Copy)]
pub enum Deed {
    Stop(usize),
    Start(usize),
    Move(usize, Node),
    CallOff(usize),
    Cordon(Node),
    Drain(Node),
    /// In service again.
    Uncordon(Node),
}

/// What there is for people to want something of.
pub struct Estate {
    pub vms: usize,
    pub hosts: usize,
    /// All VMs have room also without one of the hosts.
    pub has_spare: bool,
}

/// What people want in a run, within this time. Some of what they stop they never start.
pub fn draw(rng: &mut StdRng, within_ms: Range<u64>, estate: &Estate) -> Vec<(u64, Deed)> {
    let mut deeds = Vec::new();
    for _ in 0..rng.random_range(0..4) {
        let (vm, at) = (rng.random_range(0..estate.vms), rng.random_range(within_ms.clone()));
        deeds.push((at, Deed::Stop(vm)));
        if rng.random_bool(0.7) {
            deeds.push((rng.random_range(at..within_ms.end), Deed::Start(vm)));
        }
    }
    let moves = rng.random_range(0..8);
    deeds.extend(draw_moves(rng, within_ms.clone(), estate, moves));
    for _ in 0..rng.random_range(0..3) {
        let (node, at) = (rng.random_range(1..=estate.hosts), rng.random_range(within_ms.clone()));
        let deed = if rng.random_bool(0.7) { Deed::Drain(node) } else { Deed::Cordon(node) };
        deeds.push((at, deed));
        // Only one host is out of service in the end.
        let stays = estate.has_spare && rng.random_bool(0.5) && !deeds.iter().any(|(_, other)| is_of_host(other));
        if !stays {
            deeds.push((rng.random_range(at..within_ms.end), Deed::Uncordon(node)));
        }
    }
    deeds
}

fn is_of_host(deed: &Deed) -> bool {
    matches!(deed, Deed::Cordon(_) | Deed::Drain(_) | Deed::Uncordon(_))
}

/// Some are called off soon after.
pub fn draw_moves(rng: &mut StdRng, within_ms: Range<u64>, estate: &Estate, count: usize) -> Vec<(u64, Deed)> {
    let mut deeds = Vec::new();
    for _ in 0..count {
        let (vm, to) = (rng.random_range(0..estate.vms), rng.random_range(1..=estate.hosts));
        let at = rng.random_range(within_ms.clone());
        deeds.push((at, Deed::Move(vm, to)));
        if rng.random_bool(0.2) {
            deeds.push((at + rng.random_range(500..9_000), Deed::CallOff(vm)));
        }
    }
    deeds
}

impl Wishes {
    fn hosts(&self) -> BTreeSet<Node> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn off(&self) -> MutexGuard<'_, BTreeMap<usize, Option<Uuid>>> {
        self.off.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn starting(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn is_off(&self, vm: usize) -> bool {
        self.off().contains_key(&vm)
    }
    pub fn wish(&self, deed: Deed) {
        match deed {
            Deed::Stop(vm) => {
                self.off().entry(vm).or_default();
                self.starting().remove(&vm);
            }
            Deed::Start(vm) => {
                if self.off().remove(&vm).is_some() {
                    self.starting().insert(vm);
                }
            }
            Deed::Move(vm, to) => self.upkeep.wish_at(vm, to),
            Deed::CallOff(vm) => self.upkeep.call_off(vm),
            Deed::Cordon(node) => self.upkeep.wish_host(node, Standing::Cordoned),
            Deed::Drain(node) => self.upkeep.wish_host(node, Standing::Drained),
            Deed::Uncordon(node) => self.upkeep.wish_host(node, Standing::InService),
        }
    }
    /// VMs that were stopped, and that nobody has wanted to run since.
    pub fn resting(&self) -> Vec<(usize, Uuid)> {
        self.off().iter().filter_map(|(vm, id)| Some((*vm, (*id)?))).collect()
    }
    pub fn tell_no_more(&self, vm: usize) {
        self.off().insert(vm, None);
    }
}

pub fn host_name(node: Node) -> Name {
    name(&format!("host-{node}"))
}
pub fn vm_name(index: usize) -> Name {
    name(&format!("vm-{index}"))
}
fn name(text: &str) -> Name {
    text.parse().unwrap_or_else(|error| panic!("made an invalid name: {error}"))
}

pub async fn run(app: Arc<App>, hub: Arc<Hub>, wishes: Arc<Wishes>) {
    let mut tried = Tried::new();
    loop {
        if let Err(problem) = pass(&app, &wishes).await {
            hub.note(|| format!("not everything is there yet: {problem}"));
        }
        if let Err(problem) = wishes.upkeep.pass(&app, &mut tried).await {
            hub.note(|| format!("not everything is as it is wanted: {problem}"));
        }
        app.clock.sleep(LOOK).await;
    }
}

async fn pass(app: &Arc<App>, wishes: &Wishes) -> Result<(), Problem> {
    let (caller, query) = (Caller::controller(), WriteQuery::default());
    for node in wishes.hosts() {
        if app.objects.find::<Host>(host_name(node).as_str()).await?.is_none() {
            join(app, node, wishes.host_memory).await?;
        }
    }
    let is_ready = |node: Node| {
        let host = app.model.get::<Host>(host_name(node).as_str());
        host.is_some_and(|host| host.status.state == HostState::Ready && host.status.members_generation > 0)
    };
    match app.model.get::<Pool>(POOL) {
        None if (1..=wishes.first_hosts).all(is_ready) => {
            let hosts = (1..=wishes.first_hosts).map(host_name).collect();
            let kind = if wishes.mirrored { PoolType::Mirrored } else { PoolType::Dir };
            let spec = PoolSpec { kind, hosts, ..PoolSpec::dir("/srv/nas", host_name(1)) };
            pool::create(app, &caller, Pool::new(name(POOL), spec), &query).await.map(drop)
        }
        Some(pool) if pool.status.phase == PoolPhase::Ready => {
            for index in 0..wishes.vms {
                match app.objects.find::<Vm>(vm_name(index).as_str()).await? {
                    None => drop(vm::create(app, &caller, protected(index, wishes), &query).await?),
                    Some(vm) => switch(app, index, &vm, wishes).await?,
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// On or off, as is wished, as soon as nothing else is at work on it.
async fn switch(app: &App, index: usize, vm: &Vm, wishes: &Wishes) -> Result<(), Problem> {
    let (caller, query, name) = (Caller::controller(), WriteQuery::default(), vm.metadata.name.as_str());
    if vm.status.operation.is_some() {
        return Ok(());
    }
    match (vm.status.phase, wishes.is_off(index)) {
        (VmPhase::Running, true) => {
            let request = StopRequest { force: true, ..StopRequest::default() };
            vm::stop(app, &caller, name, request, &query).await.map(drop)
        }
        (VmPhase::Stopped, true) => {
            if let Some(seen) = wishes.off().get_mut(&index) {
                *seen = Some(vm.metadata.uuid);
            }
            Ok(())
        }
        (VmPhase::Running, false) => {
            wishes.starting().remove(&index);
            Ok(())
        }
        (VmPhase::Stopped | VmPhase::Failed, false) if wishes.starting().contains(&index) => {
            vm::start(app, &caller, name, &query).await.map(drop)
        }
        _ => Ok(()),
    }
}

fn protected(index: usize, wishes: &Wishes) -> Vm {
    let mut spec = VmSpec::new(1, wishes.vm_memory);
    (spec.disk, spec.pool) = (Some(ByteSize::gib(1)), Some(name(POOL)));
    spec.ha.policy = HaPolicy::Restart;
    spec.ha.restarts_per_hour = 60;
    spec.ha.priority = if index.is_multiple_of(3) { Priority::High } else { Priority::Medium };
    Vm::new(vm_name(index), spec)
}

/// As a host that has come with a token, before its first heartbeat.
async fn join(app: &App, node: Node, memory: ByteSize) -> Result<(), Problem> {
    let mut host = Host::new(host_name(node), HostSpec::default());
    host.metadata.uuid = app.clock.new_uuid();
    host.metadata.created_at = Some(app.clock.now());
    host.status.state = HostState::Joining;
    host.status.underlay_address = address(node);
    host.status.agent_address = format!("{}:7443", address(node));
    host.status.inventory = Some(inventory(memory));
    let mut change = Change::new();
    change.create(&host)?;
    let revision = app.objects.commit(change).await?;
    app.model.wait_for(revision).await;
    Ok(())
}
