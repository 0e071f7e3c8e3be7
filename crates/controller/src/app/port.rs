//! Ports: made beforehand by a user, or with a VM's card by the operation that starts it.

use async_trait::async_trait;
use gantry_api::rest::{Trace, TraceQuery};
use gantry_types::{Name, Network, Port, PortSpec, PortStatus, Problem, Resource};
use uuid::Uuid;

use super::{
    App, Caller,
    managed::{Managed, Mistake},
    own_address,
    vm_references::pinned_addresses,
};
use crate::{
    addresses::{Claim, Leased, is_assignable_in, lease},
    model::Tables,
    objects::Change,
    subnets, trace,
};

#[async_trait]
impl Managed for Port {
    const EVENT: &'static str = "Port";

    fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        for (index, address) in self.spec.addresses.iter().enumerate() {
            if self.spec.addresses[..index].contains(address) {
                mistakes.push((format!("spec.addresses[{index}]"), format!("{address} is there twice")));
            }
        }
        mistakes
    }

    fn wrong_references(&self, tables: &Tables) -> Vec<Mistake> {
        let mut wrong = missing_groups("spec.security_groups", &self.spec.security_groups, tables);
        match tables.networks.get(self.spec.network.as_str()) {
            None => {
                let message = format!("network '{}' does not exist; see: gantry get network", self.spec.network);
                wrong.push(("spec.network".to_owned(), message));
            }
            Some(network) => {
                let subnets = subnets::of_network(tables, network);
                for (index, address) in self.spec.addresses.iter().enumerate() {
                    if let Err(message) = is_assignable_in(&subnets, *address) {
                        wrong.push((format!("spec.addresses[{index}]"), message));
                    }
                }
            }
        }
        wrong
    }

    fn wrong_changes(&self, current: &Self) -> Vec<Mistake> {
        let (new, old) = (&self.spec, &current.spec);
        let fixed = [
            ("spec.network", new.network != old.network),
            ("spec.mac", new.mac != old.mac),
            ("spec.addresses", new.addresses != old.addresses),
        ];
        let changed = fixed.into_iter().filter(|(_, changed)| *changed);
        changed.map(|(field, _)| (field.to_owned(), "is fixed when the port is made".to_owned())).collect()
    }

    fn users(&self, tables: &Tables) -> Vec<String> {
        let own = &self.metadata.name;
        let names_it = |vm: &gantry_types::Vm| {
            self.status.vm.as_ref() == Some(&vm.metadata.name)
                || vm.spec.nics.iter().any(|nic| nic.port.as_ref() == Some(own))
        };
        let vms = tables.vms.values().filter(|vm| names_it(vm));
        vms.map(|vm| format!("VM '{}'", vm.name())).collect()
    }

    /// Its addresses are its own from the start.
    async fn settle(&mut self, app: &App, current: Option<&Self>, change: &mut Change) -> Result<(), Problem> {
        if current.is_some() {
            return Ok(());
        }
        let mut network: Network = app.objects.get(self.spec.network.as_str()).await?;
        let holder = format!("{}/{}", Self::KIND, self.name());
        let claim = Claim {
            port: self.metadata.uuid,
            vm: None,
            holder: Some(holder),
            addresses: &self.spec.addresses,
            mac: self.spec.mac,
        };
        let leased = lease_in(app, &mut network, &claim, None).map_err(|message| {
            Problem::conflict("no-address", format!("port '{}' gets no address: {message}", self.name()))
                .remedy("ask for another address, or delete ports that hold them")
        })?;
        self.status = PortStatus {
            mac: Some(leased.mac),
            addresses: leased.addresses,
            vm: None,
            goes_with_vm: false,
            traffic: None,
        };
        change.update(&network)?;
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

/// Where a packet of a VM (or port) of this name would go.
pub fn trace(app: &App, caller: &Caller, name: &str, query: &TraceQuery) -> Result<Trace, Problem> {
    caller.may_read()?;
    app.model.read(|tables| trace::trace(tables, name, query))
}

/// Leases what a claim asks for; what VMs other than `vm` have in their specs is kept for them.
pub(crate) fn lease_in(
    app: &App,
    network: &mut Network,
    claim: &Claim<'_>,
    vm: Option<&Name>,
) -> Result<Leased, String> {
    let pinned = pinned_addresses(app, vm, &network.metadata.name);
    for address in claim.addresses {
        if let Some(other) = pinned.get(address) {
            return Err(format!("address {address} is kept for VM '{other}', whose spec names it"));
        }
    }
    let subnets = app.model.read(|tables| subnets::of_network(tables, network));
    lease(network, &subnets, claim, |address| pinned.contains_key(&address))
}

/// Security groups that do not exist.
pub(crate) fn missing_groups(at: &str, groups: &[Name], tables: &Tables) -> Vec<Mistake> {
    let missing = groups.iter().enumerate().filter(|(_, group)| !tables.security_groups.contains_key(group.as_str()));
    missing
        .map(|(index, group)| {
            let message = format!("security-group '{group}' does not exist; see: gantry get security-group");
            (format!("{at}[{index}]"), message)
        })
        .collect()
}

/// The port of a VM's card that had none, as it was leased.
pub(crate) fn of_card(app: &App, name: Name, uuid: Uuid, vm: &Name, spec: PortSpec, leased: Leased) -> Port {
    let mut port = Port::new(name, spec);
    app.stamp(&mut port.metadata);
    port.metadata.uuid = uuid;
    port.status = PortStatus {
        mac: Some(leased.mac),
        addresses: leased.addresses,
        vm: Some(vm.clone()),
        goes_with_vm: true,
        traffic: None,
    };
    port
}
