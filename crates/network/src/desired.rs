//! What a host's data plane should carry, as the controller describes it: checks, and the names that follow from it.

use std::collections::BTreeMap;

use crate::error::{NetworkError, Result};
use crate::mac::{EthernetAddress, MacAddress};
use crate::names;

pub use gantry_types::{HostGroup, HostGroupRule, HostNetwork, HostNetworks, HostPeer, LocalPort, RemotePort};

/// What can be wrong with a description.
pub trait Validate {
    /// Refuses what the kernel would misinterpret: clashing VNIs, names, MACs or addresses, mixed address families.
    fn validate(&self) -> Result<()>;
}

/// The devices of a network on a host.
pub trait NetworkDevices {
    fn bridge(&self) -> String;
    fn vxlan(&self) -> String;
}

impl NetworkDevices for HostNetwork {
    fn bridge(&self) -> String {
        names::bridge_name(self.vni)
    }

    fn vxlan(&self) -> String {
        names::vxlan_name(self.vni)
    }
}

/// The device of a port.
pub trait PortDevice {
    fn tap(&self) -> String;
}

impl PortDevice for LocalPort {
    fn tap(&self) -> String {
        names::tap_name(self.id)
    }
}

/// Below this the kernel has no IPv6 on a device (RFC 8200).
pub(crate) const IPV6_MINIMUM_MTU_BYTES: u32 = 1280;
/// From what every IPv4 host must take (RFC 791) to what fits a UDP datagram with the VXLAN overhead.
const MTU_RANGE_BYTES: std::ops::RangeInclusive<u32> = 576..=65_000;

impl Validate for HostNetworks {
    fn validate(&self) -> Result<()> {
        let mut vnis = BTreeMap::new();
        let mut taps = BTreeMap::new();
        for network in &self.networks {
            network.validate()?;
            if let Some(other) = vnis.insert(network.vni, &network.name) {
                return Err(invalid(network, format!("VNI {} is also used by network '{other}'", network.vni)));
            }
            for port in &network.local {
                if let Some(other) = taps.insert(port.tap(), port.id) {
                    let tap = port.tap();
                    return Err(invalid(network, format!("ports {} and {other} both derive the tap '{tap}'", port.id)));
                }
            }
        }
        Ok(())
    }
}

impl Validate for HostNetwork {
    fn validate(&self) -> Result<()> {
        if self.vni == 0 || self.vni >= 1 << 24 {
            return Err(invalid(self, format!("VNI {} is outside 1 to 16777215", self.vni)));
        }
        if !MTU_RANGE_BYTES.contains(&self.mtu) {
            let (low, high) = (MTU_RANGE_BYTES.start(), MTU_RANGE_BYTES.end());
            return Err(invalid(self, format!("MTU {} is outside {low} to {high}", self.mtu)));
        }
        let vteps = self.remote.iter().map(|r| r.vtep).chain(self.external_vteps.iter().copied());
        for vtep in vteps {
            if vtep.is_ipv4() != self.underlay_address.is_ipv4() {
                let own = self.underlay_address;
                return Err(invalid(self, format!("VTEP {vtep} and this host's {own} differ in address family")));
            }
            if vtep.is_unspecified() || vtep.is_multicast() {
                return Err(invalid(self, format!("{vtep} is not a unicast VTEP address")));
            }
        }
        if let Some(interface) = &self.interface {
            let is_name = (1..=15).contains(&interface.len())
                && interface.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:".contains(&byte));
            if !is_name || names::role(interface).is_some() {
                return Err(invalid(self, format!("'{interface}' is no interface that a network can continue on")));
            }
        }
        validate_macs(self)?;
        validate_addresses(self)
    }
}

fn validate_macs(network: &HostNetwork) -> Result<()> {
    let mut local = BTreeMap::new();
    for port in &network.local {
        if let Some(other) = local.insert(port.mac, port.id) {
            return Err(invalid(network, format!("ports {} and {other} both have MAC {}", port.id, port.mac)));
        }
    }
    let mut remote = BTreeMap::new();
    for port in &network.remote {
        if let Some(other) = remote.insert(port.mac, port.vtep) {
            return Err(invalid(network, format!("MAC {} is given to both VTEPs {other} and {}", port.mac, port.vtep)));
        }
    }
    for mac in local.keys().chain(remote.keys()) {
        if mac.is_multicast() || *mac == MacAddress::ZERO {
            return Err(invalid(network, format!("{mac} is not a unicast MAC address")));
        }
    }
    Ok(())
}

fn validate_addresses(network: &HostNetwork) -> Result<()> {
    let local = network.local.iter().map(|p| (p.mac, &p.addresses));
    let remote = network.remote.iter().map(|p| (p.mac, &p.addresses));
    let mut owners = BTreeMap::new();
    for (mac, addresses) in local.chain(remote) {
        for address in addresses {
            if let Some(other) = owners.insert(*address, mac).filter(|other| *other != mac) {
                return Err(invalid(network, format!("address {address} belongs to both {other} and {mac}")));
            }
            if address.is_ipv6() && network.mtu < IPV6_MINIMUM_MTU_BYTES {
                let least = IPV6_MINIMUM_MTU_BYTES;
                return Err(invalid(
                    network,
                    format!("{address} needs an MTU of at least {least}, not {}", network.mtu),
                ));
            }
            if address.is_unspecified() || address.is_multicast() {
                return Err(invalid(network, format!("{address} is not a unicast address")));
            }
        }
    }
    Ok(())
}

fn invalid(network: &HostNetwork, problem: String) -> NetworkError {
    NetworkError::Invalid { network: network.name.clone(), problem }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use uuid::Uuid;

    use super::*;

    fn network() -> HostNetwork {
        let mac = |last| MacAddress([2, 0, 0, 0, 0, last]);
        let port =
            |n: u8| LocalPort::new(Uuid::from_u128(n.into()), mac(n), vec![IpAddr::from([10, 9, 0, n])], 64_000, true);
        HostNetwork {
            local: (1..3).map(port).collect(),
            remote: vec![RemotePort::new(mac(9), vec![], "10.77.0.2".parse().unwrap())],
            ..HostNetwork::new(Uuid::nil(), "default", 100, 1400, "10.77.0.1".parse().unwrap())
        }
    }

    #[test]
    fn what_the_kernel_would_misread_is_refused_by_name() {
        type Break = fn(&mut HostNetwork);
        let wrong: [(&str, Break); 12] = [
            ("VNI 0", |n| n.vni = 0),
            ("VNI 16777216", |n| n.vni = 1 << 24),
            ("MTU 575", |n| n.mtu = 575),
            ("differ in address family", |n| n.external_vteps.push("fd00::1".parse().unwrap())),
            ("not a unicast VTEP", |n| n.remote[0].vtep = "239.0.0.1".parse().unwrap()),
            ("both have MAC", |n| n.local[1].mac = n.local[0].mac),
            ("to both VTEPs", |n| n.remote.push(RemotePort { vtep: n.external_vteps[0], ..n.remote[0].clone() })),
            ("not a unicast MAC", |n| n.remote[0].mac = MacAddress([0xff; 6])),
            ("not a unicast MAC", |n| n.local[0].mac = MacAddress::ZERO),
            ("belongs to both", |n| n.remote[0].addresses = n.local[0].addresses.clone()),
            ("not a unicast address", |n| n.local[0].addresses.push(IpAddr::from([0, 0, 0, 0]))),
            ("at least 1280", |n| (n.mtu, n.local[0].addresses) = (1279, vec!["fd00::1".parse().unwrap()])),
        ];
        for (part, break_it) in wrong {
            let mut network = network();
            network.external_vteps.push("10.77.0.9".parse().unwrap());
            network.validate().unwrap();
            break_it(&mut network);
            let error = network.validate().unwrap_err().to_string();
            assert!(error.starts_with("network 'default': ") && error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_migrating_port_may_be_both_here_and_there() {
        let mut network = network();
        network.local[0].active = false;
        let port = &network.local[0];
        let addresses = port.addresses.clone();
        network.remote.push(RemotePort::new(port.mac, addresses, "10.77.0.2".parse().unwrap()));
        network.validate().unwrap();
        let mut twice = HostNetworks { networks: vec![network.clone(), network], ..HostNetworks::default() };
        assert!(twice.validate().unwrap_err().to_string().contains("VNI 100 is also used"));
        twice.networks[1].vni = 101;
        assert!(twice.validate().unwrap_err().to_string().contains("both derive the tap"));
    }
}
