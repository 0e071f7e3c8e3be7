//! The score: named terms, each from 0 to 1, times a weight.

use serde::Serialize;

/// One line of the table that an operator reads and sets.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Term {
    pub name: &'static str,
    pub meaning: &'static str,
    /// Its weight when VMs are spread (the default), and when they are packed.
    pub spread: f64,
    pub pack: f64,
}

pub(crate) const TERM_COUNT: usize = 8;

const TERMS: [Term; TERM_COUNT] = [
    Term {
        name: "memory",
        meaning: "memory still free on the host afterwards, as a share of the largest host's",
        spread: 1.0,
        pack: 0.0,
    },
    Term {
        name: "cpu",
        meaning: "virtual processors that the host may still give out afterwards, as a share of all it may",
        spread: 0.25,
        pack: 0.0,
    },
    Term {
        name: "load",
        meaning: "processor time that is idle by measurement and would stay so, as a share of the host's",
        spread: 0.0,
        pack: 0.0,
    },
    Term {
        name: "packed",
        meaning: "how full the host is afterwards by whichever is scarcer, memory or processors",
        spread: 0.0,
        pack: 1.0,
    },
    Term {
        name: "efficiency",
        meaning: "processor capacity for a watt at full load, as a share of the best host's; 0 where it is not known",
        spread: 0.0,
        pack: 0.5,
    },
    Term { name: "wishes", meaning: "share of the 'should' rules that are kept", spread: 2.0, pack: 2.0 },
    Term { name: "awake", meaning: "1 if the host is awake", spread: 10.0, pack: 10.0 },
    Term { name: "stays", meaning: "1 if the VM is there already", spread: 0.0, pack: 0.0 },
];

/// All terms of the score, in the order in which they are shown.
pub fn terms() -> &'static [Term] {
    &TERMS
}

/// What one term gave one host.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TermScore {
    pub name: &'static str,
    /// 0–1.
    pub value: f64,
    pub weight: f64,
    /// value × weight.
    pub points: f64,
}

pub(crate) fn table(values: &[f64; TERM_COUNT], weights: &[f64; TERM_COUNT]) -> Vec<TermScore> {
    let lines = TERMS.iter().zip(values).zip(weights);
    lines
        .filter(|(_, weight)| **weight != 0.0)
        .map(|((term, value), weight)| TermScore {
            name: term.name,
            value: *value,
            weight: *weight,
            points: value * weight,
        })
        .collect()
}

pub(crate) fn total(values: &[f64; TERM_COUNT], weights: &[f64; TERM_COUNT]) -> f64 {
    values.iter().zip(weights).map(|(value, weight)| value * weight).sum()
}
