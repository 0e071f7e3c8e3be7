//! Power management: fewer hosts awake while they are enough, never fewer than the promised failover and the spare.

use std::{collections::BTreeMap, time::Duration};

use gantry_placement::power::{Outlook, Settings, propose};
use gantry_types::{Advice, Host, HostState, Name, Policy, PowerPolicy, Resource, Selector};

use super::{Findings, balance::cost, busy_hosts, past_moves, recommendation, under_way};
use crate::{
    app::{App, cluster::hosts_of},
    cluster_view::{Loads, schedules_at, with_snapshot},
};

/// A shorter sleep saves less than going to sleep and waking cost.
const SLEEP_WORTH: Duration = Duration::from_secs(300);

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
    let outlook = outlook(app, &hosts, hold_s);
    let ahead = app.demands.ahead(cluster, lead(&hosts, u64::from(rule.interval_s)));
    let plan = with_snapshot(app, cluster, Loads::Now, |snapshot| {
        let expected: f64 = snapshot.vms().filter(|vm| vm.running).map(|vm| vm.request.demand.expected).sum();
        let demand_factor = if expected > 0.0 { ahead / expected } else { 1.0 };
        propose(snapshot, &settings, &Outlook { demand_factor, ..outlook })
    });
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
    // A host that is wanted before it could have slept and be back stays awake.
    let soon = app.clock.now().after(2 * lead(&hosts, u64::from(rule.interval_s)) + SLEEP_WORTH);
    let scheduled: Vec<Selector> =
        [app.clock.now(), soon].into_iter().flat_map(|at| schedules_at(app, at)).map(|(_, _, hosts)| hosts).collect();
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

/// Until a host that is woken now can serve, as the hosts that sleep took last, and until the next look.
pub(super) fn lead(hosts: &[std::sync::Arc<Host>], interval_s: u64) -> Duration {
    let asleep = hosts.iter().filter(|host| host.status.state == HostState::Sleeping);
    let took = asleep.filter_map(|host| Some(host.status.wake_proof.as_ref()?.took_ms)).max().unwrap_or_default();
    Duration::from_secs(interval_s) + Duration::from_millis(took)
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
