//! `cluster_update`: every host of a cluster in turn, one at a time; the first that fails ends it.
//!
//! ```text
//!  for each host, by name:  reboot:         host-reboot (empties it, switches it off and on, waits for its agent)
//!                           await-restart:  host-drain -> another agent is heard -> undrain
//! ```
//! Which hosts are done and which one is at work is written down before anything is begun on it. What is done to a host
//! is an operation of its own, found again after a crash. Undone, the host at work goes back to work; hosts that are
//! done stay done.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use gantry_api::rest::WriteQuery;
use gantry_types::{
    Action, Cluster, Host, HostState, HostUpdate, Maintenance, Name, Problem, Progress, Resource, Severity,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    children::{self, caller_of},
    step::{CANCELLED, Ending, Patience, Procedure, Step, StepContext, Undone},
};
use crate::{
    app::{cluster::hosts_of, host_work},
    objects::Change,
};

const ROUND: &str = "round";
const POLL: Duration = Duration::from_millis(200);

/// How far it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Round {
    hosts: Vec<Name>,
    done: Vec<Name>,
    current: Option<Current>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Current {
    host: Name,
    /// Its agent before the update.
    agent_instance: Option<Uuid>,
    /// It was drained before, so it stays so.
    was_drained: bool,
}

pub struct ClusterUpdate;

#[async_trait]
impl Procedure for ClusterUpdate {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(Hosts)]
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let target = &context.operation.spec.target;
        let Some(mut cluster) = context.app.objects.find::<Cluster>(target.name.as_str()).await? else { return Ok(()) };
        let round: Round = context.memo(ROUND)?.unwrap_or_default();
        let done: Vec<_> = round.done.iter().map(Name::as_str).collect();
        let (severity, reason, message) = match ending {
            Ending::Succeeded => {
                let message = format!("all hosts of cluster '{}' are updated: {}", target.name, done.join(", "));
                (Severity::Normal, "ClusterUpdated", message)
            }
            _ => {
                let message = format!(
                    "the update of cluster '{}' ended after {} of {} hosts: {}",
                    target.name,
                    done.len(),
                    round.hosts.len(),
                    if done.is_empty() { "none".to_owned() } else { done.join(", ") }
                );
                (Severity::Warning, "ClusterUpdateEnded", message)
            }
        };
        change.event(&context.event(severity, reason, message, None))?;
        if cluster.metadata.uuid == target.uuid {
            cluster.status.operation = None;
            change.update(&cluster)?;
        }
        Ok(())
    }
}

struct Hosts;

#[async_trait]
impl Step for Hosts {
    fn name(&self) -> &'static str {
        "hosts"
    }

    fn patience(&self) -> Patience {
        Patience::Unlimited
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let Action::ClusterUpdate { method } = context.operation.spec.action else { return Ok(()) };
        let mut round = match context.memo::<Round>(ROUND)? {
            Some(round) => round,
            None => begin(context),
        };
        loop {
            let current = match &round.current {
                Some(current) => current.clone(),
                None => {
                    let Some(next) = round.hosts.iter().find(|host| !round.done.contains(host)) else { return Ok(()) };
                    if context.cancel_requested() {
                        return Err(Problem::conflict(CANCELLED, "the update was cancelled between two hosts"));
                    }
                    let current = look(context, next)?;
                    round.current = Some(current.clone());
                    note(context, &round).await?;
                    current
                }
            };
            let position = round.done.len() + 1;
            let message = format!("host {position} of {}: {}", round.hosts.len(), current.host);
            context.progress(Progress { message, ..Progress::default() }).await?;
            match method {
                HostUpdate::Reboot => reboot(context, &current.host).await,
                HostUpdate::AwaitRestart => await_restart(context, &current).await,
            }
            .map_err(|problem| named(&current.host, problem))?;
            round.done.push(current.host);
            round.current = None;
            note(context, &round).await?;
        }
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        children::cancel_all(context).await?;
        let round: Round = context.memo(ROUND)?.unwrap_or_default();
        if let Some(current) = round.current.filter(|current| !current.was_drained) {
            back_to_work(context, &current.host).await?;
        }
        Ok(Undone::Yes)
    }
}

fn begin(context: &StepContext) -> Round {
    let cluster = context.target().clone();
    let hosts =
        context.app.model.read(|tables| hosts_of(tables, &cluster).map(|host| host.metadata.name.clone()).collect());
    Round { hosts, ..Round::default() }
}

async fn note(context: &mut StepContext, round: &Round) -> Result<(), Problem> {
    context.note(ROUND, round)?;
    context.save().await
}

fn named(host: &Name, problem: Problem) -> Problem {
    if problem.is_transient() || problem.code() == CANCELLED {
        return problem;
    }
    let detail = format!("the update stopped at host '{host}': {}", problem.detail);
    Problem { detail, ..problem }
}

fn look(context: &StepContext, name: &Name) -> Result<Current, Problem> {
    let host = context.app.model.get::<Host>(name.as_str());
    let host = host.ok_or_else(|| Problem::not_found(Host::KIND, name.as_str()))?;
    if host.status.state != HostState::Ready {
        let detail = format!("the update stops before host '{name}', which is not ready");
        return Err(Problem::conflict("host-not-ready", detail)
            .object(host.reference())
            .remedy("bring it back (or wake it: gantry host wake), or give it another cluster, then update again"));
    }
    let agent_instance =
        context.app.model.overlay(|overlay| overlay.hosts.get(name.as_str()).map(|report| report.agent_instance));
    let was_drained = host.status.maintenance == Maintenance::Drained;
    Ok(Current { host: name.clone(), agent_instance, was_drained })
}

async fn reboot(context: &StepContext, host: &Name) -> Result<(), Problem> {
    let child = match children::started(context, "host-reboot", host).pop() {
        Some(child) => child.metadata.name.clone(),
        None => {
            let query = WriteQuery::default();
            let changed = host_work::reboot(&context.app, &caller_of(context), host.as_str(), &query).await?;
            let Some(operation) = changed.operation else { return Ok(()) };
            operation.metadata.name
        }
    };
    children::follow(context, &child).await
}

async fn await_restart(context: &StepContext, current: &Current) -> Result<(), Problem> {
    let host = &current.host;
    let child = match children::started(context, "host-drain", host).pop() {
        Some(child) => Some(child.metadata.name.clone()),
        None if current.was_drained => None,
        None => {
            let query = WriteQuery::default();
            let changed = host_work::drain(&context.app, &caller_of(context), host.as_str(), &query).await?;
            changed.operation.map(|operation| operation.metadata.name)
        }
    };
    if let Some(child) = child {
        children::follow(context, &child).await?;
    }
    loop {
        let now =
            context.app.model.overlay(|overlay| overlay.hosts.get(host.as_str()).map(|report| report.agent_instance));
        let ready = context.app.model.get::<Host>(host.as_str()).is_some_and(|it| it.status.state == HostState::Ready);
        if ready && now.is_some() && now != current.agent_instance {
            break;
        }
        if context.cancel_requested() {
            return Err(Problem::conflict(CANCELLED, format!("waiting for host '{host}' was cancelled")));
        }
        context.sleep(POLL).await;
    }
    if current.was_drained { Ok(()) } else { back_to_work(context, host).await }
}

async fn back_to_work(context: &StepContext, host: &Name) -> Result<(), Problem> {
    let drained = context.app.objects.find::<Host>(host.as_str()).await?;
    if drained.is_none_or(|host| host.status.maintenance == Maintenance::Off) {
        return Ok(());
    }
    let query = WriteQuery::default();
    host_work::undrain(&Arc::clone(&context.app), &caller_of(context), host.as_str(), &query).await.map(drop)
}
