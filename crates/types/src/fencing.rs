//! Fencing: who belongs together, and the record by which a host is shut out. The rules are in `crates/ha`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Name, Timestamp};

/// The members of a cluster: its hosts, and the controller. Controllers that share a store are one member.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Members {
    /// Grows with every change.
    pub generation: u64,
    /// By name: `ADDRESS:PORT` of the host's agent.
    #[schema(value_type = std::collections::HashMap<String, String>)]
    pub hosts: BTreeMap<Name, String>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    Controller,
    Host(Name),
}

impl std::fmt::Display for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Controller => f.pad("the controller"),
            Self::Host(name) => write!(f, "host '{name}'"),
        }
    }
}

/// The record that a host is shut out. Members keep it on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fence {
    pub host: Name,
    /// Grows with every fencing of that host. Lifting a generation lifts all before it.
    pub generation: u64,
    /// Who asked for it: `token/admin`, `controller`.
    pub by: String,
    pub why: String,
    /// Wall-clock time, for people.
    pub at: Timestamp,
}

/// A host's right to run protected VMs, as it said last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostLease {
    pub standing: LeaseStanding,
    /// How long it still lasts unless it is renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
    /// Running VMs that are stopped when it ends.
    #[serde(default)]
    pub guarded_vms: u32,
    /// Why protected VMs could not be stopped in time, and so are not started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LeaseStanding {
    /// It needs none: alone in its cluster, nobody could take over.
    Unbound,
    Held,
    /// It ran out: protected VMs are stopped and don't start.
    Lapsed,
    /// A record against the host was shown to it.
    Fenced,
}

/// How a host is shut out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostFence {
    pub record: Fence,
    /// Why it is certain that nothing protected runs there any more; absent as long as it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<FenceProof>,
    /// Its power is to be switched off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub power_off: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FenceProof {
    pub kind: FenceProofKind,
    pub at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FenceProofKind {
    /// Its power was seen off after the command to switch it off.
    PowerOff,
    /// Its last possible lease ended.
    LeaseOver,
    /// The host itself says that it has stopped everything protected.
    Acknowledged,
}

impl FenceProofKind {
    /// For people.
    pub fn told(self) -> &'static str {
        match self {
            Self::PowerOff => "its power is off",
            Self::LeaseOver => "its last possible lease is over",
            Self::Acknowledged => "it says itself that it has stopped them",
        }
    }
}
