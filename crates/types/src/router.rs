//! `router` and `floating-ip`: the way from one network to another, and in and out of them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Name, resource::resource};

mod routing {
    use super::*;
    resource!(
        /// Forwards between networks, on each host for the VMs that are there.
        Router, "router", "routers", RouterSpec, RouterStatus
    );
}
pub use routing::Router;

mod floating_ip {
    use super::*;
    resource!(
        /// An address of an external network that leads to a VM, wherever it runs.
        FloatingIp, "floating-ip", "floating-ips", FloatingIpSpec, FloatingIpStatus
    );
}
pub use floating_ip::FloatingIp;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouterSpec {
    /// Networks that reach each other through it. It answers for the gateways of their subnets; a network has at most
    /// one router.
    #[serde(default)]
    pub networks: Vec<Name>,
    /// The network that leads out. Each host that needs one gets an address of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<Name>,
    /// What leaves through the external network gets the host's address in it.
    #[serde(default = "yes")]
    pub snat: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouterStatus {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FloatingIpSpec {
    /// The external network that it is an address of. Fixed once it is made.
    pub network: Name,
    /// The lowest free one if not given. Fixed once it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// The VM that it leads to: to its first card in a network whose router leads to `network`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Name>,
    /// The port that it leads to, instead of a VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Name>,
    /// The load balancer that it leads to, instead of a VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<Name>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FloatingIpStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// The host that translates it, if it leads to a load balancer: the same one as long as it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Name>,
}
