//! What is kept of what is made again and again. Pure.
//!
//! Of each kind of period the newest ones in which there is one count, as many as is said; each keeps the newest in it. What no
//! period keeps goes. Periods are of UTC; weeks begin on Mondays.

use std::collections::BTreeSet;

use jiff::{civil::Weekday, tz::Offset};

use crate::Timestamp;

/// How many periods of each kind keep one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    pub hourly: u32,
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Period {
    Hour,
    Day,
    Week,
    Month,
}

impl Period {
    /// Grows with each period; the same for all moments in one.
    fn number(self, at: Timestamp) -> i64 {
        let date = Offset::UTC.to_datetime(at.0).date();
        let days = at.unix_ms().div_euclid(86_400_000);
        match self {
            Self::Hour => at.unix_ms().div_euclid(3_600_000),
            Self::Day => days,
            Self::Week => days - i64::from(date.weekday().since(Weekday::Monday)),
            Self::Month => i64::from(date.year()) * 12 + i64::from(date.month()),
        }
    }
}

impl Retention {
    /// None is made.
    pub fn is_empty(&self) -> bool {
        self.kept().next().is_none()
    }

    /// At most so many are kept.
    pub fn together(&self) -> u32 {
        [self.hourly, self.daily, self.weekly, self.monthly].iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The periods that count, the shortest first.
    fn kept(&self) -> impl Iterator<Item = (Period, usize)> {
        let counts = [
            (Period::Hour, self.hourly),
            (Period::Day, self.daily),
            (Period::Week, self.weekly),
            (Period::Month, self.monthly),
        ];
        counts.into_iter().filter(|(_, count)| *count > 0).map(|(period, count)| (period, count as usize))
    }

    /// What one that is made now is called beside its VM.
    pub fn name_at(now: Timestamp) -> String {
        let at = Offset::UTC.to_datetime(now.0);
        format!("auto-{:04}{:02}{:02}-{:02}{:02}", at.year(), at.month(), at.day(), at.hour(), at.minute())
    }

    /// Whether another one is due, when the newest was made at `newest`.
    pub fn is_due(&self, newest: Option<Timestamp>, now: Timestamp) -> bool {
        let Some((shortest, _)) = self.kept().next() else { return false };
        newest.is_none_or(|newest| shortest.number(now) > shortest.number(newest))
    }

    /// Those that no period keeps. The newest stays in any case, as the latest there is.
    pub fn surplus<T: Clone>(&self, made: &[(T, Timestamp)]) -> Vec<T> {
        let mut newest_first: Vec<usize> = (0..made.len()).collect();
        newest_first.sort_by_key(|index| std::cmp::Reverse((made[*index].1, *index)));
        let mut stay: BTreeSet<usize> = newest_first.first().copied().into_iter().collect();
        for (period, count) in self.kept() {
            let mut seen = BTreeSet::new();
            for index in &newest_first {
                if seen.len() < count && seen.insert(period.number(made[*index].1)) {
                    stay.insert(*index);
                }
            }
        }
        (0..made.len()).filter(|index| !stay.contains(index)).map(|index| made[index].0.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse().unwrap())
    }
    fn keeping(hourly: u32, daily: u32, weekly: u32, monthly: u32) -> Retention {
        Retention { hourly, daily, weekly, monthly }
    }

    #[test]
    fn periods_begin_when_calendars_say() {
        for (period, last, first) in [
            (Period::Hour, "2026-03-01T09:59:59Z", "2026-03-01T10:00:00Z"),
            (Period::Day, "2026-02-28T23:59:59Z", "2026-03-01T00:00:00Z"),
            // A Sunday and a Monday.
            (Period::Week, "2026-03-01T23:59:59Z", "2026-03-02T00:00:00Z"),
            (Period::Month, "2027-12-31T23:59:59Z", "2028-01-01T00:00:00Z"),
            (Period::Week, "1969-12-28T23:59:59Z", "1969-12-29T00:00:00Z"),
        ] {
            assert!(period.number(at(first)) > period.number(at(last)), "{period:?} {first}");
        }
        assert_eq!(Period::Week.number(at("2026-03-02T00:00:00Z")), Period::Week.number(at("2026-03-08T23:59:59Z")));
    }

    #[test]
    fn one_is_due_when_the_shortest_period_that_counts_is_over() {
        let (daily, none) = (keeping(0, 7, 4, 0), keeping(0, 0, 0, 0));
        let newest = Some(at("2026-03-01T23:00:00Z"));
        assert!(daily.is_due(None, at("2026-03-01T23:30:00Z")) && !none.is_due(None, at("2026-03-01T23:30:00Z")));
        assert!(!daily.is_due(newest, at("2026-03-01T23:59:00Z")) && daily.is_due(newest, at("2026-03-02T00:00:00Z")));
        assert_eq!(Retention::name_at(at("2026-03-01T23:07:59Z")), "auto-20260301-2307");
        // A clock that went back takes none twice.
        assert!(!daily.is_due(newest, at("2026-02-20T00:00:00Z")));
    }

    #[test]
    fn days_stay_when_hours_have_gone() {
        let hours: Vec<(u32, Timestamp)> = (0..72)
            .map(|hour| {
                (hour, at("2026-03-02T00:30:00Z").after(std::time::Duration::from_secs(3600 * u64::from(hour))))
            })
            .collect();
        let gone = keeping(3, 2, 1, 0).surplus(&hours);
        let stay: Vec<u32> = (0..72).filter(|hour| !gone.contains(hour)).collect();
        // The last of Tuesday, and the last three hours of Wednesday.
        assert_eq!(stay, [47, 69, 70, 71]);
        assert_eq!(keeping(0, 0, 0, 0).surplus(&hours).len(), 71, "the latest there is stays");
    }

    proptest! {
        /// Against the plainest model: one stays if it is the newest of all, or the newest of a period that fewer
        /// than so many later ones have one in.
        #[test]
        fn what_stays_is_what_the_model_says(
            hours in proptest::collection::vec(0i64..24 * 400, 0..60),
            counts in proptest::array::uniform4(0u32..5),
        ) {
            let retention = keeping(counts[0], counts[1], counts[2], counts[3]);
            let taken: Vec<(usize, Timestamp)> = hours.iter().enumerate()
                .map(|(index, hour)| (index, Timestamp::from_unix_ms(1_767_225_600_000 + hour * 3_600_000))).collect();
            let gone = retention.surplus(&taken);
            let later = |one: &(usize, Timestamp), other: &(usize, Timestamp)| (other.1, other.0) > (one.1, one.0);
            for one in &taken {
                let newest = !taken.iter().any(|other| later(one, other));
                let kept = retention.kept().any(|(period, count)| {
                    let of = |snapshot: &(usize, Timestamp)| period.number(snapshot.1);
                    let last_of_its = !taken.iter().any(|other| of(other) == of(one) && later(one, other));
                    let after: BTreeSet<i64> = taken.iter().map(of).filter(|number| *number > of(one)).collect();
                    last_of_its && after.len() < count
                });
                prop_assert_eq!(!gone.contains(&one.0), newest || kept);
            }
            // What has gone is not missed afterwards.
            let left: Vec<_> = taken.iter().filter(|one| !gone.contains(&one.0)).cloned().collect();
            prop_assert!(retention.surplus(&left).is_empty());
        }
    }
}
