//! `cargo xtask test`: everything that decides whether a change is good, in the order that fails soonest.
//!
//! The first failing stage ends the run; its name is the last line. Otherwise the test runner's own summary comes
//! last, so that a reader (or CI) sees how many tests ran.

use std::fs;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

use crate::guest;
use crate::process;
use crate::setup::{self, CargoTool};
use crate::tidy;
use crate::web;
use crate::workspace;

type Stage = (&'static str, fn() -> Result<()>);

const STAGES: [Stage; 10] = [
    ("setup", setup::run),
    ("format", format),
    ("tidy", tidy::run),
    ("guest", || guest::build().map(drop)),
    // Before the build that embeds it.
    ("web", web::test),
    ("build", || cargo(&["build", "--workspace", "--locked"])),
    ("deny", deny),
    ("openapi", openapi),
    ("browser and clippy", browser_and_clippy),
    ("tests", tests),
];

/// `cargo xtask test`
pub fn run() -> Result<()> {
    for (name, stage) in STAGES {
        println!("==> {name}");
        let started = Instant::now();
        let result = stage();
        println!(
            "==> {name}: {} in {:.1} s",
            if result.is_ok() { "ok" } else { "FAILED" },
            started.elapsed().as_secs_f32()
        );
        result.with_context(|| format!("stage '{name}' failed"))?;
    }
    Ok(())
}

fn format() -> Result<()> {
    cargo(&["fmt", "--all", "--", "--check"]).context("run `cargo fmt --all`")
}

fn deny() -> Result<()> {
    process::run(
        CargoTool::DENY
            .command()
            .args(["--locked", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"])
            .current_dir(workspace::root()),
    )
}

/// The checked-in API document is what the program generates.
fn openapi() -> Result<()> {
    let path = workspace::root().join("docs/openapi.json");
    let checked_in = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let generated = process::output(process::command(workspace::target().join("debug/gantry")).arg("openapi"))?;
    if generated.trim_end() != checked_in.trim_end() {
        bail!("docs/openapi.json is not what the code says: run `target/debug/gantry openapi > docs/openapi.json`");
    }
    Ok(())
}

/// The browser mostly waits for its guests, so clippy takes what it leaves of the processors. Told last, it is not lost in what
/// the browser tells.
fn browser_and_clippy() -> Result<()> {
    thread::scope(|scope| {
        let linted = scope.spawn(clippy);
        let driven = browser();
        let linted = linted.join().unwrap_or_else(|_| Err(anyhow!("clippy's run ended by itself")));
        linted.and(driven)
    })
}

fn clippy() -> Result<()> {
    let mut clippy = process::command("nice");
    clippy.args(["-n", "19", "cargo", "clippy", "--quiet", "--workspace", "--all-targets", "--locked"]);
    process::output(clippy.args(["--", "-D", "warnings"]).current_dir(workspace::root())).map(drop)
}

/// Labs need root.
fn browser() -> Result<()> {
    process::run(&mut setup::privileged(workspace::target().join("debug/gantry-browser-test"))?)
}

/// Examples in documentation first, so that the runner of all other tests has the last word.
fn tests() -> Result<()> {
    cargo(&["test", "--quiet", "--workspace", "--doc", "--locked"])?;
    process::run(
        CargoTool::NEXTEST
            .command()
            .args(["nextest", "run", "--workspace", "--locked", "--profile", "ci"])
            .current_dir(workspace::root()),
    )
}

fn cargo(arguments: &[&str]) -> Result<()> {
    process::run(process::command("cargo").args(arguments).current_dir(workspace::root()))
}
