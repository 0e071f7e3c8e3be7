//! `cargo xtask tidy`: the rules of this codebase that the compiler does not know.
//!
//! One file per family of rules. Each check takes the root of a tree and returns findings, so that tests run it on
//! small trees of their own. All checks run before the verdict: one run shows everything there is to mend.

mod architecture;
mod arrows;
mod sources;

use std::path::Path;

use anyhow::{Result, bail};

use crate::workspace;

/// What a check found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Broken rules, each with the place and what to do.
    errors: Vec<String>,
    /// Worth a look.
    warnings: Vec<String>,
}

/// `cargo xtask tidy`
pub fn run() -> Result<()> {
    let mut findings = Findings::default();
    check(&workspace::root(), &mut findings)?;
    for warning in &findings.warnings {
        println!("note: {warning}");
    }
    for error in &findings.errors {
        println!("error: {error}");
    }
    match findings.errors.len() {
        0 => Ok(()),
        count => bail!("{count} rules broken, listed above"),
    }
}

fn check(root: &Path, findings: &mut Findings) -> Result<()> {
    arrows::check(root, findings)?;
    sources::check(root, findings)?;
    architecture::check(root, findings)
}
