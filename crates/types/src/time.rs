//! Points in time as they stand in objects: RFC 3339, UTC.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An RFC 3339 timestamp in UTC. Wall-clock time: for people and records, never for fencing decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, format = DateTime)]
pub struct Timestamp(pub jiff::Timestamp);

impl Timestamp {
    pub const UNIX_EPOCH: Self = Self(jiff::Timestamp::UNIX_EPOCH);

    /// From milliseconds since the Unix epoch; out-of-range values are clamped to the epoch.
    pub fn from_unix_ms(unix_ms: i64) -> Self {
        jiff::Timestamp::from_millisecond(unix_ms).map(Self).unwrap_or(Self::UNIX_EPOCH)
    }
    pub fn unix_ms(self) -> i64 {
        self.0.as_millisecond()
    }
    /// That much later; the same if no clock goes that far.
    pub fn after(self, by: Duration) -> Self {
        let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.unix_ms().checked_add(by_ms).map_or(self, Self::from_unix_ms)
    }
    /// Time from `earlier` to `self`; zero if the clock went backwards.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.unix_ms() - earlier.unix_ms()).unwrap_or(0))
    }
}

impl From<std::time::SystemTime> for Timestamp {
    fn from(time: std::time::SystemTime) -> Self {
        jiff::Timestamp::try_from(time)
            .and_then(|t| jiff::Timestamp::from_millisecond(t.as_millisecond()))
            .map(Self)
            .unwrap_or(Self::UNIX_EPOCH)
    }
}
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
