//! From what is wanted to the kernel state that gives it, and the short step lists around a port. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::desired::{HostNetwork, HostNetworks, IPV6_MINIMUM_MTU_BYTES, LocalPort, NetworkDevices, PortDevice};
use crate::error::Result;
use crate::groups;
use crate::guard;
use crate::mac::{EthernetAddress, MacAddress};
use crate::names;
use crate::observed::{BridgeOptions, Link, LinkKind, Observed, PortFlags, VxlanOptions};
use crate::plan::{Change, Scope, plan};
use crate::plane::PortRef;
use crate::router;
use crate::steering;

/// Where guests find their network's services.
pub(crate) const SERVICES_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
pub(crate) const SERVICES_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// The port IANA gave to VXLAN (RFC 7348).
pub const VXLAN_UDP_PORT: u16 = 4789;

/// The kernel state of a whole host.
pub fn host(desired: &HostNetworks) -> Observed {
    let mut state = Observed::default();
    for network in &desired.networks {
        add_network(&mut state, network);
    }
    router::add_to(&mut state, desired);
    state.groups = groups::compile(desired);
    state.steering = steering::compile(desired);
    // Once on, it stays: others may rely on it by then.
    state.filters_bridges = !state.groups.is_empty();
    state
}

/// The flags of a tap. An inactive one gets no broadcast either: its guest is not running here.
pub fn tap_flags(active: bool) -> PortFlags {
    PortFlags {
        learning: false,
        flood: false,
        multicast_flood: active,
        broadcast_flood: active,
        neighbour_suppression: false,
        locked: true,
    }
}

/// The flags of the vxlan device. Unknown unicast may go there: its own table sends it to external VTEPs only.
const VXLAN_FLAGS: PortFlags = PortFlags {
    learning: false,
    flood: true,
    multicast_flood: true,
    broadcast_flood: true,
    neighbour_suppression: true,
    locked: false,
};

/// The flags of a bridged network's uplink: the LAN is learned and asked, as by any bridge.
const UPLINK_FLAGS: PortFlags = PortFlags { learning: true, neighbour_suppression: false, ..VXLAN_FLAGS };

/// A locally administered address; nobody sends from it, so each host may have the same.
fn bridge_address(vni: u32) -> MacAddress {
    let [_, high, middle, low] = vni.to_be_bytes();
    MacAddress([0x0a, b'g', b'b', high, middle, low])
}

fn add_network(state: &mut Observed, network: &HostNetwork) {
    let (bridge, vxlan) = (network.bridge(), network.vxlan());
    let link = |kind, port: Option<PortFlags>| Link {
        kind,
        mtu: network.mtu,
        up: true,
        generates_address: false,
        master: port.map(|_| bridge.clone()),
        port,
    };
    let options =
        BridgeOptions { address: bridge_address(network.vni), multicast_snooping: false, spanning_tree: false };
    state.links.insert(bridge.clone(), link(LinkKind::Bridge(options), None));
    state.guards.insert(bridge.clone(), guard::host_guard());
    let (outside, flags) = match &network.interface {
        Some(interface) => (LinkKind::Uplink { interface: interface.clone() }, UPLINK_FLAGS),
        None => {
            let options = VxlanOptions {
                vni: network.vni,
                local: Some(network.underlay_address),
                udp_port: VXLAN_UDP_PORT,
                learning: false,
                proxy: false,
            };
            (LinkKind::Vxlan(options), VXLAN_FLAGS)
        }
    };
    state.links.insert(vxlan.clone(), link(outside, Some(flags)));
    if !network.external_vteps.is_empty() {
        let vteps = network.external_vteps.iter().copied().collect();
        state.vxlan_fdb.insert((vxlan.clone(), MacAddress::ZERO), vteps);
    }
    // Asked about by every guest, answered on each host: outside the question is nobody's business.
    let has_ipv6 = network.mtu >= IPV6_MINIMUM_MTU_BYTES;
    for address in [Some(IpAddr::V4(SERVICES_V4)), has_ipv6.then_some(IpAddr::V6(SERVICES_V6))].into_iter().flatten() {
        state.neighbours.insert((bridge.clone(), address), names::services_mac(network.vni));
    }
    // The LAN finds its stations by itself.
    for port in network.remote.iter().filter(|_| network.interface.is_none()) {
        state.bridge_fdb.insert((bridge.clone(), port.mac), vxlan.clone());
        state.vxlan_fdb.insert((vxlan.clone(), port.mac), [port.vtep].into());
        for address in &port.addresses {
            state.neighbours.insert((bridge.clone(), *address), port.mac);
        }
    }
    for port in &network.local {
        let kind = LinkKind::Tap { owner_uid: port.owner_uid };
        state.links.insert(port.tap(), link(kind, Some(tap_flags(port.active))));
        state.guards.insert(port.tap(), guard::port_guard(network.vni, port));
        if !port.groups.is_empty() {
            state.guards.insert(guard::delivery_name(&port.tap()), guard::delivery_guard());
        }
        add_local_entries(state, network, port);
    }
}

fn add_local_entries(state: &mut Observed, network: &HostNetwork, port: &LocalPort) {
    if port.active {
        // The tap wins over a stale remote entry for the same MAC.
        state.bridge_fdb.insert((network.bridge(), port.mac), port.tap());
        state.vxlan_fdb.remove(&(network.vxlan(), port.mac));
    }
    // Known addresses keep queries for local guests from being flooded to external VTEPs.
    for address in &port.addresses {
        state.neighbours.insert((network.bridge(), *address), port.mac);
    }
}

/// A host that carries one port of a network and the network's remote side.
pub fn one_port(network: &HostNetwork, port: &LocalPort) -> HostNetworks {
    let network = HostNetwork { local: vec![port.clone()], ..network.clone() };
    HostNetworks { networks: vec![network], ..HostNetworks::default() }
}

/// The steps that give a port's MAC to its tap. The stale vxlan entry is harmless (nothing is sent to it) and goes at
/// the next apply: every step less is blackout less.
pub fn activation(port: &PortRef) -> Vec<Change> {
    vec![
        Change::SetBridgeEntry { bridge: port.bridge(), mac: port.mac, port: port.tap() },
        Change::SetPortFlags { name: port.tap(), flags: tap_flags(true) },
    ]
}

/// The steps that give a port's MAC to another VTEP, or to the LAN.
pub fn deactivation(port: &PortRef, new_vtep: IpAddr) -> Vec<Change> {
    let vtep = Change::SetVtep { device: port.vxlan(), mac: port.mac, vtep: new_vtep };
    let mut changes = if port.bridged { Vec::new() } else { vec![vtep] };
    changes.push(Change::SetBridgeEntry { bridge: port.bridge(), mac: port.mac, port: port.vxlan() });
    changes.push(Change::SetPortFlags { name: port.tap(), flags: tap_flags(false) });
    changes
}

/// The steps that remove a port's tap and guard from what is there.
pub fn removal(actual: &Observed, port: &PortRef) -> Result<Vec<Change>> {
    let tap = port.tap();
    let is_tap = |name: &String| *name == tap;
    let ours = Observed {
        links: actual.links.iter().filter(|(n, _)| is_tap(n)).map(|(n, l)| (n.clone(), l.clone())).collect(),
        guards: actual
            .guards
            .iter()
            .filter(|(n, _)| guard::device_of(n) == tap)
            .map(|(n, g)| (n.clone(), g.clone()))
            .collect(),
        ..Observed::default()
    };
    plan(&ours, &Observed::default(), Scope::Everything)
}
