//! The columns of alarms and of those who are told of them.

use gantry_types::{Alarm, AlarmCondition, AlarmState, Channel, Notice, Receiver};

use super::{
    Row, Surroundings, age,
    rows::{api_name, or_dash},
};

impl Row for Alarm {
    const PLURAL_FOR_PEOPLE: &'static str = "alarms";
    const HEADERS: &'static [&'static str] = &["NAME", "STATE", "SEVERITY", "OBJECTS", "SINCE", "MESSAGE"];
    const WIDE_HEADERS: &'static [&'static str] = &["CONDITION", "BUILT-IN", "SILENCES", "UUID"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        let status = &self.status;
        let first = status.firings.iter().max_by_key(|firing| firing.state);
        let state = if self.spec.enabled { api_name(&status.state) } else { "off".to_owned() };
        vec![
            self.metadata.name.to_string(),
            state,
            api_name(&self.spec.severity),
            status.firings.len().to_string(),
            first.map_or_else(|| "-".to_owned(), |firing| age(Some(firing.since), around.now)),
            or_dash(first.map(|firing| &firing.message)),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        let condition = match &self.spec.condition {
            AlarmCondition::Metric(metric) => {
                let (sign, threshold) = metric.below.map_or((">", metric.above), |below| ("<", Some(below)));
                let threshold = threshold.unwrap_or_default();
                format!("{} {sign} {threshold} for {} s", api_name(&metric.metric), metric.for_s)
            }
            AlarmCondition::Event(event) => event.reasons.join(","),
        };
        vec![
            condition,
            self.status.built_in.to_string(),
            self.status.silences.len().to_string(),
            self.metadata.uuid.to_string(),
        ]
    }
}

/// Whether somebody may want to look at it.
pub fn is_active(alarm: &Alarm) -> bool {
    alarm.status.state != AlarmState::Ok
}

impl Row for Receiver {
    const PLURAL_FOR_PEOPLE: &'static str = "receivers";
    const HEADERS: &'static [&'static str] = &["NAME", "VIA", "TO", "SEVERITY", "ALARMS", "ENABLED", "AGE"];
    const WIDE_HEADERS: &'static [&'static str] = &["SECRET", "UUID"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        let spec = &self.spec;
        let via = match &spec.via {
            Channel::Webhook(_) => "webhook",
            Channel::Email(_) => "email",
        };
        let alarms: Vec<&str> = spec.alarms.iter().map(|alarm| alarm.as_str()).collect();
        vec![
            self.metadata.name.to_string(),
            via.to_owned(),
            spec.target(),
            api_name(&spec.severity),
            if alarms.is_empty() { "all".to_owned() } else { alarms.join(",") },
            spec.enabled.to_string(),
            age(self.metadata.created_at, around.now),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![self.status.has_secret.to_string(), self.metadata.uuid.to_string()]
    }
}

impl Row for Notice {
    const PLURAL_FOR_PEOPLE: &'static str = "notices";
    const HEADERS: &'static [&'static str] =
        &["AGE", "RECEIVER", "ALARM", "STATE", "OBJECT", "PHASE", "ATTEMPTS", "ERROR"];
    const WIDE_HEADERS: &'static [&'static str] = &["NAME", "MESSAGE"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        let (spec, status) = (&self.spec, &self.status);
        vec![
            age(self.metadata.created_at, around.now),
            spec.receiver.to_string(),
            spec.alarm.to_string(),
            api_name(&spec.state),
            format!("{}/{}", spec.object.kind, spec.object.name),
            api_name(&status.phase),
            status.attempts.to_string(),
            or_dash(status.error.as_ref()),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![self.metadata.name.to_string(), self.spec.message.clone()]
    }
}
