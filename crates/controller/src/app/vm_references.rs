//! Whether what a new VM's spec names exists and fits: image, networks, addresses, host.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use gantry_types::{Host, Image, ImagePhase, MacAddress, Name, Network, NicSpec, Problem, Vm};

use super::App;
use crate::addresses::is_assignable;

/// All that is wrong, field by field. The caller holds `App::references`.
pub fn check_references(app: &App, vm: &Vm) -> Result<(), Problem> {
    let mut problem = Problem::invalid("invalid-vm", format!("VM '{}' can't be made like this", vm.metadata.name));
    if let Some(name) = &vm.spec.image {
        match app.model.get::<Image>(name.as_str()) {
            None => {
                problem = problem.field(
                    "spec.image",
                    format!("image '{name}' does not exist; import it: gantry image import {name} FILE"),
                );
            }
            Some(image) if image.status.phase == ImagePhase::Failed => {
                let reason = image.status.reason.as_deref().unwrap_or("its import failed");
                problem = problem.field("spec.image", format!("image '{name}' is not usable: {reason}"));
            }
            Some(image) => {
                if let Some(disk) = vm.spec.disk
                    && disk < image.status.virtual_size
                {
                    problem = problem.field(
                        "spec.disk",
                        format!("{disk} is smaller than image '{name}', which has {}", image.status.virtual_size),
                    );
                }
            }
        }
    }
    let mut addresses = BTreeSet::new();
    for (index, nic) in vm.spec.nics.iter().enumerate() {
        let Some(network) = app.model.get::<Network>(nic.network.as_str()) else {
            problem = problem.field(
                format!("spec.nics[{index}].network"),
                format!("network '{}' does not exist; see: gantry get network", nic.network),
            );
            continue;
        };
        if let Err(message) = check_nic(app, vm, nic, &network) {
            problem = problem.field(format!("spec.nics[{index}].address"), message);
        }
        if let Some(address) = nic.address
            && !addresses.insert((nic.network.clone(), address))
        {
            problem = problem.field(format!("spec.nics[{index}].address"), format!("{address} is used twice"));
        }
        if let Some(mac) = nic.mac
            && let Some(holder) = mac_holder(app, vm, &network, mac)
        {
            problem =
                problem.field(format!("spec.nics[{index}].mac"), format!("{mac} is used by VM '{holder}' already"));
        }
    }
    if let Err(message) = pin_message(app, vm) {
        problem = problem.field("spec.host", message);
    }
    if problem.fields.is_empty() { Ok(()) } else { Err(problem) }
}

fn check_nic(app: &App, vm: &Vm, nic: &NicSpec, network: &Network) -> Result<(), String> {
    let Some(address) = nic.address else { return Ok(()) };
    is_assignable(&network.spec.subnet, address)?;
    let holder = match network.status.leases.get(&address) {
        Some(lease) => Some(lease.vm.clone()),
        None => pinned_addresses(app, &vm.metadata.name, &network.metadata.name).remove(&address),
    };
    match holder {
        Some(holder) => Err(format!("{address} is used by VM '{holder}' already")),
        None => Ok(()),
    }
}

fn mac_holder(app: &App, vm: &Vm, network: &Network, mac: MacAddress) -> Option<Name> {
    if let Some(lease) = network.status.leases.values().find(|lease| lease.mac == mac) {
        return Some(lease.vm.clone());
    }
    app.model.read(|tables| {
        let pins = |other: &Vm| {
            let has = |nic: &NicSpec| nic.network == network.metadata.name && nic.mac == Some(mac);
            other.metadata.name != vm.metadata.name && other.spec.nics.iter().any(has)
        };
        tables.vms.values().find(|other| pins(other)).map(|other| other.metadata.name.clone())
    })
}

/// Addresses of `network` that VMs other than `vm` have in their specs, whether they have them leased yet or not.
pub(crate) fn pinned_addresses(app: &App, vm: &Name, network: &Name) -> BTreeMap<IpAddr, Name> {
    app.model.read(|tables| {
        let others = tables.vms.values().filter(|other| other.metadata.name != *vm);
        others
            .flat_map(|other| {
                let nics = other.spec.nics.iter().filter(|nic| nic.network == *network);
                nics.filter_map(|nic| Some((nic.address?, other.metadata.name.clone())))
            })
            .collect()
    })
}

/// Whether the host that the VM is bound to exists.
pub fn check_pin(app: &App, vm: &Vm) -> Result<(), Problem> {
    pin_message(app, vm).map_err(|message| {
        Problem::invalid("invalid-vm", format!("VM '{}' can't be bound like this", vm.metadata.name))
            .field("spec.host", message)
    })
}

fn pin_message(app: &App, vm: &Vm) -> Result<(), String> {
    match &vm.spec.host {
        Some(host) if app.model.get::<Host>(host.as_str()).is_none() => {
            Err(format!("host '{host}' does not exist; see: gantry host list"))
        }
        _ => Ok(()),
    }
}
