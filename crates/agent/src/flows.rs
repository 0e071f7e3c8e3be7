//! The tracked connections of a VM's ports, on their way to the host that it moves to ([`gantry_network::flows`]).
//!
//! The source reads them while its guest stands still, the destination adds them before the guest runs there. If it does
//! not come after all, those that were added are deleted again, and only those: a client on this host may have had its own.
//!
//! On failure the VM moves all the same; what is lost is logged.

use std::net::IpAddr;

use gantry_api::agent::NicAssignment;
use gantry_network::flows::{FlowTable, Place};
use gantry_types::{Flow, FlowPlace, Problem, conntrack_zone};

use crate::problem::problem;

/// In the order of its cards.
pub(crate) async fn of_vm(nics: &[NicAssignment]) -> Result<Vec<Flow>, Problem> {
    let mut flows: Vec<Flow> = Vec::new();
    for nic in nics {
        let found = FlowTable::default().flows(&place(nic), &addresses(nic)).await;
        flows.extend(found.map_err(|error| problem("flows-not-read", "the connections of a moving VM", &error))?);
    }
    Ok(flows)
}

/// Adds those that are of the VM's own ports. Answers with what was not here before.
pub(crate) async fn adopt(nics: &[NicAssignment], flows: &[Flow]) -> Result<Vec<Flow>, Problem> {
    let mut added = Vec::new();
    for nic in nics {
        let (place, addresses) = (place(nic), addresses(nic));
        let is_own = |flow: &&Flow| flow.place == place.name && addresses.iter().any(|address| flow.touches(*address));
        let own = flows.iter().filter(is_own).cloned().collect::<Vec<_>>();
        let done = FlowTable::default().add(&place, &own).await;
        added.extend(done.map_err(|error| problem("flows-not-added", "the connections of an arriving VM", &error))?);
    }
    Ok(added)
}

/// Deletes what [`adopt`] has added.
pub(crate) async fn give_back(nics: &[NicAssignment], added: &[Flow]) {
    for nic in nics {
        let place = place(nic);
        let own = added.iter().filter(|flow| flow.place == place.name).cloned().collect::<Vec<_>>();
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
    Place { name: FlowPlace::Network(nic.vni), namespace: None, zone: conntrack_zone(nic.vni) }
}

fn addresses(nic: &NicAssignment) -> Vec<IpAddr> {
    nic.addresses().collect()
}
