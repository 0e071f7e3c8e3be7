//! How long things last.

use crate::Moment;

/// Durations on which agents and controllers must agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A lease lasts this long from the moment its renewal was *asked* for.
    pub lease_ms: u64,
    /// By how much two machines' clocks may differ in speed, in thousandths.
    pub drift_permille: u64,
    /// The longest time from a lease's end until the last protected VM executes no more.
    pub kill_margin_ms: u64,
}

impl Timing {
    /// Renewals go out each second: three may be lost in a row.
    pub const DEFAULT: Self = Self { lease_ms: 4_000, drift_permille: 10, kill_margin_ms: 750 };

    /// By the controller's clock: how long after the last possible renewal a host surely runs nothing protected.
    pub fn gone_after_ms(&self) -> u64 {
        let drift_ms = (self.lease_ms + self.kill_margin_ms).saturating_mul(self.drift_permille).div_ceil(1000);
        self.lease_ms + self.kill_margin_ms + drift_ms
    }

    /// The moment, by the asker's clock, that a member means by "`ago_ms` ago" in an answer that arrives now.
    pub fn moment_told(&self, now: Moment, ago_ms: u64) -> Moment {
        now.before(ago_ms - ago_ms.saturating_mul(self.drift_permille).div_ceil(1000).min(ago_ms))
    }

    /// How old a renewal may get before the host asks the other members too, so that their answers come in time.
    pub fn ask_after_ms(&self) -> u64 {
        self.lease_ms * 2 / 5
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self::DEFAULT
    }
}
