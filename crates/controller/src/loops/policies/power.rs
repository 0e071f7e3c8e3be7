//! Power management: fewer hosts awake while they are enough, never fewer than the promised failover and the spare.

use std::collections::BTreeMap;

use gantry_placement::power::{Outlook, Settings, propose};
use gantry_types::{Advice, Host, HostState, Name, Policy, PowerPolicy, Resource, Selector};

use super::{Findings, balance::cost, busy_hosts, past_moves, recommendation, under_way};
use crate::{
    app::{App, cluster::hosts_of},
    cluster_view::{active_schedules, snapshot_of},
};

pub(super) fn look(app: &App, policy: &Policy, rule: &PowerPolicy) -> Findings {
    let cluster = &policy.spec.cluster;
    let hold_s = u64::from(rule.hold_down_s);
    let settings = Settings {
        spare_hosts: rule.spare,
        vm_hold_s: hold_s,
        host_hold_s: hold_s,
        interval_s: u64::from(rule.interval_s),
        max_moves: 2,
        ..Settings::default()
    };
    let hosts: Vec<_> = app.model.read(|tables| hosts_of(tables, cluster).cloned().collect());
    let plan = propose(&snapshot_of(app, cluster), &settings, &outlook(app, &hosts, hold_s));
    let mut recommendations = Vec::new();
    for step in plan.wake {
        recommendations.push(recommendation(Advice::Wake { host: step.host }, step.reason, 1.0, 0.0));
    }
    let busy = busy_hosts(app);
    for step in plan.moves {
        if busy.contains_key(&step.from) || busy.contains_key(&step.to) {
            continue;
        }
        let advice = Advice::Move { vm: step.name, from: step.from, to: step.to };
        recommendations.push(recommendation(advice, step.reason, 1.0, 0.0));
    }
    let scheduled: Vec<Selector> = active_schedules(app).into_iter().map(|(_, _, hosts)| hosts).collect();
    for step in plan.sleep {
        let host = hosts.iter().find(|host| host.metadata.name == step.host);
        // A schedule that holds wants it; and what works on it has reasons of its own.
        let free = |host: &Host| {
            host.status.operation.is_none() && !scheduled.iter().any(|hosts| hosts.matches(&host.metadata.labels))
        };
        if host.is_some_and(|host| free(host)) {
            recommendations.push(recommendation(Advice::Sleep { host: step.host }, step.reason, 1.0, 0.0));
        }
    }
    let finding = finding(&hosts, &plan.left);
    // One thing at a time: what comes next depends on what has become of it.
    let may_begin = 2usize.saturating_sub(under_way(app, policy));
    Findings { finding, recommendations, may_begin }
}

fn outlook(app: &App, hosts: &[std::sync::Arc<Host>], hold_s: u64) -> Outlook {
    let now = app.clock.now();
    let woke = hosts.iter().filter_map(|host| {
        let proof = host.status.wake_proof.as_ref()?;
        Some((host.metadata.name.clone(), now.since(proof.at).as_secs()))
    });
    let awake_for_s: BTreeMap<Name, u64> = woke.collect();
    let moves = past_moves(app, hold_s);
    Outlook {
        demand_factor: 1.0,
        moved_s_ago: moves.iter().map(|past| (past.vm, past.age_s)).collect(),
        awake_for_s,
        cost: cost(app).moves,
        ..Outlook::default()
    }
}

fn finding(hosts: &[std::sync::Arc<Host>], left: &[String]) -> String {
    let count = |state: HostState| hosts.iter().filter(|host| host.status.state == state).count();
    let mut finding = format!("{} hosts awake, {} asleep", count(HostState::Ready), count(HostState::Sleeping));
    let unproved: Vec<_> = hosts
        .iter()
        .filter(|host| host.status.state == HostState::Ready && host.spec.power.is_some())
        .filter(|host| host.status.wake_proof.is_none())
        .map(|host| host.name())
        .collect();
    if !unproved.is_empty() {
        finding +=
            &format!("; that {} can be woken is not proved (gantry host reboot {})", unproved.join(", "), unproved[0]);
    }
    if let Some(left) = left.first() {
        finding += &format!("; {left}");
    }
    finding
}
