//! `vm`: a virtual machine.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    BackupSchedule, ByteSize, DiskCopies, Displaced, HaSpec, HaStatus, MacAddress, MigrationFigures, MigrationPolicy,
    MigrationProgress, Name, PlacementRules, Probe, ProbeStatus, Problem, RecoveryPoint, RecoveryPolicy,
    ResourceWishes, SnapshotSchedule, Timestamp, VmPhase, resource::resource,
};

resource!(
    /// A virtual machine. Its phases are drawn in `vm_phase.rs`.
    Vm, "vm", "vms", VmSpec, VmStatus
);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// Virtual processors, 1–256. Changed while stopped.
    pub cpus: u32,
    /// 32 MiB – 4 TiB. Changed while stopped.
    pub memory: ByteSize,
    /// The image its disk starts from; an empty disk if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Name>,
    /// Size of its disk; the image's if not given. Needed without an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<ByteSize>,
    /// The pool its disk is in: the one of its host's own if not given. In one that several hosts reach, the VM moves
    /// without its disk, and starts on any of them. Fixed once there is a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Name>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<NicSpec>,
    #[serde(default)]
    pub arch: Arch,
    /// QEMU's name of the CPU model; `max` or `host` (as the accelerator has it) if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    #[serde(default)]
    pub firmware: Firmware,
    /// cloud-init user-data, given to the guest verbatim (NoCloud), at most 256 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    #[serde(default)]
    pub power: PowerState,
    /// Run here and nowhere else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Name>,
    #[serde(default)]
    pub migration: MigrationPolicy,
    /// Which VMs and hosts it wants to be near to or far from.
    #[serde(default, skip_serializing_if = "PlacementRules::is_empty")]
    pub placement: PlacementRules,
    /// What it is promised of its host, and what it may take at most.
    #[serde(default, skip_serializing_if = "ResourceWishes::is_default")]
    pub resources: ResourceWishes,
    /// What it has for a screen. Changed while stopped.
    #[serde(default)]
    pub display: Display,
    /// The user whose it is: he sees it, restarts and recovers it, whatever his role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Name>,
    /// What its host does when it fails. Changed at any time.
    #[serde(default, skip_serializing_if = "HaSpec::is_default")]
    pub ha: HaSpec,
    /// How its host finds out whether its application serves. Changed at any time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Probe>,
    #[serde(default)]
    pub recovery: RecoveryPolicy,
    /// Snapshots that are taken by themselves. Changed at any time.
    #[serde(default, skip_serializing_if = "SnapshotSchedule::is_empty")]
    pub snapshots: SnapshotSchedule,
    /// Backups that are made by themselves. Changed at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<BackupSchedule>,
}

impl VmSpec {
    /// With the default of everything that a spec need not say.
    pub fn new(cpus: u32, memory: ByteSize) -> Self {
        Self {
            cpus,
            memory,
            image: None,
            disk: None,
            pool: None,
            nics: Vec::new(),
            arch: Arch::default(),
            cpu_model: None,
            firmware: Firmware::default(),
            user_data: None,
            power: PowerState::default(),
            host: None,
            migration: MigrationPolicy::default(),
            placement: PlacementRules::default(),
            resources: ResourceWishes::default(),
            display: Display::default(),
            owner: None,
            ha: HaSpec::default(),
            probes: Vec::new(),
            recovery: RecoveryPolicy::default(),
            snapshots: SnapshotSchedule::default(),
            backups: None,
        }
    }

    /// All that is wrong with it by itself, as problem fields; references are the controller's to check.
    pub fn validate(&self) -> Result<(), Problem> {
        let mut problem = Problem::invalid("invalid-vm", "the VM's spec is not valid");
        if !(1..=256).contains(&self.cpus) {
            problem = problem.field("spec.cpus", format!("{} is out of range, use 1 to 256", self.cpus));
        }
        if !(ByteSize::mib(32)..=ByteSize::gib(4096)).contains(&self.memory) {
            problem = problem.field("spec.memory", format!("{} is out of range, use 32MiB to 4TiB", self.memory));
        } else if !self.memory.0.is_multiple_of(1 << 20) {
            problem = problem.field("spec.memory", format!("{} is not a whole number of MiB", self.memory));
        }
        match self.disk {
            None if self.image.is_none() => {
                problem = problem.field("spec.disk", "needed, because there is no image: for example 1GiB");
            }
            Some(size) if !(ByteSize::mib(1)..=ByteSize::gib(65536)).contains(&size) => {
                problem = problem.field("spec.disk", format!("{size} is out of range, use 1MiB to 64TiB"));
            }
            Some(size) if !size.0.is_multiple_of(512) => {
                problem = problem.field("spec.disk", format!("{size} is not a multiple of 512 bytes"));
            }
            _ => {}
        }
        if self.nics.len() > 8 {
            problem = problem.field("spec.nics", format!("{} are too many, use at most 8", self.nics.len()));
        }
        for (index, nic) in self.nics.iter().enumerate() {
            if nic.port.is_some() && (nic.address.is_some() || nic.mac.is_some() || !nic.security_groups.is_empty()) {
                let message = "brings its own address, MAC and security groups; give these at the port";
                problem = problem.field(format!("spec.nics[{index}].port"), message);
            }
        }
        if let Some(model) = &self.cpu_model
            && (model.is_empty()
                || model.len() > 64
                || !model.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)))
        {
            problem =
                problem.field("spec.cpu_model", "is not a QEMU CPU model name; see: qemu-system-x86_64 -cpu help");
        }
        if self.user_data.as_ref().is_some_and(|data| data.len() > 256 << 10) {
            problem = problem.field("spec.user_data", "is larger than 256 KiB");
        }
        if !(1..=10_000).contains(&self.migration.max_downtime_ms) {
            problem = problem.field("spec.migration.max_downtime_ms", "is out of range, use 1 to 10000");
        }
        problem = self.placement.validate(problem);
        problem = self.resources.validate(self.cpus, self.memory, problem);
        problem = self.ha.validate(problem);
        if self.ha.roll_back_after.is_some() && self.recovery.keep == 0 {
            let message = "no good states are kept to go back to: set spec.recovery.keep to 1 or more";
            problem = problem.field("spec.ha.roll_back_after", message);
        }
        problem = crate::probe::validate(&self.probes, &self.nics, problem);
        problem = self.snapshots.check(self.recovery.check(problem));
        if let Some(backups) = &self.backups {
            problem = backups.check(problem);
        }
        if problem.fields.is_empty() { Ok(()) } else { Err(problem) }
    }
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NicSpec {
    pub network: Name,
    /// Handed out by the network if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// Derived from the VM's uuid if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// A port of this network that was made beforehand; it brings its addresses, MAC and security groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Name>,
    /// The security groups that its port starts with; later they are changed at the port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub security_groups: Vec<Name>,
    /// The guest is to ask for its addresses by DHCP. Otherwise they are in its seed; the network answers either way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dhcp: bool,
}

impl NicSpec {
    /// A card of which everything is chosen by the network.
    pub fn new(network: Name) -> Self {
        Self { network, address: None, mac: None, port: None, security_groups: Vec::new(), dhcp: false }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    #[default]
    #[serde(rename = "x86_64")]
    X86_64,
    Aarch64,
    Ppc64,
    Sparc64,
}

impl Arch {
    /// Debian's package with the QEMU for guests of this architecture.
    pub fn qemu_package(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86",
            Self::Aarch64 => "qemu-system-arm",
            Self::Ppc64 => "qemu-system-ppc",
            Self::Sparc64 => "qemu-system-sparc",
        }
    }
}

impl std::fmt::Display for Arch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
            Self::Ppc64 => "ppc64",
            Self::Sparc64 => "sparc64",
        })
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Firmware {
    #[default]
    Bios,
    Uefi,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Display {
    /// A serial console only.
    #[default]
    None,
    /// A graphics card, a keyboard and a pointer besides, seen over VNC through the controller.
    Vga,
}

/// What the owner wants the VM to be doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    #[default]
    Running,
    Paused,
    Stopped,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmStatus {
    #[serde(default)]
    pub phase: VmPhase,
    /// Why it is in this phase, if that is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where it is; while it moves, where it still runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Name>,
    /// Where it is moving to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving_to: Option<Name>,
    /// Grows with each assignment to a host; a host refuses commands with a lower one.
    #[serde(default)]
    pub epoch: u64,
    /// The number of the last command by which it was started, stopped, held or brought back. Each is higher than the one
    /// before, and a host refuses one that is lower than the last that it took.
    #[serde(default)]
    pub last_command: u64,
    /// The operation that is at work on it; there is at most one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Name>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<NicStatus>,
    /// The digest of the image its disk stands on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// The size of its disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<ByteSize>,
    /// True when it runs and passes its readiness probes; without any, when its guest agent has answered.
    #[serde(default)]
    pub ready: bool,
    /// Its guest agent answers.
    #[serde(default)]
    pub guest_agent: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestInfo>,
    /// `kvm` or `tcg`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<String>,
    /// What its probes say, in the order of the spec; while it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeStatus>,
    /// What was done about its failures.
    #[serde(default, skip_serializing_if = "HaStatus::is_default")]
    pub ha: HaStatus,
    /// The epoch at which its host has confirmed that it stops the VM when its lease ends. Only such a VM may be started
    /// elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guarded_epoch: Option<u64>,
    /// Of a disk in a mirrored pool, once it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<DiskCopies>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub displaced: Option<Displaced>,
    /// When the controller began to start it again after it, or its host, had failed: within an hour before the last. Whoever
    /// starts it by hand begins anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failovers: Vec<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// Measured by the agent; not stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<VmMetrics>,
    /// A move that is under way; not stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationProgress>,
    /// The snapshot that its disk grew from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Name>,
    /// The states it can be brought back to, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recovery_points: Vec<RecoveryPoint>,
    /// The last finished move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_migration: Option<MigrationFigures>,
}

impl VmStatus {
    /// Nothing is known of its guest any more, or not yet.
    pub fn forget_guest(&mut self) {
        (self.ready, self.guest_agent) = (false, false);
        self.probes.clear();
    }

    /// Whether its host surely stops it when its lease ends.
    pub fn is_guarded(&self) -> bool {
        self.guarded_epoch == Some(self.epoch)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NicStatus {
    pub network: Name,
    pub port: Uuid,
    pub mac: MacAddress,
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The addresses besides, of the network's other subnets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub more_addresses: Vec<IpAddr>,
}

impl NicStatus {
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.address).chain(self.more_addresses.iter().copied())
    }
}

/// What the guest agent told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuestInfo {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
}

/// Measured on the host, about once a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmMetrics {
    /// CPU time of the QEMU process so far.
    pub cpu_time_ms: u64,
    /// Of one processor; 200 is two processors.
    pub cpu_percent: f64,
    pub resident_memory: ByteSize,
    pub disk_read_bytes_per_s: u64,
    pub disk_write_bytes_per_s: u64,
    pub net_rx_bytes_per_s: u64,
    pub net_tx_bytes_per_s: u64,
    /// How far the guest's own clock is behind the host's, as its agent tells it. It grows by as long as the guest
    /// stands still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_clock_lag_ms: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_spec_is_one_that_says_nothing_more() {
        let said = serde_json::json!({"cpus": 2, "memory": "64MiB"});
        assert_eq!(serde_json::from_value::<VmSpec>(said).unwrap(), VmSpec::new(2, ByteSize::mib(64)));
    }
}
