//! What an agent tells its controller, once a second: `POST /v1/agent/heartbeat`, by the host's certificate.

use std::collections::BTreeMap;

use gantry_types::{HostMetrics, Inventory, PortTraffic, RuleTraffic};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    agent::VmObservation,
    fencing::{LeaseGrant, LeaseReport},
    storage::{PoolAssignment, PoolReport},
};

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Heartbeat {
    /// New with every start of the agent, and greater than those before it.
    pub agent_instance: Uuid,
    /// Grows by one with each heartbeat of an instance; an older one that arrives late is ignored.
    pub sequence: u64,
    pub agent_address: String,
    pub underlay_address: String,
    pub inventory: Inventory,
    pub metrics: HostMetrics,
    /// Every VM this host has anything of.
    pub vms: Vec<VmObservation>,
    /// The networks' generation in force here.
    pub networks_generation: u64,
    /// Of the load balancers' members that run here, those that have been checked.
    #[serde(default)]
    pub members: Vec<MemberHealth>,
    /// The routers that no VM of this host is behind and that translate nothing here any more.
    #[serde(default)]
    pub idle_routers: Vec<Uuid>,
    /// The pools that it was told to watch.
    #[serde(default)]
    pub pools: Vec<PoolReport>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseReport>,
    /// What has been counted, every few seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<HostTraffic>,
}

/// What this host's kernel has counted since the devices and rules are there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostTraffic {
    #[schema(value_type = std::collections::HashMap<String, PortTraffic>)]
    pub ports: BTreeMap<Uuid, PortTraffic>,
    /// By the group.
    #[schema(value_type = std::collections::HashMap<String, Vec<RuleTraffic>>)]
    pub rules: BTreeMap<Uuid, Vec<RuleTraffic>>,
}

/// Whether a load balancer's member serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemberHealth {
    pub balancer: Uuid,
    pub port: Uuid,
    /// Why it gets no new connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HeartbeatReply {
    /// How long the agent should wait before the next one.
    pub interval_ms: u64,
    /// The pools that this host reaches: it is to watch these and no others.
    #[serde(default)]
    pub pools: Vec<PoolAssignment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseGrant>,
    /// Of the VMs that it is to give up because it has lost what they need, those that another host can take now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub may_leave: Vec<Uuid>,
}
