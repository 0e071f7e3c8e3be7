//! `gantry simulate …`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use gantry_types::Name;

#[derive(Debug, Subcommand)]
pub enum SimulateCommand {
    /// Days of PlanetLab traces under several policies, with the figures of the consolidation benchmark
    Planetlab(SimulatePlanetlab),
    /// The datacenter as it is, with hosts lost, removed or added; nothing is changed
    Live(SimulateLive),
}

#[derive(Debug, Args)]
pub struct SimulatePlanetlab {
    /// Traces: a .tar.xz with a file DAY/VM for each VM and day, 288 lines each
    #[arg(value_name = "TRACES.tar.xz")]
    pub traces: PathBuf,
    /// Policies: lr-mmt, gantry; the ratios are to lr-mmt
    #[arg(long, value_delimiter = ',', default_values = ["lr-mmt", "gantry"], value_name = "POLICY,…")]
    pub policy: Vec<String>,
    /// Days by name, as 20110303,20110306, or all
    #[arg(long, value_delimiter = ',', default_value = "all", value_name = "DAY,…")]
    pub days: Vec<String>,
    /// The rules of the simulated world; may be given several times
    #[arg(long, value_enum, default_value = "cloudsim", value_delimiter = ',', value_name = "RULES,…")]
    pub rules: Vec<SimulateRules>,
    /// Also run under honest rules: the same as adding them to --rules
    #[arg(long)]
    pub honest: bool,
    /// Also write the figures here, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Also write plots into this directory, as SVG
    #[arg(long, value_name = "DIR")]
    pub svg: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum SimulateRules {
    /// As CloudSim 3.0.3: memory counts only at the first placement, a VM that asks for nothing is finished
    Cloudsim,
    /// As cloudsim, but every VM stays to the end of the day
    AllStay,
    /// Every VM stays, memory counts, and a woken host draws idle power for 120 s before it serves
    Honest,
}

#[derive(Debug, Args)]
pub struct SimulateLive {
    /// A host that fails; its VMs start anew elsewhere. May be given several times
    #[arg(long, value_name = "HOST")]
    pub lose: Vec<Name>,
    /// A host that is emptied and taken away. May be given several times
    #[arg(long, value_name = "HOST")]
    pub remove: Vec<Name>,
    /// So many more hosts like the largest one
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub add: u32,
    /// The score: spread, pack, or either with changed weights, as pack,wishes=5
    #[arg(long, value_name = "POLICY")]
    pub policy: Option<String>,
    /// A captured datacenter instead of the controller's
    #[arg(long, value_name = "FILE")]
    pub snapshot: Option<PathBuf>,
    /// Write the datacenter as it was captured here, for --snapshot
    #[arg(long, value_name = "FILE", conflicts_with = "snapshot")]
    pub capture: Option<PathBuf>,
    /// Also write the outcome here, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Also write plots into this directory, as SVG
    #[arg(long, value_name = "DIR")]
    pub svg: Option<PathBuf>,
}
