//! `network`: a segment that spans the hosts, with addresses for VMs.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{MacAddress, Name, Subnet, resource::resource};

resource!(
    /// A layer-2 network over all hosts (VXLAN, RFC 7348).
    Network, "network", "networks", NetworkSpec, NetworkStatus
);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// VXLAN network identifier, 1–16777215; chosen by the controller if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// Fixed once it is made.
    #[serde(default, rename = "type", skip_serializing_if = "NetworkType::is_routed")]
    pub network_type: NetworkType,
    /// The interface of every host that a bridged network continues on. Fixed once it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Bytes of an IP packet inside the network, 576–8950.
    #[serde(default = "default_mtu")]
    pub mtu: u32,
    /// Its first subnet. More are objects of the kind `subnet`; a network without any gives no addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Subnet>,
    /// VTEPs that are not Gantry hosts (a top-of-rack switch, the lab's client side). Frames for addresses that no
    /// VM has are sent to them, and to nobody else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub external_vteps: Vec<IpAddr>,
}

/// What a network is part of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NetworkType {
    /// An overlay over all hosts that routers and external VTEPs may lead out of.
    #[default]
    Routed,
    /// An overlay over all hosts that nothing leads out of.
    Isolated,
    /// The LAN that an interface of each host is in.
    Bridged,
}

impl NetworkType {
    pub fn is_routed(&self) -> bool {
        *self == Self::Routed
    }
    pub fn name(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Isolated => "isolated",
            Self::Bridged => "bridged",
        }
    }
}

impl fmt::Display for NetworkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why a text is not a [`NetworkType`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no type of network: there are routed, isolated and bridged")]
pub struct InvalidNetworkType(String);

impl FromStr for NetworkType {
    type Err = InvalidNetworkType;
    fn from_str(text: &str) -> Result<Self, InvalidNetworkType> {
        let all = [Self::Routed, Self::Isolated, Self::Bridged];
        let bad = || InvalidNetworkType(text.chars().filter(|c| !c.is_control()).take(40).collect());
        all.into_iter().find(|one| one.name() == text).ok_or_else(bad)
    }
}

impl NetworkSpec {
    /// A network with one subnet and everything else by default.
    pub fn with_subnet(subnet: Subnet) -> Self {
        Self {
            vni: None,
            network_type: NetworkType::default(),
            interface: None,
            mtu: default_mtu(),
            subnet: Some(subnet),
            external_vteps: Vec::new(),
        }
    }
}

fn default_mtu() -> u32 {
    1450
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

/// An address of a network that is held by a port, for as long as the port exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortLease {
    /// The VM that the port belongs to, if it belongs to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Name>,
    /// The object that holds it, if that is not a VM: `port/db-vip`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    pub port: Uuid,
    pub mac: MacAddress,
}

impl PortLease {
    /// For people: `VM 'web'`, `port 'db-vip'`.
    pub fn described(&self) -> String {
        match (&self.vm, &self.holder) {
            (Some(vm), _) => format!("VM '{vm}'"),
            (None, Some(holder)) => match holder.split_once('/') {
                Some((kind, name)) => format!("{kind} '{name}'"),
                None => format!("'{holder}'"),
            },
            (None, None) => format!("port {}", self.port),
        }
    }
}

/// What VXLAN adds to a frame's MTU towards this underlay address: Ethernet of the inner frame 14, VXLAN 8, UDP 8, and
/// IPv4 20 or IPv6 40.
pub fn vxlan_overhead_bytes(vtep: IpAddr) -> u32 {
    if vtep.is_ipv4() { 50 } else { 70 }
}

/// The connection tracking zone of a network's flows on every host (1–65535). Networks share one if their identifiers
/// differ by a multiple of 65535; the controller lets no two such networks be made.
pub fn conntrack_zone(vni: u32) -> u16 {
    // The remainder is below 65535.
    1 + (vni % 65_535) as u16
}

/// The MAC of a network's gateway, if a router of Gantry is it: the same on each host.
pub fn gateway_mac(vni: u32) -> MacAddress {
    let [_, high, middle, low] = vni.to_be_bytes();
    MacAddress([0x0a, b'g', b'q', high, middle, low])
}
