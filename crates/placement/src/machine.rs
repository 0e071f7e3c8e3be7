//! What guests may depend on in a host, and what all hosts of a cluster have in common.

use std::collections::BTreeSet;

use gantry_types::{Arch, Inventory};

/// The part of a host's inventory that decides which guests it can run and take over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub arch: Arch,
    pub guest_archs: Vec<Arch>,
    pub kvm: bool,
    pub qemu_version: String,
    /// Sorted.
    cpu_flags: Vec<String>,
}

impl Machine {
    pub fn new(arch: Arch, guest_archs: Vec<Arch>, kvm: bool, qemu_version: String, mut flags: Vec<String>) -> Self {
        flags.sort();
        flags.dedup();
        Self { arch, guest_archs, kvm, qemu_version, cpu_flags: flags }
    }

    pub fn has(&self, flag: &str) -> bool {
        self.cpu_flags.binary_search_by(|own| own.as_str().cmp(flag)).is_ok()
    }

    pub fn cpu_flags(&self) -> &[String] {
        &self.cpu_flags
    }
}

impl From<&Inventory> for Machine {
    fn from(inventory: &Inventory) -> Self {
        Self::new(
            inventory.arch,
            inventory.guest_archs.clone(),
            inventory.kvm,
            inventory.qemu_version.clone(),
            inventory.cpu.flags.clone(),
        )
    }
}

/// What every host of a scope offers: a guest that sees no more than this can move everywhere in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baseline {
    pub arch: Arch,
    /// True only if all hosts have KVM.
    pub kvm: bool,
    /// The oldest QEMU among the hosts.
    pub qemu_version: String,
    /// Processor flags that all hosts have, sorted.
    pub cpu_flags: Vec<String>,
}

impl Baseline {
    /// `None` if there is no host or the architectures differ: then nothing can move everywhere.
    pub fn of<'a>(machines: impl IntoIterator<Item = &'a Machine>) -> Option<Self> {
        let mut machines = machines.into_iter();
        let first = machines.next()?;
        let mut flags: BTreeSet<&String> = first.cpu_flags.iter().collect();
        let (mut kvm, mut oldest) = (first.kvm, &first.qemu_version);
        for machine in machines {
            if machine.arch != first.arch {
                return None;
            }
            flags.retain(|flag| machine.has(flag));
            kvm &= machine.kvm;
            if version(&machine.qemu_version) < version(oldest) {
                oldest = &machine.qemu_version;
            }
        }
        Some(Self {
            arch: first.arch,
            kvm,
            qemu_version: oldest.clone(),
            cpu_flags: flags.into_iter().cloned().collect(),
        })
    }
}

/// `7.2.17 (Debian 1:7.2+dfsg)` → `[7, 2]`; QEMU promises migration between versions by major and minor.
pub(crate) fn version(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok()).take(2).collect()
}
