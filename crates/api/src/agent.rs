//! What a host does for its controller, and for another host while a VM moves between them.
//!
//! Every call can be repeated: it looks first whether its effect is already there. Every call about a VM carries the
//! VM's epoch; a host refuses a lower one than it knows (`stale-epoch`, conflict), so a controller or host that was
//! away can't undo what was decided since. Within an epoch the same holds of what starts, stops, holds or brings back a VM:
//! each such command has a number, and a host refuses one that is older than the last that it took (`stale-command`,
//! conflict). A command that the network delivers late does nothing to what was decided since.
//!
//! ```text
//! migration, as the destination holds it:
//!   receiving --commit--> committed        receiving --abort, stream lost--> aborted
//! Whichever of commit and abort comes first is final and on disk before it is answered.
//! migration, as the source holds it:
//!   sending --handed over (on disk)--> committing --destination committed--> moved --release--> (gone)
//!      |                                   +------destination aborted-----> failed, guest resumed here
//!      +--error, cancel--> failed, guest still here
//! ```

use std::net::IpAddr;

use async_trait::async_trait;
use gantry_types::{
    Arch, ByteSize, Display, Firmware, Flow, GuestInfo, HaSpec, HaStatus, HostNetworks, HostResources, MacAddress,
    MigrationFigures, MigrationPolicy, MigrationProgress, Name, PowerState, Probe, ProbeStatus, Problem, RecoveryPoint,
    RecoveryPolicy, ResourceWishes, ResourcesReport, VmMetrics,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::backup::BackupApi;
use crate::fencing::FencingApi;
use crate::mirror::{CopyObservation, MirrorApi};
use crate::relocation::RelocationApi;
use crate::storage::{PoolAssignment, StorageApi, VolumeAssignment, VolumePlace};

/// The host side of Gantry. The agent implements it on real QEMU; the controller's tests implement it in memory; an
/// HTTP client implements it for a host that is elsewhere.
#[async_trait]
pub trait AgentApi: StorageApi + MirrorApi + BackupApi + RelocationApi + FencingApi {
    /// Everything this host has of any VM.
    async fn observe(&self) -> Result<Vec<VmObservation>, Problem>;

    /// Makes the image present in this host's cache, fetching it from the controller if needed.
    async fn ensure_image(&self, image: &ImageRef) -> Result<(), Problem>;
    /// Removes the image from the cache; refused while a disk stands on it.
    async fn remove_image(&self, digest: &str) -> Result<(), Problem>;

    /// Makes the host's data plane exactly this. A lower generation than the last is refused.
    async fn apply_networks(&self, networks: &HostNetworks) -> Result<(), Problem>;

    /// Divides the host's processors and memory among its VMs like this from now on; says how far it can.
    async fn apply_resources(&self, resources: &HostResources) -> Result<ResourcesReport, Problem>;

    /// Takes the VM on: writes it down, makes its disk, seed and taps. Does not start it. With an unchanged assignment
    /// nothing happens; a changed one is accepted while the VM is stopped.
    async fn define_vm(&self, assignment: &Assignment) -> Result<VmObservation, Problem>;
    /// Takes a VM on whose disk is in a pool that this host reaches, with that disk as it is, after another host had it;
    /// otherwise like [`Self::define_vm`]. The epoch has to be higher than that of whoever had the disk: the lease beside
    /// the disk is this host's from then on, and no host with a lower epoch starts the VM any more. Refused while any
    /// QEMU has the disk open (`disk-in-use`, transient) and if the lease is of the same or a later epoch elsewhere
    /// (`disk-elsewhere`, conflict); then nothing has changed. What a move from here in a shared pool has left of the VM is given up for it, if the
    /// epoch is later than the one that the VM got where it went.
    async fn adopt_vm(&self, vm: Uuid, request: &AdoptVm) -> Result<VmObservation, Problem>;
    async fn power(&self, vm: Uuid, request: &PowerRequest) -> Result<VmObservation, Problem>;
    /// Changes what the host does when the VM fails and how it finds out, also while it runs.
    async fn protect_vm(&self, vm: Uuid, request: &ProtectVm) -> Result<(), Problem>;
    /// Forgets the VM and deletes its disk. Its QEMU is killed first. Nothing to remove is success. A disk in a pool whose
    /// lease is another host's stays.
    async fn remove_vm(&self, vm: Uuid, epoch: u64) -> Result<(), Problem>;

    /// Keeps the VM's state inside its disk. One that is there already is success; while one is being taken, other
    /// commands are refused for a while (`snapshot-at-work`, transient).
    async fn take_snapshot(&self, vm: Uuid, request: &TakeSnapshot) -> Result<TakenSnapshot, Problem>;
    /// Gives the space of a snapshot back, also while the VM runs. Nothing to delete is success.
    async fn delete_snapshot(&self, vm: Uuid, epoch: u64, snapshot: Uuid) -> Result<(), Problem>;
    /// Makes the disk what it was at a snapshot or recovery point. What it replaces becomes a recovery point. With
    /// memory the guest goes on from there; otherwise the VM is stopped afterwards. Repeated with the same `revert`,
    /// the disk stays as it is by now.
    async fn revert_vm(&self, vm: Uuid, request: &RevertVm) -> Result<VmObservation, Problem>;

    /// Destination: makes everything ready to receive the VM and says where.
    async fn receive_migration(&self, vm: Uuid, request: &ReceiveMigration) -> Result<MigrationEndpoint, Problem>;
    /// Source: starts moving the VM in the background, or goes on if that migration is already under way.
    async fn send_migration(&self, vm: Uuid, request: &SendMigration) -> Result<(), Problem>;
    async fn migration_report(&self, vm: Uuid, migration: Uuid) -> Result<MigrationReport, Problem>;
    /// Source: stops the move if it is not handed over yet; the guest goes on here. The report tells the outcome.
    async fn cancel_migration(&self, vm: Uuid, migration: Uuid) -> Result<(), Problem>;
    /// Destination, from the source while the guest stands still: connections of the VM that were tracked there, so that
    /// they go on here. Those of other VMs' addresses are passed over.
    async fn adopt_flows(&self, vm: Uuid, migration: Uuid, flows: &[Flow]) -> Result<(), Problem>;
    /// Destination, asked by the source: the VM is this host's now, let it run.
    async fn commit_migration(&self, vm: Uuid, migration: Uuid) -> Result<Verdict, Problem>;
    /// Destination: give up the migration unless it is already committed.
    async fn abort_migration(&self, vm: Uuid, migration: Uuid) -> Result<Verdict, Problem>;
    /// Source, after the controller has recorded the move: end QEMU, delete the disk unless it went along in its pool,
    /// forget the VM.
    async fn release_migration(&self, vm: Uuid, migration: Uuid) -> Result<(), Problem>;
    /// Whether the guest really executes: QEMU says running, virtual CPUs use time or are halted waiting for
    /// interrupts, and the guest agent answers if it did before.
    async fn check_liveness(&self, vm: Uuid, expect_guest_agent: bool) -> Result<Liveness, Problem>;
}

/// An image as hosts know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageRef {
    /// SHA-256 of the qcow2, hex.
    pub digest: String,
    pub file_size: u64,
    pub virtual_size: u64,
}

/// A VM as a host gets it: everything resolved, nothing to look up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Assignment {
    pub uuid: Uuid,
    pub name: Name,
    pub epoch: u64,
    pub arch: Arch,
    pub cpus: u32,
    pub memory: ByteSize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    pub firmware: Firmware,
    #[serde(default)]
    pub display: Display,
    pub disk: DiskAssignment,
    /// The volumes it has beside its own disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeAssignment>,
    pub nics: Vec<NicAssignment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// What an agent without a controller keeps it at.
    pub power: PowerState,
    #[serde(default)]
    pub ha: HaSpec,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Probe>,
    #[serde(default)]
    pub recovery: RecoveryPolicy,
    /// Its part of the host; changed also while it runs, by [`AgentApi::apply_resources`].
    #[serde(default, skip_serializing_if = "ResourceWishes::is_default")]
    pub resources: ResourceWishes,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskAssignment {
    /// Starts as a thin overlay of this image; empty if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,
    pub size: ByteSize,
    /// The pool that it is in, with the image under it: the host's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolAssignment>,
}

impl DiskAssignment {
    /// Whether each host has a place of its own for it, so that a move to another host copies it.
    pub fn travels(&self) -> bool {
        self.pool.as_ref().is_none_or(PoolAssignment::is_mirrored)
    }
}

/// A VM that comes with its disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdoptVm {
    /// With the epoch that the VM has from here on.
    pub assignment: Assignment,
    /// The states inside its disk that it can be brought back to, newest first.
    #[serde(default)]
    pub recovery_points: Vec<RecoveryPoint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NicAssignment {
    pub port: Uuid,
    pub network: Name,
    pub vni: u32,
    pub mtu: u32,
    pub mac: MacAddress,
    #[schema(value_type = String)]
    pub address: IpAddr,
    pub prefix_length: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub gateway: Option<IpAddr>,
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<IpAddr>,
    /// Its addresses in the network's other subnets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_addresses: Vec<NicAddress>,
    /// The guest asks for its addresses instead of finding them in its seed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dhcp: bool,
    /// The host's interface that a bridged network continues on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

impl NicAssignment {
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.address).chain(self.more_addresses.iter().map(|more| more.address))
    }

    /// Each with the length of its subnet's prefix.
    pub fn subnet_addresses(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        let more = self.more_addresses.iter().map(|more| (more.address, more.prefix_length));
        std::iter::once((self.address, self.prefix_length)).chain(more)
    }
}

/// An address of a card, with what its subnet tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NicAddress {
    #[schema(value_type = String)]
    pub address: IpAddr,
    pub prefix_length: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub gateway: Option<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PowerRequest {
    pub epoch: u64,
    /// Its number among the commands of this epoch: higher than that of each before it. Those who send none send 0.
    #[serde(default)]
    pub command: u64,
    pub action: PowerAction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PowerAction {
    Start,
    /// Ask the guest to shut down (ACPI power button); returns at once.
    ShutDown,
    /// End QEMU now.
    Kill,
    /// Ask the guest to reboot, through its agent; refused as `no-guest-agent` if there is none.
    Reboot,
    /// Reset the machine now.
    Reset,
    Pause,
    Resume,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProtectVm {
    pub epoch: u64,
    pub ha: HaSpec,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Probe>,
}

/// A VM's protection, as its host goes by it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HaObservation {
    pub spec: HaSpec,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Probe>,
    pub status: HaStatus,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TakeSnapshot {
    pub epoch: u64,
    pub snapshot: Uuid,
    pub memory: bool,
    pub quiesce: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TakenSnapshot {
    /// What the guest's memory takes.
    pub memory_bytes: u64,
    /// How long the guest stood still or was frozen; absent if that was done before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<u64>,
    /// The volumes that it is of as well: all that the VM has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Uuid>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RevertVm {
    pub epoch: u64,
    /// Its number, as of a [`PowerRequest`]: it starts or stops the VM, too.
    #[serde(default)]
    pub command: u64,
    /// New with each wish to go back: by it a host knows a repeated request from another one.
    pub revert: Uuid,
    /// A snapshot, or a recovery point.
    pub to: Uuid,
    pub memory: bool,
    /// The recovery point that what is replaced becomes. Absent: it is not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_as: Option<Uuid>,
}

/// What a host has of a VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmObservation {
    pub uuid: Uuid,
    pub name: Name,
    pub epoch: u64,
    pub state: VmRunState,
    /// Why it stopped or failed: `guest shut down`, `QEMU was killed by signal 9`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The guest agent has answered since the VM started, and lately.
    pub guest_agent: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestInfo>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<VmMetrics>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationReport>,
    #[serde(default)]
    pub ha: HaObservation,
    /// What its probes say; while it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeStatus>,
    /// The states its disk can be brought back to here, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recovery_points: Vec<RecoveryPoint>,
    /// The volumes that it has here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumePlace>,
    /// Of a disk in a mirrored pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<CopyObservation>,
    /// The unprivileged user its QEMU runs as here.
    pub owner_uid: u32,
    /// What the host wrote down about it can't be read. Name, epoch and state are placeholders, and the host neither
    /// starts, ends nor removes it: its QEMU may run, and its disk may be the only one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub damaged: bool,
    /// It is surely stopped when this host's lease ends. Once true at an epoch it stays so until the VM is defined anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guarded: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VmRunState {
    /// Defined, no QEMU.
    Stopped,
    Starting,
    Running,
    Paused,
    /// Destination of a migration that is not committed.
    Receiving,
    /// A stopped VM that was sent here, and is not this host's before it is defined here.
    Arrived,
    /// Source: handed over or moved; QEMU holds the stopped guest until release.
    HandedOver,
    /// It should run and does not.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiveMigration {
    pub migration: Uuid,
    /// The host that sends; besides controllers, only it may settle the migration here.
    pub source: Name,
    /// With the epoch the VM will have here.
    pub assignment: Assignment,
    /// The guest is paused and stays so.
    pub paused: bool,
    pub post_copy: bool,
    /// What its probes say at the source; here they go on from there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeStatus>,
    /// Of a disk that is in a pool and comes as it is: the states it can be brought back to, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recovery_points: Vec<RecoveryPoint>,
}

/// Where the streams of a migration go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigrationEndpoint {
    #[schema(value_type = String)]
    pub address: IpAddr,
    pub ram_port: u16,
    /// 0 if the disk is in a pool and stays where it is.
    pub disk_port: u16,
    pub disk_export: String,
    /// The name in the certificate of the destination's QEMU.
    pub tls_name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SendMigration {
    pub migration: Uuid,
    /// The VM's epoch here, at the source.
    pub epoch: u64,
    pub endpoint: MigrationEndpoint,
    /// The destination's agent, for commit: name and `ADDRESS:PORT`.
    pub destination: Name,
    pub destination_agent: String,
    pub policy: MigrationPolicy,
    /// Both hosts are capable of post-copy.
    pub post_copy: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MigrationReport {
    pub migration: Uuid,
    pub state: MigrationState,
    #[serde(default)]
    pub progress: MigrationProgress,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures: Option<MigrationFigures>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// The host that sends, as far as it is known here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Name>,
    /// Destination: post-copy was interrupted, and the rest of the memory is awaited at this port of the endpoint's
    /// address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_port: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MigrationState {
    /// Destination: waiting for, or taking in, the guest.
    Receiving,
    /// Source: disk and memory are on their way; can be cancelled.
    Sending,
    /// Source: handed over; waits for the destination's answer. The guest does not run here.
    Committing,
    /// Source: the destination has it.
    Moved,
    /// Destination: the guest is ours.
    Committed,
    /// Destination: given up for ever.
    Aborted,
    /// Source: given up; the guest is still here.
    Failed,
    Cancelled,
}

/// The destination's final word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Committed,
    Aborted,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Liveness {
    pub alive: bool,
    /// What was seen, for people.
    pub evidence: String,
    /// Writes the guest has issued on this host since it resumed.
    pub disk_writes: u64,
    /// How far the guest's clock is behind this host's now, if its agent answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_clock_lag_ms: Option<i64>,
}
