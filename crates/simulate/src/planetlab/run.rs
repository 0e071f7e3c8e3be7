//! One day under one policy, and its figures.

use std::{fmt, str::FromStr};

use serde::Serialize;

use super::{
    gantry::{self, Gantry},
    lr_mmt::LrMmt,
    room::{Migration, Room},
    setting::Rules,
    traces::{Day, decision_times},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Local regression, minimum migration time, safety 1.2.
    LrMmt,
    Gantry,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::LrMmt => "lr-mmt",
            Self::Gantry => "gantry",
        })
    }
}

impl FromStr for Policy {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "lr-mmt" => Ok(Self::LrMmt),
            "gantry" => Ok(Self::Gantry),
            _ => Err(format!("'{text}' is no policy; there are: lr-mmt, gantry")),
        }
    }
}

/// A VM that no host takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("VM {vm} of the day fits on no host of the benchmark: {reason}")]
pub struct Impossible {
    pub vm: usize,
    pub reason: String,
}

/// The figures of a day. Shares are 0–1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DayFigures {
    pub day: String,
    pub policy: Policy,
    pub rules: &'static str,
    pub vms: usize,
    pub energy_kwh: f64,
    pub migrations: u64,
    pub shutdowns: u64,
    /// Time that hosts spent with demand unmet ÷ time that they were in use.
    pub slatah: f64,
    /// MIPS missing because of migrations ÷ MIPS asked for.
    pub pdm: f64,
    /// SLATAH × PDM.
    pub slav: f64,
    /// MIPS missing for whatever reason ÷ MIPS asked for.
    pub unmet: f64,
    /// VMs that CloudSim's rules took for finished before the day was over.
    pub vms_ended: usize,
    /// Hosts in use at each decision.
    #[serde(skip)]
    pub moments: Vec<Moment>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    pub time_s: f64,
    pub hosts: usize,
    pub migrations: usize,
}

enum Decider {
    LrMmt(LrMmt),
    Gantry(Box<Gantry>),
}

impl Decider {
    fn decide(&mut self, room: &Room<'_>, time_s: f64) -> Vec<Migration> {
        match self {
            Self::LrMmt(policy) => policy.decide(room, time_s),
            Self::Gantry(policy) => policy.decide(room, time_s),
        }
    }
}

/// Runs a day.
///
/// # Errors
/// If a VM can't be placed at the beginning.
pub fn run(day: &Day, policy: Policy, rules: Rules) -> Result<DayFigures, Impossible> {
    let (mut decider, seats) = match policy {
        Policy::LrMmt => (Decider::LrMmt(LrMmt::new(rules.memory_counts)), LrMmt::first(day)?),
        Policy::Gantry => {
            let (policy, seats) = Gantry::start(day, gantry::settings(), rules)?;
            (Decider::Gantry(Box::new(policy)), seats)
        }
    };
    let mut room = Room::new(day, rules, &seats);
    let mut moments = Vec::new();
    for time_s in decision_times() {
        room.advance(time_s);
        let hosts = room.hosts.iter().filter(|host| host.used > 0.0).count();
        let migrations = decider.decide(&room, time_s);
        moments.push(Moment { time_s, hosts, migrations: migrations.len() });
        room.migrate(&migrations);
    }
    let sums = room.sums;
    let (slatah, pdm) = (share(sums.violated_s, sums.active_s), share(sums.lost_to_migrations, sums.asked));
    Ok(DayFigures {
        day: day.name.clone(),
        policy,
        rules: rules.name,
        vms: day.vms.len(),
        energy_kwh: sums.energy_joules / 3.6e6,
        migrations: sums.migrations,
        shutdowns: sums.shutdowns,
        slatah,
        pdm,
        slav: slatah * pdm,
        unmet: share(sums.asked - sums.given, sums.asked),
        vms_ended: room.vms.iter().filter(|vm| vm.gone).count(),
        moments,
    })
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
