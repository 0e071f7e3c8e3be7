//! Networks: create, change what may change, delete.

use gantry_api::rest::{Changed, WriteQuery};
use gantry_types::{Name, Network, NetworkStatus, Problem, Resource, Severity};

use super::{App, Caller, already_exists, check_labels, check_name, check_precondition};
use crate::{addresses::network_mistakes, objects::Change};

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

fn choose_vni(app: &App, network: &Network) -> Result<u32, Problem> {
    app.model.read(|tables| {
        let holder = |vni: u32| tables.networks.values().find(|other| other.status.vni == vni);
        match network.spec.vni {
            Some(vni) => match holder(vni) {
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
    // The identifier in use may be written into the spec.
    if new.spec.vni.is_some_and(|vni| vni != current.status.vni) {
        problem = problem.field("spec.vni", format!("is fixed: {}", current.status.vni));
    }
    if new.spec.subnet.cidr != current.spec.subnet.cidr {
        problem = problem.field("spec.subnet.cidr", format!("is fixed: {}", current.spec.subnet.cidr));
    }
    if new.spec.mtu != current.spec.mtu && !current.status.leases.is_empty() {
        problem = problem.field("spec.mtu", format!("is in use by VMs: {}", holders(current).join(", ")));
    }
    for (address, lease) in &current.status.leases {
        if new.spec.subnet.gateway == Some(*address) {
            problem = problem.field("spec.subnet.gateway", format!("{address} is the address of VM '{}'", lease.vm));
        }
    }
    if problem.fields.is_empty() { Ok(()) } else { Err(problem) }
}

fn holders(network: &Network) -> Vec<String> {
    let mut vms: Vec<_> = network.status.leases.values().map(|lease| lease.vm.to_string()).collect();
    vms.sort();
    vms.dedup();
    vms
}

/// Refused while a VM names it.
pub async fn delete(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<(), Problem> {
    caller.may_change()?;
    let _alone = app.references.write().await;
    app.objects
        .racing(|| async {
            let network: Network = app.objects.get(name).await?;
            check_precondition(&network, &network.metadata, query)?;
            let mut vms = holders(&network);
            vms.extend(app.model.read(|tables| {
                let names_it = |vm: &gantry_types::Vm| {
                    vm.spec.nics.iter().any(|nic: &gantry_types::NicSpec| nic.network.as_str() == name)
                };
                tables.vms.values().filter(|vm| names_it(vm)).map(|vm| vm.name().to_owned()).collect::<Vec<_>>()
            }));
            vms.sort();
            vms.dedup();
            if !vms.is_empty() {
                return Err(Problem::conflict(
                    "network-in-use",
                    format!("network '{name}' is used by VMs: {}", vms.join(", ")),
                )
                .object(network.reference())
                .remedy("delete these VMs first"));
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
