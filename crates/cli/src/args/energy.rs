//! `gantry energy …`

use std::time::Duration;

use clap::{Args, Subcommand};

use super::parse_duration;

#[derive(Debug, Subcommand)]
pub enum EnergyCommand {
    /// What hosts drew, and each VM's part of it; says what was measured and what is an estimate
    Report(EnergyReportOf),
}

#[derive(Debug, Args)]
pub struct EnergyReportOf {
    /// host, vm, or label=KEY for VMs by a label's value
    #[arg(long, value_name = "WHAT", default_value = "host")]
    pub by: String,
    /// How far back: 12h, 7d; whole hours, at most 35d
    #[arg(long, value_name = "AGE", default_value = "24h", value_parser = parse_duration)]
    pub since: Duration,
}
