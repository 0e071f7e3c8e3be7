//! The alarms that come with Gantry.

use gantry_types::{
    Alarm, AlarmCondition, AlarmMetric, AlarmSeverity, AlarmSpec, MetricCondition, Name, ObjectSelector, Problem,
    Resource,
};

use crate::{
    clock::Clock,
    objects::{CHANGED_MEANWHILE, Change, Objects},
};

/// Name, severity, metric, threshold, seconds, description.
type Row = (&'static str, AlarmSeverity, AlarmMetric, f64, u32, &'static str);

const ALARMS: [Row; 9] = [
    (
        "host-lost",
        AlarmSeverity::Critical,
        AlarmMetric::HostLost,
        0.0,
        0,
        "A host has stopped reporting. What is protected there starts elsewhere once it is proved to be shut out.",
    ),
    (
        "host-not-fenced",
        AlarmSeverity::Critical,
        AlarmMetric::HostUnfenced,
        0.0,
        60,
        "A host is being shut out and nothing proves that its VMs are stopped, so they are not started elsewhere. Switch it \
         off by hand, or see why too few members of its cluster answer: gantry describe host NAME",
    ),
    (
        "host-without-lease",
        AlarmSeverity::Critical,
        AlarmMetric::HostLeaseless,
        0.0,
        30,
        "A host reports and may not run protected VMs: see its agent's log and warden.log.",
    ),
    (
        "vm-failed",
        AlarmSeverity::Warning,
        AlarmMetric::VmFailed,
        0.0,
        60,
        "A VM that should run has failed, and nobody has started it again: gantry ha explain NAME",
    ),
    (
        "vm-not-restarted",
        AlarmSeverity::Critical,
        AlarmMetric::VmNotRestarted,
        0.0,
        60,
        "A protected VM can't be started again: it failed too often, or no host has room for it or reaches its disk: gantry ha \
         explain NAME",
    ),
    (
        "vm-unhealthy",
        AlarmSeverity::Warning,
        AlarmMetric::VmUnhealthy,
        0.0,
        0,
        "A VM runs and does not serve: a liveness probe fails, or its guest hangs and its policy is only to tell of it.",
    ),
    (
        "pool-nearly-full",
        AlarmSeverity::Warning,
        AlarmMetric::PoolNearlyFull,
        0.0,
        60,
        "A pool is fuller than its spec.alarm_percent. Make room before its VMs are paused: gantry volume list",
    ),
    (
        "pool-unhealthy",
        AlarmSeverity::Critical,
        AlarmMetric::PoolUnhealthy,
        0.0,
        60,
        "A pool is missing, can't be written to, or none of its hosts answers: gantry pool show NAME",
    ),
    (
        "host-memory-nearly-full",
        AlarmSeverity::Warning,
        AlarmMetric::HostMemoryPercent,
        95.0,
        300,
        "A host's memory is nearly used up.",
    ),
];

pub fn is_built_in(name: &Name) -> bool {
    ALARMS.iter().any(|(own, ..)| *own == name.as_str())
}

fn alarm((name, severity, metric, above, for_s, description): Row) -> Alarm {
    let name: Name = name.parse().unwrap_or_else(|error| panic!("{error}"));
    let condition = AlarmCondition::Metric(MetricCondition { metric, above: Some(above), below: None, for_s });
    let objects = ObjectSelector::default();
    let mut alarm =
        Alarm::new(name, AlarmSpec { description: description.into(), enabled: true, severity, condition, objects });
    alarm.status.built_in = true;
    alarm
}

/// Makes those that are not there; what somebody has changed stays as it is.
pub async fn ensure(objects: &Objects, clock: &dyn Clock) -> Result<(), Problem> {
    for row in ALARMS {
        let mut alarm = alarm(row);
        if objects.find::<Alarm>(alarm.name()).await?.is_some() {
            continue;
        }
        alarm.metadata.uuid = clock.new_uuid();
        alarm.metadata.created_at = Some(clock.now());
        let mut change = Change::new();
        change.create(&alarm)?;
        match objects.commit(change).await {
            // Somebody made it in between.
            Err(problem) if problem.code() == CHANGED_MEANWHILE => {}
            committed => committed.map(drop)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_valid_and_has_a_name_of_its_own() {
        for (index, row) in ALARMS.into_iter().enumerate() {
            let alarm = alarm(row);
            assert_eq!(alarm.spec.mistakes(), []);
            assert!(is_built_in(&alarm.metadata.name));
            assert!(ALARMS[..index].iter().all(|(other, ..)| *other != row.0), "{}", row.0);
        }
        assert!(!is_built_in(&"vm-cpu".parse().expect("a name")));
    }
}
