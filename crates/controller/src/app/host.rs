//! Hosts: join, label, cordon, delete.

use std::net::{IpAddr, SocketAddr};

use gantry_api::rest::{Changed, WriteQuery};
use gantry_types::{
    ApiToken, Host, HostSpec, HostState, HostStatus, Maintenance, Name, Problem, Resource, Role, Severity, Vm,
};

use super::{App, Caller, already_exists, check_labels, check_name, check_precondition, cluster};
use crate::objects::Change;

/// A host that wants to join, after its token was recognised.
#[derive(Clone)]
pub struct Joining {
    pub name: Name,
    pub agent_address: String,
    pub underlay_address: String,
    /// SHA-256 of the public key that its agent's certificate is for.
    pub agent_key: String,
    /// The join token it showed; it is used up.
    pub token: Name,
}

/// Makes the host known and uses its join token up, in one transaction. A host that lost its certificates joins again
/// under its name; but not while there is one of that name that answers, or that has VMs.
pub async fn join(app: &App, joining: &Joining) -> Result<Host, Problem> {
    // Nothing is placed on it while we look, and of two that join with the same address one is second.
    let _placing = app.placement.lock().await;
    check_addresses(joining)?;
    let token: ApiToken = app.objects.find(joining.token.as_str()).await?.ok_or_else(used_up)?;
    if token.spec.role != Role::Join {
        return Err(Problem::denied("denied", format!("token '{}' is not a join token", joining.token))
            .remedy("make one: gantry token create NAME --role join"));
    }
    expect_free_addresses(app, joining)?;
    if let Some(host) = app.objects.find::<Host>(joining.name.as_str()).await? {
        return rejoin(app, joining, host, &token).await;
    }
    let mut host = Host::new(joining.name.clone(), HostSpec::default());
    app.stamp(&mut host.metadata);
    host.status = HostStatus {
        state: HostState::Joining,
        agent_address: joining.agent_address.clone(),
        underlay_address: joining.underlay_address.clone(),
        agent_keys: vec![joining.agent_key.clone()],
        ..HostStatus::default()
    };
    let mut change = Change::new();
    change.create(&host)?.delete(&token).event(&app.event(
        host.reference(),
        Severity::Normal,
        "HostJoined",
        format!("host '{}' joined with token '{}'", joining.name, joining.token),
    ))?;
    host.metadata.revision = app.commit(change).await?;
    Ok(host)
}

/// Its state stays: what says that the host is there again is its next heartbeat. Only a host without VMs: one that is
/// merely cut off may still run its VMs, and another machine under its name would say that they are not there.
async fn rejoin(app: &App, joining: &Joining, mut host: Host, token: &ApiToken) -> Result<Host, Problem> {
    let name = &joining.name;
    if host.status.state == HostState::Ready {
        return Err(already_exists(&host).remedy(format!(
            "choose another name; if this is that host, stop its agent (systemctl stop gantry-agent), wait until 'gantry \
             host show {name}' says lost, and join again"
        )));
    }
    let vms = vms_of(app, name);
    if !vms.is_empty() {
        let detail = format!("host '{name}' can't join again, because VMs are recorded on it: {}", vms.join(", "));
        return Err(Problem::conflict("host-has-vms", detail).object(host.reference()).remedy(
            "repair its agent with the state directory that it had; if the machine is gone for good: gantry vm delete \
             NAME --force for each (their disks are lost with it), then join again",
        ));
    }
    host.status.agent_address.clone_from(&joining.agent_address);
    host.status.underlay_address.clone_from(&joining.underlay_address);
    host.status.agent_keys = vec![joining.agent_key.clone()];
    let message =
        format!("host '{name}' joined again with token '{}', now at {}", joining.token, joining.agent_address);
    let mut change = Change::new();
    change.update(&host)?.delete(token).event(&app.event(
        host.reference(),
        Severity::Warning,
        "HostRejoined",
        message,
    ))?;
    host.metadata.revision = app.commit(change).await?;
    Ok(host)
}

/// A host may use a new key and still the one it has asked with: until the answer is on its disk it has no other, and an
/// answer that gets lost is asked for again.
pub async fn record_renewal(app: &App, name: &Name, used: &str, new: &str) -> Result<(), Problem> {
    app.objects
        .racing(|| async {
            let mut host: Host = app.objects.get(name.as_str()).await?;
            // Somebody may have joined under this name since the question was let in.
            if !host.status.agent_keys.iter().any(|known| known == used) {
                return Err(unknown_key(&host, used));
            }
            host.status.agent_keys = vec![used.to_owned(), new.to_owned()];
            let mut change = Change::new();
            change.update(&host)?;
            app.commit(change).await?;
            Ok(())
        })
        .await
}

/// The key of a host from before keys were recorded: the first that is shown is its.
pub async fn record_first_key(app: &App, name: &Name, key: &str) -> Result<(), Problem> {
    app.objects
        .racing(|| async {
            let mut host: Host = app.objects.get(name.as_str()).await?;
            if host.status.agent_keys.iter().any(|known| known == key) {
                return Ok(());
            }
            if !host.status.agent_keys.is_empty() {
                return Err(unknown_key(&host, key));
            }
            host.status.agent_keys = vec![key.to_owned()];
            let mut change = Change::new();
            change.update(&host)?;
            app.commit(change).await?;
            Ok(())
        })
        .await
}

pub fn unknown_key(host: &Host, shown: &str) -> Problem {
    let detail = format!(
        "the certificate is of host '{}', but for another key ({}…) than this host has: it was deleted, or another \
         machine joined under its name since",
        host.metadata.name,
        shown.get(..16).unwrap_or(shown),
    );
    Problem::denied("unknown-host-key", detail)
        .object(host.reference())
        .remedy("if this machine is to be a host, join it under a name that is free: gantry host join URL")
}

fn used_up() -> Problem {
    Problem::unauthenticated("the join token is not valid: it was used or deleted")
        .remedy("make another: gantry token create NAME --role join")
}

fn check_addresses(joining: &Joining) -> Result<(), Problem> {
    let mut problem = Problem::invalid("invalid-join", format!("host '{}' can't join like this", joining.name));
    if joining.agent_address.parse::<SocketAddr>().is_err() {
        problem = problem.field("agent_address", "is not ADDRESS:PORT");
    }
    if joining.underlay_address.parse::<IpAddr>().is_err() {
        problem = problem.field("underlay_address", "is not an IP address");
    }
    if problem.fields.is_empty() { Ok(()) } else { Err(problem) }
}

fn expect_free_addresses(app: &App, joining: &Joining) -> Result<(), Problem> {
    match address_owner(app, &joining.name, &joining.agent_address, &joining.underlay_address) {
        None => Ok(()),
        Some(other) => {
            let detail = format!(
                "host '{}' can't have the addresses {} and {}: host '{other}' has one of them",
                joining.name, joining.agent_address, joining.underlay_address
            );
            Err(Problem::conflict("address-in-use", detail).remedy(format!(
                "give addresses of this machine (--agent-address, --underlay-address); if '{other}' is the former name \
                 of this machine: gantry host delete {other}"
            )))
        }
    }
}

/// Another host that has one of these addresses.
pub(crate) fn address_owner(app: &App, name: &Name, agent: &str, underlay: &str) -> Option<Name> {
    let (agent, underlay) = (agent.parse::<SocketAddr>().ok(), underlay.parse::<IpAddr>().ok());
    let has_one = |host: &Host| {
        host.status.agent_address.parse().ok().is_some_and(|theirs| agent == Some(theirs))
            || host.status.underlay_address.parse().ok().is_some_and(|theirs| underlay == Some(theirs))
    };
    app.model.read(|tables| {
        let mut others = tables.hosts.values().filter(|host| host.metadata.name != *name);
        others.find(|host| has_one(host)).map(|host| host.metadata.name.clone())
    })
}

/// Changes labels and spec of a host that exists.
pub async fn put(
    app: &App,
    caller: &Caller,
    name: &str,
    sent: Host,
    query: &WriteQuery,
) -> Result<Changed<Host>, Problem> {
    caller.may_change()?;
    check_name(name, &sent)?;
    check_labels(&sent.metadata)?;
    let _referring = app.references.read().await;
    sent.spec.validate()?;
    app.objects
        .racing(|| async {
            let current: Host = app.objects.find(name).await?.ok_or_else(|| {
                Problem::not_found(Host::KIND, name).remedy("hosts come by themselves: gantry host join URL TOKEN")
            })?;
            check_precondition(&current, &sent.metadata, query)?;
            let wrong = Problem::invalid("invalid-host", format!("host '{name}' can't be changed like this"));
            cluster::check_reference(app, &sent.spec.cluster, wrong)?;
            if sent.spec.cordoned != current.spec.cordoned {
                super::host_work::expect_idle(&current)?;
            }
            let mut host = current.clone();
            host.spec = sent.spec.clone();
            if !host.spec.cordoned {
                host.status.maintenance = Maintenance::Off;
            }
            host.metadata.labels = sent.metadata.labels.clone();
            if host != current && !query.dry_run {
                let mut change = Change::new();
                change.update(&host)?;
                if host.spec.cordoned != current.spec.cordoned {
                    let (reason, what) = if host.spec.cordoned {
                        ("HostCordoned", "cordoned")
                    } else {
                        ("HostUncordoned", "uncordoned")
                    };
                    change.event(&app.event(
                        host.reference(),
                        Severity::Normal,
                        reason,
                        format!("{} {what} host '{name}'", caller.name),
                    ))?;
                }
                host.metadata.revision = app.commit(change).await?;
            }
            Ok(Changed { object: app.model.decorate(&host), operation: None })
        })
        .await
}

/// Forgets a host that has no VMs. Its certificate is of no use afterwards: its name is unknown, or
/// belongs to a host with another key.
pub async fn delete(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<(), Problem> {
    caller.may_change()?;
    // Nothing is placed on it while we look.
    let _placing = app.placement.lock().await;
    app.objects
        .racing(|| async {
            let host: Host = app.objects.get(name).await?;
            check_precondition(&host, &host.metadata, query)?;
            super::host_work::expect_idle(&host)?;
            expect_empty(app, &host)?;
            if query.dry_run {
                return Ok(());
            }
            let mut change = Change::new();
            app.model.read(|tables| super::pool::leave_with(tables, &host, &mut change))?;
            change.delete(&host).event(&app.event(
                host.reference(),
                Severity::Normal,
                "HostDeleted",
                format!("{} deleted host '{name}'", caller.name),
            ))?;
            app.commit(change).await?;
            app.model.overlay_mut(|overlay| {
                overlay.hosts.remove(name);
                overlay.counters.forget(name);
            });
            Ok(())
        })
        .await
}

/// # Errors
/// `host-in-use`, naming the VMs that are on it or on their way to it.
fn expect_empty(app: &App, host: &Host) -> Result<(), Problem> {
    let name = &host.metadata.name;
    let vms = vms_of(app, name);
    if vms.is_empty() {
        return Ok(());
    }
    Err(Problem::conflict("host-in-use", format!("host '{name}' has VMs: {}", vms.join(", ")))
        .object(host.reference())
        .remedy(
            "move them (gantry vm migrate NAME) or delete them first; if the host is gone for good: gantry vm delete \
             NAME --force",
        ))
}

/// The VMs that are on a host or on their way to it.
fn vms_of(app: &App, host: &Name) -> Vec<String> {
    let on_it = |vm: &Vm| [&vm.status.host, &vm.status.moving_to].into_iter().flatten().any(|at| at == host);
    app.model.read(|tables| tables.vms.values().filter(|vm| on_it(vm)).map(|vm| vm.name().to_owned()).collect())
}
