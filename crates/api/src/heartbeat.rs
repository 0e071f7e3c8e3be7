//! What an agent tells its controller, once a second: `POST /v1/agent/heartbeat`, by the host's certificate.

use gantry_types::{HostMetrics, Inventory};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::agent::VmObservation;

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Heartbeat {
    /// New with every start of the agent.
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
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HeartbeatReply {
    /// How long the agent should wait before the next one.
    pub interval_ms: u64,
}
