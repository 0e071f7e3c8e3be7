//! Values at equal steps of time, the oldest of which give way; and the means that one ring gets from a finer one.

use std::collections::VecDeque;

pub const VALUES: usize = 6;
pub type Values = [f32; VALUES];
type Packed = [u16; VALUES];
pub const PACKED_BYTES: usize = size_of::<Packed>();

const GAP: Packed = [0x7fc0; VALUES];
/// Grown by so many, so that no half of it stays empty.
const GROWTH: usize = 60;

pub struct Ring {
    step_s: u64,
    /// Of the first value, in steps since the epoch.
    first: u64,
    values: VecDeque<Packed>,
}

impl Ring {
    pub fn new(step_s: u32) -> Self {
        Self { step_s: u64::from(step_s), first: 0, values: VecDeque::new() }
    }

    /// At most `kept` values stay. Values for a step before the last are dropped.
    pub fn push(&mut self, at_s: u64, values: Values, kept: usize) {
        let slot = at_s / self.step_s;
        let next = self.first + self.values.len() as u64;
        if self.values.is_empty() || slot >= next + kept as u64 {
            self.values.clear();
            self.first = slot;
        } else if slot < next {
            // Twice in one step: the later one counts.
            if slot + 1 == next
                && let Some(last) = self.values.back_mut()
            {
                *last = values.map(pack);
            }
            return;
        } else {
            (next..slot).for_each(|_| self.append(GAP));
        }
        self.append(values.map(pack));
        while self.values.len() > kept {
            self.values.pop_front();
            self.first += 1;
        }
    }

    fn append(&mut self, packed: Packed) {
        if self.values.len() == self.values.capacity() {
            self.values.reserve_exact(GROWTH);
        }
        self.values.push_back(packed);
    }

    /// With the second at which each step begins.
    pub fn between(&self, from_s: u64, to_s: u64) -> impl Iterator<Item = (u64, Values)> + '_ {
        let numbered = self
            .values
            .iter()
            .enumerate()
            .map(move |(index, packed)| ((self.first + index as u64) * self.step_s, packed.map(unpack)));
        numbered.filter(move |(at_s, _)| (from_s..=to_s).contains(at_s))
    }
}

/// The mean of what was measured within one step.
pub struct Means {
    step_s: u64,
    slot: u64,
    sums: [f64; VALUES],
    counts: [u32; VALUES],
}

impl Means {
    pub fn new(step_s: u32) -> Self {
        Self { step_s: u64::from(step_s), slot: 0, sums: [0.0; VALUES], counts: [0; VALUES] }
    }

    /// Returns the step that has just ended, if one has: its beginning, and its mean.
    pub fn add(&mut self, at_s: u64, values: Values) -> Option<(u64, Values)> {
        let slot = at_s / self.step_s;
        let ended = if slot > self.slot { self.finish() } else { None };
        self.slot = self.slot.max(slot);
        for (index, value) in values.into_iter().enumerate().filter(|(_, value)| !value.is_nan()) {
            self.sums[index] += f64::from(value);
            self.counts[index] += 1;
        }
        ended
    }

    fn finish(&mut self) -> Option<(u64, Values)> {
        let is_empty = self.counts == [0; VALUES];
        let mut means = [f32::NAN; VALUES];
        for (index, mean) in means.iter_mut().enumerate().filter(|(index, _)| self.counts[*index] > 0) {
            *mean = (self.sums[index] / f64::from(self.counts[index])) as f32;
        }
        (self.sums, self.counts) = ([0.0; VALUES], [0; VALUES]);
        (!is_empty).then_some((self.slot * self.step_s, means))
    }
}

/// bfloat16: the upper half of an `f32`, rounded.
fn pack(value: f32) -> u16 {
    if value.is_nan() {
        return GAP[0];
    }
    let bits = value.to_bits();
    let rounded = bits.saturating_add(0x7fff + (bits >> 16 & 1));
    (rounded >> 16) as u16
}

fn unpack(packed: u16) -> f32 {
    f32::from_bits(u32::from(packed) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_values_are_right_to_half_a_percent() {
        for value in [0.0, 0.3, 1.0, 99.9, 100.0, 6400.0, 1.5e9, 4.4e12] {
            let back = unpack(pack(value));
            assert!((back - value).abs() <= value * 0.004, "{value} became {back}");
        }
        assert!(unpack(pack(f32::NAN)).is_nan());
    }
}
