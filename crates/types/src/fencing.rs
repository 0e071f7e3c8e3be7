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
