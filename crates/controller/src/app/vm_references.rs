//! Whether what a new VM's spec names exists and fits: image, networks, addresses, resource pool, host.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use gantry_types::{Host, Image, ImagePhase, MacAddress, Name, Network, NicSpec, Port, Problem, User, Vm};

use super::App;
use crate::{
    addresses::is_assignable_in,
    app::{pool, port::missing_groups, repository::reference_mistake, resource_pool::wrong_pool},
    subnets,
};

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
            problem = problem.field(format!("spec.nics[{index}].mac"), format!("{mac} is used by {holder} already"));
        }
        if let Err(message) = check_port(app, vm, index, nic) {
            problem = problem.field(format!("spec.nics[{index}].port"), message);
        }
        let at = format!("spec.nics[{index}].security_groups");
        for (field, message) in app.model.read(|tables| missing_groups(&at, &nic.security_groups, tables)) {
            problem = problem.field(field, message);
        }
    }
    for (field, message) in app.model.read(|tables| wrong_pool(tables, vm)) {
        problem = problem.field(field, message);
    }
    if let Err(message) = pool_message(app, vm) {
        problem = problem.field("spec.pool", message);
    }
    if let Some(message) = repository_message(app, vm) {
        problem = problem.field("spec.backups.repository", message);
    }
    if let Err(message) = pin_message(app, vm) {
        problem = problem.field("spec.host", message);
    }
    if let Err(message) = owner_message(app, vm) {
        problem = problem.field("spec.owner", message);
    }
    if problem.fields.is_empty() { Ok(()) } else { Err(problem) }
}

fn check_nic(app: &App, vm: &Vm, nic: &NicSpec, network: &Network) -> Result<(), String> {
    let Some(address) = nic.address else { return Ok(()) };
    let subnets = app.model.read(|tables| subnets::of_network(tables, network));
    is_assignable_in(&subnets, address)?;
    let pinned = || pinned_addresses(app, Some(&vm.metadata.name), &network.metadata.name).remove(&address);
    let holder = match network.status.leases.get(&address) {
        Some(lease) => Some(lease.described()),
        None => pinned().map(|vm| format!("VM '{vm}'")),
    };
    match holder {
        Some(holder) => Err(format!("{address} is used by {holder} already")),
        None => Ok(()),
    }
}

/// What is wrong with where its schedule has its backups kept.
fn repository_message(app: &App, vm: &Vm) -> Option<String> {
    let schedule = vm.spec.backups.as_ref()?;
    app.model.read(|tables| reference_mistake(tables, &schedule.repository))
}

/// Whether the port that a card names is there, in the card's network, and nobody else's.
fn check_port(app: &App, vm: &Vm, index: usize, nic: &NicSpec) -> Result<(), String> {
    let Some(name) = &nic.port else { return Ok(()) };
    let port = app
        .model
        .get::<Port>(name.as_str())
        .ok_or_else(|| format!("port '{name}' does not exist; see: gantry get port"))?;
    if port.spec.network != nic.network {
        return Err(format!("port '{name}' is in network '{}', not in '{}'", port.spec.network, nic.network));
    }
    if vm.spec.nics[..index].iter().any(|other| other.port.as_ref() == Some(name)) {
        return Err(format!("port '{name}' is used twice"));
    }
    let own = &vm.metadata.name;
    let namer = app.model.read(|tables| {
        let names_it = |other: &Vm| {
            other.metadata.name != *own && other.spec.nics.iter().any(|nic| nic.port.as_ref() == Some(name))
        };
        tables.vms.values().find(|other| names_it(other)).map(|other| other.metadata.name.clone())
    });
    match port.status.vm.clone().filter(|holder| holder != own).or(namer) {
        Some(holder) => Err(format!("port '{name}' is the one of VM '{holder}'")),
        None => Ok(()),
    }
}

fn mac_holder(app: &App, vm: &Vm, network: &Network, mac: MacAddress) -> Option<String> {
    if let Some(lease) = network.status.leases.values().find(|lease| lease.mac == mac) {
        return Some(lease.described());
    }
    app.model.read(|tables| {
        let pins = |other: &Vm| {
            let has = |nic: &NicSpec| nic.network == network.metadata.name && nic.mac == Some(mac);
            other.metadata.name != vm.metadata.name && other.spec.nics.iter().any(has)
        };
        tables.vms.values().find(|other| pins(other)).map(|other| format!("VM '{}'", other.metadata.name))
    })
}

/// Addresses of `network` that VMs other than `vm` have in their specs, whether they have them leased yet or not.
pub(crate) fn pinned_addresses(app: &App, vm: Option<&Name>, network: &Name) -> BTreeMap<IpAddr, Name> {
    app.model.read(|tables| {
        let others = tables.vms.values().filter(|other| vm.is_none_or(|vm| other.metadata.name != *vm));
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

/// Whether the user whose it is to be exists.
pub fn check_owner(app: &App, vm: &Vm) -> Result<(), Problem> {
    owner_message(app, vm).map_err(|message| {
        Problem::invalid("invalid-vm", format!("VM '{}' can't be given away like this", vm.metadata.name))
            .field("spec.owner", message)
    })
}

/// Whether there is the repository that its schedule names.
pub fn check_repository(app: &App, vm: &Vm) -> Result<(), Problem> {
    match repository_message(app, vm) {
        None => Ok(()),
        Some(message) => {
            let detail = format!("VM '{}' can't be backed up like this", vm.metadata.name);
            Err(Problem::invalid("invalid-vm", detail).field("spec.backups.repository", message))
        }
    }
}

fn owner_message(app: &App, vm: &Vm) -> Result<(), String> {
    match &vm.spec.owner {
        Some(owner) if app.model.get::<User>(owner.as_str()).is_none() => {
            Err(format!("user '{owner}' does not exist; see: gantry user list"))
        }
        _ => Ok(()),
    }
}

/// Whether the pool that its disk is to be in takes it, and the host that it is bound to reaches that.
fn pool_message(app: &App, vm: &Vm) -> Result<(), String> {
    let Some(name) = &vm.spec.pool else { return Ok(()) };
    let pool = app.model.read(|tables| pool::find_ready(tables, name))?;
    if let Some(host) = vm.spec.host.as_ref().filter(|host| !pool.is_at(host)) {
        return Err(format!("host '{host}', which the VM is bound to, does not reach pool '{name}'"));
    }
    let image = vm.spec.image.as_ref().and_then(|image| app.model.get::<Image>(image.as_str()));
    let size = vm.spec.disk.or(image.map(|image| image.status.virtual_size));
    pool::check_promise(app, &pool, size.map_or(0, |size| size.bytes()))
}

fn pin_message(app: &App, vm: &Vm) -> Result<(), String> {
    match &vm.spec.host {
        Some(host) if app.model.get::<Host>(host.as_str()).is_none() => {
            Err(format!("host '{host}' does not exist; see: gantry host list"))
        }
        _ => Ok(()),
    }
}
