//! While a schedule holds: hosts that it names are woken, and VMs that it names are moved to them. New VMs and other
//! policies heed it by themselves (`cluster_view`). Hosts that sleep are woken ahead of it, by as long as waking took them.

use std::sync::Arc;

use gantry_placement::{Placement, Request, explain, place};
use gantry_types::{Advice, Host, HostState, Name, Policy, Resource, SchedulePolicy, Selector, Vm};

use super::{Findings, busy_hosts, lead, recommendation, under_way};
use crate::{
    app::App,
    cluster_view::{Loads, active_schedules, request_of, with_snapshot},
};

/// Schedules are looked at this often.
const INTERVAL_S: u64 = 5;

pub(super) fn look(app: &App, policy: &Policy, rule: &SchedulePolicy) -> Findings {
    let (Ok(vms), Ok(hosts)) = (rule.vms.parse::<Selector>(), rule.hosts.parse::<Selector>()) else {
        return Findings::default();
    };
    let all = app.model.list::<Host>();
    let chosen: Vec<Arc<Host>> = all.into_iter().filter(|host| hosts.matches(&host.metadata.labels)).collect();
    let now = app.clock.now();
    let holds = rule.holds_at(now);
    if !holds && !rule.holds_at(now.after(lead(&chosen, INTERVAL_S))) {
        let finding = format!("does not hold now; from {} to {} UTC", rule.from, rule.until);
        return Findings { finding, ..Findings::default() };
    }
    let when = if holds { "now" } else { "soon, and it takes that long to wake" };
    let asleep = chosen.iter().filter(|host| host.status.state == HostState::Sleeping);
    let mut recommendations: Vec<_> = asleep
        .map(|host| {
            let reason = format!("schedule '{}' needs it {when}", policy.name());
            recommendation(Advice::Wake { host: host.metadata.name.clone() }, reason, 1.0, 0.0)
        })
        .collect();
    let may_begin = (rule.max_moves as usize).saturating_sub(under_way(app, policy));
    if !holds {
        let finding = format!("does not hold yet; hosts are woken for it, from {} UTC", rule.from);
        return Findings { finding, recommendations, may_begin };
    }
    let misplaced = misplaced(app, policy, &vms, &chosen);
    let busy = busy_hosts(app);
    for (vm, at, to) in &misplaced {
        let Some(to) = to.as_ref().filter(|to| !busy.contains_key(at) && !busy.contains_key(&to.host)) else {
            continue;
        };
        let reason = format!("schedule '{}' has it on hosts {} now", policy.name(), rule.hosts);
        let advice = Advice::Move { vm: vm.metadata.name.clone(), from: at.clone(), to: to.host.clone() };
        recommendations.push(recommendation(advice, reason, 1.0, 0.0));
    }
    let finding = match misplaced.len() {
        0 => format!("holds until {} UTC, and every VM is where it belongs", rule.until),
        some => format!("holds until {} UTC; {some} VMs are elsewhere", rule.until),
    };
    Findings { finding, recommendations, may_begin }
}

/// VMs of the schedule that run on hosts other than its own: where they are, and where they could go.
fn misplaced(
    app: &App,
    policy: &Policy,
    vms: &Selector,
    chosen: &[Arc<Host>],
) -> Vec<(Arc<Vm>, Name, Option<Placement>)> {
    let schedules = active_schedules(app);
    let elsewhere: Vec<(Arc<Vm>, Name, Request)> = app.model.read(|tables| {
        let matching =
            tables.vms.values().filter(|vm| vms.matches(&vm.metadata.labels) && vm.status.phase.may_execute());
        let found = matching.filter_map(|vm| {
            let at = vm.status.host.clone()?;
            let is_there = chosen.iter().any(|host| host.metadata.name == at);
            let mut request = request_of(tables, &schedules, vm);
            request.except = Some(at.clone());
            (!is_there).then(|| (Arc::clone(vm), at, request))
        });
        found.collect()
    });
    with_snapshot(app, &policy.spec.cluster, Loads::Now, |snapshot| {
        let here = elsewhere.into_iter().filter(|(_, at, _)| snapshot.host(at).is_some());
        here.map(|(vm, at, request)| {
            let to = place(snapshot, &request).ok();
            if to.is_none() {
                let why = explain(snapshot, &request).hosts.into_iter().find_map(|verdict| verdict.reason);
                tracing::debug!(vm = vm.name(), why, "the schedule finds no place for it");
            }
            (vm, at, to)
        })
        .collect()
    })
}
