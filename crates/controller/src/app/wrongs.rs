//! What somebody should look at, in words and with what to do next.
//!
//! Only what is so now; what has happened are events. A host that is lost is told once, with its VMs. What an alarm fires for
//! is told too, unless it is told here anyway, somebody takes care of it, or nobody is to hear of it.

use std::collections::HashMap;

use gantry_api::overview::{Named, Wrong, WrongSeverity};
use gantry_types::{
    Alarm, AlarmCondition, AlarmMetric, AlarmSeverity, AlarmState, Firing, Host, HostState, Image, ImagePhase,
    Operation, OperationPhase, Pool, PoolHealth, Resource, StepState, StepStatus, Timestamp, Vm,
};

use crate::model::{Overlay, Tables};

const SHOWN: usize = 50;
/// A step that was tried this often is not just waiting its turn.
const MANY_ATTEMPTS: u32 = 3;

/// What was seen of VMs by whoever has looked at each of them.
#[derive(Default)]
pub struct SeenVms<'a> {
    pub failed: Vec<&'a Vm>,
    pub on_hosts: HashMap<&'a str, u64>,
}

enum Subject<'a> {
    LostHost(&'a Host),
    Vm(&'a Vm),
    Pool(&'a Pool),
    Image(&'a Image),
    Operation(&'a Operation, &'a StepStatus),
    Alarm(&'a Alarm, &'a Firing),
}

/// The most serious, and how many there are in all.
pub fn find(tables: &Tables, overlay: &Overlay, vms: &SeenVms<'_>, now: Timestamp) -> (Vec<Wrong>, u64) {
    let lost = tables.hosts.values().filter(|host| host.status.state == HostState::Lost);
    let pools = tables.pools.values().filter(|pool| is_wrong(pool));
    let images = tables.images.values().filter(|image| image.status.phase == ImagePhase::Failed);
    let operations = tables.operations.values().filter_map(|operation| Some((operation, stuck_step(operation)?)));
    let alarms = tables.alarms.values().filter(|alarm| is_news(alarm));
    let fired = alarms.flat_map(|alarm| {
        let waiting = alarm.status.firings.iter().filter(|firing| firing.state == AlarmState::Firing);
        waiting.map(move |firing| Subject::Alarm(alarm, firing))
    });
    let mut subjects: Vec<Subject<'_>> = lost.map(|host| Subject::LostHost(host)).collect();
    subjects.extend(vms.failed.iter().map(|vm| Subject::Vm(vm)));
    subjects.extend(fired);
    subjects.extend(pools.map(|pool| Subject::Pool(pool)));
    subjects.extend(images.map(|image| Subject::Image(image)));
    subjects.extend(operations.map(|(operation, step)| Subject::Operation(operation, step)));
    let total = subjects.len() as u64;
    // Words are made only for those that are shown.
    subjects.sort_by_key(Subject::severity);
    subjects.truncate(SHOWN);
    (subjects.into_iter().map(|subject| subject.told(overlay, vms, now)).collect(), total)
}

/// That a host of its own is lost is told of the host.
fn is_wrong(pool: &Pool) -> bool {
    match pool.status.health {
        PoolHealth::Unknown | PoolHealth::Healthy => false,
        PoolHealth::Unreachable => !pool.is_local(),
        _ => true,
    }
}

fn stuck_step(operation: &Operation) -> Option<&StepStatus> {
    let is_at_work = matches!(operation.status.phase, OperationPhase::Running | OperationPhase::Unwinding);
    let mut steps = operation.status.steps.iter().filter(|_| is_at_work);
    steps.find(|step| step.state == StepState::Running && step.attempts >= MANY_ATTEMPTS && step.error.is_some())
}

/// Whether it is an alarm of something that is serious, and not told here by itself.
fn is_news(alarm: &Alarm) -> bool {
    let is_told = match &alarm.spec.condition {
        AlarmCondition::Metric(of) => matches!(
            of.metric,
            AlarmMetric::HostLost | AlarmMetric::VmFailed | AlarmMetric::PoolNearlyFull | AlarmMetric::PoolUnhealthy
        ),
        AlarmCondition::Event(_) => false,
    };
    !is_told && alarm.spec.severity > AlarmSeverity::Info
}

fn wrong(severity: WrongSeverity, object: &impl Resource, what: String, remedy: String) -> Wrong {
    let reference = object.reference();
    let object = Named { kind: reference.kind, name: reference.name.to_string() };
    Wrong { severity, object, what, remedy: Some(remedy), since: None, alarm: None }
}

impl Subject<'_> {
    fn severity(&self) -> WrongSeverity {
        let is_critical = match self {
            Self::LostHost(_) | Self::Vm(_) => true,
            Self::Pool(pool) => pool.status.health != PoolHealth::NearlyFull,
            Self::Image(_) | Self::Operation(..) => false,
            Self::Alarm(alarm, _) => alarm.spec.severity == AlarmSeverity::Critical,
        };
        if is_critical { WrongSeverity::Critical } else { WrongSeverity::Warning }
    }

    fn told(&self, overlay: &Overlay, vms: &SeenVms<'_>, now: Timestamp) -> Wrong {
        let severity = self.severity();
        match self {
            Self::LostHost(host) => of_host(severity, host, overlay, vms, now),
            Self::Vm(vm) => of_vm(severity, vm),
            Self::Pool(pool) => of_pool(severity, pool),
            Self::Image(image) => of_image(severity, image),
            Self::Operation(operation, step) => of_operation(severity, operation, step),
            Self::Alarm(alarm, firing) => of_alarm(severity, alarm, firing),
        }
    }
}

fn of_host(severity: WrongSeverity, host: &Host, overlay: &Overlay, vms: &SeenVms<'_>, now: Timestamp) -> Wrong {
    let name = host.name();
    let on_it = vms.on_hosts.get(name).copied().unwrap_or_default();
    let seen = overlay.hosts.get(name).map(|report| report.last_seen).or(host.status.last_seen);
    let since = seen.map_or_else(String::new, |seen| format!(" for {} s", now.since(seen).as_secs()));
    let what = format!("host '{name}' has not been heard{since}; it has {on_it} VMs, which may still run");
    let remedy = format!("check its power and network, then its agent; see: gantry describe host {name}");
    Wrong { since: seen, ..wrong(severity, host, what, remedy) }
}

fn of_vm(severity: WrongSeverity, vm: &Vm) -> Wrong {
    let name = vm.name();
    let reason = vm.status.reason.as_deref().unwrap_or("no reason was recorded");
    let remedy = format!("when the cause is gone: gantry vm start {name}; see: gantry describe vm {name}");
    wrong(severity, vm, format!("VM '{name}' has failed: {reason}"), remedy)
}

fn of_pool(severity: WrongSeverity, pool: &Pool) -> Wrong {
    let (name, health) = (pool.name(), pool.status.health);
    let reason = pool.status.reason.as_deref().map_or_else(String::new, |reason| format!(": {reason}"));
    let remedy = match health {
        PoolHealth::NearlyFull | PoolHealth::Full => {
            format!(
                "move VMs and volumes away from it, delete what nobody needs, or give it more space; see: gantry pool show {name}"
            )
        }
        PoolHealth::Unreachable => format!("bring one of its hosts back; see: gantry pool show {name}"),
        _ => format!("look at its file system on its hosts; see: gantry pool show {name}"),
    };
    wrong(severity, pool, format!("pool '{name}' is {health}{reason}"), remedy)
}

fn of_image(severity: WrongSeverity, image: &Image) -> Wrong {
    let name = image.name();
    let reason = image.status.reason.as_deref().unwrap_or("no reason was recorded");
    let remedy = format!("import it again: gantry image import {name} FILE|URL; or delete it");
    wrong(severity, image, format!("image '{name}' could not be imported: {reason}"), remedy)
}

fn of_operation(severity: WrongSeverity, operation: &Operation, step: &StepStatus) -> Wrong {
    let (name, error) = (operation.name(), step.error.as_deref().unwrap_or_default());
    let what = format!(
        "operation '{name}' on {} tries step '{}' again and again ({}): {error}",
        operation.spec.target, step.name, step.attempts
    );
    let remedy = format!("remove the cause, or stop it: gantry operation cancel {name}");
    Wrong { since: step.started_at, ..wrong(severity, operation, what, remedy) }
}

/// What is to be done says whoever made the alarm.
fn of_alarm(severity: WrongSeverity, alarm: &Alarm, firing: &Firing) -> Wrong {
    let name = alarm.name();
    let take_care = format!(
        "take care of it, and say so: gantry alarm acknowledge {name} --object {}/{}",
        firing.object.kind, firing.object.name
    );
    let remedy = if alarm.spec.description.is_empty() { take_care } else { alarm.spec.description.clone() };
    let object = Named { kind: firing.object.kind.clone(), name: firing.object.name.to_string() };
    Wrong {
        severity,
        object,
        what: firing.message.clone(),
        remedy: Some(remedy),
        since: Some(firing.since),
        alarm: Some(alarm.metadata.name.clone()),
    }
}
