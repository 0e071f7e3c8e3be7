//! Alarms: changed as other objects are; acknowledged and silenced by people.

use std::time::Duration;

use async_trait::async_trait;
use gantry_api::{
    alarms::{AcknowledgeRequest, SilenceRequest},
    rest::{Changed, WriteQuery},
};
use gantry_types::{Alarm, AlarmCondition, AlarmStatus, ObjectRef, Problem, Resource, Silence};

use super::{
    App, Caller,
    managed::{Managed, Mistake},
};
use crate::{
    alarms::{built_in::is_built_in, turn},
    loops::alarm_keeper,
    model::Tables,
    objects::Change,
};

const LONGEST_SILENCE_S: u32 = 366 * 24 * 3600;

#[async_trait]
impl Managed for Alarm {
    const EVENT: &'static str = "Alarm";

    fn mistakes(&self) -> Vec<Mistake> {
        self.spec.mistakes()
    }

    fn wrong_references(&self, _tables: &Tables) -> Vec<Mistake> {
        Vec::new()
    }

    fn users(&self, _tables: &Tables) -> Vec<String> {
        Vec::new()
    }

    async fn settle(&mut self, app: &App, current: Option<&Self>, _change: &mut Change) -> Result<(), Problem> {
        if current.is_none_or(|current| current.spec.condition != self.spec.condition) {
            // What fired by another condition says nothing about this one, and what happened before is no news.
            let by_event = matches!(self.spec.condition, AlarmCondition::Event(_));
            self.status = AlarmStatus {
                silences: current.map(|current| current.status.silences.clone()).unwrap_or_default(),
                built_in: is_built_in(&self.metadata.name),
                events_seen: by_event.then(|| app.model.revision()),
                ..AlarmStatus::default()
            };
        }
        app.wakeups.alarms.notify_one();
        Ok(())
    }

    async fn unsettle(&self, _app: &App, _change: &mut Change) -> Result<(), Problem> {
        let name = &self.metadata.name;
        if !is_built_in(name) {
            return Ok(());
        }
        Err(Problem::conflict("alarm-built-in", format!("alarm '{name}' comes with Gantry and can't be deleted"))
            .object(self.reference())
            .remedy("switch it off: set spec.enabled to false"))
    }

    fn with_status_of(mut self, current: &Self) -> Self {
        self.status = current.status.clone();
        self
    }
}

/// Whether a firing is of the object that is named `KIND/NAME`; every one is if none is named.
fn is_meant<'a>(object: Option<&'a str>) -> impl Fn(&ObjectRef) -> bool + 'a {
    move |firing| object.is_none_or(|meant| meant == format!("{}/{}", firing.kind, firing.name))
}

fn expect_firing(alarm: &Alarm, object: Option<&str>) -> Result<(), Problem> {
    let meant = is_meant(object);
    if alarm.status.firings.iter().any(|firing| meant(&firing.object)) {
        return Ok(());
    }
    let of = object.map_or_else(String::new, |object| format!(" for {object}"));
    Err(Problem::conflict("alarm-not-firing", format!("alarm '{}' does not fire{of}", alarm.name()))
        .object(alarm.reference())
        .remedy(format!("see what it fires for: gantry alarm show {}", alarm.name())))
}

/// Somebody takes care of it.
///
/// # Errors
/// `alarm-not-firing`.
pub async fn acknowledge(
    app: &App,
    caller: &Caller,
    name: &str,
    request: AcknowledgeRequest,
    query: &WriteQuery,
) -> Result<Changed<Alarm>, Problem> {
    caller.may_change()?;
    let object = request.object.as_deref();
    app.objects
        .racing(|| async {
            let alarm: Alarm = app.objects.get(name).await?;
            expect_firing(&alarm, object)?;
            let turned = turn::acknowledge(&alarm, is_meant(object), &caller.name, app.clock.now());
            finish(app, alarm, turned, query).await
        })
        .await
}

/// Nobody is told of it for a while; a duration of 0 ends that.
///
/// # Errors
/// `invalid-request`; `too-many-silences`.
pub async fn silence(
    app: &App,
    caller: &Caller,
    name: &str,
    request: SilenceRequest,
    query: &WriteQuery,
) -> Result<Changed<Alarm>, Problem> {
    caller.may_change()?;
    let invalid = |field: &str, told: String| {
        Err(Problem::invalid("invalid-request", "the silence is not valid").field(field, told))
    };
    if request.for_s > LONGEST_SILENCE_S {
        return invalid("for_s", format!("{} is out of range, use at most {LONGEST_SILENCE_S}", request.for_s));
    }
    if request.why.len() > 256 {
        return invalid("why", "is longer than 256 bytes".to_owned());
    }
    if request.object.as_ref().is_some_and(|object| object.len() > 128 || !object.contains('/')) {
        return invalid("object", "is not KIND/NAME, such as vm/web".to_owned());
    }
    app.objects
        .racing(|| async {
            let alarm: Alarm = app.objects.get(name).await?;
            let now = app.clock.now();
            let mut changed = alarm.clone();
            let AlarmStatus { silences, .. } = &mut changed.status;
            silences.retain(|silence| silence.object != request.object && now < silence.until);
            if changed.status.is_full_of_silences() {
                let detail = format!("alarm '{name}' has as many silences as it may have");
                return Err(Problem::conflict("too-many-silences", detail)
                    .object(alarm.reference())
                    .remedy("silence the whole alarm, or narrow it by spec.objects"));
            }
            if request.for_s > 0 {
                changed.status.silences.push(Silence {
                    object: request.object.clone(),
                    until: now.after(Duration::from_secs(request.for_s.into())),
                    by: caller.name.clone(),
                    why: request.why.clone(),
                });
            }
            let turned = turn::settle(&alarm, changed, &[], now);
            finish(app, alarm, turned, query).await
        })
        .await
}

async fn finish(
    app: &App,
    alarm: Alarm,
    turned: Option<turn::Turned>,
    query: &WriteQuery,
) -> Result<Changed<Alarm>, Problem> {
    let object = match turned {
        Some(turned) if !query.dry_run => alarm_keeper::write(app, turned).await?,
        Some(turned) => turned.alarm,
        None => alarm,
    };
    Ok(Changed { object, operation: None })
}
