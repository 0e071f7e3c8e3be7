//! `cargo xtask sim`: simulated datacenters.
//!
//! Only builds for release and hands over to `gantry-sim`, whose exit code is this command's.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};

use crate::process;
use crate::workspace;

/// Runs `gantry-sim ARGUMENTS`.
pub fn run(arguments: &[String]) -> Result<()> {
    let build = ["build", "--release", "-p", "gantry-sim"];
    process::run(process::command("cargo").args(build).current_dir(workspace::root()))?;
    let program = workspace::target().join("release/gantry-sim");
    let mut sim = process::command(&program);
    Err(sim.args(arguments).exec()).with_context(|| format!("cannot start {}", program.display()))
}
