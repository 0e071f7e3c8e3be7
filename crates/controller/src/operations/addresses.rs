//! The step of `vm_start` that gives each card its port, MAC and addresses; they are the VM's until it is deleted.

use async_trait::async_trait;
use gantry_types::{Name, Network, NicSpec, NicStatus, Port, PortSpec, Problem, Resource, Vm};

use super::step::{Step, StepContext};
use crate::{
    addresses::{Claim, Leased, hand_over, port_id},
    app::{App, port},
    objects::Change,
};

pub(super) struct Addresses;

#[async_trait]
impl Step for Addresses {
    fn name(&self) -> &'static str {
        "addresses"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let app = &context.app;
        app.objects
            .racing(|| async {
                let mut vm = context.vm().await?;
                if vm.status.nics.len() == vm.spec.nics.len() {
                    return Ok(());
                }
                let mut networks: Vec<Network> = Vec::new();
                let mut change = Change::new();
                vm.status.nics.clear();
                for (index, nic) in vm.spec.nics.clone().iter().enumerate() {
                    let at = match networks.iter().position(|network| network.metadata.name == nic.network) {
                        Some(at) => at,
                        None => {
                            networks.push(app.objects.get(nic.network.as_str()).await?);
                            networks.len() - 1
                        }
                    };
                    let given = match &nic.port {
                        Some(port) => take(app, &vm, port, &mut networks[at], &mut change).await?,
                        None => make(app, &vm, index, nic, &mut networks[at], &mut change).await?,
                    };
                    vm.status.nics.push(given);
                }
                // First what a conflict is reported about.
                change.update(&vm)?;
                for network in &networks {
                    change.update(network)?;
                }
                app.commit(change).await?;
                Ok(())
            })
            .await
    }
}

/// A card's port that was made beforehand.
async fn take(
    app: &App,
    vm: &Vm,
    name: &Name,
    network: &mut Network,
    change: &mut Change,
) -> Result<NicStatus, Problem> {
    let mut port: Port = app.objects.get(name.as_str()).await?;
    if let Some(other) = port.status.vm.as_ref().filter(|other| **other != vm.metadata.name) {
        return Err(Problem::conflict("port-in-use", format!("port '{name}' is the one of VM '{other}'"))
            .object(port.reference())
            .remedy("name another port in spec.nics, or delete that VM"));
    }
    port.status.vm = Some(vm.metadata.name.clone());
    change.update(&port)?;
    hand_over(network, port.metadata.uuid, Some(&vm.metadata.name), None);
    let mac = port.status.mac.ok_or_else(|| incomplete(&port))?;
    status(&port.spec.network, &port, mac).ok_or_else(|| incomplete(&port))
}

fn incomplete(port: &Port) -> Problem {
    Problem::permanent("unreadable-object", format!("port '{}' has no MAC or no address", port.name()))
        .object(port.reference())
        .remedy("delete the port and make it anew")
}

fn status(network: &Name, port: &Port, mac: gantry_types::MacAddress) -> Option<NicStatus> {
    let (address, more) = port.status.addresses.split_first()?;
    let more_addresses = more.to_vec();
    Some(NicStatus { network: network.clone(), port: port.metadata.uuid, mac, address: *address, more_addresses })
}

/// A card's port that comes and goes with the VM.
async fn make(
    app: &App,
    vm: &Vm,
    index: usize,
    nic: &NicSpec,
    network: &mut Network,
    change: &mut Change,
) -> Result<NicStatus, Problem> {
    let id = port_id(vm.metadata.uuid, index);
    let wanted: Vec<_> = nic.address.into_iter().collect();
    let owner = &vm.metadata.name;
    let claim = Claim { port: id, vm: Some(owner), holder: None, addresses: &wanted, mac: nic.mac };
    let leased = port::lease_in(app, network, &claim, Some(owner)).map_err(|message| {
        Problem::conflict("no-address", format!("VM '{}' gets no address: {message}", vm.name()))
            .object(vm.reference())
            .remedy("delete VMs that hold addresses, or use another network")
    })?;
    let spec = PortSpec {
        network: nic.network.clone(),
        mac: nic.mac,
        addresses: wanted.clone(),
        security_groups: nic.security_groups.clone(),
    };
    let name = free_name(app, vm, index, id).await?;
    let Leased { mac, .. } = leased;
    let port = port::of_card(app, name, id, owner, spec, leased);
    change.create(&port)?;
    status(&nic.network, &port, mac).ok_or_else(|| incomplete(&port))
}

/// `<vm>-eth<n>`, as the guest calls it; the port's id if somebody has made another port of that name.
async fn free_name(app: &App, vm: &Vm, index: usize, id: uuid::Uuid) -> Result<Name, Problem> {
    let plain = format!("{}-eth{index}", vm.name()).parse::<Name>();
    if let Ok(name) = plain
        && app.objects.find::<Port>(name.as_str()).await?.is_none()
    {
        return Ok(name);
    }
    Ok(crate::app::fresh_name(id.simple().to_string()))
}
