//! What hosts and VMs measured lately: in memory only, gone with the controller, filled again by the heartbeats.
//!
//! ```text
//!   heartbeat ──▶ 1 s for 5 min ──mean──▶ 10 s for 1 h         fine: 8 kB
//!            └─────────mean──▶ 1 min for 1 day                 coarse: 17 kB
//! ```
//! Memory is bounded by a budget, half of it for each. While there is room every host and VM has everything. With more
//! of them the fine series are kept only of those that somebody looks at, and the coarse ones become shorter: with 1 GiB
//! and 425,000 hosts and VMs, 1 min for 105 minutes. A value is kept as bfloat16, to about three digits. What was not
//! measured is a gap, not a zero.

mod ring;

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use gantry_api::overview::MetricsHistory;
use gantry_types::Timestamp;
use uuid::Uuid;

use ring::{Means, PACKED_BYTES, Ring, VALUES, Values};

/// Memory for all series.
pub const BUDGET_BYTES: usize = 1 << 30;

const FINE: [(u32, usize); 2] = [(1, 300), (10, 360)];
const COARSE_STEP_S: u32 = 60;
const DAY_MINUTES: usize = 1440;
/// However many there are, so much is kept.
const LEAST_MINUTES: usize = 30;
/// Who was looked at so lately keeps his fine series, whoever else is looked at.
const WATCHED_S: u64 = 600;
/// Who has not measured anything for a day is forgotten.
const FORGOTTEN_S: u64 = 86_400;

/// Whose series.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    Host(String),
    Vm(Uuid),
}

/// One measurement; what is not known is `NaN`.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    pub cpu_percent: f32,
    pub memory_bytes: f32,
    pub disk_read_bytes_per_s: f32,
    pub disk_write_bytes_per_s: f32,
    pub net_rx_bytes_per_s: f32,
    pub net_tx_bytes_per_s: f32,
}

impl Measured {
    fn values(self) -> Values {
        [
            self.cpu_percent,
            self.memory_bytes,
            self.disk_read_bytes_per_s,
            self.disk_write_bytes_per_s,
            self.net_rx_bytes_per_s,
            self.net_tx_bytes_per_s,
        ]
    }
}

struct Fine {
    seconds: Ring,
    tens: Ring,
    ten: Means,
}

struct Series {
    fine: Option<Box<Fine>>,
    minutes: Ring,
    minute: Means,
    last_s: u64,
    looked_at_s: u64,
}

/// See the module's head.
pub struct History {
    budget_bytes: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    series: HashMap<Subject, Series>,
    fine: usize,
    swept_s: u64,
}

impl Default for History {
    fn default() -> Self {
        Self::with_budget(BUDGET_BYTES)
    }
}

impl History {
    pub fn with_budget(budget_bytes: usize) -> Self {
        Self { budget_bytes, state: Mutex::default() }
    }

    // A panic while the lock was held leaves series that are still whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes measurements in that were made just now.
    pub fn record(&self, at: Timestamp, measured: impl IntoIterator<Item = (Subject, Measured)>) {
        let now_s = seconds(at);
        let mut guard = self.lock();
        let state = &mut *guard;
        state.sweep(now_s);
        for (subject, measured) in measured {
            let minutes = self.minutes_kept(state.series.len() + 1);
            let series = state.series.entry(subject).or_insert_with(|| Series {
                fine: None,
                minutes: Ring::new(COARSE_STEP_S),
                minute: Means::new(COARSE_STEP_S),
                last_s: now_s,
                looked_at_s: 0,
            });
            let is_new = series.fine.is_none();
            series.last_s = now_s;
            let values = measured.values();
            if let Some((slot, mean)) = series.minute.add(now_s, values) {
                series.minutes.push(slot, mean, minutes);
            }
            if let Some(fine) = &mut series.fine {
                fine.seconds.push(now_s, values, FINE[0].1);
                if let Some((slot, mean)) = fine.ten.add(now_s, values) {
                    fine.tens.push(slot, mean, FINE[1].1);
                }
            } else if is_new && state.fine < self.fine_kept() {
                series.fine = Some(Fine::new(now_s, values));
                state.fine += 1;
            }
        }
    }

    /// The series of a subject between two moments with the given step, or the finest one that reaches back to `from`.
    pub fn read(
        &self,
        subject: &Subject,
        from: Timestamp,
        to: Timestamp,
        step_s: Option<u32>,
        now: Timestamp,
    ) -> MetricsHistory {
        let now_s = seconds(now);
        let mut state = self.lock();
        self.look_at(&mut state, subject, now_s);
        let age_s = now_s.saturating_sub(seconds(from));
        let step_s = step_s.unwrap_or_else(|| {
            let covers = |(step_s, kept): &(u32, usize)| u64::from(*step_s) * *kept as u64 >= age_s;
            FINE.iter().find(|tier| covers(tier)).map_or(COARSE_STEP_S, |(step_s, _)| *step_s)
        });
        let mut history = MetricsHistory { step_s, from, to, ..MetricsHistory::default() };
        let Some(series) = state.series.get(subject) else { return history };
        let ring = match (step_s, &series.fine) {
            (COARSE_STEP_S, _) => &series.minutes,
            (1, Some(fine)) => &fine.seconds,
            (_, Some(fine)) => &fine.tens,
            (_, None) => return history,
        };
        for (at_s, values) in ring.between(seconds(from), seconds(to)) {
            history.at.push(at_s);
            let [cpu, memory, read, write, rx, tx] = values.map(|value| (!value.is_nan()).then_some(f64::from(value)));
            history.cpu_percent.push(cpu);
            history.memory_bytes.push(memory);
            history.disk_read_bytes_per_s.push(read);
            history.disk_write_bytes_per_s.push(write);
            history.net_rx_bytes_per_s.push(rx);
            history.net_tx_bytes_per_s.push(tx);
        }
        history
    }

    /// Who is looked at gets fine series from now on, at the cost of the one that was looked at least lately.
    fn look_at(&self, state: &mut State, subject: &Subject, now_s: u64) {
        let Some(series) = state.series.get_mut(subject) else { return };
        series.looked_at_s = now_s;
        if series.fine.is_some() || state.fine < self.fine_kept() {
            return;
        }
        let idle = state
            .series
            .iter_mut()
            .filter(|(_, other)| other.fine.is_some() && now_s.saturating_sub(other.looked_at_s) > WATCHED_S);
        if let Some((_, yielding)) = idle.min_by_key(|(_, other)| other.looked_at_s) {
            // The next measurement takes the place.
            yielding.fine = None;
            state.fine -= 1;
        }
    }

    fn fine_kept(&self) -> usize {
        let bytes: usize = FINE.iter().map(|(_, kept)| kept * PACKED_BYTES).sum();
        self.budget_bytes / 2 / bytes
    }

    fn minutes_kept(&self, subjects: usize) -> usize {
        (self.budget_bytes / 2 / PACKED_BYTES / subjects.max(1)).clamp(LEAST_MINUTES, DAY_MINUTES)
    }
}

impl Fine {
    fn new(now_s: u64, values: Values) -> Box<Self> {
        let mut fine = Self { seconds: Ring::new(FINE[0].0), tens: Ring::new(FINE[1].0), ten: Means::new(FINE[1].0) };
        fine.seconds.push(now_s, values, FINE[0].1);
        fine.ten.add(now_s, values);
        Box::new(fine)
    }
}

impl State {
    /// Forgets those who have not measured for long.
    fn sweep(&mut self, now_s: u64) {
        if now_s < self.swept_s + u64::from(COARSE_STEP_S) {
            return;
        }
        self.swept_s = now_s;
        self.series.retain(|_, series| now_s < series.last_s + FORGOTTEN_S);
        self.fine = self.series.values().filter(|series| series.fine.is_some()).count();
    }
}

fn seconds(at: Timestamp) -> u64 {
    u64::try_from(at.unix_ms() / 1000).unwrap_or(0)
}

const _: () = assert!(VALUES == 6);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Timestamp {
        Timestamp::from_unix_ms(second as i64 * 1000)
    }

    fn vm(number: u128) -> Subject {
        Subject::Vm(Uuid::from_u128(number))
    }

    fn cpu(percent: f32) -> Measured {
        Measured {
            cpu_percent: percent,
            memory_bytes: 1e9,
            disk_read_bytes_per_s: f32::NAN,
            disk_write_bytes_per_s: 0.0,
            net_rx_bytes_per_s: 0.0,
            net_tx_bytes_per_s: 0.0,
        }
    }

    fn read(history: &History, subject: &Subject, from: u64, to: u64, step_s: Option<u32>) -> MetricsHistory {
        history.read(subject, at(from), at(to), step_s, at(to))
    }

    #[test]
    fn seconds_tens_and_minutes_are_kept_as_long_as_they_should_be() {
        let history = History::default();
        for second in 0..7200 {
            history.record(at(second), [(vm(1), cpu((second % 10) as f32))]);
        }
        let fine = read(&history, &vm(1), 0, 7199, Some(1));
        assert_eq!((fine.at.len(), fine.at.first(), fine.at.last()), (300, Some(&6900), Some(&7199)));
        assert_eq!(fine.cpu_percent[..3], [Some(0.0), Some(1.0), Some(2.0)]);
        assert_eq!(fine.disk_read_bytes_per_s[0], None, "not measured is not zero");
        let tens = read(&history, &vm(1), 0, 7199, Some(10));
        assert_eq!(tens.at.len(), 360);
        assert!(tens.cpu_percent.iter().all(|mean| *mean == Some(4.5)), "{:?}", tens.cpu_percent);
        let minutes = read(&history, &vm(1), 0, 7199, Some(60));
        assert_eq!((minutes.at.len(), minutes.at.first()), (119, Some(&0)));
        assert_eq!(read(&history, &vm(1), 7000, 7199, None).step_s, 1, "the finest that reaches back");
        assert_eq!(read(&history, &vm(1), 5000, 7199, None).step_s, 10);
        assert_eq!(read(&history, &vm(1), 0, 7199, None).step_s, 60);
        assert_eq!(read(&history, &vm(1), 7190, 7194, Some(1)).at, [7190, 7191, 7192, 7193, 7194]);
        assert!(read(&history, &vm(2), 0, 7199, Some(1)).at.is_empty());
    }

    #[test]
    fn silence_is_a_gap() {
        let history = History::default();
        for second in [10, 11, 15] {
            history.record(at(second), [(vm(1), cpu(50.0))]);
        }
        let seen = read(&history, &vm(1), 0, 20, Some(1));
        assert_eq!(seen.at, [10, 11, 12, 13, 14, 15]);
        assert_eq!(seen.cpu_percent, [Some(50.0), Some(50.0), None, None, None, Some(50.0)]);
        history.record(at(100_000), [(vm(1), cpu(1.0))]);
        assert_eq!(read(&history, &vm(1), 0, 100_000, Some(1)).at, [100_000], "a gap longer than the ring empties it");
    }

    #[test]
    fn with_too_many_the_fine_series_follow_who_is_looked_at_and_the_day_becomes_shorter() {
        // Room for the fine series of 10.
        let history = History::with_budget(2 * 10 * 660 * PACKED_BYTES);
        for second in 0..4000 {
            history.record(at(second), (0..20).map(|number| (vm(number), cpu(1.0))));
        }
        let has_fine = |subject: &Subject, to: u64| !read(&history, subject, 0, to, Some(1)).at.is_empty();
        let with_fine = (0..20).filter(|number| has_fine(&vm(*number), 3999)).count();
        // Looking took places away from those who had not been looked at.
        assert!(with_fine <= 10, "{with_fine}");
        history.record(at(4000), (0..20).map(|number| (vm(number), cpu(1.0))));
        let fine = history.lock().series.values().filter(|series| series.fine.is_some()).count();
        assert_eq!(fine, 10);
        let minutes = read(&history, &vm(0), 0, 4000, Some(60)).at.len();
        assert!(minutes <= 66, "{minutes}");
        assert_eq!(History::default().minutes_kept(425_000), 105);
        assert_eq!(History::default().minutes_kept(30_000), DAY_MINUTES);
        assert_eq!(History::default().fine_kept(), 67_786);
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let history = History::default();
        history.record(at(0), [(vm(1), cpu(1.0))]);
        history.record(at(FORGOTTEN_S + 1), [(vm(2), cpu(1.0))]);
        assert_eq!(history.lock().series.len(), 1);
        assert_eq!(history.lock().fine, 1);
    }
}
