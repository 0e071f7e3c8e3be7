//! Networks: create, change what may change, delete.

use gantry_api::rest::{Changed, WriteQuery};
use gantry_types::{
    Name, Network, NetworkStatus, NetworkSubnet, Port, Problem, Resource, Router, Severity, conntrack_zone,
};

use super::{App, Caller, already_exists, check_labels, check_name, check_precondition};
use crate::{
    objects::Change,
    reach,
    subnets::{network_mistakes, overlapping},
};

/// Where identifiers that the controller chooses begin.
const FIRST_CHOSEN_VNI: u32 = 1000;

/// Makes a network; without `spec.vni` it gets a free one.
pub async fn create(
    app: &App,
    caller: &Caller,
    sent: Network,
    query: &WriteQuery,
) -> Result<Changed<Network>, Problem> {
    caller.may_change()?;
    check_labels(&sent.metadata)?;
    check_spec(&sent)?;
    // Alone, so that two networks made at once don't get one identifier.
    let _alone = app.references.write().await;
    let mut network = Network::new(sent.metadata.name.clone(), sent.spec.clone());
    network.metadata.labels = sent.metadata.labels.clone();
    app.stamp(&mut network.metadata);
    if app.objects.find::<Network>(network.name()).await?.is_some() {
        return Err(already_exists(&network));
    }
    check_interface(app, &network)?;
    app.model.read(|tables| reach::check_mtu(&network, tables))?;
    network.status = NetworkStatus { vni: choose_vni(app, &network)?, ..NetworkStatus::default() };
    if !query.dry_run {
        let mut change = Change::new();
        change.create(&network)?.event(&app.event(
            network.reference(),
            Severity::Normal,
            "NetworkCreated",
            format!("{} created network '{}' with VNI {}", caller.name, network.name(), network.status.vni),
        ))?;
        network.metadata.revision = app.commit(change).await?;
    }
    Ok(Changed { object: network, operation: None })
}

fn check_spec(network: &Network) -> Result<(), Problem> {
    let mut problem = Problem::invalid("invalid-network", "the network's spec is not valid");
    for (field, message) in network_mistakes(&network.spec) {
        problem = problem.field(field, message);
    }
    if problem.fields.is_empty() { Ok(()) } else { Err(problem) }
}

/// A subnet of its own must not overlap those that objects describe.
fn check_overlap(app: &App, sent: &Network) -> Result<(), Problem> {
    let Some(own) = &sent.spec.subnet else { return Ok(()) };
    let others = app.model.list::<NetworkSubnet>().into_iter();
    let others = others.filter(|other| other.spec.network == sent.metadata.name).map(|other| other.spec.subnet());
    match overlapping(own.cidr, &others.collect::<Vec<_>>()) {
        None => Ok(()),
        Some(other) => Err(Problem::invalid("invalid-network", "the network's spec is not valid").field(
            "spec.subnet.cidr",
            format!("{} overlaps {}, which the network has already; choose a range of its own", own.cidr, other.cidr),
        )),
    }
}

/// Everything that comes in by an interface goes to one network.
fn check_interface(app: &App, network: &Network) -> Result<(), Problem> {
    let Some(interface) = &network.spec.interface else { return Ok(()) };
    let other = app.model.read(|tables| {
        let mut others = tables.networks.values();
        others.find(|other| other.spec.interface.as_ref() == Some(interface)).cloned()
    });
    match other {
        None => Ok(()),
        Some(other) => Err(Problem::conflict(
            "interface-in-use",
            format!(
                "network '{}' can't have interface '{interface}': network '{}' has it",
                network.name(),
                other.name()
            ),
        )
        .remedy("name another interface, or use that network")),
    }
}

fn choose_vni(app: &App, network: &Network) -> Result<u32, Problem> {
    app.model.read(|tables| {
        // Networks of one connection tracking zone would share their connections on a host.
        let holder =
            |vni: u32| tables.networks.values().find(|other| conntrack_zone(other.status.vni) == conntrack_zone(vni));
        match network.spec.vni {
            Some(vni) => match holder(vni) {
                Some(other) if other.status.vni != vni => Err(Problem::conflict(
                    "vni-in-use",
                    format!(
                        "network '{}' can't have VNI {vni}: it differs by a multiple of 65535 from {}, which network \
                         '{}' has",
                        network.name(),
                        other.status.vni,
                        other.name()
                    ),
                )
                .remedy("choose another spec.vni, or leave it out to get a free one")),
                Some(other) => Err(Problem::conflict(
                    "vni-in-use",
                    format!("network '{}' can't have VNI {vni}: network '{}' has it", network.name(), other.name()),
                )
                .remedy("choose another spec.vni, or leave it out to get a free one")),
                None => Ok(vni),
            },
            None => (FIRST_CHOSEN_VNI..=0x00ff_ffff).find(|vni| holder(*vni).is_none()).ok_or_else(|| {
                Problem::conflict("no-free-vni", "all VXLAN identifiers are in use")
                    .remedy("delete a network that nobody needs, or name a free one in spec.vni (below 1000)")
            }),
        }
    })
}

/// Creates the network or changes it to what is sent. What guests rely on can't change while they do.
pub async fn put(
    app: &App,
    caller: &Caller,
    name: &str,
    sent: Network,
    query: &WriteQuery,
) -> Result<Changed<Network>, Problem> {
    caller.may_change()?;
    check_name(name, &sent)?;
    check_labels(&sent.metadata)?;
    check_spec(&sent)?;
    check_overlap(app, &sent)?;
    app.objects
        .racing(|| async {
            let Some(current) = app.objects.find::<Network>(name).await? else {
                if query.revision.is_some() || sent.metadata.revision != 0 {
                    return Err(Problem::not_found(Network::KIND, name));
                }
                return create(app, caller, sent.clone(), query).await;
            };
            check_precondition(&current, &sent.metadata, query)?;
            let mut network = current.clone();
            network.spec = sent.spec.clone();
            network.metadata.labels = sent.metadata.labels.clone();
            if network == current {
                return Ok(Changed { object: current, operation: None });
            }
            check_change(&current, &network)?;
            if network.spec.mtu != current.spec.mtu {
                app.model.read(|tables| reach::check_mtu(&network, tables))?;
            }
            if !query.dry_run {
                let mut change = Change::new();
                change.update(&network)?;
                network.metadata.revision = app.commit(change).await?;
                app.wakeups.networks.notify_one();
            }
            Ok(Changed { object: network, operation: None })
        })
        .await
}

fn check_change(current: &Network, new: &Network) -> Result<(), Problem> {
    let mut problem =
        Problem::conflict("network-in-use", format!("network '{}' can't be changed like this", current.name()))
            .object(current.reference())
            .remedy("leave these fields as they are, or make another network");
    if new.spec.network_type != current.spec.network_type {
        problem = problem.field("spec.type", format!("is fixed: {}", current.spec.network_type));
    }
    if new.spec.interface != current.spec.interface {
        let shown = current.spec.interface.as_deref().unwrap_or("none");
        problem = problem.field("spec.interface", format!("is fixed: {shown}"));
    }
    // The identifier in use may be written into the spec.
    if new.spec.vni.is_some_and(|vni| vni != current.status.vni) {
        problem = problem.field("spec.vni", format!("is fixed: {}", current.status.vni));
    }
    let cidr = |network: &Network| network.spec.subnet.as_ref().map(|subnet| subnet.cidr);
    if let Some(fixed) = cidr(current).filter(|fixed| cidr(new) != Some(*fixed)) {
        problem = problem.field("spec.subnet.cidr", format!("is fixed: {fixed}"));
    }
    if new.spec.mtu != current.spec.mtu && !current.status.leases.is_empty() {
        problem = problem.field("spec.mtu", format!("is in use by {}", holders(current).join(", ")));
    }
    for (address, lease) in &current.status.leases {
        if new.spec.subnet.as_ref().is_some_and(|subnet| subnet.gateway == Some(*address)) {
            let message = format!("{address} is the address of {}", lease.described());
            problem = problem.field("spec.subnet.gateway", message);
        }
    }
    if problem.fields.is_empty() { Ok(()) } else { Err(problem) }
}

fn holders(network: &Network) -> Vec<String> {
    let mut holders: Vec<_> = network.status.leases.values().map(|lease| lease.described()).collect();
    holders.sort();
    holders.dedup();
    holders
}

/// Everything that names it or has an address of it.
fn users(app: &App, network: &Network) -> Vec<String> {
    let own = &network.metadata.name;
    let mut users = holders(network);
    users.extend(app.model.read(|tables| {
        let vms = tables.vms.values().filter(|vm| vm.spec.nics.iter().any(|nic| nic.network == *own));
        let ports = tables.ports.values().filter(|port| port.spec.network == *own);
        // The port of a VM's card is the VM's.
        let ports = ports.filter(|port| !port.status.goes_with_vm);
        let subnets = tables.subnets.values().filter(|subnet| subnet.spec.network == *own);
        let names_it =
            |router: &Router| router.spec.networks.contains(own) || router.spec.external.as_ref() == Some(own);
        let routers = tables.routers.values().filter(|router| names_it(router));
        let floating = tables.floating_ips.values().filter(|floating| floating.spec.network == *own);
        vms.map(|vm| format!("VM '{}'", vm.name()))
            .chain(ports.map(|port| format!("{} '{}'", Port::KIND, port.name())))
            .chain(subnets.map(|subnet| format!("{} '{}'", NetworkSubnet::KIND, subnet.name())))
            .chain(routers.map(|router| format!("router '{}'", router.name())))
            .chain(floating.map(|floating| format!("floating-ip '{}'", floating.name())))
            .collect::<Vec<_>>()
    }));
    users.sort();
    users.dedup();
    users
}

/// Refused while a VM, a port or a subnet names it.
pub async fn delete(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<(), Problem> {
    caller.may_change()?;
    let _alone = app.references.write().await;
    app.objects
        .racing(|| async {
            let network: Network = app.objects.get(name).await?;
            check_precondition(&network, &network.metadata, query)?;
            let users = users(app, &network);
            if !users.is_empty() {
                return Err(Problem::conflict(
                    "network-in-use",
                    format!("network '{name}' is used by {}", users.join(", ")),
                )
                .object(network.reference())
                .remedy("delete these first"));
            }
            if query.dry_run {
                return Ok(());
            }
            let mut change = Change::new();
            change.delete(&network).event(&app.event(
                network.reference(),
                Severity::Normal,
                "NetworkDeleted",
                format!("{} deleted network '{name}'", caller.name),
            ))?;
            app.commit(change).await?;
            app.wakeups.networks.notify_one();
            Ok(())
        })
        .await
}

/// Networks by name; what a distributor or a VM's assignment needs.
pub(crate) fn find(app: &App, name: &Name) -> Result<std::sync::Arc<Network>, Problem> {
    app.model.get(name.as_str()).ok_or_else(|| Problem::not_found(Network::KIND, name.as_str()))
}
