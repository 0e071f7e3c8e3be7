//! What the controller wants of this host, joined with the VMs that are really here. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gantry_api::agent::NicAssignment;
use gantry_network::PortRef;
use gantry_types::{HostNetwork, HostNetworks, LocalPort, RemotePort};
use uuid::Uuid;

/// Where the guest behind a VM's ports is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Here,
    /// On its way here; its frames still go where the controller says.
    Coming,
    /// It left for the host with this VTEP.
    Left(IpAddr),
}

#[derive(Debug, Clone)]
pub(super) struct VmPorts {
    pub nics: Vec<NicAssignment>,
    pub owner_uid: u32,
    pub place: Place,
}

pub(super) fn port_ref(nic: &NicAssignment) -> PortRef {
    PortRef { vni: nic.vni, id: nic.port, mac: nic.mac, bridged: nic.interface.is_some() }
}

/// What the controller says of ports now, and what it said before of those that are still here.
pub(super) fn told(
    desired: &HostNetworks,
    mut before: BTreeMap<Uuid, LocalPort>,
    vms: &BTreeMap<Uuid, VmPorts>,
) -> BTreeMap<Uuid, LocalPort> {
    before.retain(|port, _| vms.values().flat_map(|ports| &ports.nics).any(|nic| nic.port == *port));
    let now = desired.networks.iter().flat_map(|network| &network.local);
    before.extend(now.map(|port| (port.id, port.clone())));
    before
}

pub(super) fn merged(
    desired: &HostNetworks,
    vms: &BTreeMap<Uuid, VmPorts>,
    told: &BTreeMap<Uuid, LocalPort>,
    underlay_address: IpAddr,
) -> HostNetworks {
    let mut plan = desired.clone();
    plan.networks.iter_mut().for_each(|network| network.local.clear());
    for (ports, nic) in vms.values().flat_map(|ports| ports.nics.iter().map(move |nic| (ports, nic))) {
        let network = network_of(&mut plan, nic, underlay_address);
        let known_remote = network.remote.iter().any(|port| port.mac == nic.mac);
        match ports.place {
            Place::Here => network.remote.retain(|port| port.mac != nic.mac),
            Place::Left(vtep) if !known_remote => {
                network.remote.push(RemotePort::new(nic.mac, nic.addresses().collect(), vtep));
            }
            Place::Left(_) | Place::Coming => {}
        }
        let here = ports.place == Place::Here;
        let mut port = LocalPort::new(nic.port, nic.mac, nic.addresses().collect(), ports.owner_uid, here);
        if let Some(told) = told.get(&nic.port) {
            (port.vm, port.vm_uuid, port.groups) = (told.vm.clone(), told.vm_uuid, told.groups.clone());
        }
        network.local.push(port);
    }
    plan
}

/// The network of a port; made from what the VM's assignment says if the controller has not sent it yet.
pub(super) fn network_of<'a>(
    plan: &'a mut HostNetworks,
    nic: &NicAssignment,
    underlay_address: IpAddr,
) -> &'a mut HostNetwork {
    let found = plan.networks.iter().position(|network| network.vni == nic.vni);
    let at = found.unwrap_or_else(|| {
        let new = HostNetwork::new(Uuid::nil(), nic.network.as_str(), nic.vni, nic.mtu, underlay_address);
        plan.networks.push(HostNetwork { interface: nic.interface.clone(), ..new });
        plan.networks.len() - 1
    });
    &mut plan.networks[at]
}
