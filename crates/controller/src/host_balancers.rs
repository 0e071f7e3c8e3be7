//! The load balancers of one host, from one snapshot, and who is behind them. Pure.
//!
//! A host has a load balancer if it has its router: what its VMs send to the virtual address is translated there.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use gantry_types::{
    FloatingIp, HostBalancer, HostMember, HostRouter, LoadBalancer, Name, NicStatus, Resource, Router, Vm,
};

use crate::{app::router::router_of, model::Tables};

/// A VM behind a load balancer, with the card and address that it takes part with.
#[derive(Clone, Copy)]
pub struct Behind<'a> {
    pub vm: &'a Vm,
    pub nic: &'a NicStatus,
    pub address: IpAddr,
}

/// By the VM's name. VMs that have no addresses yet are not among them.
pub fn behind<'a>(tables: &'a Tables, balancer: &LoadBalancer) -> Vec<Behind<'a>> {
    let Some(own) = balancer.status.address else { return Vec::new() };
    let router = router_of(tables, &balancer.spec.network);
    let chosen = tables.vms.values().filter(|vm| balancer.spec.members.matches(&vm.metadata.labels));
    let found = chosen.filter_map(|vm| {
        let others = router.iter().flat_map(|router| &router.spec.networks);
        let mut networks = [&balancer.spec.network].into_iter().chain(others);
        networks.find_map(|network| {
            let nic = vm.status.nics.iter().find(|nic| nic.network == *network)?;
            let address = nic.addresses().find(|address| address.is_ipv4() == own.is_ipv4())?;
            Some(Behind { vm, nic, address })
        })
    });
    found.collect()
}

/// The load balancer with a virtual address in a network.
pub fn at<'a>(tables: &'a Tables, network: &Name, address: IpAddr) -> Option<&'a Arc<LoadBalancer>> {
    let is_it =
        |balancer: &&Arc<LoadBalancer>| balancer.spec.network == *network && balancer.status.address == Some(address);
    tables.load_balancers.values().find(is_it)
}

/// The load balancer that a floating address leads to, and the router that leads there.
pub fn target_of<'a>(tables: &'a Tables, floating: &FloatingIp) -> Option<(&'a Arc<LoadBalancer>, &'a Arc<Router>)> {
    let balancer = tables.load_balancers.get(floating.spec.load_balancer.as_ref()?.as_str())?;
    let router = router_of(tables, &balancer.spec.network)?;
    (router.spec.external.as_ref() == Some(&floating.spec.network)).then_some((balancer, router))
}

/// The floating addresses that lead to a router's load balancers, with the hosts that translate them.
pub fn floating_of<'a>(
    tables: &'a Tables,
    router: &'a Router,
) -> impl Iterator<Item = (&'a Arc<LoadBalancer>, IpAddr, &'a Name)> {
    tables.floating_ips.values().filter_map(move |floating| {
        let (balancer, of) = target_of(tables, floating)?;
        let address = floating.status.address?;
        let same_family = balancer.status.address.is_some_and(|own| own.is_ipv4() == address.is_ipv4());
        let host = floating.status.host.as_ref()?;
        (same_family && of.metadata.name == router.metadata.name).then_some((balancer, address, host))
    })
}

/// Those of the routers that a host has.
pub fn of_host(tables: &Tables, host: &Name, routers: &[HostRouter]) -> Vec<HostBalancer> {
    let found = tables.load_balancers.values().filter_map(|balancer| {
        let router = router_of(tables, &balancer.spec.network)?;
        routers.iter().any(|here| here.uuid == router.metadata.uuid).then_some(())?;
        let network = tables.networks.get(balancer.spec.network.as_str())?;
        let floating = floating_of(tables, router)
            .filter(|(of, _, at)| of.metadata.name == balancer.metadata.name && *at == host)
            .map(|(_, address, _)| address);
        let health: BTreeMap<_, _> =
            balancer.status.members.iter().map(|member| (member.port, member.healthy)).collect();
        let members = behind(tables, balancer).into_iter().filter_map(|Behind { nic, address, .. }| {
            let vni = tables.networks.get(nic.network.as_str())?.status.vni;
            let healthy = health.get(&nic.port).copied().unwrap_or_default();
            Some(HostMember { port: nic.port, vni, address, healthy })
        });
        Some(HostBalancer {
            uuid: balancer.metadata.uuid,
            name: balancer.metadata.name.clone(),
            router: router.metadata.uuid,
            vni: network.status.vni,
            address: balancer.status.address?,
            floating: floating.collect(),
            listeners: balancer.spec.listeners.clone(),
            check: balancer.spec.health.clone(),
            checked_port: balancer.spec.checked_port()?,
            members: members.collect(),
        })
    });
    found.collect()
}

/// For people: `tcp 80 to 8080`.
pub fn described(balancer: &LoadBalancer) -> String {
    let listeners: Vec<_> = balancer.spec.listeners.iter().map(ToString::to_string).collect();
    format!("load-balancer '{}' ({})", balancer.name(), listeners.join(", "))
}
