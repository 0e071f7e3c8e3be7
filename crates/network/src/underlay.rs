//! Whether the underlay can carry a network's frames inside VXLAN without fragments, and whether an interface can be
//! given to a bridged network.

use gantry_types::vxlan_overhead_bytes;

use crate::desired::HostNetwork;
use crate::error::{NetworkError, Result};

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
    let overhead = vxlan_overhead_bytes(address);
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

/// Of a bridged network: `found` is its interface's MTU and what it is used for otherwise, if it is there.
pub fn check_uplink(
    network: &HostNetwork,
    interface: &str,
    found: Option<(u32, Option<String>)>,
) -> Result<UnderlayReport> {
    let (name, interface) = (network.name.clone(), interface.to_owned());
    match found {
        None => Err(NetworkError::NoUplink { network: name, interface }),
        Some((_, Some(used))) => Err(NetworkError::UplinkInUse { network: name, interface, used }),
        Some((actual, None)) if actual < network.mtu => {
            Err(NetworkError::UplinkTooSmall { network: name, mtu: network.mtu, interface, actual })
        }
        Some((mtu, None)) => Ok(UnderlayReport { interface, mtu }),
    }
}
