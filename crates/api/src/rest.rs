//! Requests and responses of the public API that are not objects themselves.

use std::net::IpAddr;

use gantry_types::{HostUpdate, ImageFormat, MigrationPolicy, Name, Operation, Protocol, Role, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::backup::UnreadableBackup;

/// A page of objects.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// The state this page shows; watch from here to miss nothing.
    pub revision: u64,
    /// Send it back as `continue` for the next page; absent on the last.
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How many objects match in all; only with `q`, `sort` or `offset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// Query of `GET /v1/<kinds>`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
pub struct ListQuery {
    /// A label selector as Kubernetes writes it: `app=web,tier!=db,env in (a,b)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// At most this many objects, 1–1000; 500 if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only these, by name, with commas; at most 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names: Option<String>,
    /// Only in this phase (hosts: state).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Only on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Only this user's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Only this VM's: its snapshots, volumes or ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// Only with this text in name, label, address or host. Not with `continue`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q: Option<String>,
    /// By `name`, `created_at`, `phase`, `host`, `owner`, `cpus` or `memory`; the other way round after a `-`. Not with
    /// `continue` or `watch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sort: Option<String>,
    /// Leave out so many of the first. Not with `continue` or `watch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    #[serde(rename = "continue", skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Answer with server-sent events instead of a page: first all objects as `added`, then each change.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub watch: bool,
    /// With `watch`: only changes after this revision, without the present objects first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

/// Query of requests that change something.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
pub struct WriteQuery {
    /// Check everything, answer as if it were done, change nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Refuse with a conflict unless the object is at this revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

/// Query of `DELETE /v1/vms/{name}`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
pub struct DeleteVmQuery {
    /// Check everything, answer as if it were done, change nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Refuse with a conflict unless the object is at this revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Do not wait for a host that is lost: forget the VM now; what the host has is removed when it comes back.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// Query of `DELETE /v1/backups/{name}`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
pub struct DeleteBackupQuery {
    /// Check everything, answer as if it were done, change nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Refuse with a conflict unless the object is at this revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Forget it without asking its repository, which may be gone; what is there stays.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// Query of `GET /v1/backups/{name}/files`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct BackupFilesQuery {
    /// Absolute, as the guest had it in its file system.
    pub path: String,
    /// From which byte of a file on; 0 if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

/// Query of `POST /v1/repositories/{name}/check`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct RepositoryCheckQuery {
    /// The host that opens it; any that is in service if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// Query of `POST /v1/repositories/{name}/adopt`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
pub struct AdoptBackupsQuery {
    /// The host that opens it; any that is in service if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Only those behind this one: `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Uuid>,
}

/// A page of a repository's backups was taken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdoptedBackups {
    /// The objects that were made.
    #[schema(value_type = Vec<String>)]
    pub adopted: Vec<Name>,
    /// So many were known already.
    pub known: u64,
    /// Those that can't be read, and why.
    pub unreadable: Vec<UnreadableBackup>,
    /// There may be more: ask again with `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Uuid>,
}

/// Query of `GET /v1/ports/{name}/trace`.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct TraceQuery {
    /// The destination's address.
    #[param(value_type = String)]
    pub to: IpAddr,
    /// The destination's port, with tcp, udp and sctp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `tcp` if not given.
    #[serde(default = "tcp")]
    pub protocol: Protocol,
}

fn tcp() -> Protocol {
    Protocol::Tcp
}

/// Query of `GET /v1/ports/{name}/capture`: when it ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
pub struct CaptureQuery {
    /// 1–3600; 60 if not given.
    pub seconds: u32,
    /// Of the pcap file, 1 KiB–1 GiB; 10 MiB if not given.
    pub max_bytes: u64,
}

impl Default for CaptureQuery {
    fn default() -> Self {
        Self { seconds: 60, max_bytes: 10 << 20 }
    }
}

/// What would happen to a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Trace {
    pub verdict: TraceVerdict,
    pub steps: Vec<TraceStep>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TraceVerdict {
    Allowed,
    /// By a security group.
    Dropped,
    /// Nothing leads there.
    Unreachable,
}

/// One place that the packet passes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TraceStep {
    /// `sender`, `egress`, `route`, `source`, `destination`, `ingress`.
    pub at: String,
    pub what: String,
}

/// One server-sent event of a watch; `event:` is the `change`, `id:` the revision, if it is not 0.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(bound(deserialize = "T: serde::de::DeserializeOwned"))]
pub struct WatchEvent<T> {
    pub change: Change,
    /// Where a watch can go on after this event; 0 before the first bookmark, when it has to begin again.
    pub revision: u64,
    /// The object after the change; before it, if it was deleted. Absent in a `bookmark`.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub object: Option<T>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Added,
    Modified,
    Deleted,
    /// All objects that existed at the beginning have been sent; also sent now and then to show life.
    Bookmark,
}

/// The answer to a change: the object as it is now, and the operation that carries the change out, if one is needed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(bound(deserialize = "T: serde::de::DeserializeOwned"))]
pub struct Changed<T> {
    pub object: T,
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
}

/// `POST /v1/vms/{name}/stop`
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StopRequest {
    /// Seconds the guest may take to shut down by itself (ACPI), 0–3600.
    pub grace_s: u32,
    /// Do not ask the guest at all.
    pub force: bool,
}

impl Default for StopRequest {
    fn default() -> Self {
        Self { grace_s: 60, force: false }
    }
}

/// `POST /v1/vms/{name}/reboot`
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RebootRequest {
    /// Reset at once instead of asking the guest.
    pub force: bool,
}

/// `POST /v1/hosts/{name}/fence`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FenceRequest {
    /// For people: why the host is shut out, 1–200 characters.
    pub why: String,
}

/// `POST /v1/vms/{name}/migrate`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MigrateRequest {
    /// The destination; placement chooses if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Name>,
    /// Instead of the VM, its own disk moves: to this pool, which the VM's host reaches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<Name>,
    /// Instead of the VM's own policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<MigrationPolicy>,
}

/// Query of `GET /v1/volumes/{name}/content`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExportQuery {
    /// What the file is to be.
    #[serde(default = "qcow2")]
    pub format: ImageFormat,
}

fn qcow2() -> ImageFormat {
    ImageFormat::Qcow2
}

/// `POST /v1/vms/{name}/clone`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloneRequest {
    /// The new VM's name.
    pub name: Name,
    /// Make it and leave it stopped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
    /// Bind it to this host, instead of to what its source is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Name>,
    /// A snapshot of the source: it begins with what the disk held then, instead of what it holds at this instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Name>,
}

/// `GET /v1/vms/{name}/explain`: what placement would say if it were asked now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmExplanation {
    pub vm: Name,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Name>,
    /// Where it would be placed now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Name>,
    /// For people.
    pub summary: String,
    /// Every host; in each cluster the best first.
    pub hosts: Vec<HostVerdict>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostVerdict {
    pub host: Name,
    pub cluster: Name,
    /// It fulfils all constraints.
    pub fits: bool,
    /// Why it was not chosen, for people; absent for the best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The sum of its terms' points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub terms: Vec<ScoreTerm>,
}

/// One line of the score: value (0–1) × weight = points.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScoreTerm {
    pub name: String,
    pub value: f64,
    pub weight: f64,
    pub points: f64,
}

/// `GET /v1/vms/{name}/ha`: what protects it, and what would happen now if it or its host failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HaExplanation {
    pub vm: Name,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Name>,
    /// Its host starts it again when it fails.
    pub is_protected: bool,
    /// Where it would start if its host failed now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_on: Option<Name>,
    /// Why it would wait for its host instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_because: Option<String>,
    /// All of it for people, in the order in which it is read.
    pub sentences: Vec<HaSentence>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HaSentence {
    /// What it is about, for example `if it hangs`.
    pub about: String,
    pub text: String,
}

/// `POST /v1/clusters/{name}/update`
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateClusterRequest {
    /// What is done to each host once it is empty.
    pub method: HostUpdate,
}

/// `GET /v1/images/{name}/upload`, and the answer to a piece that was not the last.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct UploadState {
    /// The byte that the next piece begins with.
    pub offset: u64,
}

/// `POST /v1/vms/{name}/recover`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RecoverRequest {
    /// The recovery point to go back to; the newest good one if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Name>,
    /// Go back to what was replaced last. Not together with `to`.
    pub undo: bool,
}

/// `POST /v1/snapshots/{name}/revert`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RevertRequest {
    /// Leave the snapshot's memory out: the VM starts from the disk.
    pub disk_only: bool,
}

/// `POST /v1/backups/{name}/restore`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RestoreBackupRequest {
    /// What the VM is called: as it was if not given, and with the addresses that it had. Under another name it gets new ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Where it is made; the host that made the backup if not given, as long as it is in service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Name>,
    /// Start it.
    pub start: bool,
}

impl Default for RestoreBackupRequest {
    fn default() -> Self {
        Self { name: None, host: None, start: true }
    }
}

/// `POST /v1/volumes/{name}/attach`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachRequest {
    pub vm: Name,
}

/// `POST /v1/volumes/{name}/migrate`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrateVolumeRequest {
    /// The pool it goes to.
    pub to: Name,
}

/// `POST /v1/tokens`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    pub name: Name,
    pub role: Role,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// The one time a token's secret is shown.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedToken {
    pub name: Name,
    pub role: Role,
    pub token: String,
}

/// `POST /v1/join`, authenticated by the join token it carries; the only call a host can make without a certificate.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    pub token: String,
    /// The name the host wants.
    pub name: Name,
    /// `ADDRESS:PORT` where its agent will listen.
    pub agent_address: String,
    /// The address for VXLAN and migrations.
    pub underlay_address: String,
    /// Certificate signing request (PEM) for its own identity; names in it are ignored.
    pub agent_csr: String,
    /// The same for its QEMU processes' streams.
    pub qemu_csr: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JoinResponse {
    pub ca: String,
    pub agent_certificate: String,
    pub qemu_certificate: String,
    /// The controller's name in its certificate.
    pub controller: String,
}

/// `POST /v1/agent/renew`: new keys of a host that has valid certificates.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    pub agent_csr: String,
    pub qemu_csr: String,
}

/// `GET /v1/version`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Version {
    pub version: String,
    pub datacenter: String,
}
