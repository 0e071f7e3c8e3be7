//! Looks at the condition of every alarm, and writes what has changed together with the notices about it.

use std::{sync::Arc, time::Duration};

use gantry_types::{
    Alarm, AlarmCondition, Event, Host, Image, Network, NoticeState, ObjectRef, Pool, Problem, Receiver, Resource, Vm,
    Volume,
};

use super::woken;
use crate::{
    alarms::{
        notices,
        readings::Readings,
        turn::{Now, Pending, Turned, by_events, by_metric, off},
    },
    app::App,
    leases::moment,
    model::{Kind, Tables},
    objects::{CHANGED_MEANWHILE, Change},
};

const INTERVAL: Duration = Duration::from_secs(2);
/// Of one transaction, which holds 128 changes; what is told later was not written down as told.
const TOLD_MAX: usize = 100;

pub async fn run(app: Arc<App>) {
    let mut pending = Pending::default();
    loop {
        woken(&app, &app.wakeups.alarms, INTERVAL).await;
        pass(&app, &mut pending).await;
    }
}

/// One look at all alarms.
pub async fn pass(app: &App, pending: &mut Pending) {
    let now = Now { wall: app.clock.now(), steady: moment(&*app.clock) };
    let alarms = app.model.list::<Alarm>();
    pending.keep(&alarms);
    for alarm in alarms {
        let turned = app.model.read(|tables| look(app, tables, &alarm, pending, now));
        if let Some(turned) = turned
            && let Err(problem) = write(app, turned).await
        {
            // Whoever changed it meanwhile: the next look is at that.
            if problem.code() != CHANGED_MEANWHILE {
                tracing::warn!(alarm = alarm.name(), %problem, "what becomes of the alarm waits for another look");
            }
        }
    }
}

fn look(app: &App, tables: &Tables, alarm: &Alarm, pending: &mut Pending, now: Now) -> Option<Turned> {
    if !alarm.spec.enabled {
        return off(alarm);
    }
    match &alarm.spec.condition {
        AlarmCondition::Metric(metric) => app.model.overlay(|overlay| {
            let readings = Readings::new(tables, overlay, alarm, metric);
            by_metric(alarm, metric, readings.beyond(), |object| readings.known(object), pending, now)
        }),
        AlarmCondition::Event(condition) => {
            let seen = alarm.status.events_seen.unwrap_or(0);
            let is_new = |event: &&Arc<Event>| {
                let spec = &event.spec;
                let told = condition.reasons.contains(&spec.reason) || condition.resolved_by.contains(&spec.reason);
                told && event.metadata.revision > seen && is_about(tables, alarm, &spec.regarding)
            };
            let mut events: Vec<&Event> = tables.events.values().filter(is_new).map(|event| &**event).collect();
            events.sort_by_key(|event| event.metadata.revision);
            by_events(alarm, condition, &events, |object| is_about(tables, alarm, object), now.wall)
        }
    }
}

/// Whether the alarm is about an object that is still there.
fn is_about(tables: &Tables, alarm: &Alarm, object: &ObjectRef) -> bool {
    fn found<T: Kind>(tables: &Tables, alarm: &Alarm, object: &ObjectRef) -> bool {
        let found = T::table(tables).get(object.name.as_str()).filter(|found| found.metadata().uuid == object.uuid);
        found.is_some_and(|found| alarm.spec.objects.selects(T::KIND, &object.name, &found.metadata().labels))
    }
    match object.kind.as_str() {
        Vm::KIND => found::<Vm>(tables, alarm, object),
        Host::KIND => found::<Host>(tables, alarm, object),
        Pool::KIND => found::<Pool>(tables, alarm, object),
        Volume::KIND => found::<Volume>(tables, alarm, object),
        Network::KIND => found::<Network>(tables, alarm, object),
        Image::KIND => found::<Image>(tables, alarm, object),
        // Of others only the name is known.
        kind => alarm.spec.objects.selects(kind, &object.name, &Default::default()),
    }
}

/// One transaction: the alarm, and the notices about it.
pub async fn write(app: &App, turned: Turned) -> Result<Alarm, Problem> {
    let Turned { mut alarm, told } = turned;
    let receivers = app.model.list::<Receiver>();
    let hears = |receiver: &&Arc<Receiver>| receiver.spec.hears_of(&alarm.metadata.name, alarm.spec.severity);
    let at_once = (TOLD_MAX / receivers.iter().filter(hears).count().max(1)).max(1);
    let (now_told, later) = told.split_at(told.len().min(at_once));
    for (state, firing) in later {
        let firings = &mut alarm.status.firings;
        match firings.iter_mut().find(|known| known.object.uuid == firing.object.uuid) {
            Some(known) => known.notified = false,
            // Its end is seen again, and told then.
            None if *state == NoticeState::Resolved => firings.push(firing.clone()),
            None => {}
        }
    }
    alarm.status.sum_up();
    let mut change = Change::new();
    change.update(&alarm)?;
    notices::write(app, &alarm, now_told, &receivers, &mut change)?;
    alarm.metadata.revision = app.commit(change).await?;
    app.wakeups.notices.notify_one();
    Ok(alarm)
}
