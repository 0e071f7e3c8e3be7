//! A VM as its host gets it: every reference of the spec looked up.

use std::net::IpAddr;

use gantry_api::{
    agent::{Assignment, DiskAssignment, ImageRef, NicAddress, NicAssignment},
    storage::PoolAssignment,
};
use gantry_types::{Image, ImagePhase, Name, Pool, Problem, Resource, Vm};

use crate::{
    app::{App, network, pool, volume},
    subnets,
};

/// The image that the VM's disk starts from, if it has one.
///
/// # Errors
/// `image-not-ready` (transient) while it is being imported; permanent ones if it can never be used.
pub fn image_of(app: &App, vm: &Vm) -> Result<Option<ImageRef>, Problem> {
    vm.spec.image.as_ref().map(|name| ready_image(app, name)).transpose()
}

/// # Errors
/// As [`image_of`].
pub fn ready_image(app: &App, name: &Name) -> Result<ImageRef, Problem> {
    let image = app.model.get::<Image>(name.as_str()).ok_or_else(|| Problem::not_found(Image::KIND, name.as_str()))?;
    match (image.status.phase, &image.status.digest) {
        (ImagePhase::Ready, Some(digest)) => Ok(ImageRef {
            digest: digest.clone(),
            file_size: image.status.file_size.bytes(),
            virtual_size: image.status.virtual_size.bytes(),
        }),
        (ImagePhase::Failed, _) => Err(Problem::conflict(
            "image-failed",
            format!("image '{name}' is not usable: {}", image.status.reason.as_deref().unwrap_or("its import failed")),
        )
        .object(image.reference())
        .remedy(format!("import it again: gantry image import {name} FILE|URL"))),
        _ => Err(Problem::transient("image-not-ready", format!("image '{name}' has not been imported yet"))
            .object(image.reference())
            .remedy(format!(
                "see its import: gantry describe image {name}; send its content: gantry image import {name} FILE"
            ))),
    }
}

/// The pool that the VM's disk is in, if its spec names one.
fn disk_pool(app: &App, vm: &Vm) -> Result<Option<PoolAssignment>, Problem> {
    let Some(name) = &vm.spec.pool else { return Ok(None) };
    let pool = app.model.get::<Pool>(name.as_str()).ok_or_else(|| Problem::not_found(Pool::KIND, name.as_str()))?;
    Ok(Some(pool::assignment(&pool)))
}

/// With the given epoch. The VM must have its addresses and its disk's size.
pub fn assignment(app: &App, vm: &Vm, epoch: u64) -> Result<Assignment, Problem> {
    let mut nics = Vec::with_capacity(vm.status.nics.len());
    for (index, nic) in vm.status.nics.iter().enumerate() {
        let network = network::find(app, &nic.network)?;
        let subnets = app.model.read(|tables| subnets::of_network(tables, &network));
        let subnet_of = |address: IpAddr| subnets.iter().find(|subnet| subnet.cidr.contains(&address));
        let with_subnet = |address: IpAddr| {
            let subnet = subnet_of(address);
            let whole = if address.is_ipv4() { 32 } else { 128 };
            NicAddress {
                address,
                prefix_length: subnet.map_or(whole, |subnet| subnet.cidr.prefix_len()),
                gateway: subnet.and_then(|subnet| subnet.gateway),
            }
        };
        let first = with_subnet(nic.address);
        let mut dns = Vec::new();
        for server in nic.addresses().filter_map(subnet_of).flat_map(|subnet| &subnet.dns) {
            if !dns.contains(server) {
                dns.push(*server);
            }
        }
        nics.push(NicAssignment {
            port: nic.port,
            network: nic.network.clone(),
            vni: network.status.vni,
            mtu: network.spec.mtu,
            mac: nic.mac,
            address: nic.address,
            prefix_length: first.prefix_length,
            gateway: first.gateway,
            dns,
            more_addresses: nic.more_addresses.iter().copied().map(with_subnet).collect(),
            // Cards are in the order of the spec.
            dhcp: vm.spec.nics.get(index).is_some_and(|spec| spec.dhcp),
            interface: network.spec.interface.clone(),
        });
    }
    let size = vm.status.disk.ok_or_else(|| {
        Problem::permanent("unreadable-object", format!("VM '{}' has no disk size", vm.name())).object(vm.reference())
    })?;
    let volumes = app.model.read(|tables| volume::of_vm(tables, vm));
    let volumes = volumes.iter().map(|volume| volume::assignment(app, volume)).collect::<Result<_, _>>()?;
    Ok(Assignment {
        uuid: vm.metadata.uuid,
        name: vm.metadata.name.clone(),
        epoch,
        arch: vm.spec.arch,
        cpus: vm.spec.cpus,
        memory: vm.spec.memory,
        cpu_model: vm.spec.cpu_model.clone(),
        firmware: vm.spec.firmware,
        display: vm.spec.display,
        disk: DiskAssignment { image: image_of(app, vm)?, size, pool: disk_pool(app, vm)? },
        volumes,
        nics,
        user_data: vm.spec.user_data.clone(),
        power: vm.spec.power,
        ha: vm.spec.ha.clone(),
        probes: vm.spec.probes.clone(),
        recovery: vm.spec.recovery,
        resources: vm.spec.resources.clone(),
    })
}
