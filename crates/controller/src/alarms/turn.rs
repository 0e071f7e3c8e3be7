//! What becomes of an alarm when its condition is looked at. Pure.
//!
//! ```text
//!   ok ── the condition holds for its time, or an event tells ──▶ firing ── acknowledged ──▶ acknowledged
//!   ▲                                                               │ ▲ the silence is over │
//!   │                                                               ▼ │                     │
//!   │                                                            silenced                   │
//!   └── does not hold for its time, an event resolves it, or the object is gone ◀───────────┘
//! ```
//! Receivers are told of what is `firing`, once, and of its end if they were told that it began. While it is silenced they
//! are told nothing; what still holds afterwards is told then.

use std::{collections::BTreeMap, sync::Arc};

use gantry_ha::Moment;
use gantry_types::{
    Alarm, AlarmCondition, AlarmState, Event, EventCondition, FIRINGS_MAX, Firing, MetricCondition, NoticeState,
    ObjectRef, Timestamp,
};
use uuid::Uuid;

/// Since when a metric has contradicted what the alarm says of the object, by alarm and object. Forgotten with the
/// controller: after its start the time counts anew.
#[derive(Debug, Default)]
pub struct Pending(BTreeMap<(Uuid, Uuid), Moment>);

impl Pending {
    /// Forgets alarms that are not there any more.
    pub fn keep(&mut self, alarms: &[Arc<Alarm>]) {
        self.0.retain(|(of, _), _| alarms.iter().any(|alarm| alarm.metadata.uuid == *of));
    }
}

/// An object whose metric is beyond its threshold.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub object: ObjectRef,
    pub value: f64,
    pub message: String,
}

/// What is known of an object for which an alarm fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It is not there, or the alarm is not about it any more.
    Gone,
    /// Nobody can say now.
    Unknown,
    Beyond,
    Within,
}

/// An alarm after a look, and what receivers are to be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Turned {
    pub alarm: Alarm,
    pub told: Vec<(NoticeState, Firing)>,
}

/// When it is, by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub wall: Timestamp,
    pub steady: Moment,
}

pub fn is_beyond(condition: &MetricCondition, value: f64) -> bool {
    condition.above.is_some_and(|above| value > above) || condition.below.is_some_and(|below| value < below)
}

/// A look at a metric: `beyond` are all objects that it is beyond its threshold for.
pub fn by_metric(
    alarm: &Alarm,
    condition: &MetricCondition,
    beyond: Vec<Reading>,
    known: impl Fn(&ObjectRef) -> Known,
    pending: &mut Pending,
    now: Now,
) -> Option<Turned> {
    let mut turned = alarm.clone();
    let id = alarm.metadata.uuid;
    let is_due = |pending: &mut Pending, object: Uuid| {
        let since = *pending.0.entry((id, object)).or_insert(now.steady);
        now.steady.ms_since(since) >= u64::from(condition.for_s) * 1000
    };
    let mut waits = Vec::new();
    let mut ended = Vec::new();
    for firing in &alarm.status.firings {
        let object = firing.object.uuid;
        match known(&firing.object) {
            Known::Beyond | Known::Unknown => {}
            Known::Within if !is_due(pending, object) => waits.push(object),
            Known::Gone | Known::Within => ended.push(object),
        }
    }
    for reading in beyond {
        let object = reading.object.uuid;
        if alarm.status.firings.iter().any(|firing| firing.object.uuid == object) {
            continue;
        }
        if is_due(pending, object) {
            begin(&mut turned, reading.object, reading.message, Some(reading.value), now.wall);
        } else {
            waits.push(object);
        }
    }
    pending.0.retain(|(of, object), _| *of != id || waits.contains(object));
    settle(alarm, turned, &ended, now.wall)
}

/// A look at the events after those that were looked at, in their order.
pub fn by_events(
    alarm: &Alarm,
    condition: &EventCondition,
    events: &[&Event],
    is_there: impl Fn(&ObjectRef) -> bool,
    now: Timestamp,
) -> Option<Turned> {
    let mut turned = alarm.clone();
    let mut ended: Vec<Uuid> = alarm
        .status
        .firings
        .iter()
        .filter(|firing| !is_there(&firing.object))
        .map(|firing| firing.object.uuid)
        .collect();
    let seen = alarm.status.events_seen.unwrap_or(0);
    for event in events.iter().filter(|event| event.metadata.revision > seen) {
        let (spec, object) = (&event.spec, event.spec.regarding.uuid);
        if condition.reasons.contains(&spec.reason) {
            ended.retain(|gone| *gone != object);
            if !turned.status.firings.iter().any(|firing| firing.object.uuid == object) {
                begin(&mut turned, spec.regarding.clone(), spec.message.clone(), None, now);
            }
        } else if condition.resolved_by.contains(&spec.reason) {
            ended.push(object);
        } else {
            continue;
        }
        turned.status.events_seen = turned.status.events_seen.max(Some(event.metadata.revision));
    }
    settle(alarm, turned, &ended, now)
}

/// It is switched off: nothing is told.
pub fn off(alarm: &Alarm) -> Option<Turned> {
    let mut turned = alarm.clone();
    turned.status.firings.clear();
    turned.status.sum_up();
    (turned != *alarm).then_some(Turned { alarm: turned, told: Vec::new() })
}

/// Somebody has seen it. What no event can end is over with that.
pub fn acknowledge(alarm: &Alarm, is_meant: impl Fn(&ObjectRef) -> bool, by: &str, now: Timestamp) -> Option<Turned> {
    let mut turned = alarm.clone();
    for firing in turned.status.firings.iter_mut().filter(|firing| is_meant(&firing.object)) {
        firing.acknowledged_by.get_or_insert_with(|| by.to_owned());
    }
    let ends = match &alarm.spec.condition {
        AlarmCondition::Event(event) => event.resolved_by.is_empty(),
        AlarmCondition::Metric(_) => false,
    };
    if ends {
        turned.status.firings.retain(|firing| !is_meant(&firing.object));
    }
    settle(alarm, turned, &[], now)
}

fn begin(alarm: &mut Alarm, object: ObjectRef, message: String, value: Option<f64>, since: Timestamp) {
    if alarm.status.firings.len() < FIRINGS_MAX {
        let state = AlarmState::Firing;
        let firing = Firing { object, state, since, message, value, acknowledged_by: None, notified: false };
        alarm.status.firings.push(firing);
    }
}

/// Ends what has ended, says what each firing is now, and who is to be told. `None` if nothing has changed.
pub fn settle(before: &Alarm, mut turned: Alarm, ended: &[Uuid], now: Timestamp) -> Option<Turned> {
    let status = &mut turned.status;
    status.silences.retain(|silence| now < silence.until);
    let silences = status.silences.clone();
    let is_silenced = |object: &ObjectRef| silences.iter().any(|silence| silence.covers(object, now));
    let mut told = Vec::new();
    for firing in status.firings.iter().filter(|firing| ended.contains(&firing.object.uuid)) {
        if firing.notified && !is_silenced(&firing.object) {
            told.push((NoticeState::Resolved, firing.clone()));
        }
    }
    status.firings.retain(|firing| !ended.contains(&firing.object.uuid));
    for firing in &mut status.firings {
        firing.state = match &firing.acknowledged_by {
            Some(_) => AlarmState::Acknowledged,
            None if is_silenced(&firing.object) => AlarmState::Silenced,
            None => AlarmState::Firing,
        };
        if firing.state == AlarmState::Firing && !firing.notified {
            firing.notified = true;
            told.push((NoticeState::Firing, firing.clone()));
        }
    }
    status.sum_up();
    (turned != *before).then_some(Turned { alarm: turned, told })
}

#[cfg(test)]
mod tests {
    use gantry_types::{AlarmMetric, AlarmSeverity, AlarmSpec, ObjectSelector, Silence};
    use proptest::prelude::*;

    use super::*;

    fn object() -> ObjectRef {
        ObjectRef { kind: "host".into(), name: "host-1".parse().expect("a name"), uuid: Uuid::from_u128(1) }
    }

    fn alarm(for_s: u32) -> (Alarm, MetricCondition) {
        let metric = MetricCondition { metric: AlarmMetric::HostCpuPercent, above: Some(90.0), below: None, for_s };
        let spec = AlarmSpec {
            description: String::new(),
            enabled: true,
            severity: AlarmSeverity::Warning,
            condition: AlarmCondition::Metric(metric.clone()),
            objects: ObjectSelector::default(),
        };
        (Alarm::new("busy".parse().expect("a name"), spec), metric)
    }

    fn at(second: u64) -> Now {
        Now { wall: Timestamp::from_unix_ms(second as i64 * 1000), steady: Moment(second * 1000) }
    }

    fn reading(value: f64) -> Reading {
        Reading { object: object(), value, message: "it is busy".into() }
    }

    proptest! {
        /// It begins when the metric was beyond for the whole time, it ends when it was within for the whole time, and each
        /// is told once, in turn.
        #[test]
        fn it_follows_what_has_lasted_and_tells_of_each_turn_once(
            beyond in proptest::collection::vec(any::<bool>(), 1..60),
            for_s in 0u32..5,
        ) {
            let (mut alarm, condition) = alarm(for_s);
            let mut pending = Pending::default();
            let (mut fires, mut told) = (false, Vec::new());
            for (second, is_beyond) in beyond.iter().enumerate() {
                let seen = if *is_beyond { vec![reading(95.0)] } else { Vec::new() };
                let known = if *is_beyond { Known::Beyond } else { Known::Within };
                if let Some(turned) = by_metric(&alarm, &condition, seen, |_| known, &mut pending, at(second as u64)) {
                    alarm = turned.alarm;
                    told.extend(turned.told.into_iter().map(|(state, _)| state));
                }
                let lasted = second >= for_s as usize
                    && beyond[second - for_s as usize..=second].iter().all(|then| then == is_beyond);
                if lasted {
                    fires = *is_beyond;
                }
                prop_assert_eq!(alarm.status.state == AlarmState::Firing, fires, "second {}", second);
            }
            let in_turn = [NoticeState::Firing, NoticeState::Resolved].into_iter().cycle();
            prop_assert_eq!(&told, &in_turn.take(told.len()).collect::<Vec<_>>());
            prop_assert_eq!(told.len() % 2 == 1, fires);
        }
    }

    #[test]
    fn what_is_gone_ends_it_at_once_and_what_nobody_knows_changes_nothing() {
        let (alarm, condition) = alarm(0);
        let mut pending = Pending::default();
        let mut look = |alarm: &Alarm, seen, known| by_metric(alarm, &condition, seen, |_| known, &mut pending, at(1));
        let fires = look(&alarm, vec![reading(95.0)], Known::Beyond).expect("it begins").alarm;
        assert_eq!(look(&fires, Vec::new(), Known::Unknown), None);
        assert_eq!(look(&fires, vec![reading(99.0)], Known::Beyond), None);
        let ended = look(&fires, Vec::new(), Known::Gone).expect("it ends");
        assert_eq!((ended.alarm.status.state, ended.told[0].0), (AlarmState::Ok, NoticeState::Resolved));
    }

    #[test]
    fn an_end_is_not_told_to_those_who_did_not_hear_of_the_beginning() {
        let (mut alarm, condition) = alarm(0);
        let until = Timestamp::from_unix_ms(60_000);
        alarm.status.silences.push(Silence { object: None, until, by: "ann".into(), why: String::new() });
        let mut pending = Pending::default();
        let silent = by_metric(&alarm, &condition, vec![reading(95.0)], |_| Known::Beyond, &mut pending, at(1));
        let silent = silent.expect("it begins");
        assert_eq!((silent.alarm.status.state, silent.told.len()), (AlarmState::Silenced, 0));
        let ended = by_metric(&silent.alarm, &condition, Vec::new(), |_| Known::Within, &mut pending, at(61));
        let ended = ended.expect("it ends");
        assert_eq!((ended.alarm.status.silences.len(), ended.told), (0, Vec::new()));
    }
}
