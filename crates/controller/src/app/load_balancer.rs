//! Load balancers: their address, their references, and who uses them.

use std::sync::Arc;

use async_trait::async_trait;
use gantry_types::{FloatingIp, LoadBalancer, Network, Problem, Resource};

use super::{
    App,
    managed::{Managed, Mistake},
    router::router_of,
    vm_references::pinned_addresses,
};
use crate::{
    addresses::{Claim, is_assignable_in, lease, release},
    model::Tables,
    objects::Change,
    subnets,
};

#[async_trait]
impl Managed for LoadBalancer {
    const EVENT: &'static str = "LoadBalancer";

    fn mistakes(&self) -> Vec<Mistake> {
        self.spec.mistakes()
    }

    fn wrong_references(&self, tables: &Tables) -> Vec<Mistake> {
        let name = &self.spec.network;
        let Some(network) = tables.networks.get(name.as_str()) else {
            let message = format!("network '{name}' does not exist; see: gantry get network");
            return vec![("spec.network".to_owned(), message)];
        };
        let mut wrong = Vec::new();
        if router_of(tables, name).is_none() {
            let message = format!(
                "network '{name}' has no router, which is what balances; make one: gantry router create NAME \
                 --network {name}"
            );
            wrong.push(("spec.network".to_owned(), message));
        }
        if let Some(address) = self.spec.address
            && let Err(message) = is_assignable_in(&subnets::of_network(tables, network), address)
        {
            wrong.push(("spec.address".to_owned(), message));
        }
        wrong
    }

    fn wrong_changes(&self, current: &Self) -> Vec<Mistake> {
        let (new, old) = (&self.spec, &current.spec);
        let fixed = [("spec.network", new.network != old.network), ("spec.address", new.address != old.address)];
        let changed = fixed.into_iter().filter(|(_, changed)| *changed);
        changed.map(|(field, _)| (field.to_owned(), "is fixed when the load balancer is made".to_owned())).collect()
    }

    fn users(&self, tables: &Tables) -> Vec<String> {
        let leads_here =
            |floating: &&Arc<FloatingIp>| floating.spec.load_balancer.as_ref() == Some(&self.metadata.name);
        let floating = tables.floating_ips.values().filter(leads_here);
        floating.map(|floating| format!("floating-ip '{}'", floating.name())).collect()
    }

    /// Its address is its own from the start; who is healthy is found out later.
    async fn settle(&mut self, app: &App, current: Option<&Self>, change: &mut Change) -> Result<(), Problem> {
        if current.is_some() {
            return Ok(());
        }
        let mut network: Network = app.objects.get(self.spec.network.as_str()).await?;
        let mut subnets = app.model.read(|tables| subnets::of_network(tables, &network));
        let is_v4 = self
            .spec
            .address
            .map_or_else(|| subnets.iter().any(|subnet| subnet.cidr.addr().is_ipv4()), |address| address.is_ipv4());
        subnets.retain(|subnet| subnet.cidr.addr().is_ipv4() == is_v4);
        let wanted: Vec<_> = self.spec.address.into_iter().collect();
        let holder = Some(format!("{}/{}", Self::KIND, self.name()));
        let claim = Claim { port: self.metadata.uuid, vm: None, holder, addresses: &wanted, mac: None };
        let pinned = pinned_addresses(app, None, &network.metadata.name);
        let leased = match wanted.iter().find_map(|address| pinned.get(address)) {
            Some(vm) => Err(format!("it is kept for VM '{vm}', whose spec names it")),
            None => lease(&mut network, &subnets, &claim, |address| pinned.contains_key(&address)),
        };
        let leased = leased.map_err(|message| {
            Problem::conflict("no-address", format!("load-balancer '{}' gets no address: {message}", self.name()))
                .remedy("ask for another spec.address, or give the network more: kind subnet")
        })?;
        self.status.address = leased.addresses.first().copied();
        change.update(&network)?;
        Ok(())
    }

    async fn unsettle(&self, app: &App, change: &mut Change) -> Result<(), Problem> {
        let mut network: Network = app.objects.get(self.spec.network.as_str()).await?;
        if release(&mut network, &[self.metadata.uuid]) {
            change.update(&network)?;
        }
        Ok(())
    }

    fn with_status_of(mut self, current: &Self) -> Self {
        self.status = current.status.clone();
        self
    }
}
