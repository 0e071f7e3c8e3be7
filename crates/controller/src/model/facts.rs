//! What objects of several kinds have in common beyond their metadata: what lists are filtered, sorted and searched by.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

use gantry_types::{Alarm, Backup, Event, Host, Image, Network, Notice, Operation, Pool, Port, Snapshot, Vm, Volume};
use serde::Serialize;

#[derive(Debug, Default)]
pub struct Facts<'a> {
    /// `status.phase`, a host's `status.state`, an event's severity.
    pub phase: Option<Cow<'static, str>>,
    /// Where it is, or what it concerns.
    pub host: Option<&'a str>,
    /// The name of the object that it tells of.
    pub about: Option<&'a str>,
    /// The VM whose it is.
    pub vm: Option<&'a str>,
    pub addresses: Vec<IpAddr>,
    pub cpus: Option<u32>,
    pub memory_bytes: Option<u64>,
}

/// By its name in the API.
fn api_name(value: &impl Serialize) -> Option<Cow<'static, str>> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => Some(name.into()),
        _ => None,
    }
}

pub(super) fn of_vm(vm: &Vm) -> Facts<'_> {
    Facts {
        phase: api_name(&vm.status.phase),
        host: vm.status.host.as_ref().map(|host| host.as_str()),
        addresses: vm.status.nics.iter().map(|nic| nic.address).collect(),
        cpus: Some(vm.spec.cpus),
        memory_bytes: Some(vm.spec.memory.bytes()),
        ..Facts::default()
    }
}

pub(super) fn of_host(host: &Host) -> Facts<'_> {
    let underlay = host.status.underlay_address.parse().ok();
    let agent = host.status.agent_address.parse().ok().map(|agent: SocketAddr| agent.ip());
    let inventory = host.status.inventory.as_ref();
    Facts {
        phase: api_name(&host.status.state),
        addresses: underlay.into_iter().chain(agent).collect(),
        cpus: inventory.map(|inventory| inventory.cpu.count),
        memory_bytes: inventory.map(|inventory| inventory.memory.bytes()),
        ..Facts::default()
    }
}

pub(super) fn of_image(image: &Image) -> Facts<'_> {
    Facts { phase: api_name(&image.status.phase), ..Facts::default() }
}

pub(super) fn of_pool(pool: &Pool) -> Facts<'_> {
    let host = pool.spec.hosts.first().map(|host| host.as_str());
    Facts { phase: api_name(&pool.status.phase), host, ..Facts::default() }
}

pub(super) fn of_volume(volume: &Volume) -> Facts<'_> {
    let vm = volume.status.vm.as_ref().map(|vm| vm.as_str());
    let about = Some(volume.spec.pool.as_str());
    Facts { phase: api_name(&volume.status.phase), vm, about, ..Facts::default() }
}

pub(super) fn of_network(network: &Network) -> Facts<'_> {
    Facts { addresses: network.spec.subnet.iter().filter_map(|subnet| subnet.gateway).collect(), ..Facts::default() }
}

pub(super) fn of_operation(operation: &Operation) -> Facts<'_> {
    let about = Some(operation.spec.target.name.as_str());
    Facts { phase: api_name(&operation.status.phase), about, ..Facts::default() }
}

pub(super) fn of_port(port: &Port) -> Facts<'_> {
    Facts {
        vm: port.status.vm.as_ref().map(|vm| vm.as_str()),
        addresses: port.status.addresses.clone(),
        ..Facts::default()
    }
}

pub(super) fn of_backup(backup: &Backup) -> Facts<'_> {
    let (vm, about) = (Some(backup.spec.vm.as_str()), Some(backup.spec.repository.as_str()));
    Facts { phase: api_name(&backup.status.phase), vm, about, ..Facts::default() }
}

pub(super) fn of_snapshot(snapshot: &Snapshot) -> Facts<'_> {
    Facts { phase: api_name(&snapshot.status.phase), vm: Some(snapshot.spec.vm.as_str()), ..Facts::default() }
}

pub(super) fn of_alarm(alarm: &Alarm) -> Facts<'_> {
    Facts { phase: api_name(&alarm.status.state), ..Facts::default() }
}

pub(super) fn of_notice(notice: &Notice) -> Facts<'_> {
    let about = Some(notice.spec.object.name.as_str());
    Facts { phase: api_name(&notice.status.phase), about, ..Facts::default() }
}

pub(super) fn of_event(event: &Event) -> Facts<'_> {
    let about = Some(event.spec.regarding.name.as_str());
    Facts { phase: api_name(&event.spec.severity), about, ..Facts::default() }
}
