//! The QMP commands that are used, with their arguments and answers as types. `tests/schema.rs` checks
//! each of them against the installed QEMU's own schema. Answers name only the members that are read.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A command: its serialization is the `arguments` object.
pub trait Command: Serialize {
    const NAME: &'static str;
    type Return: DeserializeOwned;
    /// Runs out of band, ahead of commands that are still being worked on, if QEMU offers that.
    const OUT_OF_BAND: bool = false;
}

/// The empty object that commands without an answer return.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Nothing {}

macro_rules! command {
    ($type:ident, $name:literal, $answer:ty) => {
        impl Command for $type {
            const NAME: &'static str = $name;
            type Return = $answer;
        }
    };
}

macro_rules! plain_command {
    ($(#[$doc:meta])* $type:ident, $name:literal, $answer:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Serialize)]
        pub struct $type {}
        command!($type, $name, $answer);
    };
}

/// Ends the negotiation of a new connection.
#[derive(Debug, Clone, Serialize)]
pub struct QmpCapabilities {
    pub enable: Vec<String>,
}
command!(QmpCapabilities, "qmp_capabilities", Nothing);

plain_command!(QueryQmpSchema, "query-qmp-schema", Vec<Value>);
plain_command!(QueryStatus, "query-status", StatusInfo);
plain_command!(QueryMachines, "query-machines", Vec<MachineInfo>);
plain_command!(
    /// Halts the virtual CPUs.
    Stop,
    "stop",
    Nothing
);
plain_command!(
    /// Lets the virtual CPUs run.
    Cont,
    "cont",
    Nothing
);
plain_command!(
    /// Presses the ACPI power button.
    SystemPowerdown,
    "system_powerdown",
    Nothing
);
plain_command!(SystemReset, "system_reset", Nothing);

/// Lets every network card tell its switch where the guest is now (RARP); times in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct AnnounceSelf {
    pub initial: u64,
    pub max: u64,
    pub rounds: u64,
    pub step: u64,
}
command!(AnnounceSelf, "announce-self", Nothing);
plain_command!(Quit, "quit", Nothing);
plain_command!(QueryBlockstats, "query-blockstats", Vec<BlockStats>);
plain_command!(QueryBlockJobs, "query-block-jobs", Vec<BlockJobInfo>);
plain_command!(NbdServerStop, "nbd-server-stop", Nothing);
plain_command!(QueryMigrate, "query-migrate", MigrationInfo);
plain_command!(MigrateCancel, "migrate_cancel", Nothing);
plain_command!(MigrateStartPostcopy, "migrate-start-postcopy", Nothing);

/// QEMU's run state. The set grows with releases, so an unknown one is kept as text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StatusInfo {
    pub status: String,
    pub running: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct MachineInfo {
    pub name: String,
    #[serde(default)]
    pub alias: Option<String>,
    #[serde(rename = "cpu-max", default)]
    pub cpu_max: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockStats {
    #[serde(rename = "node-name", default)]
    pub node_name: Option<String>,
    #[serde(default)]
    pub qdev: Option<String>,
    pub stats: BlockDeviceStats,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockDeviceStats {
    pub rd_bytes: u64,
    pub wr_bytes: u64,
    pub rd_operations: u64,
    pub wr_operations: u64,
}

/// A background block job; `len` and `offset` are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockJobInfo {
    #[serde(rename = "device")]
    pub id: String,
    pub len: u64,
    pub offset: u64,
    pub ready: bool,
    pub status: String,
    #[serde(default)]
    pub error: Option<String>,
}

/// All block nodes, without their children.
#[derive(Debug, Clone, Serialize)]
pub struct QueryNamedBlockNodes {
    pub flat: bool,
}
command!(QueryNamedBlockNodes, "query-named-block-nodes", Vec<BlockNodeInfo>);

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockNodeInfo {
    #[serde(rename = "node-name", default)]
    pub node_name: Option<String>,
}

/// Where something that can hang on the network is attached; see `yank` in QEMU's QMP reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum YankInstance {
    #[serde(rename_all = "kebab-case")]
    BlockNode { node_name: String },
}

/// Shuts the sockets of the instances down, so that whatever waits on them fails at once.
#[derive(Debug, Clone, Serialize)]
pub struct Yank {
    pub instances: Vec<YankInstance>,
}
impl Command for Yank {
    const NAME: &'static str = "yank";
    type Return = Nothing;
    /// A drain that waits for a dead connection keeps the ordinary commands waiting, too.
    const OUT_OF_BAND: bool = true;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsEndpoint {
    Client,
    Server,
}

/// `object-add` of the one type that is added at run time.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "qom-type")]
pub enum ObjectAdd {
    #[serde(rename = "tls-creds-x509")]
    TlsCredsX509 {
        id: String,
        dir: String,
        endpoint: TlsEndpoint,
        #[serde(rename = "verify-peer")]
        verify_peer: bool,
    },
}
command!(ObjectAdd, "object-add", Nothing);

#[derive(Debug, Clone, Serialize)]
pub struct ObjectDel {
    pub id: String,
}
command!(ObjectDel, "object-del", Nothing);

/// A TCP address in QMP's form: the port is text there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InetAddress {
    pub host: String,
    pub port: String,
}

/// `blockdev-add` of a remote NBD export.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "driver", rename_all = "kebab-case")]
pub enum BlockdevAdd {
    #[serde(rename_all = "kebab-case")]
    Nbd {
        node_name: String,
        server: SocketAddress,
        export: String,
        /// Seconds to keep trying to connect.
        open_timeout: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        tls_creds: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        tls_hostname: Option<String>,
    },
}
command!(BlockdevAdd, "blockdev-add", Nothing);

/// `SocketAddress` of the schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum SocketAddress {
    Inet(InetAddress),
}

/// `SocketAddressLegacy` of the schema, which `nbd-server-start` takes.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", content = "data", rename_all = "lowercase")]
pub enum SocketAddressLegacy {
    Inet(InetAddress),
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockdevDel {
    pub node_name: String,
}
command!(BlockdevDel, "blockdev-del", Nothing);

/// How much of a disk a mirror copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MirrorSync {
    /// Everything, the backing image included.
    Full,
    /// Only what the top overlay holds; the destination's overlay has the same backing image.
    Top,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MirrorCopyMode {
    Background,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockdevMirror {
    pub job_id: String,
    pub device: String,
    pub target: String,
    pub sync: MirrorSync,
    pub copy_mode: MirrorCopyMode,
    /// Bytes a second; zero means no limit.
    pub speed: u64,
    pub auto_dismiss: bool,
}
command!(BlockdevMirror, "blockdev-mirror", Nothing);

#[derive(Debug, Clone, Serialize)]
pub struct BlockJobCancel {
    pub device: String,
    pub force: bool,
}
command!(BlockJobCancel, "block-job-cancel", Nothing);

#[derive(Debug, Clone, Serialize)]
pub struct JobDismiss {
    pub id: String,
}
command!(JobDismiss, "job-dismiss", Nothing);

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NbdServerStart {
    pub addr: SocketAddressLegacy,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_creds: Option<String>,
}
command!(NbdServerStart, "nbd-server-start", Nothing);

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum BlockExportAdd {
    #[serde(rename_all = "kebab-case")]
    Nbd { id: String, node_name: String, name: String, writable: bool },
}
command!(BlockExportAdd, "block-export-add", Nothing);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationCapability {
    pub capability: String,
    pub state: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct MigrateSetCapabilities {
    pub capabilities: Vec<MigrationCapability>,
}
command!(MigrateSetCapabilities, "migrate-set-capabilities", Nothing);

/// Unset members leave QEMU's value as it is.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrateSetParameters {
    /// Bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bandwidth: Option<u64>,
    /// Bytes a second; zero means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_postcopy_bandwidth: Option<u64>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime_limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub announce_initial: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub announce_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub announce_rounds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub announce_step: Option<u64>,
    /// Empty text turns TLS off again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_creds: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_hostname: Option<String>,
}
command!(MigrateSetParameters, "migrate-set-parameters", Nothing);

#[derive(Debug, Clone, Serialize)]
pub struct Migrate {
    pub uri: String,
    /// Goes on with an interrupted post-copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<bool>,
}
command!(Migrate, "migrate", Nothing);

#[derive(Debug, Clone, Serialize)]
pub struct MigrateIncoming {
    pub uri: String,
}
command!(MigrateIncoming, "migrate-incoming", Nothing);

/// Lets the destination of an interrupted post-copy listen again.
#[derive(Debug, Clone, Serialize)]
pub struct MigrateRecover {
    pub uri: String,
}
impl Command for MigrateRecover {
    const NAME: &'static str = "migrate-recover";
    type Return = Nothing;
    /// The ordinary commands may wait for a piece of memory that can't come before this.
    const OUT_OF_BAND: bool = true;
}

/// Gives up the connection of a post-copy, so that it can be made anew.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MigratePause {}
impl Command for MigratePause {
    const NAME: &'static str = "migrate-pause";
    type Return = Nothing;
    const OUT_OF_BAND: bool = true;
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContinueFrom {
    PreSwitchover,
}

#[derive(Debug, Clone, Serialize)]
pub struct MigrateContinue {
    pub state: ContinueFrom,
}
command!(MigrateContinue, "migrate-continue", Nothing);

/// Times in milliseconds. All members are absent before the first migration.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationInfo {
    #[serde(default)]
    pub status: Option<String>,
    #[serde(default)]
    pub error_desc: Option<String>,
    #[serde(default)]
    pub total_time: Option<u64>,
    #[serde(default)]
    pub setup_time: Option<u64>,
    #[serde(default)]
    pub downtime: Option<u64>,
    #[serde(default)]
    pub expected_downtime: Option<u64>,
    #[serde(default)]
    pub ram: Option<MigrationRam>,
    #[serde(default)]
    pub blocked_reasons: Option<Vec<String>>,
}

/// Sizes in bytes; `mbps` in megabits a second; `dirty_pages_rate` in pages a second.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationRam {
    pub transferred: u64,
    pub remaining: u64,
    pub total: u64,
    pub mbps: f64,
    #[serde(default)]
    pub dirty_pages_rate: u64,
    #[serde(default)]
    pub page_size: u64,
    #[serde(default)]
    pub dirty_sync_count: u64,
    #[serde(default)]
    pub postcopy_requests: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct CpuModel {
    pub name: String,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CpuModelExpansion {
    Full,
}

#[derive(Debug, Clone, Serialize)]
pub struct QueryCpuModelExpansion {
    #[serde(rename = "type")]
    pub expansion: CpuModelExpansion,
    pub model: CpuModel,
}
command!(QueryCpuModelExpansion, "query-cpu-model-expansion", CpuModelExpansionInfo);

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CpuModelExpansionInfo {
    pub model: ExpandedCpuModel,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ExpandedCpuModel {
    pub name: String,
    #[serde(default)]
    pub props: BTreeMap<String, Value>,
}
