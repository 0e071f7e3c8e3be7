//! While a schedule holds: hosts that it names are woken, and VMs that it names are moved to them. New VMs and other
//! policies heed it by themselves (`cluster_view`).

use gantry_placement::{explain, place};
use gantry_types::{Advice, Host, HostState, Policy, Resource, SchedulePolicy, Selector, Vm};

use super::{Findings, busy_hosts, recommendation, under_way};
use crate::{
    app::App,
    cluster_view::{active_schedules, request_of, snapshot_of},
};

pub(super) fn look(app: &App, policy: &Policy, rule: &SchedulePolicy) -> Findings {
    if !rule.holds_at(app.clock.now()) {
        let finding = format!("does not hold now; from {} to {} UTC", rule.from, rule.until);
        return Findings { finding, ..Findings::default() };
    }
    let (Ok(vms), Ok(hosts)) = (rule.vms.parse::<Selector>(), rule.hosts.parse::<Selector>()) else {
        return Findings::default();
    };
    let mut recommendations = Vec::new();
    let chosen: Vec<_> =
        app.model.list::<Host>().into_iter().filter(|host| hosts.matches(&host.metadata.labels)).collect();
    for host in chosen.iter().filter(|host| host.status.state == HostState::Sleeping) {
        let advice = Advice::Wake { host: host.metadata.name.clone() };
        recommendations.push(recommendation(advice, format!("schedule '{}' needs it now", policy.name()), 1.0, 0.0));
    }
    let mut misplaced = 0;
    let schedules = active_schedules(app);
    let snapshot = snapshot_of(app, &policy.spec.cluster);
    let busy = busy_hosts(app);
    for vm in app.model.list::<Vm>().into_iter().filter(|vm| vms.matches(&vm.metadata.labels)) {
        let Some(at) = vm.status.host.clone().filter(|_| vm.status.phase.may_execute()) else { continue };
        if chosen.iter().any(|host| host.metadata.name == at) || snapshot.host(&at).is_none() {
            continue;
        }
        misplaced += 1;
        let mut request = app.model.read(|tables| request_of(tables, &schedules, &vm));
        request.except = Some(at.clone());
        match place(&snapshot, &request) {
            Ok(placement) if !busy.contains_key(&at) && !busy.contains_key(&placement.host) => {
                let reason = format!("schedule '{}' has it on hosts {} now", policy.name(), rule.hosts);
                let advice = Advice::Move { vm: vm.metadata.name.clone(), from: at, to: placement.host };
                recommendations.push(recommendation(advice, reason, 1.0, 0.0));
            }
            Ok(_) => {}
            Err(_) => {
                let why = explain(&snapshot, &request).hosts.into_iter().find_map(|verdict| verdict.reason);
                tracing::debug!(vm = vm.name(), why, "the schedule finds no place for it");
            }
        }
    }
    let finding = match misplaced {
        0 => format!("holds until {} UTC, and every VM is where it belongs", rule.until),
        some => format!("holds until {} UTC; {some} VMs are elsewhere", rule.until),
    };
    let may_begin = (rule.max_moves as usize).saturating_sub(under_way(app, policy));
    Findings { finding, recommendations, may_begin }
}
