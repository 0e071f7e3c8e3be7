//! The routers of one host, from one snapshot. Pure.
//!
//! A host has a router if it has a port in one of its networks, and then all of its networks: what a guest sends to another
//! network is routed where the guest is. And as long as it has an address of the router's external network: connections
//! of guests that have moved away may still come back by it, and it may be the host by which a load balancer is reached
//! from outside ([`crate::loops::router_addresses`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use gantry_types::{
    ExternalLeg, HostFloatingIp, HostNetwork, HostRouter, Name, Network, RemotePort, Router, RouterLeg, gateway_mac,
};
use ipnet::IpNet;
use uuid::Uuid;

use crate::{
    app::router::{floating_target, router_of},
    host_balancers,
    loops::router_addresses::leg_id,
    model::Tables,
    subnets,
};

/// The routers of a host that has ports in these networks.
pub fn of_host(tables: &Tables, host: &Name, networks: &BTreeSet<&Name>) -> Vec<HostRouter> {
    let is_here = |router: &Router| {
        router.spec.networks.iter().any(|network| networks.contains(network)) || translates(tables, router, host)
    };
    let routers = tables.routers.values().filter(|router| is_here(router));
    routers.map(|router| one(tables, host, router)).collect()
}

/// Whether a host has an address of a router's external network.
fn translates(tables: &Tables, router: &Router, host: &Name) -> bool {
    let external = router.spec.external.as_ref().and_then(|name| tables.networks.get(name.as_str()));
    let leg = leg_id(router.metadata.uuid, host);
    external.is_some_and(|network| network.status.leases.values().any(|lease| lease.port == leg))
}

fn one(tables: &Tables, host: &Name, router: &Router) -> HostRouter {
    let networks = router.spec.networks.iter().filter_map(|name| tables.networks.get(name.as_str()));
    let legs = networks.map(|network| {
        let subnets = subnets::of_network(tables, network);
        let gateways = subnets.iter().filter_map(|subnet| IpNet::new(subnet.gateway?, subnet.cidr.prefix_len()).ok());
        let vni = network.status.vni;
        RouterLeg { vni, mtu: network.spec.mtu, mac: gateway_mac(vni), addresses: gateways.collect() }
    });
    let external = router.spec.external.as_ref().and_then(|name| tables.networks.get(name.as_str()));
    let external = external.and_then(|network| external_leg(tables, host, router, network));
    let floating = if external.is_some() { floating_of(tables, router, host) } else { Vec::new() };
    HostRouter {
        uuid: router.metadata.uuid,
        name: router.metadata.name.clone(),
        legs: legs.collect(),
        external,
        floating,
    }
}

/// Nothing until the host has an address there.
fn external_leg(tables: &Tables, host: &Name, router: &Router, network: &Network) -> Option<ExternalLeg> {
    let port = leg_id(router.metadata.uuid, host);
    let subnets = subnets::of_network(tables, network);
    let prefix = |address: IpAddr| {
        let subnet = subnets.iter().find(|subnet| subnet.cidr.contains(&address))?;
        IpNet::new(address, subnet.cidr.prefix_len()).ok()
    };
    let held: Vec<_> = network.status.leases.iter().filter(|(_, lease)| lease.port == port).collect();
    let mac = held.first()?.1.mac;
    let balancing = host_balancers::floating_of(tables, router).map(|(_, _, host)| leg_id(router.metadata.uuid, host));
    let balancing: BTreeSet<_> = balancing.collect();
    let of_balancing = network.status.leases.iter().filter(|(_, lease)| balancing.contains(&lease.port));
    let mut gateways: BTreeMap<bool, IpAddr> = BTreeMap::new();
    for gateway in subnets.iter().filter_map(|subnet| subnet.gateway) {
        gateways.entry(gateway.is_ipv4()).or_insert(gateway);
    }
    Some(ExternalLeg {
        vni: network.status.vni,
        mtu: network.spec.mtu,
        mac,
        addresses: held.iter().filter_map(|(address, _)| prefix(**address)).collect(),
        gateways: gateways.into_values().collect(),
        snat: router.spec.snat,
        balancing_hosts: of_balancing.map(|(address, _)| *address).collect(),
    })
}

/// The floating addresses whose VMs run on a host behind a router.
fn floating_of(tables: &Tables, router: &Router, host: &Name) -> Vec<HostFloatingIp> {
    let here = tables.floating_ips.values().filter_map(|floating| {
        let (vm, nic) = floating_target(tables, floating)?;
        let address = floating.status.address?;
        let is_here = vm.status.host.as_ref() == Some(host) && router.spec.networks.contains(&nic.network);
        let fixed = nic.addresses().find(|fixed| fixed.is_ipv4() == address.is_ipv4())?;
        is_here.then_some(HostFloatingIp { address, fixed })
    });
    let mut here: Vec<_> = here.collect();
    here.sort();
    here
}

/// The legs that routers have on other hosts, in an external network that this host has.
pub fn add_remote_legs(tables: &Tables, host: &Name, network: &Network, entry: &mut HostNetwork) {
    let leads_here = |router: &&std::sync::Arc<Router>| router.spec.external.as_ref() == Some(&network.metadata.name);
    for router in tables.routers.values().filter(leads_here) {
        for other in tables.hosts.values().filter(|other| other.metadata.name != *host) {
            let Ok(vtep) = other.status.underlay_address.parse() else { continue };
            let Some(leg) = external_leg(tables, &other.metadata.name, router, network) else { continue };
            let floating = floating_of(tables, router, &other.metadata.name);
            let balancing = host_balancers::floating_of(tables, router);
            let balancing =
                { balancing }.filter(|(_, _, at)| **at == other.metadata.name).map(|(_, address, _)| address);
            let addresses = leg.addresses.iter().map(IpNet::addr).chain(balancing);
            let addresses = addresses.chain(floating.iter().map(|floating| floating.address)).collect();
            entry.remote.push(RemotePort::new(leg.mac, addresses, vtep));
        }
    }
}

/// The networks, by VNI, in which a port of `network` is seen with its own address.
pub fn seen_in(tables: &Tables, network: &Network) -> BTreeSet<u32> {
    let router = router_of(tables, &network.metadata.name);
    let others = router.iter().flat_map(|router| &router.spec.networks);
    let others = others.filter_map(|name| tables.networks.get(name.as_str())).map(|other| other.status.vni);
    others.chain([network.status.vni]).collect()
}

/// The MAC that answers for a network's gateway, if a router does.
pub fn gateway_of(tables: &Tables, network: &Network) -> Option<gantry_types::MacAddress> {
    router_of(tables, &network.metadata.name).map(|_| gateway_mac(network.status.vni))
}

/// All networks that a host's routers need.
pub fn needed<'a>(tables: &'a Tables, routers: &[HostRouter]) -> Vec<&'a std::sync::Arc<Network>> {
    let ids: BTreeSet<Uuid> = routers.iter().map(|router| router.uuid).collect();
    let routers = tables.routers.values().filter(|router| ids.contains(&router.metadata.uuid));
    let names = routers.flat_map(|router| router.spec.networks.iter().chain(&router.spec.external));
    names.filter_map(|name| tables.networks.get(name.as_str())).collect()
}
