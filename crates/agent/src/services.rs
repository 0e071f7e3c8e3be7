//! Keeps the services of this host's networks running: one [`Server`] per network that has a port here, each behind a bridge
//! port of its own, answering from what the controller said of the network and what the VMs' records say of its ports.
//!
//! It follows [`Networks`](crate::networks::Networks): woken after each change, and looking by itself now and then for what
//! was removed by hand or has ended. What fails is logged once and tried again; the other networks are served meanwhile.
//! Services are made anew rather than mended: they have no state that anybody would miss.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gantry_api::agent::{Assignment, NicAssignment};
use gantry_netservices::{
    GuestMetadata, GuestNic, Network, Port, PortTable, SERVICES_LINK_LOCAL, SERVICES_V4, SERVICES_V6, Server, Sockets,
    Subnet,
};
use gantry_network::services::{DEVICE, Reach, ServicesAddresses, ServicesNamespace, ServicesPort};
use gantry_network::{EthernetAddress, services_mac};
use gantry_types::{HostNetwork, Problem};
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::host::Host;
use crate::networks::Serving;
use crate::problem::{chain, problem};
use crate::vm::seed_of;

/// How long services that somebody else has removed may be missing.
const INTERVAL: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(1);

/// The namespaces of the networks' services that are up, by VNI: from there their guests are reached.
#[derive(Default)]
pub(crate) struct ServicesNamespaces {
    up: Mutex<BTreeMap<u32, ServicesNamespace>>,
}

impl ServicesNamespaces {
    pub fn of(&self, vni: u32) -> Option<ServicesNamespace> {
        self.up.lock().unwrap_or_else(PoisonError::into_inner).get(&vni).cloned()
    }

    fn set(&self, up: BTreeMap<u32, ServicesNamespace>) {
        *self.up.lock().unwrap_or_else(PoisonError::into_inner) = up;
    }
}

struct Served {
    port: ServicesPort,
    server: Server,
    mtu: u32,
}

/// Until `shutdown`, with which all services end.
pub(crate) async fn run(host: Arc<Host>, shutdown: CancellationToken) {
    let mut served = BTreeMap::new();
    let mut complained = BTreeSet::new();
    loop {
        let serving = host.networks.serving().await;
        let guests = guests(&host, &serving).await;
        served.retain(|vni, _| serving.networks.iter().any(|(network, _)| network.vni == *vni));
        let mut failed = false;
        for (network, nics) in &serving.networks {
            match converge(&mut served, network, nics, &guests).await {
                Ok(()) => {
                    complained.remove(&network.vni);
                }
                Err(error) => {
                    failed = true;
                    if complained.insert(network.vni) {
                        tracing::warn!(network = network.name, %error, "this network's services don't run, trying again");
                    }
                }
            }
        }
        host.services.set(served.iter().map(|(vni, served)| (*vni, served.port.namespace())).collect());
        tokio::select! {
            () = host.networks.changed() => {}
            () = tokio::time::sleep(if failed { RETRY } else { INTERVAL }) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// What guests may read about themselves, by VM. A record that can't be read is reported elsewhere.
async fn guests(host: &Host, serving: &Serving) -> BTreeMap<Uuid, Arc<GuestMetadata>> {
    let mut guests = BTreeMap::new();
    let vms: BTreeSet<_> = serving.networks.iter().flat_map(|(_, nics)| nics).map(|(vm, _)| *vm).collect();
    for vm in vms {
        if let Ok(record) = host.records.read(vm).await
            && let Ok(guest) = metadata(&record.assignment)
        {
            guests.insert(vm, Arc::new(guest));
        }
    }
    guests
}

fn metadata(assignment: &Assignment) -> Result<GuestMetadata, gantry_storage::SeedError> {
    let texts = seed_of(assignment).texts()?;
    let nic = |nic: &NicAssignment| GuestNic {
        mac: nic.mac,
        addresses: nic.subnet_addresses().filter_map(|(address, prefix)| IpNet::new(address, prefix).ok()).collect(),
    };
    Ok(GuestMetadata {
        instance_id: assignment.uuid.to_string(),
        hostname: assignment.name.to_string(),
        meta_data: texts.meta_data,
        user_data: assignment.user_data.clone(),
        network_config: texts.network_config,
        nics: assignment.nics.iter().map(nic).collect(),
    })
}

async fn converge(
    served: &mut BTreeMap<u32, Served>,
    network: &HostNetwork,
    nics: &[(Uuid, NicAssignment)],
    guests: &BTreeMap<Uuid, Arc<GuestMetadata>>,
) -> Result<(), Problem> {
    let reach = reach(&table(network, nics, guests));
    if let Some(running) = served.get_mut(&network.vni) {
        let is_good = running.mtu == network.mtu
            && !running.server.is_over()
            && running.port.is_whole().await.map_err(|error| not_made(network, &error))?;
        if is_good {
            running.server.set_table(table(network, nics, guests));
            match running.port.set_reach(reach.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => tracing::debug!(network = network.name, %error, "its services are made anew"),
            }
        }
        served.remove(&network.vni);
    }
    let made = make(network, reach, table(network, nics, guests)).await?;
    tracing::debug!(network = network.name, "its services run");
    served.insert(network.vni, made);
    Ok(())
}

async fn make(network: &HostNetwork, reach: Reach, table: PortTable) -> Result<Served, Problem> {
    let addresses = ServicesAddresses { v4: SERVICES_V4, v6: SERVICES_V6, link_local: SERVICES_LINK_LOCAL };
    let port = ServicesPort::make(None, network, addresses).await;
    let mut port = port.map_err(|error| not_made(network, &error))?;
    port.set_reach(reach).await.map_err(|error| not_made(network, &error))?;
    let what = format!("the services of network '{}'", network.name);
    let failed = |reason: String| Problem::transient("services-not-started", format!("{what}: {reason}"));
    let sockets = port.enter(|| Sockets::open(DEVICE)).await.map_err(|error| failed(error.to_string()))?;
    let sockets = sockets.map_err(|error| failed(chain(&error)))?;
    let server = Server::start(sockets, table).map_err(|error| failed(error.to_string()))?;
    Ok(Served { port, server, mtu: network.mtu })
}

fn not_made(network: &HostNetwork, error: &gantry_network::NetworkError) -> Problem {
    problem("services-not-made", &format!("the services of network '{}'", network.name), error)
}

/// Links answers to MACs: what goes to an address of a port goes to that port.
fn reach(table: &PortTable) -> Reach {
    let neighbours = table.ports().iter().flat_map(|port| {
        let link_local = IpAddr::V6(port.mac.link_local());
        port.addresses.iter().copied().chain([link_local]).map(|address| (address, port.mac))
    });
    Reach {
        subnets: table.network.subnets.iter().map(|subnet| subnet.cidr).collect(),
        neighbours: neighbours.collect(),
    }
}

fn table(
    network: &HostNetwork,
    nics: &[(Uuid, NicAssignment)],
    guests: &BTreeMap<Uuid, Arc<GuestMetadata>>,
) -> PortTable {
    let port = |(vm, nic): &(Uuid, NicAssignment)| Port {
        id: nic.port,
        mac: nic.mac,
        addresses: nic.addresses().collect(),
        hostname: guests.get(vm).map_or_else(|| format!("vm-{vm}"), |guest| guest.hostname.clone()),
        metadata: guests.get(vm).cloned(),
    };
    let elsewhere =
        network.remote.iter().filter_map(|port| Some((port.vm.as_ref()?.to_string(), port.addresses.clone())));
    let known = Network {
        name: network.name.clone(),
        mtu: network.mtu,
        domain: format!("{}.internal", network.name),
        subnets: subnets(network, nics),
        forwards: !network.isolated,
        services_mac: services_mac(network.vni),
    };
    PortTable::new(known, nics.iter().map(port).collect(), elsewhere)
}

/// The controller's; of a network that it has not told of yet, what the ports themselves say.
fn subnets(network: &HostNetwork, nics: &[(Uuid, NicAssignment)]) -> Vec<Subnet> {
    if !network.subnets.is_empty() {
        let known = network.subnets.iter().map(|subnet| Subnet {
            cidr: subnet.cidr,
            gateway: subnet.gateway,
            gateway_mac: subnet.gateway_mac,
            dns: subnet.dns.clone(),
            dhcp: true,
        });
        return known.collect();
    }
    let mut subnets: Vec<Subnet> = Vec::new();
    for (_, nic) in nics {
        let Ok(address) = IpNet::new(nic.address, nic.prefix_length) else { continue };
        if !subnets.iter().any(|subnet| subnet.cidr == address.trunc()) {
            subnets.push(Subnet {
                cidr: address.trunc(),
                gateway: nic.gateway,
                gateway_mac: None,
                dns: nic.dns.clone(),
                dhcp: true,
            });
        }
    }
    subnets
}
