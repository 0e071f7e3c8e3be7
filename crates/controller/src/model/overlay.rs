//! What the controller knows and does not store: it comes again within a second after a restart.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use gantry_api::{agent::VmObservation, heartbeat::MemberHealth, storage::PoolReport};
use gantry_types::{
    ByteSize, HostLease, HostMetrics, MigrationProgress, ObjectRef, Progress, ResourcePoolStatus, Timestamp, VmMetrics,
};
use uuid::Uuid;

use super::counters::Counters;

/// The newest heartbeat of a host.
#[derive(Debug, Clone)]
pub struct HostReport {
    pub agent_instance: Uuid,
    pub sequence: u64,
    pub last_seen: Timestamp,
    /// The same by the steady clock, for the decision that a host is lost.
    pub last_seen_elapsed: Duration,
    pub metrics: HostMetrics,
    pub networks_generation: u64,
    /// Of load balancers' members that run there.
    pub members: Vec<MemberHealth>,
    /// Routers that nothing there needs any more.
    pub idle_routers: Vec<Uuid>,
    pub vms: BTreeMap<Uuid, VmObservation>,
    pub pools: Vec<PoolReport>,
    pub lease: Option<HostLease>,
}

#[derive(Debug, Default)]
pub struct Overlay {
    /// By host name. A host without an entry has not reported since this controller started.
    pub hosts: HashMap<String, HostReport>,
    pub counters: Counters,
    pub vm_metrics: HashMap<Uuid, VmMetrics>,
    /// What volumes take in their pools.
    pub volumes: HashMap<Uuid, ByteSize>,
    /// Moves that are under way, by VM.
    pub migrations: HashMap<Uuid, MigrationProgress>,
    /// By name: how resource pools are divided.
    pub resource_pools: HashMap<String, ResourcePoolStatus>,
    /// By operation name.
    pub operations: HashMap<String, Progress>,
    /// The user a VM's QEMU runs as, by host: needed for the VM's port there. Only ever added to by reports, because a
    /// late one must not take a port away.
    pub owner_uids: HashMap<(String, Uuid), u32>,
    /// From which heartbeat of its host on a VM's observation may contradict its object: earlier ones may have been
    /// made before the operation that has just ended.
    trusted_from: HashMap<Uuid, Option<Fence>>,
    /// From which heartbeat of a host on it is surely made in this controller's life. The first that is heard of may have been
    /// made before something that the controller before this one has done.
    ours_from: HashMap<String, Fence>,
    /// Addresses (agent's and underlay) that a host told last and may not have, by host: each is told of once.
    pub refused_addresses: HashMap<String, (String, String)>,
    /// From which heartbeat of a host on it may say again that it has a VM that was taken off it.
    left_from: HashMap<(String, Uuid), Option<Fence>>,
}

/// A heartbeat: the agent's instance and the sequence number.
type Fence = (Uuid, u64);

/// Whether this heartbeat was surely made after the fence was put up. An agent that has restarted since made its
/// heartbeats after that, too, but the first may be late.
fn is_past(fence: Fence, instance: Uuid, sequence: u64) -> bool {
    if fence.0 == instance { sequence >= fence.1 } else { sequence >= 3 }
}

impl Overlay {
    /// Takes in what a host answered about a VM.
    pub fn observed(&mut self, host: &str, observation: &VmObservation) {
        let at = (host.to_owned(), observation.uuid);
        self.left_from.remove(&at);
        self.owner_uids.insert(at, observation.owner_uid);
    }

    /// Whether this heartbeat was made before one that has been taken in, by the same instance of the host's agent or by an earlier one:
    /// each is greater than those before it.
    pub fn is_late(&self, host: &str, instance: Uuid, sequence: u64) -> bool {
        self.hosts.get(host).is_some_and(|last| (last.agent_instance, last.sequence) >= (instance, sequence))
    }

    /// Takes in a host's newest heartbeat, without what it says of VMs that were taken off the host after it was made.
    pub fn reported(&mut self, host: &str, mut report: HostReport) {
        let (instance, sequence) = (report.agent_instance, report.sequence);
        let ours = *self.ours_from.entry(host.to_owned()).or_insert((instance, sequence + 1));
        self.left_from.retain(|(at, _), fence| at != host || !is_past(fence.unwrap_or(ours), instance, sequence));
        report.vms.retain(|vm, _| !self.left_from.contains_key(&(host.to_owned(), *vm)));
        for observation in report.vms.values() {
            self.owner_uids.insert((host.to_owned(), observation.uuid), observation.owner_uid);
            match observation.metrics {
                Some(metrics) => self.vm_metrics.insert(observation.uuid, metrics),
                None => self.vm_metrics.remove(&observation.uuid),
            };
        }
        for volume in report.pools.iter().flat_map(|pool| &pool.volumes) {
            self.volumes.insert(volume.volume, volume.allocated);
        }
        self.hosts.insert(host.to_owned(), report);
    }

    /// Forgets a VM that is no longer on a host, and what the host is still about to say of it.
    pub fn left(&mut self, host: &str, vm: Uuid) {
        let fence = self.fence(host);
        let at = (host.to_owned(), vm);
        self.owner_uids.remove(&at);
        self.left_from.insert(at, fence);
        if let Some(report) = self.hosts.get_mut(host) {
            report.vms.remove(&vm);
        }
    }

    /// The next heartbeat may have been made before now; the one after it is made when the next was answered. `None` for a host
    /// that was not heard of yet: the same then follows from `ours_from`.
    fn fence(&self, host: &str) -> Option<Fence> {
        self.hosts.get(host).map(|report| (report.agent_instance, report.sequence + 2))
    }

    /// Forgets what was only of interest while an operation ran.
    pub fn operation_ended(&mut self, target: &ObjectRef, operation: &str) {
        self.operations.remove(operation);
        self.migrations.remove(&target.uuid);
    }

    /// An operation on this VM, now on `host`, has ended.
    pub fn settled(&mut self, vm: Uuid, host: &str) {
        let fence = self.fence(host);
        self.trusted_from.insert(vm, fence);
    }

    /// Whether this heartbeat was surely made after the last operation on the VM.
    pub fn is_trusted(&self, host: &str, vm: Uuid, instance: Uuid, sequence: u64) -> bool {
        let is_ours = self.ours_from.get(host).is_some_and(|fence| is_past(*fence, instance, sequence));
        let ended = self.trusted_from.get(&vm).copied().flatten();
        is_ours && ended.is_none_or(|fence| is_past(fence, instance, sequence))
    }

    /// Forgets a VM that no longer exists.
    pub fn vm_gone(&mut self, vm: Uuid) {
        self.vm_metrics.remove(&vm);
        self.trusted_from.remove(&vm);
        self.migrations.remove(&vm);
        let hosts: Vec<String> = self.hosts.keys().cloned().collect();
        for host in hosts {
            self.left(&host, vm);
        }
        self.owner_uids.retain(|(_, owner), _| *owner != vm);
    }
}
