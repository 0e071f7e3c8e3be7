//! Routers: what a router's namespace holds on this host. Pure.
//!
//! ```text
//!   gb1000 ── gq1000 ═ n1000 ┐                        ┌ ext ═ ge<router> ── gb<external>
//!                            ├ namespace …-r<router> ─┤
//!   gb1001 ── gq1001 ═ n1001 ┘ forwards, translates   └ floating addresses of the VMs that are here
//! ```
//! The gateway has the same MAC and address on each host, so a guest finds its gateway wherever it runs, and what it sends
//! to another network is routed on its own host. The namespace keeps routers apart: networks of different routers may
//! use the same addresses, and none reaches the host.
//!
//! The virtual address of a load balancer is one of the router's in its network, on each host: whoever is behind the router
//! finds it on its own host. What becomes of connections to it is in [`translation`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use gantry_types::HostNetworks;
use ipnet::IpNet;

use crate::desired::NetworkDevices;
use crate::mac::MacAddress;
use crate::names;
use crate::observed::{Link, LinkKind, Observed, PortFlags};
use crate::ruleset::Ruleset;
use crate::translation;

/// A router's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouterState {
    /// By the device's name inside.
    pub legs: BTreeMap<String, Leg>,
    /// Default gateways.
    pub gateways: BTreeSet<IpAddr>,
    /// Whether it forwards packets, of both families.
    pub forwards: bool,
    pub nat: Ruleset,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    pub mac: MacAddress,
    pub mtu: u32,
    pub up: bool,
    /// Without the link-local ones.
    pub addresses: BTreeSet<IpNet>,
}

/// The flags of a router's bridge port. It hears what is sent to all, to be found.
const LEG_FLAGS: PortFlags = PortFlags {
    learning: false,
    flood: false,
    multicast_flood: true,
    broadcast_flood: true,
    neighbour_suppression: false,
    locked: false,
};

/// Adds the routers to a host's state, in which their networks are.
pub fn add_to(state: &mut Observed, desired: &HostNetworks) {
    for router in &desired.routers {
        let key = names::router_key(router.uuid);
        let mut inside = RouterState {
            forwards: true,
            nat: translation::table(router, &desired.balancers),
            ..RouterState::default()
        };
        let bridge = |vni| desired.networks.iter().find(|network| network.vni == vni).map(NetworkDevices::bridge);
        let own_balancers = || desired.balancers.iter().filter(|balancer| balancer.router == router.uuid);
        for leg in &router.legs {
            let Some(bridge) = bridge(leg.vni) else { continue };
            let virtual_ones = own_balancers().filter(|balancer| balancer.vni == leg.vni);
            let virtual_ones = virtual_ones.map(|balancer| IpNet::from(balancer.address));
            let addresses = leg.addresses.iter().copied().chain(virtual_ones).collect();
            join(state, &key, names::leg_name(leg.vni), &bridge, (leg.mac, leg.mtu), &addresses);
            let leg_inside = Leg { mac: leg.mac, mtu: leg.mtu, up: true, addresses };
            inside.legs.insert(names::inner_leg_name(leg.vni), leg_inside);
        }
        if let Some(external) = &router.external
            && let Some(bridge) = bridge(external.vni)
        {
            let floating = router.floating.iter().map(|floating| floating.address);
            let floating = floating.chain(own_balancers().flat_map(|balancer| balancer.floating.iter().copied()));
            let addresses = external.addresses.iter().copied().chain(floating.map(IpNet::from)).collect();
            let name = names::external_leg_name(router.uuid);
            join(state, &key, name, &bridge, (external.mac, external.mtu), &addresses);
            let leg = Leg { mac: external.mac, mtu: external.mtu, up: true, addresses };
            inside.legs.insert(names::INNER_EXTERNAL_LEG.to_owned(), leg);
            inside.gateways.extend(&external.gateways);
        }
        state.routers.insert(key, inside);
    }
}

/// The end in a bridge, with the entries that lead to it.
fn join(
    state: &mut Observed,
    router: &str,
    name: String,
    bridge: &str,
    (mac, mtu): (MacAddress, u32),
    addresses: &BTreeSet<IpNet>,
) {
    let link = Link {
        kind: LinkKind::Leg { router: router.to_owned() },
        mtu,
        up: true,
        generates_address: false,
        master: Some(bridge.to_owned()),
        port: Some(LEG_FLAGS),
    };
    state.links.insert(name.clone(), link);
    state.bridge_fdb.insert((bridge.to_owned(), mac), name);
    for address in addresses {
        state.neighbours.insert((bridge.to_owned(), address.addr()), mac);
    }
}
