//! Figures of several days, policies and rules beside each other.

use serde::Serialize;

use super::{DayFigures, Policy};

/// What CloudSim 3.0.3's LR-MMT with a safety of 1.2 does on a day, measured with the VMs in byte order of their names.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PeerFigures {
    pub day: &'static str,
    pub energy_kwh: f64,
    pub migrations: u64,
    pub slav: f64,
}

/// The days that the traces were published with.
pub const PEER_FIGURES: [PeerFigures; 5] = [
    PeerFigures { day: "20110303", energy_kwh: 163.48, migrations: 27_859, slav: 4.64e-5 },
    PeerFigures { day: "20110306", energy_kwh: 123.28, migrations: 20_878, slav: 4.62e-5 },
    PeerFigures { day: "20110309", energy_kwh: 142.09, migrations: 24_959, slav: 6.02e-5 },
    PeerFigures { day: "20110322", energy_kwh: 177.48, migrations: 32_038, slav: 4.64e-5 },
    PeerFigures { day: "20110325", energy_kwh: 152.58, migrations: 26_513, slav: 4.72e-5 },
];

/// One run divided by another.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratios {
    pub energy: f64,
    pub migrations: f64,
    pub slav: f64,
}

impl Ratios {
    pub fn of(run: &DayFigures, to: &DayFigures) -> Self {
        let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { f64::NAN };
        Self {
            energy: ratio(run.energy_kwh, to.energy_kwh),
            migrations: ratio(run.migrations as f64, to.migrations as f64),
            slav: ratio(run.slav, to.slav),
        }
    }

    /// Of the simulator's own LR-MMT to CloudSim's, if that was measured on the day.
    pub fn of_reproduction(run: &DayFigures) -> Option<Self> {
        let peer = PEER_FIGURES.iter().find(|peer| peer.day == run.day && run.policy == Policy::LrMmt)?;
        Some(Self {
            energy: run.energy_kwh / peer.energy_kwh,
            migrations: run.migrations as f64 / peer.migrations as f64,
            slav: run.slav / peer.slav,
        })
    }
}

/// The titles of [`rows`].
pub const TITLES: [&str; 13] = [
    "DAY",
    "RULES",
    "POLICY",
    "VMS",
    "KWH",
    "MIGRATIONS",
    "SLAV %",
    "PDM %",
    "SLATAH %",
    "UNMET %",
    "SHUTDOWNS",
    "RATIOS TO LR-MMT",
    "TO CLOUDSIM'S",
];

/// A line for each run: its figures, its ratios (energy, migrations, SLAV) to LR-MMT on the same day under the same rules,
/// and LR-MMT's to CloudSim's own.
pub fn rows(runs: &[DayFigures]) -> Vec<[String; 13]> {
    let ratios = |ratios: Ratios| format!("{:.3} {:.3} {:.3}", ratios.energy, ratios.migrations, ratios.slav);
    let line = |run: &DayFigures| {
        let same = |other: &&DayFigures| other.day == run.day && other.rules == run.rules;
        let peer = runs.iter().filter(same).find(|other| other.policy == Policy::LrMmt && run.policy != Policy::LrMmt);
        let reproduction = Ratios::of_reproduction(run).filter(|_| run.rules == super::CLOUDSIM.name);
        [
            run.day.clone(),
            run.rules.to_owned(),
            run.policy.to_string(),
            run.vms.to_string(),
            format!("{:.2}", run.energy_kwh),
            run.migrations.to_string(),
            format!("{:.5}", 100.0 * run.slav),
            format!("{:.4}", 100.0 * run.pdm),
            format!("{:.2}", 100.0 * run.slatah),
            format!("{:.2}", 100.0 * run.unmet),
            run.shutdowns.to_string(),
            peer.map_or_else(|| "-".to_owned(), |peer| ratios(Ratios::of(run, peer))),
            reproduction.map_or_else(|| "-".to_owned(), ratios),
        ]
    };
    runs.iter().map(line).collect()
}
