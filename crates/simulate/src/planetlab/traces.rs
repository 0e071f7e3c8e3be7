//! Traces: one text a VM and day, 288 lines, CPU use in per cent.

use std::collections::BTreeMap;

use super::setting::{FIRST_S, INTERVAL_S};

pub const SAMPLES: usize = 288;

/// A day: the VMs in byte order of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Day {
    pub name: String,
    pub vms: Vec<Trace>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Per cent at 0, 300, … s.
    percent: [u8; SAMPLES],
}

/// Why texts are not traces.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTrace {
    #[error("trace {path} has {lines} lines, {SAMPLES} are needed: one an interval of five minutes")]
    Length { path: String, lines: usize },
    #[error("line {line} of trace {path} is '{text}', not a whole number from 0 to 100")]
    Line { path: String, line: usize, text: String },
    #[error("there are no traces in it; they are files named DAY/VM, with 288 lines each")]
    None,
}

impl Trace {
    /// # Errors
    /// If it has not 288 lines with a number from 0 to 100 each.
    pub fn parse(path: &str, text: &str) -> Result<Self, BadTrace> {
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let length = || BadTrace::Length { path: path.to_owned(), lines: lines.len() };
        let mut percent = [0; SAMPLES];
        if lines.len() != SAMPLES {
            return Err(length());
        }
        for (at, line) in lines.iter().enumerate() {
            percent[at] = line.parse().ok().filter(|value| *value <= 100).ok_or_else(|| BadTrace::Line {
                path: path.to_owned(),
                line: at + 1,
                text: line.chars().filter(|c| !c.is_control()).take(20).collect(),
            })?;
        }
        Ok(Self { percent })
    }

    pub fn new(percent: [u8; SAMPLES]) -> Self {
        Self { percent }
    }

    /// At 0, 300, … s.
    pub fn percent(&self) -> [u8; SAMPLES] {
        self.percent
    }

    /// Share of the VM's MIPS that it asks for, linear between samples; the last sample holds on.
    pub fn share(&self, time_s: f64) -> f64 {
        let at = time_s / INTERVAL_S;
        let sample = |index: usize| f64::from(self.percent[index.min(SAMPLES - 1)]) / 100.0;
        let before = at.floor();
        let (low, high) = (sample(before as usize), sample(before as usize + 1));
        low + (high - low) / INTERVAL_S * (time_s - before * INTERVAL_S)
    }
}

/// Sorts texts with paths `…/DAY/VM` into days.
///
/// # Errors
/// If a text is no trace, or there is none.
pub fn days(texts: impl IntoIterator<Item = (String, String)>) -> Result<Vec<Day>, BadTrace> {
    let mut days: BTreeMap<String, BTreeMap<String, Trace>> = BTreeMap::new();
    for (path, text) in texts {
        let mut parts = path.rsplit('/');
        let (Some(vm), Some(day)) = (parts.next(), parts.next()) else { continue };
        let trace = Trace::parse(&path, &text)?;
        days.entry(day.to_owned()).or_default().insert(vm.to_owned(), trace);
    }
    if days.is_empty() {
        return Err(BadTrace::None);
    }
    Ok(days.into_iter().map(|(name, vms)| Day { name, vms: vms.into_values().collect() }).collect())
}

/// When the n-th decision falls, the first being 0. Added up one by one, as CloudSim's clock is.
pub fn decision_times() -> impl Iterator<Item = f64> {
    std::iter::successors(Some(FIRST_S + INTERVAL_S), |time| Some(time + INTERVAL_S))
        .take_while(|time| *time <= super::setting::DAY_S)
}
