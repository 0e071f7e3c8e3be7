//! Measures the product and its peers; prints a table on standard output and, if wanted, writes JSON. Run by
//! `cargo xtask bench`, which builds everything for release first. Exits with 1 if a promise is broken.

mod many_vms;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use gantry_e2e::bench::{self, Report};

#[derive(Parser)]
#[command(name = "gantry-bench", about = "Measure Gantry against its peers")]
struct Arguments {
    bench: Bench,
    /// Also write the figures here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Runs of each side of `start`, `migrate`, `network` and `ha`, and of `storage`
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    runs: u8,
    /// Ports of `network`
    #[arg(long, default_value_t = bench::PORTS, value_parser = clap::value_parser!(u32).range(100..=60_000))]
    ports: u32,
    /// VMs in the store: 100,000 for `api` and 400,000 for `ui` if not given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    objects: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// From `vm create` to the first HTTP answer
    Start,
    /// Blackout and duration of a live migration
    Migrate,
    /// Creates and reads with many objects
    Api,
    /// A group's change on many ports, and a stream between two hosts
    Network,
    /// Decisions where VMs go, by the number of hosts
    Placement,
    /// The web UI in a browser: frames, first paint, lists
    Ui,
    /// Pauses of snapshots, and how soon a guest that went back serves
    Storage,
    /// From a host's power loss to the first request served again, against Pacemaker and corosync
    Ha,
    All,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<bool> {
    let wanted = |bench| arguments.bench == Bench::All || arguments.bench == bench;
    let mut report = Report::default();
    if wanted(Bench::Start) {
        report.figures.extend(bench::start(arguments.runs.into()).await?);
    }
    if wanted(Bench::Migrate) {
        report.figures.extend(bench::migrate(arguments.runs.into()).await?);
    }
    if wanted(Bench::Network) {
        report.figures.extend(bench::network(arguments.ports, arguments.runs.into()).await?);
    }
    if wanted(Bench::Api) {
        report.figures.extend(bench::api(arguments.objects.unwrap_or(bench::OBJECTS)).await?);
    }
    if wanted(Bench::Placement) {
        report.figures.extend(bench::placement()?);
    }
    if wanted(Bench::Storage) {
        report.figures.extend(bench::storage(arguments.runs.into()).await?);
    }
    if wanted(Bench::Ha) {
        report.figures.extend(bench::ha(arguments.runs.into()).await?);
        report.figures.extend(many_vms::fail_over().await?);
    }
    if wanted(Bench::Ui) {
        report.figures.extend(bench::ui(arguments.objects.unwrap_or(bench::UI_OBJECTS)).await?);
    }
    println!("{}", report.table());
    if let Some(path) = arguments.json {
        std::fs::write(&path, report.json()?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(report.figures.iter().all(bench::Figure::holds))
}
