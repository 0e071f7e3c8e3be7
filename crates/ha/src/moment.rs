//! Points in time of one machine's steady clock.

use std::ops::Add;
use std::time::Duration;

/// Milliseconds of a clock that never steps: CLOCK_BOOTTIME on hosts, the controller's steady clock there. Moments of two
/// machines must never be compared, only durations between moments of one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// Time from `earlier` to `self` in milliseconds; 0 if it is later.
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
    /// `ms` before this moment, at the earliest the clock's origin.
    pub fn before(self, ms: u64) -> Self {
        Self(self.0.saturating_sub(ms))
    }
}

impl Add<u64> for Moment {
    type Output = Self;
    fn add(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

impl From<Duration> for Moment {
    fn from(elapsed: Duration) -> Self {
        Self(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }
}
