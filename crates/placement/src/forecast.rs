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

    proptest! {
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
