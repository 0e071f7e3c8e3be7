//! The figures of the product, each beside a peer that is measured in the same run on the same machine.
//!
//! Runs of product and peer alternate, so that a machine that slows down slows both; medians are compared. A figure is
//! reported even if it misses its limit: whether that is an error is the caller's decision.

mod api;
mod filled;
mod ha;
mod migrate;
mod network;
mod placement;
mod report;
mod start;
mod storage;
mod ui;

use std::time::Duration;

pub use api::{OBJECTS, api};
pub use ha::ha;
pub use migrate::migrate;
pub use network::{PORTS, network};
pub use placement::placement;
pub use report::{Better, Figure, Report};
pub use start::start;
pub use storage::storage;
pub use ui::{UI_OBJECTS, ui};

/// The middle value; of an even number, the mean of the two in the middle.
pub fn median(values: &[Duration]) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort();
    match sorted.len() {
        0 => Duration::ZERO,
        count if count % 2 == 1 => sorted[count / 2],
        count => (sorted[count / 2 - 1] + sorted[count / 2]) / 2,
    }
}

/// The value that `percent` of all values do not exceed.
pub fn percentile(values: &[Duration], percent: usize) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort();
    let place = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(place).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles() {
        let ms = |values: &[u64]| values.iter().copied().map(Duration::from_millis).collect::<Vec<_>>();
        assert_eq!(median(&ms(&[9, 1, 5])), Duration::from_millis(5));
        assert_eq!(median(&ms(&[9, 1, 5, 7])), Duration::from_millis(6));
        assert_eq!(median(&[]), Duration::ZERO);
        let hundred: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(percentile(&ms(&hundred), 99), Duration::from_millis(99));
        assert_eq!(percentile(&ms(&[4]), 99), Duration::from_millis(4));
    }
}
