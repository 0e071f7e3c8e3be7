//! Rules on single source files: size, opening comment, words that must not stay.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Findings;

/// Above this a file is listed: look for the seam.
const LINES_WORTH_A_LOOK: usize = 400;
/// Above this a file is a defect.
const LINES_MAX: usize = 800;

/// Words that mark unfinished work; allowed with an issue number, as in `TODO(#12)`.
const UNFINISHED: [&str; 4] = ["TODO", "FIXME", "XXX", "HACK"];
/// Macros that panic in place of code that was never written.
const UNWRITTEN: [&str; 2] = ["todo!(", "unimplemented!("];

pub fn check(root: &Path, findings: &mut Findings) -> Result<()> {
    let mut files = Vec::new();
    for directory in ["crates", "xtask"] {
        rust_files(&root.join(directory), &mut files)?;
    }
    files.sort();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        size(&name, &text, findings);
        opening(&name, &text, findings);
        // This file spells out what it looks for.
        if name != "xtask/src/tidy/sources.rs" {
            words(&name, &text, findings);
        }
    }
    Ok(())
}

fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn is_test(name: &str) -> bool {
    name.contains("/tests/") || name.ends_with("/tests.rs")
}

/// Lines before the unit tests at the end of the file.
fn production_lines(text: &str) -> usize {
    text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count()
}

fn size(name: &str, text: &str, findings: &mut Findings) {
    if is_test(name) {
        return;
    }
    let lines = production_lines(text);
    if lines > LINES_MAX {
        findings.errors.push(format!("{name} has {lines} lines, more than {LINES_MAX}: split it"));
    } else if lines > LINES_WORTH_A_LOOK {
        findings.warnings.push(format!("{name} has {lines} lines: look for the seam"));
    }
}

fn opening(name: &str, text: &str, findings: &mut Findings) {
    let is_root = name.ends_with("/src/lib.rs") || name.ends_with("/src/main.rs");
    if is_root && !text.starts_with("//! ") {
        findings
            .errors
            .push(format!("{name} does not open with `//!`: say what the crate owns and what it doesn't do"));
    }
}

fn words(name: &str, text: &str, findings: &mut Findings) {
    for (number, line) in text.lines().enumerate() {
        let place = format!("{name}:{}", number + 1);
        if let Some(macro_name) = UNWRITTEN.iter().find(|unwritten| line.contains(**unwritten)) {
            findings.errors.push(format!("{place}: `{macro_name}…)` stands where code is missing"));
        }
        let marked = line
            .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
            .find(|word| UNFINISHED.contains(word));
        if let Some(word) = marked
            && !line.contains(&format!("{word}(#"))
        {
            findings.errors.push(format!("{place}: {word} without an issue number: finish it or write {word}(#issue)"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings_of(path: &str, text: &str) -> Findings {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join(path);
        fs::create_dir_all(root.path().join("xtask")).unwrap();
        fs::create_dir_all(root.path().join("crates")).unwrap();
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        let mut findings = Findings::default();
        check(root.path(), &mut findings).unwrap();
        findings
    }

    #[test]
    fn long_files_are_listed_and_very_long_ones_refused() {
        let lines = |count| "x\n".repeat(count);
        assert!(findings_of("crates/a/src/b.rs", &lines(400)).warnings.is_empty());
        assert_eq!(findings_of("crates/a/src/b.rs", &lines(401)).warnings.len(), 1);
        assert!(findings_of("crates/a/src/b.rs", &lines(800)).errors.is_empty());
        assert_eq!(findings_of("crates/a/src/b.rs", &lines(801)).errors.len(), 1);
        assert!(findings_of("crates/a/tests/b.rs", &lines(801)).errors.is_empty());
        let with_tests = format!("{}#[cfg(test)]\n{}", lines(10), lines(900));
        assert!(findings_of("crates/a/src/b.rs", &with_tests).errors.is_empty());
    }

    #[test]
    fn a_crate_root_without_opening_comment_is_refused() {
        assert_eq!(findings_of("crates/a/src/lib.rs", "use std::fs;\n").errors.len(), 1);
        assert!(findings_of("crates/a/src/lib.rs", "//! Owns a.\n").errors.is_empty());
        assert!(findings_of("crates/a/src/b.rs", "use std::fs;\n").errors.is_empty());
    }

    #[test]
    fn unfinished_work_needs_an_issue() {
        let found = findings_of("crates/a/src/b.rs", "\n// TODO later\n").errors;
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("crates/a/src/b.rs:2: TODO without"));
        assert!(findings_of("crates/a/src/b.rs", "// TODO(#12) later\n").errors.is_empty());
        assert!(findings_of("crates/a/src/b.rs", "let TODOS = 1;\n").errors.is_empty());
        assert_eq!(findings_of("crates/a/src/b.rs", "unimplemented!()\n").errors.len(), 1);
    }
}
