//! Kernel modules: what a module needs, read from the module itself.
//!
//! The package carries no `modules.dep` (it is made on installation), but each module names what it depends on in
//! its `.modinfo` section as `depends=a,b`. Names are compared with `-` and `_` as equal, as the kernel does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Modules of one kernel, by normalised name.
pub struct ModuleSet {
    pub release: String,
    files: BTreeMap<String, PathBuf>,
}

/// One module with everything it needs, in loading order, itself last.
pub struct Closure {
    pub file: PathBuf,
    pub needs: Vec<PathBuf>,
}

impl ModuleSet {
    /// Finds the only kernel's modules below `lib/modules`.
    pub fn find(unpacked: &Path) -> Result<Self> {
        let base = unpacked.join("lib/modules");
        let directory = fs::read_dir(&base)
            .with_context(|| format!("cannot list {}", base.display()))?
            .flatten()
            .next()
            .with_context(|| format!("no kernel modules in {}", base.display()))?;
        let mut files = BTreeMap::new();
        collect(&directory.path(), &mut files)?;
        Ok(Self { release: directory.file_name().to_string_lossy().into_owned(), files })
    }

    /// Everything needed to load `names`, each module once.
    pub fn closure<'a>(&self, names: impl Iterator<Item = &'a String>) -> Result<Vec<Closure>> {
        let mut done = BTreeSet::new();
        let mut result = Vec::new();
        let mut waiting: Vec<String> = names.cloned().collect();
        while let Some(name) = waiting.pop() {
            if !done.insert(normalised(&name)) {
                continue;
            }
            let file = self.file(&name)?;
            let mut needs = Vec::new();
            self.needs(&name, &mut needs)?;
            waiting.extend(dependencies(&file)?);
            result.push(Closure { file, needs });
        }
        result.sort_by(|a, b| a.file.cmp(&b.file));
        Ok(result)
    }

    fn file(&self, name: &str) -> Result<PathBuf> {
        self.files
            .get(&normalised(name))
            .cloned()
            .with_context(|| format!("kernel {} has no module {name}: it may be built in", self.release))
    }

    /// Depth first, so that each module comes after what it needs.
    fn needs(&self, name: &str, found: &mut Vec<PathBuf>) -> Result<()> {
        for dependency in dependencies(&self.file(name)?)? {
            self.needs(&dependency, found)?;
            let file = self.file(&dependency)?;
            if !found.contains(&file) {
                found.push(file);
            }
        }
        Ok(())
    }
}

fn normalised(name: &str) -> String {
    name.replace('-', "_")
}

fn collect(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "ko") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            files.insert(normalised(&name), path);
        }
    }
    Ok(())
}

fn dependencies(file: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(depends_field(&bytes))
}

/// The names in a module's `depends=` entry; entries are NUL-terminated strings.
fn depends_field(module: &[u8]) -> Vec<String> {
    let entry = module.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"depends="));
    let text = String::from_utf8_lossy(entry.unwrap_or_default()).into_owned();
    text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(directory: &Path, name: &str, depends: &str) {
        fs::write(
            directory.join(format!("{name}.ko")),
            format!("\u{7f}ELF\0license=GPL\0depends={depends}\0name={name}\0"),
        )
        .unwrap();
    }

    #[test]
    fn a_closure_lists_each_module_after_what_it_needs() {
        let root = tempfile::tempdir().unwrap();
        let modules = root.path().join("lib/modules/6.1");
        fs::create_dir_all(&modules).unwrap();
        module(&modules, "net", "ring,fail_over");
        module(&modules, "fail-over", "");
        module(&modules, "ring", "bus");
        module(&modules, "bus", "");
        module(&modules, "unused", "");
        let set = ModuleSet::find(root.path()).unwrap();
        let closure = set.closure([String::from("net")].iter()).unwrap();
        let stem = |path: &PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
        assert_eq!(closure.iter().map(|c| stem(&c.file)).collect::<Vec<_>>(), ["bus", "fail-over", "net", "ring"]);
        let net = &closure[2];
        assert_eq!(net.needs.iter().map(stem).collect::<Vec<_>>(), ["bus", "ring", "fail-over"]);
        assert!(set.closure([String::from("absent")].iter()).is_err());
    }
}
