//! `network`: a VXLAN that spans the hosts, with addresses for VMs.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{MacAddress, Name, resource::resource};

resource!(
    /// A layer-2 network over all hosts (VXLAN, RFC 7348) with one subnet.
    Network, "network", "networks", NetworkSpec, NetworkStatus
);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// VXLAN network identifier, 1–16777215; chosen by the controller if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// Bytes of an IP packet inside the network, 576–8950.
    #[serde(default = "default_mtu")]
    pub mtu: u32,
    pub subnet: Subnet,
    /// VTEPs that are not Gantry hosts (a top-of-rack switch, the lab's client side). Frames for addresses that no
    /// VM has are sent to them, and to nobody else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub external_vteps: Vec<IpAddr>,
}

fn default_mtu() -> u32 {
    1450
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Subnet {
    /// For example `10.9.0.0/24`.
    #[schema(value_type = String)]
    pub cidr: IpNet,
    /// The default gateway told to guests; never handed out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<IpAddr>,
    /// Addresses that are never handed out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub reserved: Vec<IpAddr>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkStatus {
    /// The identifier in use.
    #[serde(default)]
    pub vni: u32,
    /// Who holds which address.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = std::collections::HashMap<String, PortLease>)]
    pub leases: BTreeMap<IpAddr, PortLease>,
}

/// An address of a network held by a VM's port, for as long as the VM exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortLease {
    pub vm: Name,
    pub port: Uuid,
    pub mac: MacAddress,
}
