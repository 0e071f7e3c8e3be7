//! Work on whole hosts: drain, sleep, wake, reboot. Each is an operation; `host.status.operation` names the one that is
//! at work. It is set in the transaction that makes the operation and cleared in the one that finishes it.

use gantry_api::rest::{Changed, WriteQuery};
use gantry_types::{Action, Host, HostState, Maintenance, Problem, Resource, Severity};

use super::{App, Caller, check_precondition};
use crate::{objects::Change, operations::new_operation};

/// Moves all VMs off the host and keeps it empty. A drained host is drained already.
pub async fn drain(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<Changed<Host>, Problem> {
    launch(app, caller, name, query, |host| {
        expect_ready(host, "drained")?;
        Ok((host.status.maintenance != Maintenance::Drained).then_some(Action::HostDrain))
    })
    .await
}

/// Places VMs on it again. None come back by themselves.
pub async fn undrain(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<Changed<Host>, Problem> {
    caller.may_change()?;
    app.objects
        .racing(|| async {
            let current: Host = app.objects.get(name).await?;
            check_precondition(&current, &current.metadata, query)?;
            expect_idle(&current)?;
            let mut host = current.clone();
            host.status.maintenance = Maintenance::Off;
            host.spec.cordoned = false;
            if host != current && !query.dry_run {
                let mut change = Change::new();
                change.update(&host)?.event(&app.event(
                    host.reference(),
                    Severity::Normal,
                    "HostUndrained",
                    format!("{} put host '{name}' back to work", caller.name),
                ))?;
                host.metadata.revision = app.commit(change).await?;
            }
            Ok(Changed { object: app.model.decorate(&host), operation: None })
        })
        .await
}

/// Empties the host and switches it off.
pub async fn sleep(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<Changed<Host>, Problem> {
    launch(app, caller, name, query, |host| {
        if host.status.state == HostState::Sleeping {
            return Ok(None);
        }
        expect_ready(host, "put to sleep")?;
        app.power.of(host)?;
        if host.status.wake_proof.is_none() {
            let detail = format!("host '{name}' is not put to sleep: that it can be woken has not been proved");
            return Err(Problem::conflict("wake-not-proved", detail).object(host.reference()).remedy(format!(
                "prove it, which empties the host and switches it off and on: gantry host reboot {name}"
            )));
        }
        Ok(Some(Action::HostSleep))
    })
    .await
}

/// Switches it on and waits for its agent.
pub async fn wake(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<Changed<Host>, Problem> {
    launch(app, caller, name, query, |host| {
        if host.status.state == HostState::Ready {
            return Ok(None);
        }
        app.power.of(host)?;
        Ok(Some(Action::HostWake))
    })
    .await
}

/// Empties it, switches it off and on, and waits for its agent.
pub async fn reboot(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<Changed<Host>, Problem> {
    launch(app, caller, name, query, |host| {
        expect_ready(host, "rebooted")?;
        app.power.of(host)?;
        Ok(Some(Action::HostReboot))
    })
    .await
}

/// # Errors
/// `host-busy` if an operation is at work on it.
pub(crate) fn expect_idle(host: &Host) -> Result<(), Problem> {
    let Some(operation) = &host.status.operation else { return Ok(()) };
    let detail = format!("host '{}' is busy: operation '{operation}' is at work on it", host.name());
    Err(Problem::conflict("host-busy", detail)
        .object(host.reference())
        .remedy(format!("wait for it, or stop it: gantry operation cancel {operation}")))
}

fn expect_ready(host: &Host, what: &str) -> Result<(), Problem> {
    let hint = match host.status.state {
        HostState::Ready => return Ok(()),
        HostState::Joining => "start its agent: gantry agent run",
        HostState::Lost => "nobody can say what runs there; bring it back first",
        HostState::Sleeping | HostState::Waking => "wake it first: gantry host wake NAME",
    };
    let detail = format!("host '{}' can't be {what}: it is {}", host.name(), state_text(host.status.state));
    Err(Problem::conflict("host-not-ready", detail).object(host.reference()).remedy(hint.replace("NAME", host.name())))
}

fn state_text(state: HostState) -> &'static str {
    match state {
        HostState::Joining => "joining",
        HostState::Ready => "ready",
        HostState::Lost => "lost",
        HostState::Sleeping => "asleep",
        HostState::Waking => "waking",
    }
}

/// Writes an operation on an idle host, in one transaction with the mark on the host. Nothing to do is fine.
async fn launch<F>(
    app: &App,
    caller: &Caller,
    name: &str,
    query: &WriteQuery,
    decide: F,
) -> Result<Changed<Host>, Problem>
where
    F: Fn(&Host) -> Result<Option<Action>, Problem>,
{
    caller.may_change()?;
    app.objects
        .racing(|| async {
            let mut host: Host = app.objects.get(name).await?;
            check_precondition(&host, &host.metadata, query)?;
            expect_idle(&host)?;
            let Some(action) = decide(&host)? else {
                return Ok(Changed { object: app.model.decorate(&host), operation: None });
            };
            let mut operation = new_operation(app, caller, action, &host, None)?;
            host.status.operation = Some(operation.metadata.name.clone());
            if !query.dry_run {
                let mut change = Change::new();
                change.update(&host)?.create(&operation)?;
                let revision = app.commit(change).await?;
                host.metadata.revision = revision;
                operation.metadata.revision = revision;
            }
            Ok(Changed { object: app.model.decorate(&host), operation: Some(operation) })
        })
        .await
}
