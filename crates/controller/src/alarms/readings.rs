//! What alarms' metrics are now, for each object.

use std::sync::Arc;

use gantry_types::{
    Alarm, AlarmMetric, Host, HostState, LeaseStanding, MetricCondition, ObjectRef, Pool, PoolHealth, PowerState,
    ProbeKind, Resource, Vm, VmPhase,
};

use super::turn::{Known, Reading, is_beyond};
use crate::model::{Kind, Overlay, Tables};

/// A kind of object that alarms have metrics of.
trait Measured: Kind {
    /// `None` if nobody can say now.
    fn measure(&self, metric: AlarmMetric, overlay: &Overlay) -> Option<f64>;
    /// Why it is as it is, for people.
    fn cause(&self, metric: AlarmMetric) -> Option<String>;
}

fn so(is_so: bool) -> Option<f64> {
    Some(f64::from(u8::from(is_so)))
}

impl Measured for Host {
    fn measure(&self, metric: AlarmMetric, overlay: &Overlay) -> Option<f64> {
        let report = || overlay.hosts.get(self.name()).filter(|_| self.status.state == HostState::Ready);
        match metric {
            AlarmMetric::HostLost => so(self.status.state == HostState::Lost),
            AlarmMetric::HostUnfenced => so(self.status.fence.as_ref().is_some_and(|fence| fence.proof.is_none())),
            AlarmMetric::HostLeaseless => {
                let lease = report()?.lease.as_ref()?;
                so(lease.standing == LeaseStanding::Lapsed || lease.problem.is_some())
            }
            AlarmMetric::HostCpuPercent => Some(report()?.metrics.cpu_percent),
            AlarmMetric::HostMemoryPercent => {
                let whole = self.status.inventory.as_ref()?.memory.bytes();
                (whole > 0).then_some(report()?.metrics.memory_used.bytes() as f64 * 100.0 / whole as f64)
            }
            _ => None,
        }
    }

    fn cause(&self, metric: AlarmMetric) -> Option<String> {
        match metric {
            AlarmMetric::HostUnfenced => Some(self.status.fence.as_ref()?.record.why.clone()),
            _ => None,
        }
    }
}

impl Measured for Vm {
    fn measure(&self, metric: AlarmMetric, overlay: &Overlay) -> Option<f64> {
        let status = &self.status;
        let has_failed = status.phase == VmPhase::Failed;
        match metric {
            AlarmMetric::VmFailed => so(has_failed && self.spec.power == PowerState::Running),
            AlarmMetric::VmNotRestarted => {
                let waits = status.displaced.as_ref().is_some_and(|displaced| displaced.waits.is_some());
                so(waits || has_failed && status.ha.given_up)
            }
            AlarmMetric::VmUnhealthy => {
                let is_failing = status.probes.iter().any(|probe| probe.is_failing(ProbeKind::Liveness));
                so(is_failing || status.ha.unhealthy.is_some())
            }
            AlarmMetric::VmCpuPercent => match status.phase {
                VmPhase::Running => Some(overlay.vm_metrics.get(&self.metadata.uuid)?.cpu_percent),
                _ => Some(0.0),
            },
            _ => None,
        }
    }

    fn cause(&self, metric: AlarmMetric) -> Option<String> {
        match metric {
            AlarmMetric::VmFailed | AlarmMetric::VmNotRestarted => self.status.reason.clone(),
            AlarmMetric::VmUnhealthy => {
                let probe = self.status.probes.iter().find(|probe| probe.is_failing(ProbeKind::Liveness));
                self.status.ha.unhealthy.clone().or_else(|| probe?.message.clone())
            }
            _ => None,
        }
    }
}

impl Measured for Pool {
    fn measure(&self, metric: AlarmMetric, overlay: &Overlay) -> Option<f64> {
        let health = self.status.health;
        if health == PoolHealth::Unknown {
            return None;
        }
        match metric {
            AlarmMetric::PoolNearlyFull => so(matches!(health, PoolHealth::NearlyFull | PoolHealth::Full)),
            AlarmMetric::PoolUnhealthy => {
                so(!matches!(health, PoolHealth::Healthy | PoolHealth::NearlyFull | PoolHealth::Full))
            }
            AlarmMetric::PoolUsedPercent => {
                let mut shown = self.clone();
                shown.lay_over(overlay);
                Some(shown.status.space?.used_percent() as f64)
            }
            _ => None,
        }
    }

    fn cause(&self, metric: AlarmMetric) -> Option<String> {
        match metric {
            AlarmMetric::PoolUsedPercent => None,
            _ => self.status.reason.clone(),
        }
    }
}

fn told<T: Measured>(object: &T, metric: AlarmMetric, value: f64) -> String {
    let what = match metric {
        AlarmMetric::HostLost => "does not report".to_owned(),
        AlarmMetric::HostUnfenced => "is being shut out, and nothing proves yet that its VMs are stopped".to_owned(),
        AlarmMetric::HostLeaseless => "can't run protected VMs: its lease has lapsed, or its warden is gone".to_owned(),
        AlarmMetric::HostCpuPercent => format!("uses {value:.0} % of its processors"),
        AlarmMetric::HostMemoryPercent => format!("uses {value:.0} % of its memory"),
        AlarmMetric::VmFailed => "has failed".to_owned(),
        AlarmMetric::VmNotRestarted => "is not started again".to_owned(),
        AlarmMetric::VmUnhealthy => "does not serve".to_owned(),
        AlarmMetric::VmCpuPercent => format!("uses {value:.0} % of a processor"),
        AlarmMetric::PoolUsedPercent => format!("is {value:.0} % full"),
        AlarmMetric::PoolNearlyFull => "is nearly full".to_owned(),
        AlarmMetric::PoolUnhealthy => "can't be used".to_owned(),
    };
    let cause = object.cause(metric).map_or_else(String::new, |cause| format!(": {cause}"));
    format!("{} '{}' {what}{cause}", T::KIND, object.name())
}

fn beyond_of<T: Measured>(tables: &Tables, overlay: &Overlay, alarm: &Alarm, of: &MetricCondition) -> Vec<Reading> {
    let reading = |object: &Arc<T>| {
        let metadata = object.metadata();
        if !alarm.spec.objects.selects(T::KIND, &metadata.name, &metadata.labels) {
            return None;
        }
        let value = object.measure(of.metric, overlay).filter(|value| is_beyond(of, *value))?;
        Some(Reading { object: object.reference(), value, message: told(&**object, of.metric, value) })
    };
    T::table(tables).values().filter_map(reading).collect()
}

/// Every object that the alarm is about and whose metric is beyond its threshold.
pub fn beyond(tables: &Tables, overlay: &Overlay, alarm: &Alarm, of: &MetricCondition) -> Vec<Reading> {
    match of.metric.kind() {
        Host::KIND => beyond_of::<Host>(tables, overlay, alarm, of),
        Vm::KIND => beyond_of::<Vm>(tables, overlay, alarm, of),
        _ => beyond_of::<Pool>(tables, overlay, alarm, of),
    }
}

fn known_of<T: Measured>(
    tables: &Tables,
    overlay: &Overlay,
    alarm: &Alarm,
    of: &MetricCondition,
    object: &ObjectRef,
) -> Known {
    let found = T::table(tables).get(object.name.as_str()).filter(|found| found.metadata().uuid == object.uuid);
    let selected = |found: &&Arc<T>| {
        let metadata = found.metadata();
        alarm.spec.objects.selects(T::KIND, &metadata.name, &metadata.labels)
    };
    let Some(found) = found.filter(selected).filter(|_| object.kind == T::KIND) else { return Known::Gone };
    match found.measure(of.metric, overlay) {
        None => Known::Unknown,
        Some(value) if is_beyond(of, value) => Known::Beyond,
        Some(_) => Known::Within,
    }
}

/// What is known of an object for which the alarm fires.
pub fn known(tables: &Tables, overlay: &Overlay, alarm: &Alarm, of: &MetricCondition, object: &ObjectRef) -> Known {
    match of.metric.kind() {
        Host::KIND => known_of::<Host>(tables, overlay, alarm, of, object),
        Vm::KIND => known_of::<Vm>(tables, overlay, alarm, of, object),
        _ => known_of::<Pool>(tables, overlay, alarm, of, object),
    }
}
