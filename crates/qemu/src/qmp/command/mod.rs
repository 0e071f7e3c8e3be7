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

mod backup;
mod block;
mod graph;
mod migration;
mod volume;

pub use backup::*;
pub use block::*;
pub use graph::*;
pub use migration::*;
pub use volume::*;

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

/// `object-add` of the types that are added at run time.
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
    /// Lets in exactly one identity; for TLS, a certificate's distinguished name.
    #[serde(rename = "authz-simple")]
    AuthzSimple { id: String, identity: String },
}
command!(ObjectAdd, "object-add", Nothing);

#[derive(Debug, Clone, Serialize)]
pub struct ObjectDel {
    pub id: String,
}
command!(ObjectDel, "object-del", Nothing);

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
