//! The people of the datacenter: what they want there is wished for until it is there, in whatever life of the controller.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gantry_api::rest::WriteQuery;
use gantry_controller::app::{pool, vm};
use gantry_controller::objects::Change;
use gantry_controller::{App, Caller};
use gantry_types::{
    ByteSize, HaPolicy, Host, HostSpec, HostState, Name, Pool, PoolPhase, PoolSpec, PoolType, Priority, Problem, Vm,
    VmSpec,
};

use super::agent::{address, inventory};
use super::hub::{Hub, Node};

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
}

impl Wishes {
    fn hosts(&self) -> BTreeSet<Node> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
    loop {
        if let Err(problem) = pass(&app, &wishes).await {
            hub.note(|| format!("not everything is there yet: {problem}"));
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
                if app.objects.find::<Vm>(vm_name(index).as_str()).await?.is_none() {
                    vm::create(app, &caller, protected(index, wishes), &query).await?;
                }
            }
            Ok(())
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
