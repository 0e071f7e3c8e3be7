//! ARCHITECTURE.md tells the truth: every path that it names exists, and it names every dependency.
//!
//! A path is what stands in backticks or as a link's target and contains a slash, or ends like a file of this
//! repository, and starts like something at the root of the repository. Addresses and API paths are not.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Findings;

const DOCUMENT: &str = "ARCHITECTURE.md";

/// What a name without slash must end with to be a path; a bare `lib.rs` is a kind of file.
const FILE_ENDINGS: [&str; 3] = [".toml", ".md", ".json"];

pub fn check(root: &Path, findings: &mut Findings) -> Result<()> {
    let document = root.join(DOCUMENT);
    let text = match fs::read_to_string(&document) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            findings.errors.push(format!("{DOCUMENT} is missing"));
            return Ok(());
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", document.display())),
    };
    for name in named_paths(&text) {
        if !root.join(&name).exists() {
            findings.errors.push(format!("{DOCUMENT} names {name}, which does not exist"));
        }
    }
    for dependency in outside_dependencies(root)? {
        if !text.contains(&format!("`{dependency}`")) {
            findings.errors.push(format!("{DOCUMENT} does not give the reason for the dependency `{dependency}`"));
        }
    }
    Ok(())
}

/// Paths below the root, each once, in the order of the text. Fenced blocks are transcripts and drawings.
fn named_paths(text: &str) -> Vec<String> {
    let mut paths: Vec<String> = Vec::new();
    let mut is_fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_fenced = !is_fenced;
            continue;
        }
        if is_fenced {
            continue;
        }
        let quoted = line.split('`').skip(1).step_by(2);
        let linked = line.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        for name in quoted.chain(linked).filter(|name| is_path(name)) {
            let name = name.trim_end_matches('/').to_owned();
            if !paths.contains(&name) {
                paths.push(name);
            }
        }
    }
    paths
}

fn is_path(name: &str) -> bool {
    let is_plain = name.chars().all(|letter| letter.is_ascii_alphanumeric() || "/._-".contains(letter));
    let starts_here = ["crates/", "xtask/", "guest/", "docs/", "examples/", ".config/", ".ci/", ".cargo/"]
        .iter()
        .any(|start| name.starts_with(start));
    let is_root_file = !name.contains('/') && FILE_ENDINGS.iter().any(|ending| name.ends_with(ending));
    is_plain && (starts_here || is_root_file)
}

#[derive(Deserialize)]
struct Manifest {
    workspace: Workspace,
}

#[derive(Deserialize)]
struct Workspace {
    #[serde(default)]
    dependencies: toml::Table,
}

fn outside_dependencies(root: &Path) -> Result<Vec<String>> {
    let path = root.join("Cargo.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let manifest: Manifest = toml::from_str(&text).with_context(|| format!("cannot understand {}", path.display()))?;
    let is_outside = |specification: &toml::Value| specification.get("path").is_none();
    Ok(manifest.workspace.dependencies.into_iter().filter(|(_, spec)| is_outside(spec)).map(|(name, _)| name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(document: &str) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("crates/store/src")).unwrap();
        fs::write(root.path().join("crates/store/src/lib.rs"), "").unwrap();
        fs::write(root.path().join("deny.toml"), "").unwrap();
        fs::write(
            root.path().join("Cargo.toml"),
            "[workspace.dependencies]\ngantry-store = { path = \"crates/store\" }\nserde = \"1\"\n",
        )
        .unwrap();
        fs::write(root.path().join(DOCUMENT), document).unwrap();
        let mut findings = Findings::default();
        check(root.path(), &mut findings).unwrap();
        findings.errors
    }

    #[test]
    fn paths_that_exist_and_things_that_are_no_paths_pass() {
        let text = "`serde` `crates/store/` [store](crates/store/src/lib.rs#L3) `deny.toml` `lib.rs` `/v1/vms` `a/b`\n\
                    ```\ncrates/absent and `crates/absent`\n```\n";
        assert_eq!(errors(text), Vec::<String>::new());
    }

    #[test]
    fn a_path_that_is_gone_is_found() {
        let found = errors("`serde` `crates/gone/src/lib.rs` [x](docs/gone.md) `gone.toml`\n");
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].contains("crates/gone/src/lib.rs"));
    }

    #[test]
    fn a_dependency_without_reason_is_found() {
        let found = errors("nothing\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("`serde`"));
    }

    #[test]
    fn a_missing_document_is_found() {
        let root = tempfile::tempdir().unwrap();
        let mut findings = Findings::default();
        check(root.path(), &mut findings).unwrap();
        assert_eq!(findings.errors.len(), 1);
    }
}
