//! `cargo xtask lab`: from a fresh checkout to a running datacenter with a sample VM.
//!
//! Only prepares (packages, guest, binary) and hands over to `gantry lab up`; the process is replaced, so keys and
//! the exit code are the lab's own.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::guest;
use crate::process;
use crate::setup;
use crate::web;
use crate::workspace;

/// Runs `gantry lab up --sample <guest image>` with the remaining arguments appended.
pub fn run(arguments: &[String]) -> Result<()> {
    setup::install_packages()?;
    let guest = guest::build()?;
    web::build()?;
    process::run(process::command("cargo").args(["build", "-p", "gantry"]).current_dir(workspace::root()))?;
    let program = workspace::target().join("debug/gantry");
    offer_command(&program)?;
    let mut lab = setup::privileged(&program)?;
    lab.args(["lab", "up", "--sample"]).arg(&guest.disk).args(arguments);
    Err(lab.exec()).with_context(|| format!("cannot start {}", program.display()))
}

/// Makes `gantry` a command of the shell, beside cargo's own commands, unless there is one already.
fn offer_command(program: &Path) -> Result<()> {
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let Some(directory) = cargo_home.map(|home| home.join("bin")).filter(|directory| directory.is_dir()) else {
        println!("to have the command: export PATH={}:$PATH", workspace::target().join("debug").display());
        return Ok(());
    };
    let link = directory.join("gantry");
    match std::fs::symlink_metadata(&link) {
        Ok(known) if known.is_symlink() => std::fs::remove_file(&link)?,
        Ok(_) => {
            println!("{} is another program and stays; this one is {}", link.display(), program.display());
            return Ok(());
        }
        Err(_) => {}
    }
    std::os::unix::fs::symlink(program, &link).with_context(|| format!("cannot make {}", link.display()))?;
    println!("the command 'gantry' is {}", link.display());
    Ok(())
}
