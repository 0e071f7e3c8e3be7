//! How the controller reaches its hosts' agents.
//!
//! Owns only the lookup from a host to something that speaks [`AgentApi`]; connections are the implementation's. An
//! unreachable host is not an error here: its calls fail as `transient`.

use std::sync::Arc;

use gantry_api::AgentApi;
use gantry_types::Host;

/// Finds the agent of a host. Production speaks mutual TLS, tests keep the hosts in memory.
pub trait HostLinks: Send + Sync {
    /// The agent of this host, at the address its object carries now.
    fn agent(&self, host: &Host) -> Arc<dyn AgentApi>;
}
