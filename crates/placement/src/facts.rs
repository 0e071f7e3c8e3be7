//! What the engine is told about hosts and VMs.

use std::collections::BTreeMap;

use gantry_types::{
    ByteSize, FailureDomain, Host, HostState, Labels, Maintenance, Name, Pool, PoolInfo, PoolSpace, Vm, VmPhase,
};

use crate::{MEMORY_RESERVE, Machine, Request};

/// A host as placement sees it. CPU amounts are percent of one processor; any other unit does, if it is the same for all
/// hosts and VMs of a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct HostFacts {
    pub name: Name,
    pub labels: Labels,
    pub state: HostState,
    pub cordoned: bool,
    /// Being emptied, or empty and out of service.
    pub maintenance: bool,
    /// Switched off by power management.
    pub asleep: bool,
    /// It was put to sleep and woken before, so it may be again.
    pub wake_proven: bool,
    pub failure_domain: FailureDomain,
    /// `None` until its agent has reported.
    pub machine: Option<Machine>,
    pub cpus: u32,
    pub cpu_capacity: f64,
    /// Measured, everything on the host included.
    pub cpu_used: f64,
    /// What VMs may have, the host's own reserve already taken off.
    pub memory: ByteSize,
    /// Its own, for VMs that ask for none.
    pub pools: Vec<PoolInfo>,
    /// Those that can be asked for by name.
    pub named_pools: Vec<PoolInfo>,
    /// Networks that it does not reach, with the reason.
    pub out_of_reach: BTreeMap<Name, String>,
    /// Watts at 0, 10, … 100 % of its processors, where known.
    pub watts: Option<[f64; 11]>,
}

impl From<&Host> for HostFacts {
    /// What the object itself says. Pools with names, and networks out of its reach, are the caller's to add.
    fn from(host: &Host) -> Self {
        let inventory = host.status.inventory.as_ref();
        let cpus = inventory.map_or(0, |inventory| inventory.cpu.count);
        let memory = inventory.map_or(0, |inventory| inventory.memory.bytes());
        let busy_share = host.status.metrics.map_or(0.0, |metrics| metrics.cpu_percent / 100.0);
        Self {
            name: host.metadata.name.clone(),
            labels: host.metadata.labels.clone(),
            state: host.status.state,
            cordoned: host.spec.cordoned,
            maintenance: host.status.maintenance != Maintenance::Off,
            asleep: matches!(host.status.state, HostState::Sleeping | HostState::Waking),
            wake_proven: host.status.wake_proof.is_some(),
            failure_domain: host.spec.failure_domain.clone(),
            machine: inventory.map(Machine::from),
            cpus,
            cpu_capacity: f64::from(cpus) * 100.0,
            cpu_used: f64::from(cpus) * 100.0 * busy_share,
            memory: ByteSize(memory.saturating_sub(MEMORY_RESERVE.bytes())),
            pools: inventory.map(|inventory| inventory.pools.clone()).unwrap_or_default(),
            named_pools: Vec::new(),
            out_of_reach: BTreeMap::new(),
            watts: host.spec.curve(),
        }
    }
}

impl HostFacts {
    /// With those of these pools that the host reaches.
    pub fn with_pools<'a>(mut self, pools: impl IntoIterator<Item = &'a Pool>) -> Self {
        let reached = pools.into_iter().filter(|pool| pool.is_at(&self.name));
        self.named_pools = reached.map(pool_info).collect();
        self
    }
}

/// A pool of which no host has told yet is not held against those who reach it.
fn pool_info(pool: &Pool) -> PoolInfo {
    let unknown = PoolSpace { capacity: ByteSize(u64::MAX), free: ByteSize(u64::MAX) };
    let PoolSpace { capacity, free } = pool.status.space.unwrap_or(unknown);
    PoolInfo { name: pool.metadata.name.to_string(), path: pool.spec.place().to_owned(), capacity, free }
}

/// A VM as placement sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct VmFacts {
    pub name: Name,
    pub host: Option<Name>,
    /// It counts there, too.
    pub moving_to: Option<Name>,
    pub running: bool,
    /// Why it can't be moved at present, in words: pinned, paused for a backup, …
    pub obstacle: Option<String>,
    /// What it needs wherever it goes. `only` is what its owner asked for.
    pub request: Request,
}

impl From<&Vm> for VmFacts {
    /// What the object itself says. Likeness, disk space and demand are the caller's to add.
    fn from(vm: &Vm) -> Self {
        let mut request = Request::new(vm);
        let used = vm.status.metrics.map_or(0.0, |metrics| metrics.cpu_percent);
        request.demand = Demand { now: used, expected: used, deviation: 0.0 };
        Self {
            name: vm.metadata.name.clone(),
            host: vm.status.host.clone(),
            moving_to: vm.status.moving_to.clone(),
            running: matches!(vm.status.phase, VmPhase::Running | VmPhase::Paused | VmPhase::Migrating),
            obstacle: None,
            request,
        }
    }
}

/// What a VM will use of the processors in the time to come: see `forecast`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Demand {
    /// As measured last.
    pub now: f64,
    pub expected: f64,
    /// Standard deviation around it.
    pub deviation: f64,
}
