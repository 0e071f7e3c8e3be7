//! Writes down who is behind each load balancer and who of them is healthy, from what the members' hosts report; and
//! which host translates the floating addresses that lead to one.
//!
//! A member is healthy when its host says so. What no host has reported yet stays as it was: a VM that has just moved is
//! as healthy as it was before, and a controller that has just started changes nothing. A member whose host is lost gets
//! no new connections.

use gantry_types::{
    FloatingIp, Host, HostState, LoadBalancer, LoadBalancerMember, Name, Problem, Resource, Severity, Vm,
};
use uuid::Uuid;

use crate::{
    app::App,
    host_balancers::{Behind, behind, target_of},
    model::{Overlay, Tables},
    objects::Change,
};

pub async fn pass(app: &App) {
    for balancer in app.model.list::<LoadBalancer>() {
        if let Err(problem) = note_members(app, &balancer.metadata.name).await {
            tracing::debug!(load_balancer = balancer.name(), %problem, "the next pass notes its members");
        }
    }
    for floating in app.model.list::<FloatingIp>() {
        if let Err(problem) = choose_host(app, &floating.metadata.name).await {
            tracing::debug!(floating_ip = floating.name(), %problem, "the next pass chooses its host");
        }
    }
}

async fn note_members(app: &App, name: &Name) -> Result<(), Problem> {
    let seen = |balancer: &LoadBalancer| {
        app.model.read(|tables| app.model.overlay(|overlay| members(tables, overlay, balancer)))
    };
    let is_news = |balancer: &LoadBalancer, members: &[LoadBalancerMember]| balancer.status.members != members;
    let shown = app.model.get::<LoadBalancer>(name.as_str());
    if shown.is_some_and(|balancer| !is_news(&balancer, &seen(&balancer))) {
        return Ok(());
    }
    app.objects
        .racing(|| async {
            let Some(mut balancer) = app.objects.find::<LoadBalancer>(name.as_str()).await? else { return Ok(()) };
            let mut members = seen(&balancer);
            if !is_news(&balancer, &members) {
                return Ok(());
            }
            let mut change = Change::new();
            for member in &mut members {
                let before = balancer.status.members.iter().find(|before| before.port == member.port);
                if before.is_some_and(|before| before.healthy == member.healthy) {
                    continue;
                }
                member.since = Some(app.clock.now());
                // One that was never healthy is only on its way.
                if before.is_none() && !member.healthy {
                    continue;
                }
                let (severity, reason) = match member.healthy {
                    true => (Severity::Normal, "MemberHealthy"),
                    false => (Severity::Warning, "MemberUnhealthy"),
                };
                let state = match &member.reason {
                    Some(reason) => format!("gets no new connections: {reason}"),
                    None => "gets new connections".to_owned(),
                };
                let message = format!("VM '{}' behind load-balancer '{name}' {state}", member.vm);
                change.event(&app.event(balancer.reference(), severity, reason, message))?;
            }
            balancer.status.members = members;
            change.update(&balancer)?;
            app.commit(change).await?;
            Ok(())
        })
        .await
}

/// As they are now; those whose health has not changed since `balancer` was written have its `since`.
fn members(tables: &Tables, overlay: &Overlay, balancer: &LoadBalancer) -> Vec<LoadBalancerMember> {
    let of = |Behind { vm, nic, address }: Behind<'_>| {
        let before = balancer.status.members.iter().find(|before| before.port == nic.port);
        let reason = unhealthy(tables, overlay, balancer.metadata.uuid, vm, nic.port, before);
        LoadBalancerMember {
            vm: vm.metadata.name.clone(),
            port: nic.port,
            address,
            host: vm.status.host.clone(),
            healthy: reason.is_none(),
            since: before.filter(|before| before.healthy == reason.is_none()).and_then(|before| before.since),
            reason,
        }
    };
    behind(tables, balancer).into_iter().map(of).collect()
}

/// Why a member is not healthy; nothing if it is.
fn unhealthy(
    tables: &Tables,
    overlay: &Overlay,
    balancer: Uuid,
    vm: &Vm,
    port: Uuid,
    before: Option<&LoadBalancerMember>,
) -> Option<String> {
    let Some(host) = &vm.status.host else { return Some(format!("the VM is {}", vm.status.phase)) };
    if tables.hosts.get(host.as_str()).is_none_or(|host| host.status.state != HostState::Ready) {
        return Some(format!("host '{host}' does not answer"));
    }
    let reports = overlay.hosts.get(host.as_str()).map(|report| report.members.as_slice()).unwrap_or_default();
    match reports.iter().find(|report| report.balancer == balancer && report.port == port) {
        Some(report) => report.problem.clone(),
        None => match before {
            Some(before) => before.reason.clone(),
            None => Some("it has not been checked yet".to_owned()),
        },
    }
}

/// The same one as long as it is ready: connections that came by it are known there only.
async fn choose_host(app: &App, name: &Name) -> Result<(), Problem> {
    let wanted = |floating: &FloatingIp| app.model.read(|tables| host_for(tables, floating));
    let shown = app.model.get::<FloatingIp>(name.as_str());
    if shown.is_some_and(|floating| floating.status.host == wanted(&floating)) {
        return Ok(());
    }
    app.objects
        .racing(|| async {
            let Some(mut floating) = app.objects.find::<FloatingIp>(name.as_str()).await? else { return Ok(()) };
            let host = wanted(&floating);
            if floating.status.host == host {
                return Ok(());
            }
            floating.status.host = host;
            let mut change = Change::new();
            change.update(&floating)?;
            app.commit(change).await?;
            Ok(())
        })
        .await
}

fn host_for(tables: &Tables, floating: &FloatingIp) -> Option<Name> {
    let (balancer, _) = target_of(tables, floating)?;
    let is_ready = |host: &Host| host.status.state == HostState::Ready;
    let current = floating.status.host.as_ref().and_then(|host| tables.hosts.get(host.as_str()));
    if let Some(current) = current.filter(|host| is_ready(host)) {
        return Some(current.metadata.name.clone());
    }
    // Spread over the hosts; one that has a member saves a hop.
    let has_member =
        |host: &Host| balancer.status.members.iter().any(|member| member.host.as_ref() == Some(&host.metadata.name));
    let ready = tables.hosts.values().filter(|host| is_ready(host));
    let rank = |host: &Host| {
        let drawn = Uuid::new_v5(&floating.metadata.uuid, host.metadata.uuid.as_bytes());
        (!has_member(host), drawn)
    };
    ready.min_by_key(|host| rank(host)).map(|host| host.metadata.name.clone())
}
