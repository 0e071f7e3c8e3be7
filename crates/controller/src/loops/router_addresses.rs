//! Gives each host that has a VM behind a router an address of the router's external network, and the host by which a load
//! balancer is reached from outside. The address is a lease of that network, held by the router; nothing else is written.
//!
//! It is taken back when the host says that nothing is translated to it any more: a guest that has moved away keeps its
//! connections, and their answers come to the address of the host where they began. A host that does not answer keeps
//! its addresses, one that is deleted loses them.

use std::collections::BTreeMap;

use gantry_types::{Host, Name, Network, Problem, Resource, Router};
use uuid::Uuid;

use crate::{
    addresses::{Claim, release},
    app::{App, port::lease_in, router::holder},
    host_balancers,
    model::{Overlay, Tables},
    objects::Change,
};

/// The port of a router's leg on a host: always the same one.
pub fn leg_id(router: Uuid, host: &Name) -> Uuid {
    Uuid::new_v5(&router, host.as_str().as_bytes())
}

pub async fn pass(app: &App) {
    for router in app.model.list::<Router>() {
        let Some(external) = &router.spec.external else { continue };
        if let Err(problem) = settle(app, &router, external).await {
            tracing::warn!(router = %router.metadata.name, %problem, "not all hosts have an address outside yet");
        }
    }
}

/// The hosts that have, or are about to have, a VM in one of the router's networks, or translate for its load balancers;
/// and of those that hold an address those that still need it. By their leg's port.
fn needed(tables: &Tables, overlay: &Overlay, router: &Router, held: &[Uuid]) -> BTreeMap<Uuid, Name> {
    let leg = |host: &Name| (leg_id(router.metadata.uuid, host), host.clone());
    let is_idle = |host: &Host| {
        let report = overlay.hosts.get(host.name());
        report.is_some_and(|report| report.idle_routers.contains(&router.metadata.uuid))
    };
    let balancing = host_balancers::floating_of(tables, router).map(|(_, _, host)| leg(host));
    let lingering = tables.hosts.values().filter(|host| !is_idle(host)).map(|host| leg(&host.metadata.name));
    let lingering = lingering.filter(|(port, _)| held.contains(port));
    let is_behind = |nic: &gantry_types::NicStatus| router.spec.networks.contains(&nic.network);
    let vms = tables.vms.values().filter(|vm| vm.status.nics.iter().any(is_behind));
    let hosts = vms.flat_map(|vm| [&vm.status.host, &vm.status.moving_to]).flatten();
    hosts.map(leg).chain(balancing).chain(lingering).collect()
}

async fn settle(app: &App, router: &Router, external: &Name) -> Result<(), Problem> {
    let own = holder(router);
    app.objects
        .racing(|| async {
            let Some(seen) = app.model.get::<Network>(external.as_str()) else { return Ok(()) };
            let held = |network: &Network| -> Vec<Uuid> {
                let leases = network.status.leases.values().filter(|lease| lease.holder.as_ref() == Some(&own));
                leases.map(|lease| lease.port).collect()
            };
            let had = held(&seen);
            let needed = app.model.read(|tables| app.model.overlay(|overlay| needed(tables, overlay, router, &had)));
            let is_settled = |held: &[Uuid]| {
                held.iter().all(|port| needed.contains_key(port)) && needed.keys().all(|port| held.contains(port))
            };
            if is_settled(&held(&seen)) {
                return Ok(());
            }
            let mut network: Network = app.objects.get(external.as_str()).await?;
            let stale: Vec<_> = held(&network).into_iter().filter(|port| !needed.contains_key(port)).collect();
            let mut changed = release(&mut network, &stale);
            let mut refused = None;
            let had = held(&network);
            for (port, host) in needed.iter().filter(|(port, _)| !had.contains(port)) {
                let claim = Claim { port: *port, vm: None, holder: Some(own.clone()), addresses: &[], mac: None };
                match lease_in(app, &mut network, &claim, None) {
                    Ok(_) => changed = true,
                    Err(message) => {
                        let detail = format!("router '{}' gets no address on host '{host}': {message}", router.name());
                        refused = Some(
                            Problem::conflict("no-address", detail)
                                .object(router.reference())
                                .remedy(format!("give network '{external}' more addresses: kind subnet")),
                        );
                    }
                }
            }
            if changed {
                let mut change = Change::new();
                change.update(&network)?;
                app.commit(change).await?;
            }
            refused.map_or(Ok(()), Err)
        })
        .await
}
