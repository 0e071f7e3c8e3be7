//! What a network needs of the interfaces of hosts, and which hosts don't have it. Pure.
//!
//! A bridged network continues on an interface that a host has or has not; the networks behind a router whose way out is
//! such a network need it, too. An overlay needs an underlay that can carry its frames, and that has a link while that of
//! another host of the cluster has one.

use std::collections::{BTreeMap, BTreeSet};

use gantry_types::{Host, HostLinks, Name, Network, Problem, Resource, vxlan_overhead_bytes};

use crate::model::Tables;

/// The interface that a network needs on each host of its VMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    pub interface: String,
    pub mtu: u32,
    /// The bridged network that continues on it: the network itself, or the way out of its router.
    pub network: Name,
}

/// By network; those that need none are left out.
pub fn uplinks(tables: &Tables) -> BTreeMap<Name, Uplink> {
    let mut needed = BTreeMap::new();
    for network in tables.networks.values() {
        if let Some(interface) = &network.spec.interface {
            let own = network.metadata.name.clone();
            let uplink = Uplink { interface: interface.clone(), mtu: network.spec.mtu, network: own.clone() };
            needed.insert(own, uplink);
        }
    }
    for router in tables.routers.values() {
        let Some(uplink) = router.spec.external.as_ref().and_then(|external| needed.get(external)).cloned() else {
            continue;
        };
        needed.extend(router.spec.networks.iter().map(|network| (network.clone(), uplink.clone())));
    }
    needed
}

/// The networks between the hosts of a cluster; none while no host's underlay has a link, because then they end at their
/// hosts, and none is better than another.
pub fn overlays(tables: &Tables, cluster: &Name) -> BTreeSet<Name> {
    let mut hosts = tables.hosts.values().filter(|host| host.spec.cluster == *cluster);
    let has_link = |host: &Host| links_of(host).is_some_and(|links| underlay_without_link(links).is_none());
    if !hosts.any(|host| has_link(host)) {
        return BTreeSet::new();
    }
    let overlays = tables.networks.values().filter(|network| network.spec.interface.is_none());
    overlays.map(|network| network.metadata.name.clone()).collect()
}

fn underlay_without_link(links: &HostLinks) -> Option<&String> {
    links.underlay.as_ref().filter(|interface| links.without_link.contains(*interface))
}

/// The networks that a host does not reach, with the reason. One that has not told what it has is believed to have all.
pub fn out_of_reach(
    uplinks: &BTreeMap<Name, Uplink>,
    overlays: &BTreeSet<Name>,
    host: &Host,
) -> BTreeMap<Name, String> {
    let Some(links) = links_of(host) else { return BTreeMap::new() };
    let unlinked = underlay_without_link(links);
    let cut_off = unlinked.into_iter().flat_map(|interface| {
        overlays
            .iter()
            .map(move |network| (network.clone(), format!("its underlay interface '{interface}' has no link")))
    });
    let lacking = |(network, uplink): (&Name, &Uplink)| Some((network.clone(), uplink.lacking(network, links)?));
    cut_off.chain(uplinks.iter().filter_map(lacking)).collect()
}

impl Uplink {
    fn lacking(&self, network: &Name, links: &HostLinks) -> Option<String> {
        let Self { interface, mtu, network: of } = self;
        let fault = match links.interfaces.get(interface) {
            _ if links.without_link.contains(interface) => "has no link".to_owned(),
            Some(actual) if actual >= mtu => return None,
            Some(actual) => format!("has an MTU of {actual}, less than its {mtu}"),
            None => "is not there, or is used otherwise".to_owned(),
        };
        if of == network {
            return Some(format!("its interface '{interface}' {fault}"));
        }
        Some(format!("its router leads out by network '{of}', whose interface '{interface}' {fault}"))
    }
}

/// Why a host has no link for a network; its uplink as in [`uplinks`], if it needs one.
pub fn unlinked(uplink: Option<&Uplink>, host: &Host) -> Option<String> {
    let links = links_of(host)?;
    let interface = match uplink {
        Some(uplink) => Some(&uplink.interface).filter(|interface| links.without_link.contains(*interface)),
        None => underlay_without_link(links),
    }?;
    Some(format!("interface '{interface}' of host '{}' has no link", host.name()))
}

fn links_of(host: &Host) -> Option<&HostLinks> {
    host.status.inventory.as_ref()?.links.as_ref()
}

/// Refuses an overlay whose frames the underlay of some host can't carry; the answer names the largest MTU that all can.
pub fn check_mtu(network: &Network, tables: &Tables) -> Result<(), Problem> {
    if network.spec.interface.is_some() {
        return Ok(());
    }
    let carried = tables.hosts.values().filter_map(|host| {
        let underlay = links_of(host)?.underlay_mtu?;
        let overhead = vxlan_overhead_bytes(host.status.underlay_address.parse().ok()?);
        Some((underlay.saturating_sub(overhead), underlay, host))
    });
    let Some((largest, underlay, host)) = carried.min_by_key(|(largest, _, host)| (*largest, host.name().to_owned()))
    else {
        return Ok(());
    };
    let mtu = network.spec.mtu;
    if mtu <= largest {
        return Ok(());
    }
    let (name, host) = (network.name(), host.name());
    let message = format!("{mtu} is more than the {largest} that host '{host}' can carry: its underlay has {underlay}");
    Err(Problem::invalid(
        "underlay-mtu-too-small",
        format!("network '{name}' can't have an MTU of {mtu}: the underlay of host '{host}' carries at most {largest}"),
    )
    .field("spec.mtu", message)
    .remedy(format!("set spec.mtu to {largest} or less, or raise the MTU of that host's underlay interface")))
}
