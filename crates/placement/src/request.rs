//! What is asked of placement.

use gantry_types::{Arch, ByteSize, Inventory, Name, Vm};
use uuid::Uuid;

use crate::Reason;

/// A VM that needs a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its own share is not counted against it.
    pub vm: Uuid,
    pub arch: Arch,
    pub memory: ByteSize,
    /// What a pool must have free. Disks are thin, so this is less than their size.
    pub disk_space: ByteSize,
    /// This host and no other.
    pub only: Option<Name>,
    /// Any host but this one.
    pub except: Option<Name>,
    /// The VM is on that host already, so a cordon does not matter.
    pub despite_cordon: bool,
    /// A running guest moves: the host must be able to go on with it.
    pub like: Option<Likeness>,
}

impl Request {
    /// For a VM that is nowhere yet.
    pub fn new(vm: &Vm) -> Self {
        Self {
            vm: vm.metadata.uuid,
            arch: vm.spec.arch,
            memory: vm.spec.memory,
            disk_space: ByteSize(0),
            only: vm.spec.host.clone(),
            except: None,
            despite_cordon: false,
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

    pub(crate) fn check(&self, destination: &Inventory) -> Result<(), Reason> {
        if destination.arch != self.arch {
            return Err(Reason::OtherArch { arch: destination.arch });
        }
        if destination.kvm != self.kvm {
            return Err(Reason::OtherAccelerator { kvm: destination.kvm });
        }
        if version(&destination.qemu_version) < version(&self.qemu_version) {
            return Err(Reason::OlderQemu { has: destination.qemu_version.clone(), needed: self.qemu_version.clone() });
        }
        let missing = |flags: &Vec<String>| flags.iter().find(|flag| !destination.cpu.flags.contains(flag)).cloned();
        match self.cpu_flags.as_ref().and_then(missing) {
            Some(flag) => Err(Reason::MissingCpuFlag { flag }),
            None => Ok(()),
        }
    }
}

/// `7.2.17 (Debian 1:7.2+dfsg)` → `[7, 2]`; QEMU promises migration between versions by major and minor.
fn version(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok()).take(2).collect()
}
