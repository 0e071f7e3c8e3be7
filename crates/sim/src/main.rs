//! `gantry-sim --seeds N --from S`: runs datacenters until one breaks a rule.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use gantry_sim::{Options, datacenter, rules};

#[derive(Parser)]
#[command(name = "gantry-sim", about = "Simulated datacenters that fail, one per seed")]
struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// What is run of each datacenter
    #[arg(long, value_enum, default_value_t = Level::Programs)]
    level: Level,
    /// Print every event; for one seed
    #[arg(long)]
    trace: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Level {
    /// The controller and what of the agent holds the lease
    Programs,
    /// The rules of leases and fencing alone: a hundred times as fast
    Rules,
}

/// Of all seeds.
#[derive(Default)]
struct Sums {
    events: u64,
    fences: u64,
    restarts: u64,
    moves: u64,
    failed: u64,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let next = AtomicU64::new(arguments.from);
    let sums = Mutex::new(Sums::default());
    let threads = if arguments.trace { 1 } else { std::thread::available_parallelism().map_or(1, usize::from) };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| work(&arguments, &next, &sums))).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let Sums { events, fences, restarts, moves, failed } =
        sums.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let seeds = arguments.seeds;
    println!(
        "{seeds} seeds, {events} events, {fences} fences, {restarts} VMs restarted elsewhere, {moves} moved while they ran"
    );
    if failed == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    println!("{failed} seeds failed; each is repeated exactly with: cargo xtask sim --seeds 1 --from SEED --trace");
    Ok(ExitCode::FAILURE)
}

fn work(arguments: &Arguments, next: &AtomicU64, sums: &Mutex<Sums>) -> Result<()> {
    let options = Options { trace: arguments.trace, ..Options::default() };
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= arguments.from.saturating_add(arguments.seeds) {
            return Ok(());
        }
        let (violations, events, fences, restarts, moves) = match arguments.level {
            Level::Programs => {
                let report = datacenter::run(seed, options)?;
                (report.violations, report.events, report.fences, report.restarts, report.moves)
            }
            Level::Rules => {
                let report = rules::run(seed, options);
                (report.violations, report.events, report.fences, report.restarts, 0)
            }
        };
        for violation in &violations {
            println!("seed {seed}: {violation}");
        }
        let mut sums = sums.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (sums.events, sums.fences) = (sums.events + events, sums.fences + fences);
        (sums.restarts, sums.moves) = (sums.restarts + restarts, sums.moves + moves);
        sums.failed += u64::from(!violations.is_empty());
    }
}
