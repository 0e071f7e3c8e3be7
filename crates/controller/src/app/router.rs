//! Routers and floating addresses: their references, and who uses them.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use gantry_types::{
    FloatingIp, LoadBalancer, Name, Network, NetworkType, NicStatus, Problem, Resource, Router, Subnet, Vm,
};

use super::{
    App,
    managed::{Managed, Mistake},
    own_address,
};
use crate::{
    addresses::release,
    model::Tables,
    objects::Change,
    subnets::{self, overlapping},
};

/// The router of a network, if it has one.
pub(crate) fn router_of<'a>(tables: &'a Tables, network: &Name) -> Option<&'a Arc<Router>> {
    tables.routers.values().find(|router| router.spec.networks.contains(network))
}

/// What the leases of a router's hosts are held by.
pub(crate) fn holder(router: &Router) -> String {
    format!("{}/{}", Router::KIND, router.name())
}

#[async_trait]
impl Managed for Router {
    const EVENT: &'static str = "Router";

    fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut seen = BTreeSet::new();
        for (index, network) in self.spec.networks.iter().enumerate() {
            if !seen.insert(network) {
                mistakes.push((format!("spec.networks[{index}]"), format!("network '{network}' is there twice")));
            }
        }
        if let Some(external) = self.spec.external.as_ref().filter(|external| seen.contains(external)) {
            let message = format!("network '{external}' can't be inside and outside; take it out of spec.networks");
            mistakes.push(("spec.external".to_owned(), message));
        }
        mistakes
    }

    fn wrong_references(&self, tables: &Tables) -> Vec<Mistake> {
        let mut wrong = Vec::new();
        let mut known: Vec<(Name, Subnet)> = Vec::new();
        let inside =
            self.spec.networks.iter().enumerate().map(|(at, name)| (format!("spec.networks[{at}]"), name, true));
        let outside = self.spec.external.iter().map(|name| ("spec.external".to_owned(), name, false));
        for (field, name, is_inside) in inside.chain(outside) {
            let Some(network) = tables.networks.get(name.as_str()) else {
                wrong.push((field, format!("network '{name}' does not exist; see: gantry get network")));
                continue;
            };
            let own = subnets::of_network(tables, network);
            let kind = network.spec.network_type;
            if kind == NetworkType::Isolated || (is_inside && kind == NetworkType::Bridged) {
                let reason = if is_inside { "so no router can be its gateway" } else { "so nothing leads out by it" };
                wrong.push((field.clone(), format!("network '{name}' is {kind}, {reason}; use one that is routed")));
                continue;
            }
            if is_inside {
                let other = router_of(tables, name).filter(|other| other.metadata.name != self.metadata.name);
                if let Some(other) = other {
                    wrong.push((field.clone(), format!("network '{name}' has router '{}' already", other.name())));
                }
                if own.iter().all(|subnet| subnet.gateway.is_none()) {
                    let message = format!("no subnet of network '{name}' has a gateway for the router to be; set one");
                    wrong.push((field.clone(), message));
                }
            } else if own.is_empty() {
                wrong.push((field.clone(), format!("network '{name}' has no subnet to have addresses of")));
            }
            for subnet in own {
                let others: Vec<_> = known.iter().map(|(_, other)| other.clone()).collect();
                if let Some(other) = overlapping(subnet.cidr, &others) {
                    let at = known.iter().find(|(_, known)| known == other).map_or("?", |(at, _)| at.as_str());
                    let message = format!(
                        "{} of network '{name}' overlaps {} of network '{at}': a router could not tell them apart",
                        subnet.cidr, other.cidr
                    );
                    wrong.push((field.clone(), message));
                }
                known.push((name.clone(), subnet));
            }
        }
        let needs_it = |balancer: &&Arc<LoadBalancer>| {
            let router = router_of(tables, &balancer.spec.network);
            router.is_some_and(|router| router.metadata.name == self.metadata.name)
                && !self.spec.networks.contains(&balancer.spec.network)
        };
        if let Some(balancer) = tables.load_balancers.values().find(needs_it) {
            let message =
                format!("network '{}' has load-balancer '{}'; keep it", balancer.spec.network, balancer.name());
            wrong.push(("spec.networks".to_owned(), message));
        }
        wrong
    }

    fn users(&self, tables: &Tables) -> Vec<String> {
        let balancers = tables.load_balancers.values();
        let balancers = balancers.filter(|balancer| self.spec.networks.contains(&balancer.spec.network));
        let balancers = balancers.map(|balancer| format!("load-balancer '{}'", balancer.name()));
        let leads_through = |floating: &&Arc<FloatingIp>| {
            let target = floating_target(tables, floating);
            target.is_some_and(|(_, nic)| self.spec.networks.contains(&nic.network))
        };
        let floating = tables.floating_ips.values().filter(leads_through);
        floating.map(|floating| format!("floating-ip '{}'", floating.name())).chain(balancers).collect()
    }

    async fn unsettle(&self, app: &App, change: &mut Change) -> Result<(), Problem> {
        let Some(external) = &self.spec.external else { return Ok(()) };
        let mut network: Network = app.objects.get(external.as_str()).await?;
        let own = holder(self);
        let held = network.status.leases.values().filter(|lease| lease.holder.as_ref() == Some(&own));
        let held: Vec<_> = held.map(|lease| lease.port).collect();
        if release(&mut network, &held) {
            change.update(&network)?;
        }
        Ok(())
    }

    fn with_status_of(mut self, current: &Self) -> Self {
        self.status = current.status.clone();
        self
    }
}

/// The VM and the card that a floating address leads to, if they are there.
pub(crate) fn floating_target<'a>(tables: &'a Tables, floating: &FloatingIp) -> Option<(&'a Arc<Vm>, &'a NicStatus)> {
    let leads_out = |network: &Name| {
        router_of(tables, network).is_some_and(|router| router.spec.external.as_ref() == Some(&floating.spec.network))
    };
    if let Some(port) = &floating.spec.port {
        let port = tables.ports.get(port.as_str())?;
        let vm = tables.vms.get(port.status.vm.as_ref()?.as_str())?;
        let nic = vm.status.nics.iter().find(|nic| nic.port == port.metadata.uuid)?;
        return leads_out(&nic.network).then_some((vm, nic));
    }
    let vm = tables.vms.get(floating.spec.vm.as_ref()?.as_str())?;
    Some((vm, vm.status.nics.iter().find(|nic| leads_out(&nic.network))?))
}

#[async_trait]
impl Managed for FloatingIp {
    const EVENT: &'static str = "FloatingIp";

    fn mistakes(&self) -> Vec<Mistake> {
        let targets = [self.spec.vm.is_some(), self.spec.port.is_some(), self.spec.load_balancer.is_some()];
        let several = targets.into_iter().filter(|given| *given).count() > 1;
        let message = "it leads to a VM, to a port or to a load balancer; name one of them".to_owned();
        several.then(|| ("spec.port".to_owned(), message)).into_iter().collect()
    }

    fn wrong_references(&self, tables: &Tables) -> Vec<Mistake> {
        let mut wrong = Vec::new();
        let network = &self.spec.network;
        if !tables.networks.contains_key(network.as_str()) {
            let message = format!("network '{network}' does not exist; see: gantry get network");
            wrong.push(("spec.network".to_owned(), message));
        }
        let reaches =
            |from: &Name| router_of(tables, from).is_some_and(|router| router.spec.external.as_ref() == Some(network));
        let (field, target, networks) = match (&self.spec.vm, &self.spec.port) {
            (Some(vm), _) => {
                let found = tables.vms.get(vm.as_str());
                let networks = found.map(|vm| vm.spec.nics.iter().map(|nic| nic.network.clone()).collect::<Vec<_>>());
                ("spec.vm", format!("VM '{vm}'"), networks)
            }
            (_, Some(port)) => {
                let found = tables.ports.get(port.as_str());
                ("spec.port", format!("port '{port}'"), found.map(|port| vec![port.spec.network.clone()]))
            }
            (None, None) => match &self.spec.load_balancer {
                Some(balancer) => {
                    let found = tables.load_balancers.get(balancer.as_str());
                    let own = self.status.address.or(self.spec.address);
                    let virtual_address = found.and_then(|balancer| balancer.status.address);
                    if let (Some(own), Some(to)) = (own, virtual_address)
                        && own.is_ipv4() != to.is_ipv4()
                    {
                        let message = format!("load-balancer '{balancer}' has {to}, which is of another family");
                        wrong.push(("spec.load_balancer".to_owned(), message));
                    }
                    let networks = found.map(|balancer| vec![balancer.spec.network.clone()]);
                    ("spec.load_balancer", format!("load-balancer '{balancer}'"), networks)
                }
                None => return wrong,
            },
        };
        match networks {
            None => wrong.push((field.to_owned(), format!("{target} does not exist"))),
            Some(networks) if !networks.iter().any(reaches) => {
                let message = format!(
                    "{target} is in no network whose router leads to network '{network}'; \
                     make one: gantry router create NAME --network … --external {network}"
                );
                wrong.push((field.to_owned(), message));
            }
            Some(_) => {}
        }
        let same = |other: &&Arc<FloatingIp>| {
            other.metadata.name != self.metadata.name
                && other.spec.network == *network
                && (&other.spec.vm, &other.spec.port) == (&self.spec.vm, &self.spec.port)
                && other.spec.load_balancer == self.spec.load_balancer
        };
        if let Some(other) = tables.floating_ips.values().find(same) {
            wrong.push((field.to_owned(), format!("{target} has floating-ip '{}' already", other.name())));
        }
        wrong
    }

    fn wrong_changes(&self, current: &Self) -> Vec<Mistake> {
        let (new, old) = (&self.spec, &current.spec);
        let fixed = [("spec.network", new.network != old.network), ("spec.address", new.address != old.address)];
        let changed = fixed.into_iter().filter(|(_, changed)| *changed);
        changed.map(|(field, _)| (field.to_owned(), "is fixed when the address is made".to_owned())).collect()
    }

    fn users(&self, _tables: &Tables) -> Vec<String> {
        Vec::new()
    }

    /// Its address is its own from the start.
    async fn settle(&mut self, app: &App, current: Option<&Self>, change: &mut Change) -> Result<(), Problem> {
        if current.is_some() {
            return Ok(());
        }
        let remedy = "ask for another address, or delete floating addresses that nobody needs";
        self.status.address =
            own_address::take(app, self, &self.spec.network, self.spec.address, remedy, change).await?;
        Ok(())
    }

    async fn unsettle(&self, app: &App, change: &mut Change) -> Result<(), Problem> {
        own_address::give_back(app, self, &self.spec.network, change).await
    }

    fn with_status_of(mut self, current: &Self) -> Self {
        self.status = current.status.clone();
        self
    }
}
