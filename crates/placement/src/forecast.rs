//! A short forecast of what a VM will use, from what it has used.
//!
//! Use of single VMs is mostly noise around a level that drifts slowly: the last sample says little, the mean of the last
//! hours much. So the forecast is an exponentially weighted mean; while a VM is new, it leans on what VMs use in general.

use crate::Demand;

/// Samples that the belief in VMs in general weighs as much as.
const PRIOR_SAMPLES: f64 = 4.0;

/// What is remembered of one VM. Samples are shares of what it could use at most, 0–1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct History {
    weight: f64,
    mean: f64,
    /// Weighted sum of squared deviations.
    squares: f64,
    last: f64,
}

impl History {
    /// `memory`: the number of samples after which one counts for a third; at least 1.
    pub fn push(&mut self, sample: f64, memory: f64) {
        let decay = 1.0 - 1.0 / memory.max(1.0);
        self.weight = self.weight * decay + 1.0;
        let off = sample - self.mean;
        self.mean += off / self.weight;
        self.squares = self.squares * decay + off * (sample - self.mean);
        self.last = sample;
    }

    /// `most`: what the VM can use at most, in the unit that the answer has.
    pub fn demand(&self, usual: &Usual, most: f64) -> Demand {
        let samples = self.weight + PRIOR_SAMPLES;
        let mean = (self.weight * self.mean + PRIOR_SAMPLES * usual.mean) / samples;
        let variance = (self.squares + PRIOR_SAMPLES * usual.variance) / samples;
        Demand { now: most * self.last, expected: most * mean, deviation: most * variance.max(0.0).sqrt() }
    }
}

/// What VMs use in general.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usual {
    mean: f64,
    variance: f64,
}

impl Usual {
    /// Of all VMs that have been measured at all.
    pub fn of<'a>(histories: impl IntoIterator<Item = &'a History>) -> Self {
        let (mut count, mut mean, mut variance) = (0.0, 0.0, 0.0);
        for history in histories.into_iter().filter(|history| history.weight > 0.0) {
            count += 1.0;
            mean += history.mean;
            variance += history.squares / history.weight;
        }
        if count == 0.0 { Self::default() } else { Self { mean: mean / count, variance: variance / count } }
    }
}

/// Where the use of a whole cluster is going: its level, and how fast that changes (double exponential smoothing).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Trend {
    samples: u32,
    level: f64,
    per_s: f64,
}

/// How far a new sample pulls the level, and a new step the slope: waking takes minutes, so what lasts seconds is noise.
const LEVEL_PULL: f64 = 0.2;
const SLOPE_PULL: f64 = 0.1;
/// Before that many samples there is no slope to speak of.
const SLOPE_SAMPLES: u32 = 6;
/// No forecast is more than this many times the level.
const MOST_GROWTH: f64 = 4.0;

impl Trend {
    /// `elapsed_s`: since the last sample.
    pub fn push(&mut self, sample: f64, elapsed_s: f64) {
        if self.samples == 0 {
            *self = Self { samples: 1, level: sample, per_s: 0.0 };
            return;
        }
        let before = self.level;
        let elapsed_s = elapsed_s.max(0.001);
        let level = LEVEL_PULL * sample + (1.0 - LEVEL_PULL) * (self.level + self.per_s * elapsed_s);
        // A fall goes on for a while in the slope, but nothing uses less than nothing.
        self.level = level.max(0.0);
        self.per_s = SLOPE_PULL * (self.level - before) / elapsed_s + (1.0 - SLOPE_PULL) * self.per_s;
        self.samples = self.samples.saturating_add(1);
    }

    /// What will be used that much later, in the samples' unit. Never less than now, because hosts are woken ahead of more
    /// demand and put to sleep only after there is less.
    pub fn ahead(&self, seconds: f64) -> f64 {
        if self.samples < SLOPE_SAMPLES {
            return self.level;
        }
        (self.level + self.per_s * seconds).clamp(self.level, self.level * MOST_GROWTH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_new_vm_is_thought_to_be_like_the_others_and_an_old_one_like_itself() {
        let mut busy = History::default();
        let mut idle = History::default();
        for _ in 0..100 {
            busy.push(0.9, 36.0);
            idle.push(0.1, 36.0);
        }
        let usual = Usual::of([&busy, &idle]);
        let new = History::default().demand(&usual, 200.0);
        assert!((new.expected - 100.0).abs() < 1e-9, "{new:?}");
        assert!(busy.demand(&usual, 200.0).expected > 170.0);
        assert_eq!(Usual::of([]), Usual::default());
    }

    #[test]
    fn a_trend_sees_growth_ahead_and_neither_noise_nor_decline() {
        let mut rising = Trend::default();
        let mut falling = Trend::default();
        let mut noisy = Trend::default();
        for at in 0..60 {
            let at = f64::from(at);
            rising.push(100.0 + 5.0 * at, 5.0);
            falling.push(400.0 - 5.0 * at, 5.0);
            noisy.push(if at % 2.0 == 0.0 { 95.0 } else { 105.0 }, 5.0);
        }
        // One unit a second from 395 on: 120 s later about 515.
        assert!((500.0..530.0).contains(&rising.ahead(120.0)), "{rising:?} {}", rising.ahead(120.0));
        assert!(falling.ahead(120.0) < 110.0, "{falling:?} {}", falling.ahead(120.0));
        assert!(noisy.ahead(120.0) < 105.0, "{noisy:?} {}", noisy.ahead(120.0));
        assert_eq!(Trend::default().ahead(120.0), 0.0);
        // The last VM is gone.
        let mut gone = rising;
        for _ in 0..200 {
            gone.push(0.0, 5.0);
            assert!(gone.ahead(120.0) >= 0.0, "{gone:?}");
        }
        let mut new = Trend::default();
        new.push(1.0, 5.0);
        new.push(100.0, 5.0);
        assert!(new.ahead(120.0) < 100.0, "two samples are no trend: {new:?}");
    }

    proptest! {
        #[test]
        fn a_trend_foresees_no_less_than_nothing_whatever_was_measured(
            samples in proptest::collection::vec((prop_oneof![Just(0.0), 0.0f64..1e4], 0.0f64..600.0), 1..100),
            ahead_s in 0.0f64..3600.0,
        ) {
            let mut trend = Trend::default();
            for (sample, elapsed_s) in samples {
                trend.push(sample, elapsed_s);
                let ahead = trend.ahead(ahead_s);
                prop_assert!(ahead >= 0.0 && ahead.is_finite(), "{ahead} after {trend:?}");
            }
        }

        #[test]
        fn a_forecast_stays_within_what_was_measured(samples in proptest::collection::vec(0.0f64..=1.0, 1..100)) {
            let mut history = History::default();
            samples.iter().for_each(|sample| history.push(*sample, 12.0));
            let demand = history.demand(&Usual::of([&history]), 1.0);
            let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
            let most = samples.iter().copied().fold(0.0, f64::max);
            prop_assert!((least - 1e-9..=most + 1e-9).contains(&demand.expected), "{demand:?}");
            prop_assert!(demand.deviation <= (most - least) + 1e-9);
        }
    }
}
