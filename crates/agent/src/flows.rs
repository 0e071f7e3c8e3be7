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

use crate::networks::RouterFlows;
use crate::problem::problem;

/// Those of its cards, and those that its `routers` translate for it: what came to its floating addresses, what it has sent
/// out, and what it has asked of load balancers. What was sent out under this host's own address goes on under it: this
/// host stays the place where the answers arrive, and sends them on.
pub(crate) async fn of_vm(nics: &[NicAssignment], routers: &[RouterFlows]) -> Result<Vec<Flow>, Problem> {
    let table = FlowTable::default();
    let not_read = |error| problem("flows-not-read", "the connections of a moving VM", &error);
    let mut flows: Vec<Flow> = Vec::new();
    for nic in nics {
        flows.extend(table.flows(&place(nic), &addresses(nic)).await.map_err(not_read)?);
    }
    for of in routers {
        let is_own = |flow: &Flow| {
            let is_translated = flow.reply != flow.original.inverse();
            let is_its = of.own.contains(&flow.original.source) || of.floating.contains(&flow.original.destination);
            is_translated && is_its
        };
        let all = [&of.own[..], &of.floating].concat();
        let found = table.flows(&table.router(of.router), &all).await.map_err(not_read)?;
        flows.extend(found.into_iter().filter(is_own));
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
