//! The tracked connections of a VM's ports, on their way to the host that it moves to ([`gantry_network::flows`]).
//!
//! The source reads them while its guest stands still, the destination adds them before the guest runs there. If it does
//! not come after all, those that were added are deleted again, and only those: a client on this host may have had its own.
//!
//! On failure the VM moves all the same; what is lost is logged.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gantry_api::agent::NicAssignment;
use gantry_network::flows::{FlowTable, Place};
use gantry_types::{Flow, FlowPlace, Problem, conntrack_zone};
use uuid::Uuid;

use crate::problem::problem;

/// Those of its cards, and those that came to its `floating` addresses. What a router sends out under the host's own
/// address is not among them: that address stays where it is.
pub(crate) async fn of_vm(nics: &[NicAssignment], floating: &[(Uuid, Vec<IpAddr>)]) -> Result<Vec<Flow>, Problem> {
    let table = FlowTable::default();
    let cards = nics.iter().map(|nic| (place(nic), addresses(nic)));
    let routers = floating.iter().map(|(router, addresses)| (table.router(*router), addresses.clone()));
    let mut flows: Vec<Flow> = Vec::new();
    for (place, addresses) in cards.chain(routers) {
        let found = table.flows(&place, &addresses).await;
        flows.extend(found.map_err(|error| problem("flows-not-read", "the connections of a moving VM", &error))?);
    }
    Ok(flows)
}

/// Adds those that are of the VM's own ports. Answers with what was not here before.
pub(crate) async fn adopt(nics: &[NicAssignment], flows: &[Flow]) -> Result<Vec<Flow>, Problem> {
    let is_own = |flow: &&Flow| match flow.place {
        FlowPlace::Network(vni) => {
            nics.iter().filter(|nic| nic.vni == vni).any(|nic| nic.addresses().any(|own| flow.touches(own)))
        }
        FlowPlace::Router(_) => nics.iter().any(|nic| nic.addresses().any(|own| flow.touches(own))),
    };
    let mut added = Vec::new();
    for (place, own) in by_place(flows.iter().filter(is_own)) {
        let done = FlowTable::default().add(&place, &own).await;
        added.extend(done.map_err(|error| problem("flows-not-added", "the connections of an arriving VM", &error))?);
    }
    Ok(added)
}

/// Deletes what [`adopt`] has added.
pub(crate) async fn give_back(added: &[Flow]) {
    for (place, own) in by_place(added.iter()) {
        if let Err(error) = FlowTable::default().delete(&place, &own).await {
            tracing::warn!(%error, "connections of a VM that did not come are tracked until they time out");
        }
    }
}

/// Whoever gets a deleted VM's addresses next must not inherit its connections.
pub(crate) async fn forget(nics: &[NicAssignment]) {
    for nic in nics {
        if let Err(error) = FlowTable::default().forget(&place(nic), &addresses(nic)).await {
            tracing::warn!(%error, "connections of a deleted VM are tracked until they time out");
        }
    }
}

fn place(nic: &NicAssignment) -> Place {
    here(FlowPlace::Network(nic.vni))
}

/// Where on this host the connections of a network or router are.
fn here(place: FlowPlace) -> Place {
    match place {
        FlowPlace::Network(vni) => Place { name: place, namespace: None, zone: conntrack_zone(vni) },
        FlowPlace::Router(router) => FlowTable::default().router(router),
    }
}

fn by_place<'a>(flows: impl Iterator<Item = &'a Flow>) -> Vec<(Place, Vec<Flow>)> {
    let mut sorted: BTreeMap<FlowPlace, Vec<Flow>> = BTreeMap::new();
    flows.for_each(|flow| sorted.entry(flow.place).or_default().push(flow.clone()));
    sorted.into_iter().map(|(place, flows)| (here(place), flows)).collect()
}

fn addresses(nic: &NicAssignment) -> Vec<IpAddr> {
    nic.addresses().collect()
}
