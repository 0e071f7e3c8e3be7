//! `alarm`: a condition that people are to hear of, and the objects that meet it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Labels, Name, ObjectRef, Timestamp, resource::resource};

/// Objects for which one alarm fires at a time; more are counted only.
pub const FIRINGS_MAX: usize = 256;
const REASONS_MAX: usize = 32;
const SILENCES_MAX: usize = 64;

resource!(
    /// A condition on the state of objects, or on events. It fires once for each object that meets it, and receivers are
    /// told when it begins and when it ends.
    Alarm, "alarm", "alarms", AlarmSpec, AlarmStatus
);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AlarmSpec {
    /// For people: what it means and what is to be done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(default = "yes")]
    pub enabled: bool,
    #[serde(default)]
    pub severity: AlarmSeverity,
    pub condition: AlarmCondition,
    /// The objects it is about; all if nothing is given.
    #[serde(default, skip_serializing_if = "ObjectSelector::is_all")]
    pub objects: ObjectSelector,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlarmSeverity {
    Info,
    #[default]
    Warning,
    Critical,
}

/// One of the two.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlarmCondition {
    Metric(MetricCondition),
    Event(EventCondition),
}

/// A metric of an object is beyond its threshold, without a gap for so long; it ends as a metric that is not, for as long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricCondition {
    pub metric: AlarmMetric,
    /// It fires above this, or with `below`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<f64>,
    /// Seconds, 0–86400.
    #[serde(default)]
    pub for_s: u32,
}

/// What the controller knows of objects. Those that are neither a percentage nor bytes are 1 while it is so, and 0 otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlarmMetric {
    /// It does not report.
    HostLost,
    /// It is being shut out, and there is no proof yet that nothing runs there.
    HostUnfenced,
    /// Its lease has lapsed, or what would stop its VMs can't be reached.
    HostLeaseless,
    HostCpuPercent,
    HostMemoryPercent,
    /// It should run and has failed.
    VmFailed,
    /// It should run again and does not: it was given up, or finds no host.
    VmNotRestarted,
    /// It fails, and its policy is only to tell of it; or a probe of it fails.
    VmUnhealthy,
    /// Of one processor: 200 is two.
    VmCpuPercent,
    PoolUsedPercent,
    /// Fuller than its own `spec.alarm_percent` allows.
    PoolNearlyFull,
    /// It is missing, can't be written to, or none of its hosts answers.
    PoolUnhealthy,
    /// What it takes in its pool, of its size. A thin one begins near 0; one with snapshots may take more than 100.
    VolumeAllocatedPercent,
    /// Read and written by its guest, together.
    VolumeBytesPerS,
    /// Given addresses of those that its ports may get; of the family that has fewer left.
    NetworkAddressesPercent,
    /// Received and sent by the guests of its ports, together.
    NetworkBytesPerS,
    /// A host that reports has no link for it.
    NetworkUnlinked,
}

impl AlarmMetric {
    pub const ALL: [Self; 17] = [
        Self::HostLost,
        Self::HostUnfenced,
        Self::HostLeaseless,
        Self::HostCpuPercent,
        Self::HostMemoryPercent,
        Self::VmFailed,
        Self::VmNotRestarted,
        Self::VmUnhealthy,
        Self::VmCpuPercent,
        Self::PoolUsedPercent,
        Self::PoolNearlyFull,
        Self::PoolUnhealthy,
        Self::VolumeAllocatedPercent,
        Self::VolumeBytesPerS,
        Self::NetworkAddressesPercent,
        Self::NetworkBytesPerS,
        Self::NetworkUnlinked,
    ];

    /// As it is written in a condition.
    pub fn name(self) -> &'static str {
        match self {
            Self::HostLost => "host_lost",
            Self::HostUnfenced => "host_unfenced",
            Self::HostLeaseless => "host_leaseless",
            Self::HostCpuPercent => "host_cpu_percent",
            Self::HostMemoryPercent => "host_memory_percent",
            Self::VmFailed => "vm_failed",
            Self::VmNotRestarted => "vm_not_restarted",
            Self::VmUnhealthy => "vm_unhealthy",
            Self::VmCpuPercent => "vm_cpu_percent",
            Self::PoolUsedPercent => "pool_used_percent",
            Self::PoolNearlyFull => "pool_nearly_full",
            Self::PoolUnhealthy => "pool_unhealthy",
            Self::VolumeAllocatedPercent => "volume_allocated_percent",
            Self::VolumeBytesPerS => "volume_bytes_per_s",
            Self::NetworkAddressesPercent => "network_addresses_percent",
            Self::NetworkBytesPerS => "network_bytes_per_s",
            Self::NetworkUnlinked => "network_unlinked",
        }
    }

    /// The kind of object it is of.
    pub fn kind(self) -> &'static str {
        match self {
            Self::HostLost | Self::HostUnfenced | Self::HostLeaseless => "host",
            Self::HostCpuPercent | Self::HostMemoryPercent => "host",
            Self::VmFailed | Self::VmNotRestarted | Self::VmUnhealthy | Self::VmCpuPercent => "vm",
            Self::PoolUsedPercent | Self::PoolNearlyFull | Self::PoolUnhealthy => "pool",
            Self::VolumeAllocatedPercent | Self::VolumeBytesPerS => "volume",
            Self::NetworkAddressesPercent | Self::NetworkBytesPerS | Self::NetworkUnlinked => "network",
        }
    }

    /// For people: why objects of this kind have no such metric, and what they have instead.
    fn not_of(self, kind: &str) -> String {
        let others: Vec<_> = Self::ALL.into_iter().filter(|other| other.kind() == kind).map(Self::name).collect();
        let others = if others.is_empty() { "none; use an event".to_owned() } else { others.join(", ") };
        format!("'{}' is of the kind {}; of the kind {kind} there are {others}", self.name(), self.kind())
    }
}

/// Something happened to an object. It ends with one of the events that resolve it, or when somebody has acknowledged it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EventCondition {
    /// Reasons of events: `VmRestarted`; at least one.
    pub reasons: Vec<String>,
    /// Reasons of events about the same object that end it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resolved_by: Vec<String>,
}

/// Objects that all of it fits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectSelector {
    /// Of this kind: `vm`. A metric says its kind itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// One of these names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<Name>,
    /// With these labels.
    #[serde(skip_serializing_if = "labels_are_empty")]
    pub labels: Labels,
}

fn labels_are_empty(labels: &Labels) -> bool {
    labels.0.is_empty()
}

impl ObjectSelector {
    fn is_all(&self) -> bool {
        *self == Self::default()
    }

    pub fn selects(&self, kind: &str, name: &Name, labels: &Labels) -> bool {
        self.kind.as_deref().is_none_or(|wanted| wanted == kind)
            && (self.names.is_empty() || self.names.contains(name))
            && self.labels.0.iter().all(|(key, value)| labels.0.get(key) == Some(value))
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AlarmStatus {
    /// The most urgent of its firings.
    pub state: AlarmState,
    /// The objects that meet its condition, or that an event told of; at most 256.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub firings: Vec<Firing>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub silences: Vec<Silence>,
    /// It comes with Gantry: it can be changed and switched off, but not deleted.
    pub built_in: bool,
    /// Events up to this revision of the store have been looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_seen: Option<u64>,
}

/// From what needs nobody to what needs somebody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlarmState {
    #[default]
    Ok,
    Silenced,
    Acknowledged,
    Firing,
}

/// One object for which an alarm fires.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Firing {
    pub object: ObjectRef,
    pub state: AlarmState,
    pub since: Timestamp,
    /// For people.
    pub message: String,
    /// What the metric was when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged_by: Option<String>,
    /// Receivers have been told that it began.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub notified: bool,
}

/// Nobody is told until then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Silence {
    /// `KIND/NAME`; every object of the alarm if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    pub until: Timestamp,
    pub by: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl Silence {
    pub fn covers(&self, object: &ObjectRef, now: Timestamp) -> bool {
        now < self.until
            && self.object.as_ref().is_none_or(|covered| *covered == format!("{}/{}", object.kind, object.name))
    }
}

impl AlarmStatus {
    pub fn sum_up(&mut self) {
        self.state = self.firings.iter().map(|firing| firing.state).max().unwrap_or_default();
    }

    pub fn is_full_of_silences(&self) -> bool {
        self.silences.len() >= SILENCES_MAX
    }
}

impl AlarmSpec {
    /// All that is wrong with it by itself, field by field.
    pub fn mistakes(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        let mut refuse = |field: &str, told: String| wrong.push((format!("spec.{field}"), told));
        if self.description.len() > 1024 {
            refuse("description", "is longer than 1024 bytes".to_owned());
        }
        match &self.condition {
            AlarmCondition::Metric(metric) => {
                let threshold = match (metric.above, metric.below) {
                    (Some(threshold), None) | (None, Some(threshold)) => threshold,
                    _ => {
                        refuse("condition.metric", "needs either above or below".to_owned());
                        0.0
                    }
                };
                if !threshold.is_finite() {
                    refuse("condition.metric", "its threshold is no number".to_owned());
                }
                if metric.for_s > 86_400 {
                    refuse("condition.metric.for_s", format!("{} is out of range, use 0 to 86400", metric.for_s));
                }
                let wanted = self.objects.kind.as_deref().filter(|wanted| *wanted != metric.metric.kind());
                if let Some(wanted) = wanted {
                    refuse("objects.kind", metric.metric.not_of(wanted));
                }
            }
            AlarmCondition::Event(event) => {
                let lists = [("reasons", &event.reasons), ("resolved_by", &event.resolved_by)];
                for (field, reasons) in lists {
                    if reasons.len() > REASONS_MAX {
                        refuse(&format!("condition.event.{field}"), format!("at most {REASONS_MAX} are allowed"));
                    }
                    for reason in reasons.iter().filter(|reason| !is_reason(reason)) {
                        let told =
                            format!("'{reason}' is no reason of an event, such as VmRestarted: gantry get events");
                        refuse(&format!("condition.event.{field}"), told);
                    }
                }
                if event.reasons.is_empty() {
                    refuse("condition.event.reasons", "needs at least one".to_owned());
                }
            }
        }
        wrong
    }
}

fn is_reason(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.chars().all(|c| c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_called_what_is_read_and_named_to_who_asks_for_another() {
        for metric in AlarmMetric::ALL {
            let written = serde_json::Value::from(metric.name());
            assert_eq!(serde_json::from_value::<AlarmMetric>(written).unwrap(), metric);
            assert!(metric.name().starts_with(metric.kind()));
        }
        // The refusal of a metric that is none names all that there are.
        let refused = serde_json::from_str::<AlarmMetric>("\"network_mood\"").unwrap_err().to_string();
        assert_eq!(refused.matches('`').count(), 2 * (1 + AlarmMetric::ALL.len()), "{refused}");
        assert!(AlarmMetric::ALL.iter().all(|metric| refused.contains(&format!("`{}`", metric.name()))));
    }

    #[test]
    fn a_metric_of_another_kind_is_refused_with_those_of_that_kind() {
        let spec = |kind: &str| AlarmSpec {
            description: String::new(),
            enabled: true,
            severity: AlarmSeverity::Warning,
            condition: AlarmCondition::Metric(MetricCondition {
                metric: AlarmMetric::VolumeBytesPerS,
                above: Some(1e6),
                below: None,
                for_s: 0,
            }),
            objects: ObjectSelector { kind: Some(kind.to_owned()), ..ObjectSelector::default() },
        };
        assert!(spec("volume").mistakes().is_empty());
        let told = |kind| spec(kind).mistakes().remove(0);
        let (field, of_networks) = told("network");
        assert_eq!(field, "spec.objects.kind");
        let there_are = "there are network_addresses_percent, network_bytes_per_s, network_unlinked";
        assert_eq!(of_networks, format!("'volume_bytes_per_s' is of the kind volume; of the kind network {there_are}"));
        assert!(told("image").1.ends_with("there are none; use an event"));
    }
}
