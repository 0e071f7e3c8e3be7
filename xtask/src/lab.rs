//! `cargo xtask lab`: from a fresh checkout to a running datacenter with a sample VM.
//!
//! Only prepares (packages, guest, binary) and hands over to `gantry lab up`; the process is replaced, so keys and
//! the exit code are the lab's own.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};

use crate::guest;
use crate::process;
use crate::setup;
use crate::workspace;

/// Runs `gantry lab up --sample <guest image>` with the remaining arguments appended.
pub fn run(arguments: &[String]) -> Result<()> {
    setup::install_packages()?;
    let guest = guest::build()?;
    process::run(process::command("cargo").args(["build", "-p", "gantry"]).current_dir(workspace::root()))?;
    let program = workspace::target().join("debug/gantry");
    let mut lab = process::command(&program);
    lab.args(["lab", "up", "--sample"]).arg(&guest.disk).args(arguments);
    Err(lab.exec()).with_context(|| format!("cannot start {}", program.display()))
}
