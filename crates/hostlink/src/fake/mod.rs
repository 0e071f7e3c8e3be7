//! Hosts in memory: what the controller's tests drive instead of real agents.
//!
//! A [`FakeWorld`] holds all hosts, so that one can call another while a VM moves, and so that a test can ask at any
//! moment which hosts execute a VM. It keeps the contract of [`AgentApi`](gantry_api::AgentApi): repeatable calls,
//! epochs, one final verdict per migration. Nothing happens by itself: a migration goes one step further each time
//! its source is asked about it, and as far as it can with [`FakeWorld::settle`]. Faults are injected by the name of
//! a call: before its effect, or after it (then only the answer is lost).

mod backups;
mod copies;
mod disk_move;
mod faults;
mod fencing;
mod guest;
mod host;
mod late;
mod migration;
mod mirror;
mod parts;
mod relocation;
mod shared_disk;
mod snapshots;
mod storage;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gantry_api::agent::{Verdict, VmObservation};
use gantry_api::relocation::ExpectDisk;
use gantry_types::{HostNetworks, HostResources, Name, ProbeStatus, Problem, RecoveryPoint};
use uuid::Uuid;

pub use faults::{Call, Fault, When};
pub use host::{CLOCK_LAG_MS, FakeHost};
pub use late::{Sent, SentCommand};

use backups::FakeRepositories;
use copies::FakeCopy;
use faults::Faults;
use fencing::FakeLease;
use guest::{FakeVm, Guest};
use storage::FakePool;

/// Every host there is.
#[derive(Default)]
pub struct FakeWorld {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hosts: BTreeMap<Name, HostState>,
    faults: Faults,
    /// What started and stopped VMs.
    sent: Vec<Sent>,
    repositories: FakeRepositories,
    /// Every time a VM executed on two hosts.
    violations: Vec<String>,
    /// Disks in pools carry no lock of whoever has them open.
    unlocked: bool,
    /// How often each guest with a mirrored disk was told that a write is durable.
    acknowledged: BTreeMap<Uuid, u64>,
    /// A mistake: guests go on without their peers by themselves.
    parts_untold: bool,
}

#[derive(Default)]
struct HostState {
    /// Nobody reaches it, and it reaches nobody.
    cut: bool,
    vms: BTreeMap<Uuid, FakeVm>,
    /// VMs whose disks are to come.
    expected: BTreeMap<Uuid, ExpectDisk>,
    images: BTreeSet<String>,
    networks: HostNetworks,
    resources: HostResources,
    /// By migration; never forgotten.
    verdicts: BTreeMap<Uuid, Verdict>,
    uids_given: u32,
    pools: BTreeMap<Uuid, FakePool>,
    /// Of disks that are another host's, by VM.
    copies: BTreeMap<Uuid, FakeCopy>,
    /// How often it has served a copy.
    servings: u64,
    /// How often each volume that is being moved says that it is copied.
    moves: BTreeMap<Uuid, u32>,
    /// VMs of which it has a disk of its own that is not the one in use.
    own_copies: BTreeSet<Uuid>,
    lease: FakeLease,
    /// Whose a disk in a pool is, is not looked at.
    unleased: bool,
}

impl FakeWorld {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent of this host; a new host if there was none of that name.
    pub fn host(self: &Arc<Self>, name: &Name) -> FakeHost {
        self.lock().hosts.entry(name.clone()).or_default();
        FakeHost { world: Arc::clone(self), name: name.clone(), lifted: u64::MAX }
    }

    pub fn inject(&self, fault: Fault) {
        self.lock().faults.add(fault);
    }

    /// Faults that were asked for and have not happened happen no more.
    pub fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    /// Every call so far, also the failed ones.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().faults.calls.clone()
    }

    /// Takes the host's cable out; its guests go on.
    pub fn cut(&self, host: &Name) {
        self.with(host, |state| state.cut = true);
    }
    pub fn mend(&self, host: &Name) {
        self.with(host, |state| state.cut = false);
    }

    /// Takes the host's power: every guest there ends at once.
    pub fn unplug(&self, host: &Name) {
        let mut state = self.lock();
        if let Some(host) = state.hosts.get_mut(host) {
            host.cut = true;
            host.vms.values_mut().for_each(FakeVm::lose_power);
        }
        state.streams_lost();
    }

    /// The guest shuts itself down.
    pub fn guest_powers_off(&self, host: &Name, vm: Uuid) {
        self.with(host, |state| {
            if let Some(vm) = state.vms.get_mut(&vm) {
                vm.guest = Guest::Off { failed: false, reason: Some("guest shut down".into()) };
            }
        });
    }

    /// QEMU stops the guest because a pool is full.
    pub fn guest_waits_for_room(&self, host: &Name, vm: Uuid) {
        self.with(host, |state| {
            if let Some(vm) = state.vms.get_mut(&vm) {
                vm.guest = Guest::Paused;
            }
        });
    }

    /// The guest fails, and its host starts it again by itself.
    pub fn guest_is_restarted(&self, host: &Name, vm: Uuid, cause: &str) {
        self.with(host, |state| {
            if let Some(vm) = state.vms.get_mut(&vm) {
                vm.guest = Guest::Running;
                vm.ha.restarts += 1;
                vm.ha.last_cause = Some(cause.to_owned());
            }
        });
    }

    /// The guest fails, and its host leaves it to others to start it.
    pub fn guest_is_left_to_others(&self, host: &Name, vm: Uuid, cause: &str) {
        self.with(host, |state| {
            if let Some(vm) = state.vms.get_mut(&vm) {
                vm.guest = Guest::Off { failed: true, reason: Some(cause.to_owned()) };
                vm.ha.elsewhere = true;
            }
        });
    }

    /// The host has lost what the VM needs, and waits for word that it may give it up.
    pub fn strand(&self, host: &Name, vm: Uuid, why: &str) {
        self.with(host, |state| {
            if let Some(vm) = state.vms.get_mut(&vm) {
                (vm.ha.unhealthy, vm.ha.stranded) = (Some(why.to_owned()), true);
            }
        });
    }

    /// The controller says which VMs another host can take: those that are stranded are given up.
    pub fn may_leave(&self, host: &Name, vms: &[Uuid]) {
        self.with(host, |state| {
            for vm in state.vms.values_mut().filter(|vm| vms.contains(&vm.assignment.uuid) && vm.ha.stranded) {
                let reason = vm.ha.unhealthy.take();
                vm.guest = Guest::Off { failed: true, reason };
                (vm.ha.stranded, vm.ha.elsewhere) = (false, true);
            }
        });
    }

    /// What the host's probes of the VM say from here on.
    pub fn probes_say(&self, host: &Name, vm: Uuid, probes: Vec<ProbeStatus>) {
        self.with(host, |state| {
            if let Some(vm) = state.vms.get_mut(&vm) {
                vm.probes = probes;
            }
        });
    }

    /// The guest writes to its disk. One whose peer does not get that stands still.
    pub fn guest_writes(&self, host: &Name, vm: Uuid) {
        self.lock().guest_writes(host, vm, |_| true);
    }

    /// What is on a VM's disk: how often its guest wrote to it, and the states that are kept.
    pub fn disk_on(&self, host: &Name, vm: Uuid) -> Option<(u64, Vec<Uuid>)> {
        let state = self.lock();
        let disk = &state.hosts.get(host)?.vms.get(&vm)?.disk;
        Some((disk.content, disk.snapshots.keys().copied().collect()))
    }

    /// The guest has been fine for long enough: its disk's state is kept.
    pub fn keep_good(&self, host: &Name, vm: Uuid, point: RecoveryPoint) {
        self.with(host, |state| {
            if let Some(vm) = state.vms.get_mut(&vm) {
                vm.disk.keep(point.uuid, false, Vec::new());
                vm.points.insert(0, point);
            }
        });
    }

    fn with<R>(&self, host: &Name, change: impl FnOnce(&mut HostState) -> R) -> Option<R> {
        self.lock().hosts.get_mut(host).map(change)
    }

    /// The hosts on which this VM's guest executes right now, reachable or not.
    pub fn executing(&self, vm: Uuid) -> Vec<Name> {
        self.lock().executing(vm)
    }

    /// Whether any VM ever executed on two hosts at once, or without what it was told is durable: each time, described.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// What a host has, without asking its agent.
    pub fn vms_on(&self, host: &Name) -> Vec<VmObservation> {
        let state = self.lock();
        state.hosts.get(host).into_iter().flat_map(|state| state.vms.values().map(FakeVm::observe)).collect()
    }

    pub fn networks_on(&self, host: &Name) -> HostNetworks {
        self.lock().hosts.get(host).map(|state| state.networks.clone()).unwrap_or_default()
    }

    pub fn resources_on(&self, host: &Name) -> HostResources {
        self.lock().hosts.get(host).map(|state| state.resources.clone()).unwrap_or_default()
    }

    pub fn images_on(&self, host: &Name) -> BTreeSet<String> {
        self.lock().hosts.get(host).map(|state| state.images.clone()).unwrap_or_default()
    }

    /// Lets every migration go as far as it can.
    pub fn settle(&self) {
        let mut state = self.lock();
        while state.advance_all() {}
        state.check();
    }
}

impl State {
    fn host(&mut self, name: &Name) -> Result<&mut HostState, Problem> {
        self.hosts.get_mut(name).ok_or_else(|| unreachable(name))
    }

    fn executing(&self, vm: Uuid) -> Vec<Name> {
        let runs = |host: &HostState| host.vms.get(&vm).is_some_and(|vm| vm.guest == Guest::Running);
        self.hosts.iter().filter(|(_, host)| runs(host)).map(|(name, _)| name.clone()).collect()
    }

    /// Writes down every VM that executes twice, or without what it was told is durable.
    fn check(&mut self) {
        let vms: BTreeSet<Uuid> = self.hosts.values().flat_map(|host| host.vms.keys().copied()).collect();
        for vm in vms {
            let hosts = self.executing(vm);
            if hosts.len() > 1 {
                self.violations.push(format!("VM {vm} executes on {hosts:?}"));
            }
            self.violations.extend(self.lost_writes(vm));
        }
    }
}

fn unreachable(host: &Name) -> Problem {
    Problem::transient("host-unreachable", format!("host '{host}' does not answer"))
}
