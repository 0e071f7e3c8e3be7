//! One host's part of all networks, from one snapshot. Pure.
//!
//! A host has a network only if it has a port in it or in another one behind the same router, or if it translates for that
//! router; and the security groups of its own ports only. Of the members of a group that a rule names it gets the
//! addresses.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use gantry_types::{
    GroupRule, HostGroup, HostGroupRule, HostNetwork, HostNetworks, HostPeer, HostSubnet, LocalPort, Name, Network,
    NetworkType, NicStatus, PeerAddresses, PeerSet, Port, RemotePort, Resource, Vm,
};
use ipnet::IpNet;
use uuid::Uuid;

use crate::{
    host_balancers, host_routers,
    model::{Overlay, Tables},
    subnets,
};

/// In the order of the networks' names; without a generation.
pub fn compute(tables: &Tables, overlay: &Overlay, host: &Name) -> HostNetworks {
    let Some(own_address) = underlay(tables, host) else { return HostNetworks::default() };
    let ports: HashMap<Uuid, &Arc<Port>> = tables.ports.values().map(|port| (port.metadata.uuid, port)).collect();
    let mut found: BTreeMap<&Name, HostNetwork> = BTreeMap::new();
    for vm in tables.vms.values() {
        let active = vm.status.host.as_ref() == Some(host);
        if !active && vm.status.moving_to.as_ref() != Some(host) {
            continue;
        }
        let Some(owner_uid) = overlay.owner_uids.get(&(host.to_string(), vm.metadata.uuid)) else { continue };
        for nic in &vm.status.nics {
            let Some(network) = tables.networks.get(nic.network.as_str()) else { continue };
            let entry =
                found.entry(&network.metadata.name).or_insert_with(|| empty_network(tables, network, own_address));
            let groups = ports.get(&nic.port).map(|port| port.spec.security_groups.as_slice()).unwrap_or_default();
            entry.local.push(LocalPort {
                vm: Some(vm.metadata.name.clone()),
                vm_uuid: Some(vm.metadata.uuid),
                groups: groups.iter().map(|group| group_id(tables, group)).collect(),
                ..LocalPort::new(nic.port, nic.mac, nic.addresses().collect(), *owner_uid, active)
            });
        }
    }
    let routers = host_routers::of_host(tables, host, &found.keys().copied().collect());
    for network in host_routers::needed(tables, &routers) {
        found.entry(&network.metadata.name).or_insert_with(|| empty_network(tables, network, own_address));
    }
    if !found.is_empty() {
        for vm in tables.vms.values() {
            add_remote_ports(tables, host, vm, &mut found);
        }
    }
    for (name, entry) in &mut found {
        if let Some(network) = tables.networks.get(name.as_str()) {
            host_routers::add_remote_legs(tables, host, network, entry);
        }
    }
    let networks: Vec<_> = found.into_values().collect();
    let groups = groups_of(tables, &ports, &networks);
    let balancers = host_balancers::of_host(tables, host, &routers);
    HostNetworks { networks, groups, routers, balancers, ..HostNetworks::default() }
}

/// A group that is gone allows nothing: its id is nobody's.
fn group_id(tables: &Tables, group: &Name) -> Uuid {
    tables.security_groups.get(group.as_str()).map_or(Uuid::nil(), |group| group.metadata.uuid)
}

fn empty_network(tables: &Tables, network: &Network, own_address: IpAddr) -> HostNetwork {
    let subnets = subnets::of_network(tables, network).into_iter().map(|subnet| HostSubnet {
        cidr: subnet.cidr,
        gateway: subnet.gateway,
        gateway_mac: subnet.gateway.and_then(|_| host_routers::gateway_of(tables, network)),
        dns: subnet.dns,
    });
    HostNetwork {
        external_vteps: network.spec.external_vteps.clone(),
        subnets: subnets.collect(),
        isolated: network.spec.network_type == NetworkType::Isolated,
        interface: network.spec.interface.clone(),
        ..HostNetwork::new(network.metadata.uuid, network.name(), network.status.vni, network.spec.mtu, own_address)
    }
}

fn add_remote_ports(tables: &Tables, host: &Name, vm: &Vm, found: &mut BTreeMap<&Name, HostNetwork>) {
    // While it moves here its frames still go to where it runs.
    let Some(at) = vm.status.host.as_ref().filter(|at| *at != host) else { return };
    let Some(vtep) = underlay(tables, at) else { return };
    for nic in &vm.status.nics {
        if let Some(network) = found.get_mut(&nic.network) {
            let port = RemotePort::new(nic.mac, nic.addresses().collect(), vtep);
            network.remote.push(RemotePort { vm: Some(vm.metadata.name.clone()), ..port });
        }
    }
}

fn underlay(tables: &Tables, host: &Name) -> Option<IpAddr> {
    tables.hosts.get::<str>(host.as_str())?.status.underlay_address.parse().ok()
}

/// The groups of the local ports, with everything that their rules name looked up.
fn groups_of(tables: &Tables, ports: &HashMap<Uuid, &Arc<Port>>, networks: &[HostNetwork]) -> Vec<HostGroup> {
    // In which networks a group's rules are asked here.
    let mut asked: BTreeMap<Uuid, BTreeSet<u32>> = BTreeMap::new();
    for network in networks {
        for group in network.local.iter().flat_map(|port| &port.groups) {
            asked.entry(*group).or_default().insert(network.vni);
        }
    }
    if asked.is_empty() {
        return Vec::new();
    }
    let members = members(tables, ports);
    // Every rule that names a group gets the same members: its set is one.
    let mut everywhere = BTreeMap::new();
    let in_use = || tables.security_groups.values().filter(|group| asked.contains_key(&group.metadata.uuid));
    for group in in_use() {
        for peer in group.spec.rules.iter().filter_map(|rule| rule.group.as_ref()) {
            let vnis: &mut BTreeSet<u32> = everywhere.entry(peer.clone()).or_default();
            vnis.extend(&asked[&group.metadata.uuid]);
        }
    }
    in_use()
        .map(|group| HostGroup {
            uuid: group.metadata.uuid,
            name: group.metadata.name.clone(),
            rules: group.spec.rules.iter().map(|rule| looked_up(tables, rule, &members, &everywhere)).collect(),
            shown: group.spec.rules.iter().map(ToString::to_string).collect(),
        })
        .collect()
}

/// Each group's cards.
type Members<'a> = HashMap<&'a Name, Vec<&'a NicStatus>>;

fn members<'a>(tables: &'a Tables, ports: &HashMap<Uuid, &'a Arc<Port>>) -> Members<'a> {
    let mut members: Members<'_> = HashMap::new();
    for nic in tables.vms.values().flat_map(|vm| &vm.status.nics) {
        for group in ports.get(&nic.port).iter().flat_map(|port| &port.spec.security_groups) {
            members.entry(group).or_default().push(nic);
        }
    }
    members
}

fn looked_up(
    tables: &Tables,
    rule: &GroupRule,
    members: &Members<'_>,
    asked: &BTreeMap<Name, BTreeSet<u32>>,
) -> HostGroupRule {
    let peer = match (&rule.cidr, &rule.group, &rule.address_set) {
        (Some(cidr), _, _) => HostPeer::Cidr(*cidr),
        (_, Some(group), _) => {
            let mut seen = BTreeSet::new();
            for nic in members.get(group).into_iter().flatten() {
                let Some(network) = tables.networks.get(nic.network.as_str()) else { continue };
                let seen_in = host_routers::seen_in(tables, network);
                for vni in asked.get(group).into_iter().flatten().filter(|vni| seen_in.contains(vni)) {
                    seen.extend(nic.addresses().map(|address| (*vni, address)));
                }
            }
            let uuid = group_id(tables, group);
            HostPeer::Set(PeerSet { uuid, addresses: PeerAddresses::InNetworks(seen.into_iter().collect()) })
        }
        (_, _, Some(name)) => {
            let set = tables.address_sets.get(name.as_str());
            let ranges: Vec<IpNet> =
                set.iter().flat_map(|set| &set.spec.addresses).map(|addresses| addresses.0).collect();
            let uuid = set.map_or(Uuid::nil(), |set| set.metadata.uuid);
            HostPeer::Set(PeerSet { uuid, addresses: PeerAddresses::Everywhere(ranges) })
        }
        (None, None, None) => HostPeer::Anyone,
    };
    HostGroupRule { direction: rule.direction, protocol: rule.protocol, ports: rule.ports, peer }
}
