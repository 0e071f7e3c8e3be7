//! What an operator sets: over-commit, failover capacity, weights of the score.

use std::{collections::BTreeMap, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::score::{TERM_COUNT, terms};

/// Rules of a scope.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Virtual processors for each processor, at least 1.
    pub cpu_overcommit: f64,
    /// Memory given out for each byte there is, at least 1. Reservations always fit into what there is.
    pub memory_overcommit: f64,
    /// The loss of so many hosts, the largest ones, must be made up for by the others' free memory. New VMs are refused
    /// when that would no longer hold.
    pub failover_hosts: u32,
    pub weights: Weights,
}

impl Default for Settings {
    fn default() -> Self {
        Self { cpu_overcommit: 16.0, memory_overcommit: 1.0, failover_hosts: 0, weights: Weights::spread() }
    }
}

/// How much each term of the score counts, by the term's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, f64>", into = "BTreeMap<String, f64>")]
pub struct Weights([f64; TERM_COUNT]);

/// A weight for something that is no term, or no sensible number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{term}' is not a term of the score with a weight from -1000 to 1000; terms: {known}")]
pub struct UnknownTerm {
    term: String,
    known: String,
}

impl Weights {
    /// The default: as much free room as possible around each VM.
    pub fn spread() -> Self {
        let mut weights = [0.0; TERM_COUNT];
        for (weight, term) in weights.iter_mut().zip(terms()) {
            *weight = term.spread;
        }
        Self(weights)
    }

    /// As few hosts as possible.
    pub fn pack() -> Self {
        let mut weights = [0.0; TERM_COUNT];
        for (weight, term) in weights.iter_mut().zip(terms()) {
            *weight = term.pack;
        }
        Self(weights)
    }

    /// # Errors
    /// If there is no such term, or the weight is not a number from -1000 to 1000.
    pub fn set(&mut self, term: &str, weight: f64) -> Result<(), UnknownTerm> {
        let at = terms().iter().position(|known| known.name == term);
        match at.filter(|_| (-1000.0..=1000.0).contains(&weight)) {
            Some(at) => {
                self.0[at] = weight;
                Ok(())
            }
            None => {
                let known: Vec<_> = terms().iter().map(|term| term.name).collect();
                Err(UnknownTerm { term: term.to_owned(), known: known.join(", ") })
            }
        }
    }

    /// Full hosts are preferred.
    pub(crate) fn packs(&self) -> bool {
        terms().iter().zip(self.0).any(|(term, weight)| term.name == "packed" && weight > 0.0)
    }

    /// Terms whose weight is not 0, by their place in the table.
    pub(crate) fn counting(&self) -> Vec<(usize, f64)> {
        self.0.iter().copied().enumerate().filter(|(_, weight)| *weight != 0.0).collect()
    }

    pub(crate) fn values(&self) -> &[f64; TERM_COUNT] {
        &self.0
    }
}

impl TryFrom<BTreeMap<String, f64>> for Weights {
    type Error = UnknownTerm;
    /// Terms that are not named keep the default.
    fn try_from(table: BTreeMap<String, f64>) -> Result<Self, UnknownTerm> {
        let mut weights = Self::spread();
        for (term, weight) in table {
            weights.set(&term, weight)?;
        }
        Ok(weights)
    }
}

impl From<Weights> for BTreeMap<String, f64> {
    fn from(weights: Weights) -> Self {
        terms().iter().zip(weights.0).map(|(term, weight)| (term.name.to_owned(), weight)).collect()
    }
}

impl FromStr for Weights {
    type Err = UnknownTerm;
    /// `spread`, `pack`, or either followed by changes: `pack,wishes=5`.
    fn from_str(text: &str) -> Result<Self, UnknownTerm> {
        let mut weights = Self::spread();
        for (n, part) in text.split(',').map(str::trim).enumerate() {
            match (n, part, part.split_once('=')) {
                (0, "spread" | "", None) => {}
                (0, "pack", None) => weights = Self::pack(),
                (_, _, Some((term, weight))) => weights.set(term.trim(), weight.trim().parse().unwrap_or(f64::NAN))?,
                _ => weights.set(part, f64::NAN)?,
            }
        }
        Ok(weights)
    }
}
