//! Spans of time for people.

use std::time::Duration;

use gantry_types::Timestamp;

/// One unit, rounded down: `5s`, `12m`, `3h`, `40d`.
pub fn age(since: Option<Timestamp>, now: Timestamp) -> String {
    let Some(since) = since else { return "-".to_owned() };
    let seconds = now.since(since).as_secs();
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Two units at most: `340ms`, `2.5s`, `1m05s`, `2h03m`.
pub fn duration(span: Duration) -> String {
    let (milliseconds, seconds) = (span.as_millis(), span.as_secs());
    match milliseconds {
        0..=999 => format!("{milliseconds}ms"),
        1_000..=59_999 => format!("{:.1}s", (milliseconds / 100) as f64 / 10.0),
        60_000..=3_599_999 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_the_unit_that_fits() {
        let at = |seconds: i64| Timestamp::from_unix_ms(seconds * 1000);
        for (seconds, expected) in
            [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172_800, "2d"), (8_640_000, "100d")]
        {
            assert_eq!(age(Some(at(0)), at(seconds)), expected);
        }
        assert_eq!(age(Some(at(9)), at(0)), "0s", "a clock that went back");
        assert_eq!(age(None, at(0)), "-");
        for (ms, expected) in [(7, "7ms"), (1_000, "1.0s"), (59_999, "59.9s"), (65_000, "1m05s"), (7_380_000, "2h03m")]
        {
            assert_eq!(duration(Duration::from_millis(ms)), expected);
        }
    }
}
