//! `cargo xtask`: everything a person or CI does with this repository apart from `cargo build`.
//!
//! One file per subcommand; this one only parses and dispatches. Nothing here is shipped: the product never
//! depends on it. A failure prints its whole chain of causes and exits with 1.

mod guest;
mod process;
mod workspace;

use anyhow::Result;
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
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Guest => guest::run(),
    }
}
