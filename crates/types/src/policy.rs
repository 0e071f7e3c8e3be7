//! `policy`: what a cluster does by itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{MAIN_CLUSTER, Name, Problem, Timestamp, resource::resource};

resource!(
    /// What a cluster does by itself: exactly one of `balance`, `storage`, `power` and `schedule`. A cluster has at most
    /// one policy for balance, one for storage and one for power, and any number of schedules.
    Policy, "policy", "policies", PolicySpec, PolicyStatus
);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicySpec {
    #[serde(default = "main_cluster")]
    pub cluster: Name,
    /// Moves VMs from hosts that are busy to hosts that are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<BalancePolicy>,
    /// Moves volumes out of pools that are full or busy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StoragePolicy>,
    /// Puts hosts to sleep that nobody needs, and wakes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<PowerPolicy>,
    /// Keeps VMs on certain hosts at certain times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<SchedulePolicy>,
}

pub(crate) fn main_cluster() -> Name {
    MAIN_CLUSTER.parse().unwrap_or_else(|error| panic!("{error}"))
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicyMode {
    /// Nothing is looked at.
    #[default]
    Off,
    /// What it would do is in `status.recommendations`.
    Advise,
    /// It does it.
    Automatic,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BalancePolicy {
    pub mode: PolicyMode,
    /// How often it looks, 1–3600 s.
    pub interval_s: u32,
    /// A host is under pressure above this share of its processors, 1–100 %; below it nothing is moved.
    pub comfortable_percent: u32,
    /// How many of its moves may be under way at once, 1–32; never two on one host.
    pub max_moves: u32,
    /// A VM that has moved stays at least this long, 0–86400 s.
    pub hold_down_s: u32,
}

impl Default for BalancePolicy {
    fn default() -> Self {
        Self { mode: PolicyMode::Off, interval_s: 10, comfortable_percent: 80, max_moves: 2, hold_down_s: 300 }
    }
}

/// Volumes move between pools that have the same value of the label `class`; pools without it are left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StoragePolicy {
    pub mode: PolicyMode,
    /// How often it looks, 1–3600 s.
    pub interval_s: u32,
    /// Volumes leave a pool that is fuller, or whose device is busier, than this, 10–100 %. A pool that takes one stays ten
    /// percent below.
    pub limit_percent: u32,
    /// How many of its moves may be under way at once, 1–32; never two in one pool.
    pub max_moves: u32,
    /// A volume that has moved stays at least this long, 0–86400 s.
    pub hold_down_s: u32,
}

impl Default for StoragePolicy {
    fn default() -> Self {
        Self { mode: PolicyMode::Off, interval_s: 30, limit_percent: 80, max_moves: 1, hold_down_s: 3600 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PowerPolicy {
    pub mode: PolicyMode,
    /// How often it looks, 1–3600 s.
    pub interval_s: u32,
    /// Hosts that stay awake beyond what is needed, 0–64.
    pub spare: u32,
    /// A host sleeps only after it was not needed for this long, 0–86400 s; and after it woke it stays awake as long.
    pub hold_down_s: u32,
}

impl Default for PowerPolicy {
    fn default() -> Self {
        Self { mode: PolicyMode::Off, interval_s: 10, spare: 1, hold_down_s: 300 }
    }
}

/// While it holds, VMs that `vms` selects run on hosts that `hosts` selects: others are moved there, also if they were
/// balanced elsewhere, and sleeping hosts among them are woken first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SchedulePolicy {
    /// Label selector of VMs, for example `app=mail`.
    pub vms: String,
    /// Label selector of hosts, for example `rack=a`.
    pub hosts: String,
    /// When it begins to hold, UTC: `08:00`.
    pub from: String,
    /// When it ceases to, UTC: `12:00`; the same as `from` is a whole day.
    pub until: String,
    /// On which days it begins: `mon`, `tue`, `wed`, `thu`, `fri`, `sat`, `sun`; every day if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Weekday>,
    /// How many of its moves may be under way at once, 1–32.
    #[serde(default = "default_moves")]
    pub max_moves: u32,
}

fn default_moves() -> u32 {
    2
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Weekday {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Weekday {
    const ALL: [Self; 7] = [Self::Mon, Self::Tue, Self::Wed, Self::Thu, Self::Fri, Self::Sat, Self::Sun];

    fn of(day: jiff::civil::Date) -> Self {
        let index = day.weekday().to_monday_zero_offset();
        Self::ALL[usize::from(index.unsigned_abs())]
    }
}

impl SchedulePolicy {
    /// Whether it holds at this moment. A window that goes past midnight belongs to the day on which it began.
    pub fn holds_at(&self, now: Timestamp) -> bool {
        let (Ok(from), Ok(until)) = (minute_of_day(&self.from), minute_of_day(&self.until)) else { return false };
        let utc = jiff::tz::TimeZone::UTC.to_datetime(now.0);
        let minute = u32::from(utc.hour().unsigned_abs()) * 60 + u32::from(utc.minute().unsigned_abs());
        let begins_on = |day: jiff::civil::Date| self.days.is_empty() || self.days.contains(&Weekday::of(day));
        let (today, yesterday) = (utc.date(), utc.date().yesterday().unwrap_or(utc.date()));
        if from < until {
            return (from..until).contains(&minute) && begins_on(today);
        }
        (minute >= from && begins_on(today)) || (minute < until && begins_on(yesterday))
    }
}

/// `08:30` → 510.
fn minute_of_day(text: &str) -> Result<u32, String> {
    let wrong = || format!("'{text}' is not a time of day: write 08:00, from 00:00 to 23:59");
    let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
    let digits = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(hour) || !digits(minute) {
        return Err(wrong());
    }
    let (hour, minute): (u32, u32) = (hour.parse().map_err(|_| wrong())?, minute.parse().map_err(|_| wrong())?);
    if hour > 23 || minute > 59 { Err(wrong()) } else { Ok(hour * 60 + minute) }
}

impl PolicySpec {
    /// `balance`, `storage`, `power` or `schedule`.
    pub fn rule(&self) -> &'static str {
        match (&self.balance, &self.storage, &self.power) {
            (Some(_), _, _) => "balance",
            (None, Some(_), _) => "storage",
            (None, None, Some(_)) => "power",
            (None, None, None) => "schedule",
        }
    }

    /// What it may do; a schedule that exists holds.
    pub fn mode(&self) -> PolicyMode {
        let (balance, power) = (self.balance.as_ref().map(|rule| rule.mode), self.power.as_ref().map(|rule| rule.mode));
        let storage = self.storage.as_ref().map(|rule| rule.mode);
        balance.or(storage).or(power).unwrap_or(PolicyMode::Automatic)
    }

    /// All that is wrong with it by itself; references are the controller's to check.
    pub fn validate(&self) -> Result<(), Problem> {
        let mut problem = Problem::invalid("invalid-policy", "the policy's spec is not valid");
        let mut ranges = Vec::new();
        let rules = [self.balance.is_some(), self.storage.is_some(), self.power.is_some(), self.schedule.is_some()];
        if rules.iter().filter(|given| **given).count() != 1 {
            problem = problem.field("spec", "needs exactly one of balance, storage, power and schedule");
        }
        if let Some(rule) = &self.balance {
            ranges.push(("spec.balance.interval_s", rule.interval_s, 1, 3600));
            ranges.push(("spec.balance.comfortable_percent", rule.comfortable_percent, 1, 100));
            ranges.push(("spec.balance.max_moves", rule.max_moves, 1, 32));
            ranges.push(("spec.balance.hold_down_s", rule.hold_down_s, 0, 86_400));
        }
        if let Some(rule) = &self.storage {
            ranges.push(("spec.storage.interval_s", rule.interval_s, 1, 3600));
            ranges.push(("spec.storage.limit_percent", rule.limit_percent, 10, 100));
            ranges.push(("spec.storage.max_moves", rule.max_moves, 1, 32));
            ranges.push(("spec.storage.hold_down_s", rule.hold_down_s, 0, 86_400));
        }
        if let Some(rule) = &self.power {
            ranges.push(("spec.power.interval_s", rule.interval_s, 1, 3600));
            ranges.push(("spec.power.spare", rule.spare, 0, 64));
            ranges.push(("spec.power.hold_down_s", rule.hold_down_s, 0, 86_400));
        }
        if let Some(rule) = &self.schedule {
            ranges.push(("spec.schedule.max_moves", rule.max_moves, 1, 32));
            for (field, text) in [("spec.schedule.from", &rule.from), ("spec.schedule.until", &rule.until)] {
                if let Err(message) = minute_of_day(text) {
                    problem = problem.field(field, message);
                }
            }
            for (field, text) in [("spec.schedule.vms", &rule.vms), ("spec.schedule.hosts", &rule.hosts)] {
                match text.parse::<crate::Selector>() {
                    Err(error) => problem = problem.field(field, error.to_string()),
                    Ok(_) if text.trim().is_empty() => {
                        problem = problem.field(field, "would select everything; write for example app=mail");
                    }
                    Ok(_) => {}
                }
            }
        }
        for (field, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                problem = problem.field(field, format!("{value} is out of range, use {least} to {most}"));
            }
        }
        if problem.fields.is_empty() { Ok(()) } else { Err(problem) }
    }
}

/// Written when it changes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PolicyStatus {
    /// What it found when it last looked, in one sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub finding: String,
    /// What it would do, or is doing; the best first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recommendations: Vec<Recommendation>,
}

/// One thing that a policy would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Recommendation {
    /// By which it is carried out by hand: `gantry policy apply POLICY ID`. The same while the same is recommended.
    pub id: String,
    #[serde(flatten)]
    pub advice: Advice,
    /// Why, for people: benefit against cost.
    pub reason: String,
    /// What it brings, in the unit that `reason` names.
    pub benefit: f64,
    /// What it costs, in the same unit.
    pub cost: f64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "advice", rename_all = "snake_case")]
pub enum Advice {
    Move { vm: Name, from: Name, to: Name },
    MoveVolume { volume: Name, from: Name, to: Name },
    Sleep { host: Name },
    Wake { host: Name },
}

impl std::fmt::Display for Advice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Move { vm, from, to } => write!(f, "move vm/{vm} from {from} to {to}"),
            Self::MoveVolume { volume, from, to } => write!(f, "move volume/{volume} from {from} to {to}"),
            Self::Sleep { host } => write!(f, "put host/{host} to sleep"),
            Self::Wake { host } => write!(f, "wake host/{host}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schedule(from: &str, until: &str, days: &[Weekday]) -> SchedulePolicy {
        SchedulePolicy {
            vms: "app=mail".into(),
            hosts: "rack=a".into(),
            from: from.into(),
            until: until.into(),
            days: days.to_vec(),
            max_moves: 2,
        }
    }
    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse().expect("a time"))
    }

    #[test]
    fn a_schedule_holds_within_its_window_and_on_its_days() {
        let morning = schedule("08:00", "12:00", &[]);
        assert!(!morning.holds_at(at("2026-03-02T07:59:59Z")));
        assert!(morning.holds_at(at("2026-03-02T08:00:00Z")));
        assert!(morning.holds_at(at("2026-03-02T11:59:59Z")));
        assert!(!morning.holds_at(at("2026-03-02T12:00:00Z")));
        // 2 March 2026 is a Monday: its night ends on Tuesday.
        let night = schedule("22:00", "06:00", &[Weekday::Mon]);
        assert!(!night.holds_at(at("2026-03-02T05:00:00Z")));
        assert!(night.holds_at(at("2026-03-02T22:00:00Z")));
        assert!(night.holds_at(at("2026-03-03T05:59:00Z")));
        assert!(!night.holds_at(at("2026-03-03T22:00:00Z")));
        assert!(schedule("00:00", "00:00", &[]).holds_at(at("2026-03-03T13:00:00Z")));
    }

    #[test]
    fn a_policy_has_exactly_one_rule_with_sound_figures() {
        let check = |spec: serde_json::Value| {
            let spec: PolicySpec = serde_json::from_value(spec).expect("the right shape");
            let problem = spec.validate().err()?;
            Some(problem.fields.iter().map(|field| field.field.clone()).collect::<Vec<_>>())
        };
        assert_eq!(check(json!({"balance": {"mode": "automatic"}})), None);
        assert_eq!(check(json!({})), Some(vec!["spec".into()]));
        assert_eq!(check(json!({"balance": {}, "power": {}})), Some(vec!["spec".into()]));
        let wrong = json!({"schedule": {"vms": "", "hosts": "a=", "from": "24:00", "until": "8:00", "max_moves": 0}});
        let fields = check(wrong).expect("wrong");
        assert!(fields.len() >= 4 && fields.iter().all(|field| field.starts_with("spec.schedule.")), "{fields:?}");
    }
}
