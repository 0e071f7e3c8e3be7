//! What the controller knows and does not store: it comes again within a second after a restart.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use gantry_api::agent::VmObservation;
use gantry_types::{HostMetrics, MigrationProgress, ObjectRef, Progress, Timestamp, VmMetrics};
use uuid::Uuid;

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
    pub vms: BTreeMap<Uuid, VmObservation>,
}

#[derive(Debug, Default)]
pub struct Overlay {
    /// By host name. A host without an entry has not reported since this controller started.
    pub hosts: HashMap<String, HostReport>,
    pub vm_metrics: HashMap<Uuid, VmMetrics>,
    /// Moves that are under way, by VM.
    pub migrations: HashMap<Uuid, MigrationProgress>,
    /// By operation name.
    pub operations: HashMap<String, Progress>,
    /// The user a VM's QEMU runs as, by host: needed for the VM's port there. Only ever added to by reports, because a
    /// late one must not take a port away.
    pub owner_uids: HashMap<(String, Uuid), u32>,
    /// From which heartbeat of its host on a VM's observation may contradict its object: earlier ones may have been
    /// made before the operation that has just ended.
    pub trusted_from: HashMap<Uuid, (Uuid, u64)>,
}

impl Overlay {
    /// Takes in what a host answered about a VM.
    pub fn observed(&mut self, host: &str, observation: &VmObservation) {
        self.owner_uids.insert((host.to_owned(), observation.uuid), observation.owner_uid);
    }

    /// Forgets a VM that is no longer on a host.
    pub fn left(&mut self, host: &str, vm: Uuid) {
        self.owner_uids.remove(&(host.to_owned(), vm));
    }

    /// Forgets what was only of interest while an operation ran.
    pub fn operation_ended(&mut self, target: &ObjectRef, operation: &str) {
        self.operations.remove(operation);
        self.migrations.remove(&target.uuid);
    }

    /// An operation on this VM, now on `host`, has ended. The next heartbeat may have been made before that; the one
    /// after it is made when the next was answered.
    pub fn settled(&mut self, vm: Uuid, host: &str) {
        let newest = self.hosts.get(host).map_or((Uuid::nil(), 0), |report| (report.agent_instance, report.sequence));
        self.trusted_from.insert(vm, (newest.0, newest.1 + 2));
    }

    /// Whether this heartbeat was surely made after the last operation on the VM. An agent that has restarted since
    /// made its heartbeats after that, too, but the first may be late.
    pub fn is_trusted(&self, vm: Uuid, instance: Uuid, sequence: u64) -> bool {
        match self.trusted_from.get(&vm) {
            Some((fenced, from)) if *fenced == instance => sequence >= *from,
            Some(_) => sequence >= 3,
            None => true,
        }
    }

    /// Forgets a VM that no longer exists.
    pub fn vm_gone(&mut self, vm: Uuid) {
        self.vm_metrics.remove(&vm);
        self.trusted_from.remove(&vm);
        self.migrations.remove(&vm);
        self.owner_uids.retain(|(_, owner), _| *owner != vm);
    }
}
