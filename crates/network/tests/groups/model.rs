//! What security groups mean, said as plainly as possible.

use std::net::IpAddr;

use gantry_network::{EthernetAddress, HostGroupRule, HostNetworks, HostPeer, LocalPort};
use gantry_types::{Direction, PeerAddresses, Protocol};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    New,
    /// In the direction in which its connection began.
    Established,
    Reply,
    Related,
}

/// The ends of the frame that carries a packet: ports, or the router's on one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Direct,
    FromRouter,
    ToRouter,
}

/// A packet that a network's bridge forwards.
#[derive(Debug, Clone)]
pub struct Packet {
    pub vni: u32,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// nft's name of it.
    pub protocol: &'static str,
    pub source_port: u16,
    pub destination_port: u16,
    pub connection: Connection,
    pub way: Way,
}

pub fn allows(host: &HostNetworks, packet: &Packet) -> bool {
    if matches!(packet.connection, Connection::Reply | Connection::Related) {
        return true;
    }
    let port_with = |address: IpAddr| {
        let network = host.networks.iter().find(|network| network.vni == packet.vni)?;
        let has = |port: &&LocalPort| port.addresses.contains(&address) || IpAddr::V6(port.mac.link_local()) == address;
        network.local.iter().find(has)
    };
    let may = |port: Option<&LocalPort>, direction, peer| {
        port.is_none_or(|port| port_allows(host, port, direction, packet, peer))
    };
    // Who sent what a router brings was asked before; who gets what goes to a router is asked when it comes back.
    let has_router = host.routers.iter().flat_map(|router| &router.legs).any(|leg| leg.vni == packet.vni);
    let (from_router, to_router) =
        (packet.way == Way::FromRouter && has_router, packet.way == Way::ToRouter && has_router);
    (from_router || may(port_with(packet.source), Direction::Egress, packet.destination))
        && (to_router || may(port_with(packet.destination), Direction::Ingress, packet.source))
}

fn port_allows(host: &HostNetworks, port: &LocalPort, direction: Direction, packet: &Packet, peer: IpAddr) -> bool {
    if port.groups.is_empty() {
        return true;
    }
    let groups = host.groups.iter().filter(|group| port.groups.contains(&group.uuid));
    let rules: Vec<_> = groups.flat_map(|group| &group.rules).filter(|rule| rule.direction == direction).collect();
    if direction == Direction::Egress && rules.is_empty() {
        return true;
    }
    rules.into_iter().any(|rule| matches(rule, packet, peer))
}

fn matches(rule: &HostGroupRule, packet: &Packet, peer: IpAddr) -> bool {
    let protocol = match rule.protocol {
        Protocol::Any => true,
        Protocol::Icmp => ["icmp", "ipv6-icmp"].contains(&packet.protocol),
        protocol => packet.protocol == protocol.name(),
    };
    let peer = match &rule.peer {
        HostPeer::Anyone => true,
        HostPeer::Cidr(range) => range.contains(&peer),
        HostPeer::Set(set) => match &set.addresses {
            PeerAddresses::Everywhere(ranges) => ranges.iter().any(|range| range.contains(&peer)),
            PeerAddresses::InNetworks(members) => members.contains(&(packet.vni, peer)),
        },
    };
    protocol && peer && rule.ports.is_none_or(|ports| ports.contains(packet.destination_port))
}
