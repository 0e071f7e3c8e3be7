//! The address that an object other than a VM has in a network: leased when the object is made, given back with it.

use std::net::IpAddr;

use gantry_types::{Name, Network, Problem, Resource};

use super::{App, vm_references::pinned_addresses};
use crate::{
    addresses::{Claim, lease, release},
    objects::Change,
    subnets,
};

/// Leases the address that is `wanted`, or one of the network's: an IPv4 one if it has any.
///
/// # Errors
/// `no-address`, with this remedy.
pub(super) async fn take<R: Resource>(
    app: &App,
    object: &R,
    network: &Name,
    wanted: Option<IpAddr>,
    remedy: &str,
    change: &mut Change,
) -> Result<Option<IpAddr>, Problem> {
    let mut network: Network = app.objects.get(network.as_str()).await?;
    let mut subnets = app.model.read(|tables| subnets::of_network(tables, &network));
    let is_v4 =
        wanted.map_or_else(|| subnets.iter().any(|subnet| subnet.cidr.addr().is_ipv4()), |address| address.is_ipv4());
    subnets.retain(|subnet| subnet.cidr.addr().is_ipv4() == is_v4);
    let holder = Some(format!("{}/{}", R::KIND, object.name()));
    let claim = Claim { port: object.metadata().uuid, vm: None, holder, addresses: wanted.as_slice(), mac: None };
    let pinned = pinned_addresses(app, None, &network.metadata.name);
    let leased = match wanted.and_then(|address| pinned.get(&address)) {
        Some(vm) => Err(format!("it is kept for VM '{vm}', whose spec names it")),
        None => lease(&mut network, &subnets, &claim, |address| pinned.contains_key(&address)),
    };
    let leased = leased.map_err(|message| {
        let detail = format!("{} '{}' gets no address: {message}", R::KIND, object.name());
        Problem::conflict("no-address", detail).remedy(remedy)
    })?;
    change.update(&network)?;
    Ok(leased.addresses.first().copied())
}

/// Gives back what the object has leased in the network.
pub(super) async fn give_back<R: Resource>(
    app: &App,
    object: &R,
    network: &Name,
    change: &mut Change,
) -> Result<(), Problem> {
    let mut network: Network = app.objects.get(network.as_str()).await?;
    if release(&mut network, &[object.metadata().uuid]) {
        change.update(&network)?;
    }
    Ok(())
}
