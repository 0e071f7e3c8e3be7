//! Which objects an alarm's metric is beyond its threshold for.

use std::sync::Arc;

use gantry_types::{Alarm, Host, MetricCondition, Network, ObjectRef, Pool, Resource, Vm, Volume};

use super::{
    measured::{Measured, told},
    seen::Seen,
    turn::{Known, Reading, is_beyond},
};
use crate::model::{Overlay, Tables};

/// One look at one alarm's metric.
pub struct Readings<'a> {
    seen: Seen<'a>,
    alarm: &'a Alarm,
    of: &'a MetricCondition,
}

impl<'a> Readings<'a> {
    pub fn new(tables: &'a Tables, overlay: &'a Overlay, alarm: &'a Alarm, of: &'a MetricCondition) -> Self {
        Self { seen: Seen::new(tables, overlay), alarm, of }
    }

    /// Every object that the alarm is about and whose metric is beyond its threshold.
    pub fn beyond(&self) -> Vec<Reading> {
        match self.of.metric.kind() {
            Host::KIND => self.beyond_of::<Host>(),
            Vm::KIND => self.beyond_of::<Vm>(),
            Volume::KIND => self.beyond_of::<Volume>(),
            Network::KIND => self.beyond_of::<Network>(),
            _ => self.beyond_of::<Pool>(),
        }
    }

    /// What is known of an object for which the alarm fires.
    pub fn known(&self, object: &ObjectRef) -> Known {
        match self.of.metric.kind() {
            Host::KIND => self.known_of::<Host>(object),
            Vm::KIND => self.known_of::<Vm>(object),
            Volume::KIND => self.known_of::<Volume>(object),
            Network::KIND => self.known_of::<Network>(object),
            _ => self.known_of::<Pool>(object),
        }
    }

    fn is_about<T: Measured>(&self, object: &T) -> bool {
        let metadata = object.metadata();
        self.alarm.spec.objects.selects(T::KIND, &metadata.name, &metadata.labels)
    }

    fn beyond_of<T: Measured>(&self) -> Vec<Reading> {
        let reading = |object: &Arc<T>| {
            let value = object.measure(self.of.metric, &self.seen).filter(|value| is_beyond(self.of, *value))?;
            let message = told(&**object, self.of.metric, value, &self.seen);
            Some(Reading { object: object.reference(), value, message })
        };
        T::table(self.seen.tables).values().filter(|object| self.is_about(&***object)).filter_map(reading).collect()
    }

    fn known_of<T: Measured>(&self, object: &ObjectRef) -> Known {
        let found = T::table(self.seen.tables).get(object.name.as_str());
        let is_it = |found: &&Arc<T>| {
            found.metadata().uuid == object.uuid && object.kind == T::KIND && self.is_about(&***found)
        };
        let Some(found) = found.filter(is_it) else { return Known::Gone };
        match found.measure(self.of.metric, &self.seen) {
            None => Known::Unknown,
            Some(value) if is_beyond(self.of, value) => Known::Beyond,
            Some(_) => Known::Within,
        }
    }
}
