//! Which crate may depend on which: the shape in ARCHITECTURE.md, as a table.
//!
//! Test-only dependencies obey it too. A crate that the table does not name is an error: adding one is a decision.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Findings;
use crate::process;

/// Crate → crates of this workspace that it may use. Agent and controller meet in `api` and `hostlink` only.
const ARROWS: &[(&str, &[&str])] = &[
    // vocabulary
    ("gantry-types", &[]),
    ("gantry-api", &["gantry-types"]),
    // engines
    ("gantry-ha", &["gantry-types"]),
    ("gantry-placement", &["gantry-types"]),
    ("gantry-simulate", &["gantry-placement", "gantry-types"]),
    // adapters
    ("gantry-store", &[]),
    ("gantry-qemu", &["gantry-types"]),
    ("gantry-storage", &["gantry-types"]),
    ("gantry-backup", &["gantry-types"]),
    ("gantry-cgroup", &["gantry-types"]),
    ("gantry-netservices", &["gantry-types"]),
    ("gantry-network", &["gantry-types"]),
    ("gantry-trust", &["gantry-types"]),
    ("gantry-hostlink", &["gantry-api", "gantry-trust", "gantry-types"]),
    ("gantry-webui", &[]),
    // programs
    (
        "gantry-agent",
        &[
            "gantry-api",
            "gantry-backup",
            "gantry-cgroup",
            "gantry-ha",
            "gantry-hostlink",
            "gantry-netservices",
            "gantry-network",
            "gantry-qemu",
            "gantry-storage",
            "gantry-trust",
            "gantry-types",
        ],
    ),
    (
        "gantry-controller",
        &[
            "gantry-api",
            "gantry-ha",
            "gantry-hostlink",
            "gantry-placement",
            "gantry-storage",
            "gantry-store",
            "gantry-trust",
            "gantry-types",
            "gantry-webui",
        ],
    ),
    ("gantry-lab", &["gantry-cgroup", "gantry-types"]),
    ("gantry-cli", &["gantry-api", "gantry-hostlink", "gantry-lab", "gantry-simulate", "gantry-trust", "gantry-types"]),
    ("gantry", &["gantry-agent", "gantry-cli", "gantry-controller", "gantry-lab", "gantry-types"]),
    // checks
    (
        "gantry-e2e",
        &[
            "gantry-api",
            "gantry-cli",
            "gantry-controller",
            "gantry-hostlink",
            "gantry-lab",
            "gantry-network",
            "gantry-placement",
            "gantry-qemu",
            "gantry-storage",
            "gantry-store",
            "gantry-trust",
            "gantry-types",
        ],
    ),
    (
        "gantry-sim",
        &[
            "gantry-agent",
            "gantry-api",
            "gantry-controller",
            "gantry-ha",
            "gantry-hostlink",
            "gantry-qemu",
            "gantry-store",
            "gantry-types",
        ],
    ),
    ("xtask", &[]),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// Set for crates of this workspace.
    path: Option<String>,
}

pub fn check(root: &Path, findings: &mut Findings) -> Result<()> {
    let text = process::output(
        process::command("cargo")
            .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
            .current_dir(root),
    )?;
    let metadata: Metadata = serde_json::from_str(&text).context("cannot understand `cargo metadata`")?;
    let table = ARROWS.iter().copied().collect();
    findings.errors.extend(broken(&metadata.packages, &table));
    Ok(())
}

fn broken(packages: &[Package], table: &BTreeMap<&str, &[&str]>) -> Vec<String> {
    let mut errors = Vec::new();
    for package in packages {
        let Some(allowed) = table.get(package.name.as_str()) else {
            errors.push(format!(
                "crate {} is not in the table of xtask/src/tidy/arrows.rs: decide its place",
                package.name
            ));
            continue;
        };
        for dependency in package.dependencies.iter().filter(|dependency| dependency.path.is_some()) {
            if !allowed.contains(&dependency.name.as_str()) {
                errors.push(format!(
                    "crate {} must not depend on {}: see the table of xtask/src/tidy/arrows.rs",
                    package.name, dependency.name
                ));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[&str]) -> Package {
        let dependencies =
            dependencies.iter().map(|name| Dependency { name: (*name).into(), path: Some("/x".into()) }).collect();
        Package { name: name.into(), dependencies }
    }

    #[test]
    fn an_arrow_outside_the_table_and_an_unknown_crate_are_found() {
        let table = ARROWS.iter().copied().collect();
        assert!(broken(&[package("gantry-api", &["gantry-types"])], &table).is_empty());
        let errors = broken(&[package("gantry-agent", &["gantry-controller"]), package("gantry-new", &[])], &table);
        assert_eq!(errors.len(), 2);
        assert!(errors[0].contains("gantry-agent must not depend on gantry-controller"));
        assert!(errors[1].contains("gantry-new"));
    }

    #[test]
    fn crates_from_outside_are_no_arrows() {
        let mut outside = package("gantry-types", &[]);
        outside.dependencies.push(Dependency { name: "serde".into(), path: None });
        assert!(broken(&[outside], &ARROWS.iter().copied().collect()).is_empty());
    }

    #[test]
    fn the_table_has_no_cycle() {
        let table: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
        fn depth(name: &str, table: &BTreeMap<&str, &[&str]>, seen: usize) -> usize {
            assert!(seen <= table.len(), "cycle through {name}");
            table[name].iter().map(|next| depth(next, table, seen + 1) + 1).max().unwrap_or(0)
        }
        for name in table.keys() {
            depth(name, &table, 0);
        }
    }
}
