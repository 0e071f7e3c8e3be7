//! `cargo xtask bench`: the figures of the product against its peers.
//!
//! Only builds for release and hands over to `gantry-bench`, whose exit code is this command's.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};

use crate::guest;
use crate::process;
use crate::setup;
use crate::web;
use crate::workspace;

/// Runs `gantry-bench ARGUMENTS`.
pub fn run(arguments: &[String]) -> Result<()> {
    setup::install_packages()?;
    setup::install_browser()?;
    if arguments.iter().any(|argument| ["ha", "all"].contains(&argument.as_str())) {
        setup::install_peer()?;
    }
    guest::build()?;
    web::build()?;
    let build = ["build", "--release", "-p", "gantry", "-p", "gantry-e2e", "--bins"];
    process::run(process::command("cargo").args(build).current_dir(workspace::root()))?;
    let program = workspace::target().join("release/gantry-bench");
    let mut bench = process::command(&program);
    Err(bench.args(arguments).exec()).with_context(|| format!("cannot start {}", program.display()))
}
