//! What the data plane of one host should be: the controller computes it, the host's agent makes it so.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{Direction, HealthCheck, Listener, MacAddress, Name, PortRange, Protocol};

/// All networks of one host. Applying it again changes nothing; what is not in it is removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostNetworks {
    /// Grows with every change; a host refuses to go back.
    pub generation: u64,
    pub networks: Vec<HostNetwork>,
    /// The security groups of this host's ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub groups: Vec<HostGroup>,
    /// The routers of this host's ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routers: Vec<HostRouter>,
    /// The load balancers whose routers are here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub balancers: Vec<HostBalancer>,
}

/// A load balancer as hosts know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostBalancer {
    pub uuid: Uuid,
    pub name: Name,
    /// The router that translates for it.
    pub router: Uuid,
    /// Of the network that it has its address in.
    pub vni: u32,
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Addresses of the router's external network that lead to it and are this host's to translate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub floating: Vec<IpAddr>,
    pub listeners: Vec<Listener>,
    /// What those of its members that run here are asked.
    pub check: HealthCheck,
    pub checked_port: u16,
    pub members: Vec<HostMember>,
}

/// A member's card, wherever it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct HostMember {
    pub port: Uuid,
    pub vni: u32,
    /// Of the balancer's family.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Only healthy ones get new connections.
    pub healthy: bool,
}

/// A router as one host has it. Its networks, the external one too, are in [`HostNetworks::networks`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostRouter {
    pub uuid: Uuid,
    pub name: Name,
    pub legs: Vec<RouterLeg>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalLeg>,
    /// Those of the VMs that run here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub floating: Vec<HostFloatingIp>,
}

/// A router's place in a network: the same MAC and addresses on each host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouterLeg {
    pub vni: u32,
    pub mtu: u32,
    pub mac: MacAddress,
    /// The gateways of its subnets, with their prefix lengths.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpNet>,
}

/// A router's place in its external network: of this host only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExternalLeg {
    pub vni: u32,
    pub mtu: u32,
    pub mac: MacAddress,
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpNet>,
    /// Where everything else is sent, at most one of each family.
    #[schema(value_type = Vec<String>)]
    pub gateways: Vec<IpAddr>,
    pub snat: bool,
    /// Other hosts' addresses there that balanced connections come from: what answers them keeps its own address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub balancing_hosts: Vec<IpAddr>,
}

/// An address of the external network and that of the port it leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct HostFloatingIp {
    #[schema(value_type = String)]
    pub address: IpAddr,
    #[schema(value_type = String)]
    pub fixed: IpAddr,
}

/// One network as one host sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostNetwork {
    pub uuid: Uuid,
    pub name: String,
    pub vni: u32,
    pub mtu: u32,
    /// This host's VTEP address.
    #[schema(value_type = String)]
    pub underlay_address: IpAddr,
    pub local: Vec<LocalPort>,
    pub remote: Vec<RemotePort>,
    #[schema(value_type = Vec<String>)]
    pub external_vteps: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<HostSubnet>,
    /// Nothing leads out of it, questions of its guests for other names neither.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub isolated: bool,
    /// The host's interface that it continues on, instead of VXLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

impl HostNetwork {
    /// A network without ports.
    pub fn new(uuid: Uuid, name: impl Into<String>, vni: u32, mtu: u32, underlay_address: IpAddr) -> Self {
        Self {
            uuid,
            name: name.into(),
            vni,
            mtu,
            underlay_address,
            local: Vec::new(),
            remote: Vec::new(),
            external_vteps: Vec::new(),
            subnets: Vec::new(),
            isolated: false,
            interface: None,
        }
    }

    /// The connection tracking zone of its flows on this host.
    pub fn ct_zone(&self) -> u16 {
        crate::conntrack_zone(self.vni)
    }
}

/// A subnet as hosts know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostSubnet {
    #[schema(value_type = String)]
    pub cidr: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub gateway: Option<IpAddr>,
    /// Present if a router of Gantry answers for the gateway: the same on each host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_mac: Option<MacAddress>,
    /// Name servers told to guests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<IpAddr>,
}

/// A VM's port on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LocalPort {
    pub id: Uuid,
    pub mac: MacAddress,
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// The unprivileged user whose QEMU opens the tap.
    pub owner_uid: u32,
    /// False for the destination of a migration until it is committed: the port exists, but frames for it still go
    /// to `remote` and none from it are forwarded.
    pub active: bool,
    /// The VM whose port it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_uuid: Option<Uuid>,
    /// Its security groups. A port that is to have some gets nothing in until they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Uuid>,
}

impl LocalPort {
    /// A port that nothing more is known of.
    pub fn new(id: Uuid, mac: MacAddress, addresses: Vec<IpAddr>, owner_uid: u32, active: bool) -> Self {
        Self { id, mac, addresses, owner_uid, active, vm: None, vm_uuid: None, groups: Vec::new() }
    }
}

/// A VM's port on another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemotePort {
    pub mac: MacAddress,
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    #[schema(value_type = String)]
    pub vtep: IpAddr,
    /// The VM whose port it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Name>,
}

impl RemotePort {
    pub fn new(mac: MacAddress, addresses: Vec<IpAddr>, vtep: IpAddr) -> Self {
        Self { mac, addresses, vtep, vm: None }
    }
}

/// A security group as hosts know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostGroup {
    pub uuid: Uuid,
    pub name: Name,
    pub rules: Vec<HostGroupRule>,
    /// Each rule as its group has it; what it has counted is reported under this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shown: Vec<String>,
}

/// A rule whose peer is looked up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostGroupRule {
    pub direction: Direction,
    pub protocol: Protocol,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<PortRange>,
    pub peer: HostPeer,
}

/// Who the other end of a rule is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostPeer {
    Anyone,
    Cidr(IpNet),
    /// An address set or the members of a group.
    Set(PeerSet),
}

/// Addresses that change without their rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PeerSet {
    /// Of the group or address set; names the set on the host.
    pub uuid: Uuid,
    pub addresses: PeerAddresses,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerAddresses {
    /// Wherever they are.
    Everywhere(Vec<IpNet>),
    /// Ports: each address as it is seen in each network, by VNI, that it can be reached from. Networks may use the
    /// same addresses for different ports.
    InNetworks(Vec<(u32, IpAddr)>),
}
