//! What is asked of placement.

use gantry_types::{Arch, ByteSize, Inventory, Labels, Name, PlacementRules, Vm};
use uuid::Uuid;

use crate::{Demand, Machine, Reason, machine::version};

/// A VM that needs a host.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Its own share is not counted against it.
    pub vm: Uuid,
    /// Rules of other VMs may speak of it.
    pub labels: Labels,
    pub rules: PlacementRules,
    pub arch: Arch,
    pub cpus: u32,
    /// Of one processor, promised at all times.
    pub cpu_reservation_percent: u32,
    pub memory: ByteSize,
    /// The part of its memory that is never lent to others.
    pub memory_reservation: ByteSize,
    /// What a pool must have free. Disks are thin, so this is less than their size.
    pub disk_space: ByteSize,
    /// That pool and no other.
    pub pool: Option<String>,
    /// Pools that the host must reach besides, because volumes of the VM are there.
    pub volume_pools: Vec<String>,
    /// Networks that the host must reach.
    pub networks: Vec<Name>,
    /// What it is expected to use.
    pub demand: Demand,
    /// This host and no other.
    pub only: Option<Name>,
    /// Any host but this one.
    pub except: Option<Name>,
    /// The VM is on that host already, so a cordon does not matter.
    pub despite_cordon: bool,
    /// A sleeping host will do: it is woken first.
    pub may_wake: bool,
    /// A running guest moves: the host must be able to go on with it.
    pub like: Option<Likeness>,
}

impl Request {
    /// For a VM that is nowhere yet.
    pub fn new(vm: &Vm) -> Self {
        let mut networks: Vec<Name> = vm.spec.nics.iter().map(|nic| nic.network.clone()).collect();
        networks.sort();
        networks.dedup();
        Self {
            vm: vm.metadata.uuid,
            labels: vm.metadata.labels.clone(),
            rules: vm.spec.placement.clone(),
            arch: vm.spec.arch,
            cpus: vm.spec.cpus,
            cpu_reservation_percent: vm.spec.resources.cpu_reservation_percent,
            memory: vm.spec.memory,
            memory_reservation: vm.spec.resources.memory_reservation,
            disk_space: ByteSize(0),
            pool: vm.spec.pool.as_ref().map(ToString::to_string),
            volume_pools: Vec::new(),
            networks,
            demand: Demand::default(),
            only: vm.spec.host.clone(),
            except: None,
            despite_cordon: false,
            may_wake: false,
            like: None,
        }
    }
}

/// What a running guest depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Likeness {
    pub arch: Arch,
    pub kvm: bool,
    /// The destination's may be newer, never older.
    pub qemu_version: String,
    /// The processor of the source, if its guest sees it.
    pub cpu_flags: Option<Vec<String>>,
}

impl Likeness {
    /// Of a guest that runs on this host. `host_cpu`: the guest was given the host's own processor, not a model.
    pub fn of(inventory: &Inventory, host_cpu: bool) -> Self {
        Self {
            arch: inventory.arch,
            kvm: inventory.kvm,
            qemu_version: inventory.qemu_version.clone(),
            // Under TCG the processor is QEMU's own.
            cpu_flags: (host_cpu && inventory.kvm).then(|| inventory.cpu.flags.clone()),
        }
    }

    pub(crate) fn check(&self, destination: &Machine) -> Result<(), Reason> {
        if destination.arch != self.arch {
            return Err(Reason::OtherArch { arch: destination.arch });
        }
        if destination.kvm != self.kvm {
            return Err(Reason::OtherAccelerator { kvm: destination.kvm });
        }
        if version(&destination.qemu_version) < version(&self.qemu_version) {
            return Err(Reason::OlderQemu { has: destination.qemu_version.clone(), needed: self.qemu_version.clone() });
        }
        let missing = |flags: &Vec<String>| flags.iter().find(|flag| !destination.has(flag)).cloned();
        match self.cpu_flags.as_ref().and_then(missing) {
            Some(flag) => Err(Reason::MissingCpuFlag { flag }),
            None => Ok(()),
        }
    }
}
