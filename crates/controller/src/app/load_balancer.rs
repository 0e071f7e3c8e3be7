//! Load balancers: their address, their references, and who uses them.

use std::sync::Arc;

use async_trait::async_trait;
use gantry_types::{FloatingIp, LoadBalancer, Problem, Resource};

use super::{
    App,
    managed::{Managed, Mistake},
    own_address,
    router::router_of,
};
use crate::{addresses::is_assignable_in, model::Tables, objects::Change, subnets};

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
        let remedy = "ask for another spec.address, or give the network more: kind subnet";
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
