//! Whether the underlay can carry a network's frames inside VXLAN without fragments.

use std::net::IpAddr;

use crate::desired::HostNetwork;
use crate::error::{NetworkError, Result};

/// Outer headers: Ethernet of the inner frame 14, VXLAN 8, UDP 8, and IPv4 20 or IPv6 40.
pub fn overhead_bytes(vtep: IpAddr) -> u32 {
    if vtep.is_ipv4() { 50 } else { 70 }
}

/// The interface that carries a network's VTEP address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderlayReport {
    pub interface: String,
    pub mtu: u32,
}

/// The check itself. `interface` is the one that has the network's underlay address, if any has.
pub fn check(network: &HostNetwork, interface: Option<UnderlayReport>) -> Result<UnderlayReport> {
    let address = network.underlay_address;
    let Some(found) = interface else {
        return Err(NetworkError::NoUnderlay { network: network.name.clone(), address });
    };
    let overhead = overhead_bytes(address);
    let needed = network.mtu + overhead;
    if found.mtu >= needed {
        return Ok(found);
    }
    Err(NetworkError::UnderlayTooSmall {
        network: network.name.clone(),
        mtu: network.mtu,
        interface: found.interface,
        address,
        needed,
        actual: found.mtu,
        possible: found.mtu.saturating_sub(overhead),
    })
}
