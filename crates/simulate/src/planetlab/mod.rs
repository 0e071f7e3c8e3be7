//! The PlanetLab consolidation benchmark: a day of 800 hosts and about a thousand VMs, decided on every five minutes.

mod gantry;
mod lr_mmt;
mod report;
mod room;
mod run;
mod setting;
mod traces;

pub use report::{PEER_FIGURES, PeerFigures, Ratios, TITLES, rows};
pub use run::{DayFigures, Impossible, Moment, Policy, run};
pub use setting::{ALL_STAY, CLOUDSIM, HONEST, Rules};
pub use traces::{BadTrace, Day, Trace, days};
