//! `gantry-sim --seeds N --from S`: runs datacenters until one breaks a rule.

use std::process::ExitCode;

use clap::Parser;
use gantry_sim::{Options, run};

#[derive(Parser)]
#[command(name = "gantry-sim", about = "Simulated datacenters that fail, one per seed")]
struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Print every event; for one seed
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options { trace: arguments.trace, ..Options::default() };
    let (mut events, mut fences, mut restarts, mut failed) = (0, 0, 0, 0);
    for seed in arguments.from..arguments.from.saturating_add(arguments.seeds) {
        let report = run(seed, options);
        (events, fences, restarts) = (events + report.events, fences + report.fences, restarts + report.restarts);
        for violation in &report.violations {
            println!("seed {seed}: {violation}");
        }
        failed += u64::from(!report.violations.is_empty());
    }
    println!("{} seeds, {events} events, {fences} fences, {restarts} VMs restarted elsewhere", arguments.seeds);
    if failed == 0 {
        return ExitCode::SUCCESS;
    }
    println!("{failed} seeds failed; each is repeated exactly with: cargo xtask sim --seeds 1 --from SEED --trace");
    ExitCode::FAILURE
}
