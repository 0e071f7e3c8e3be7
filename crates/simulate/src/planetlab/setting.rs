//! The benchmark's setting: hosts, VMs, power curves and rules.
//!
//! Beloglazov and Buyya, "Optimal online deterministic algorithms and adaptive heuristics for energy and performance
//! efficient dynamic consolidation of virtual machines in Cloud data centers", CCPE 24 (13), 2012, as CloudSim 3.0.3
//! runs it.

/// Seconds between two samples of a trace, and between two decisions.
pub const INTERVAL_S: f64 = 300.0;
/// CloudSim's broker needs this long to hand over the VMs; every decision is that late.
pub const FIRST_S: f64 = 0.1;
pub const DAY_S: f64 = 86_400.0;
pub const HOSTS: usize = 800;
/// Half of a host's 1 Gbit/s carries migrations.
pub const MIGRATION_MB_PER_S: f64 = 62.5;
/// Loss of CPU to a VM while it migrates, and load on its destination.
pub const MIGRATION_SHARE: f64 = 0.1;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HostKind {
    pub name: &'static str,
    /// Of one of its two cores.
    pub core_mips: f64,
    pub ram_mb: u32,
    /// At 0, 10, … 100 % of its MIPS.
    pub watts: [f64; 11],
}

impl HostKind {
    pub fn mips(&self) -> f64 {
        2.0 * self.core_mips
    }

    /// `share`: of its MIPS, 0–1.
    pub fn power_watts(&self, share: f64) -> f64 {
        let at = share.clamp(0.0, 1.0) * 10.0;
        let (low, high) = (at.floor() as usize, at.ceil() as usize);
        self.watts[low] + (self.watts[high] - self.watts[low]) * (at - at.floor())
    }
}

pub const HOST_KINDS: [HostKind; 2] = [
    HostKind {
        name: "G4",
        core_mips: 1860.0,
        ram_mb: 4096,
        watts: [86.0, 89.4, 92.6, 96.0, 99.5, 102.0, 106.0, 108.0, 112.0, 114.0, 117.0],
    },
    HostKind {
        name: "G5",
        core_mips: 2660.0,
        ram_mb: 4096,
        watts: [93.7, 97.0, 101.0, 105.0, 110.0, 116.0, 121.0, 125.0, 129.0, 133.0, 135.0],
    },
];

/// The hosts alternate.
pub fn host_kind(host: usize) -> &'static HostKind {
    &HOST_KINDS[host % 2]
}

/// A VM has one core.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VmKind {
    pub mips: f64,
    pub ram_mb: u32,
}

impl VmKind {
    pub fn migration_s(&self) -> f64 {
        f64::from(self.ram_mb) / MIGRATION_MB_PER_S
    }
}

pub const VM_KINDS: [VmKind; 4] = [
    VmKind { mips: 2500.0, ram_mb: 870 },
    VmKind { mips: 2000.0, ram_mb: 1740 },
    VmKind { mips: 1000.0, ram_mb: 1740 },
    VmKind { mips: 500.0, ram_mb: 613 },
];

/// The VMs come in four blocks of equal size, one of each kind.
pub fn vm_kind(vm: usize, count: usize) -> &'static VmKind {
    &VM_KINDS[vm / count.div_ceil(VM_KINDS.len()).max(1)]
}

/// Which rules of the world hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    pub name: &'static str,
    /// CloudSim takes a VM that asks for nothing at some moment for finished, and removes it for good.
    pub idle_vms_end: bool,
    /// Memory counts at all times, and not only when a VM is first placed.
    pub memory_counts: bool,
    /// A woken host draws idle power for so long before it can serve.
    pub wake_s: f64,
}

/// As CloudSim 3.0.3 has them: what its published figures were measured under.
pub const CLOUDSIM: Rules = Rules { name: "cloudsim", idle_vms_end: true, memory_counts: false, wake_s: 0.0 };
/// The same, but every VM stays to the end of the day.
pub const ALL_STAY: Rules = Rules { name: "all-stay", idle_vms_end: false, memory_counts: false, wake_s: 0.0 };
/// All VMs stay, memory counts, waking takes two minutes.
pub const HONEST: Rules = Rules { name: "honest", idle_vms_end: false, memory_counts: true, wake_s: 120.0 };
