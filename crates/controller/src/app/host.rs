//! Hosts: join, label, cordon, delete.

use gantry_api::rest::{Changed, WriteQuery};
use gantry_types::{ApiToken, Host, HostSpec, HostState, HostStatus, Name, Problem, Resource, Role, Severity, Vm};

use super::{App, Caller, already_exists, check_labels, check_name, check_precondition};
use crate::objects::Change;

/// A host that wants to join, after its token was recognised.
pub struct Joining {
    pub name: Name,
    pub agent_address: String,
    pub underlay_address: String,
    /// The join token it showed; it is used up.
    pub token: Name,
}

/// Makes the host known and uses its join token up, in one transaction. A host that lost its certificates joins again
/// under its name, with the VMs it has; but not while there is one of that name that answers.
pub async fn join(app: &App, joining: &Joining) -> Result<Host, Problem> {
    check_addresses(joining)?;
    let token: ApiToken = app.objects.find(joining.token.as_str()).await?.ok_or_else(used_up)?;
    if token.spec.role != Role::Join {
        return Err(Problem::denied("denied", format!("token '{}' is not a join token", joining.token))
            .remedy("make one: gantry token create NAME --role join"));
    }
    if let Some(host) = app.objects.find::<Host>(joining.name.as_str()).await? {
        return rejoin(app, joining, host, &token).await;
    }
    let mut host = Host::new(joining.name.clone(), HostSpec::default());
    app.stamp(&mut host.metadata);
    host.status = HostStatus {
        state: HostState::Joining,
        agent_address: joining.agent_address.clone(),
        underlay_address: joining.underlay_address.clone(),
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

/// Its state stays: what says that the host is there again is its next heartbeat.
async fn rejoin(app: &App, joining: &Joining, mut host: Host, token: &ApiToken) -> Result<Host, Problem> {
    let name = &joining.name;
    if host.status.state == HostState::Ready {
        return Err(already_exists(&host).remedy(format!(
            "choose another name; if this is that host, stop its agent (systemctl stop gantry-agent), wait until 'gantry \
             host show {name}' says lost, and join again"
        )));
    }
    host.status.agent_address.clone_from(&joining.agent_address);
    host.status.underlay_address.clone_from(&joining.underlay_address);
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

fn used_up() -> Problem {
    Problem::unauthenticated("the join token is not valid: it was used or deleted")
        .remedy("make another: gantry token create NAME --role join")
}

fn check_addresses(joining: &Joining) -> Result<(), Problem> {
    let mut problem = Problem::invalid("invalid-join", format!("host '{}' can't join like this", joining.name));
    if joining.agent_address.parse::<std::net::SocketAddr>().is_err() {
        problem = problem.field("agent_address", "is not ADDRESS:PORT");
    }
    if joining.underlay_address.parse::<std::net::IpAddr>().is_err() {
        problem = problem.field("underlay_address", "is not an IP address");
    }
    if problem.fields.is_empty() { Ok(()) } else { Err(problem) }
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
    app.objects
        .racing(|| async {
            let current: Host = app.objects.find(name).await?.ok_or_else(|| {
                Problem::not_found(Host::KIND, name).remedy("hosts come by themselves: gantry host join URL TOKEN")
            })?;
            check_precondition(&current, &sent.metadata, query)?;
            let mut host = current.clone();
            host.spec = sent.spec.clone();
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

/// Forgets a host that has no VMs. Its certificate is of no use afterwards, because its name is unknown.
pub async fn delete(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<(), Problem> {
    caller.may_change()?;
    // Nothing is placed on it while we look.
    let _placing = app.placement.lock().await;
    app.objects
        .racing(|| async {
            let host: Host = app.objects.get(name).await?;
            check_precondition(&host, &host.metadata, query)?;
            expect_empty(app, &host)?;
            if query.dry_run {
                return Ok(());
            }
            let mut change = Change::new();
            change.delete(&host).event(&app.event(
                host.reference(),
                Severity::Normal,
                "HostDeleted",
                format!("{} deleted host '{name}'", caller.name),
            ))?;
            app.commit(change).await?;
            app.model.overlay_mut(|overlay| overlay.hosts.remove(name));
            Ok(())
        })
        .await
}

/// # Errors
/// `host-in-use`, naming the VMs that are on it or on their way to it.
fn expect_empty(app: &App, host: &Host) -> Result<(), Problem> {
    let name = &host.metadata.name;
    let on_it = |vm: &Vm| [&vm.status.host, &vm.status.moving_to].into_iter().flatten().any(|at| at == name);
    let vms = app
        .model
        .read(|tables| tables.vms.values().filter(|vm| on_it(vm)).map(|vm| vm.name().to_owned()).collect::<Vec<_>>());
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
