//! `cargo xtask`: everything a person or CI does with this repository apart from `cargo build`.
//!
//! One file per subcommand; this one only parses and dispatches. Nothing here is shipped: the product never
//! depends on it. A failure prints its whole chain of causes and exits with 1.

mod bench;
mod guest;
mod lab;
mod process;
mod setup;
mod sim;
mod test;
mod tidy;
mod web;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, check and try Gantry")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the test guest (kernel, initramfs, disk image) and print where it is
    Guest,
    /// Install what building and testing need and this machine lacks
    Setup,
    /// Check crate arrows, file sizes, words and ARCHITECTURE.md
    Tidy,
    /// Set up, build, check and test everything
    Test,
    /// Check and build the web UI into web/dist, which the binary embeds
    Web,
    /// Start a datacenter of three hosts on this machine, with a sample VM
    Lab {
        /// Passed on to `gantry lab up`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure the product against its peers: start, migrate, api or all
    Bench {
        /// Passed on to `gantry-bench`: `all --json FILE --runs N`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        arguments: Vec<String>,
    },
    /// Simulate datacenters that fail in every way, one per seed: the programs, or the rules alone
    Sim {
        /// Passed on to `gantry-sim`: `--seeds N --from S --level programs|rules --trace`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Guest => guest::run(),
        Command::Setup => setup::run(),
        Command::Tidy => tidy::run(),
        Command::Test => test::run(),
        Command::Web => web::run(),
        Command::Lab { arguments } => lab::run(&arguments),
        Command::Bench { arguments } => bench::run(&arguments),
        Command::Sim { arguments } => sim::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  because: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}
