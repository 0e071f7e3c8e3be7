//! What is in the guest's root filesystem, as values in memory: no special rights are needed to build it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::modules::ModuleSet;
use super::packages::Recipe;
use crate::process;

/// Something in the guest's root filesystem; everything belongs to root.
pub enum Node {
    Directory,
    File { bytes: Vec<u8>, executable: bool },
    Link { target: String },
}

/// Nodes by path, relative to `/`; parents sort before their children.
pub type Tree = BTreeMap<String, Node>;

/// Files of `guest/` and where they go; the second list holds those that are run.
const PLAIN_FILES: [(&str, &str); 2] = [("inittab", "etc/inittab"), ("network-config.awk", "etc/network-config.awk")];
const PROGRAMS: [(&str, &str); 9] = [
    ("rc", "etc/rc"),
    ("seed", "sbin/seed"),
    ("runcmd", "sbin/runcmd"),
    ("guest-agent", "sbin/guest-agent"),
    ("shutdown", "sbin/shutdown"),
    ("shutdown", "etc/acpi/PWRF/00000080"),
    ("dhcp-event", "sbin/dhcp-event"),
    ("who.cgi", "www/cgi-bin/who"),
    ("wl.cgi", "www/cgi-bin/wl"),
];

/// The whole system, from the unpacked packages and the `guest/` directory.
pub fn system(recipe: &Recipe, source: &Path, unpacked: &Path, build: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    for directory in ["dev", "proc", "sys", "run", "tmp", "root", "data", "mnt", "var/log"] {
        tree.insert(directory.into(), Node::Directory);
    }
    link(&mut tree, "var/run", "../run");
    text(&mut tree, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
    text(&mut tree, "etc/group", "root:x:0:\n");
    text(&mut tree, "www/index.html", "ok\n");
    for (from, to) in PLAIN_FILES {
        file(&mut tree, to, &source.join(from), false)?;
    }
    for (from, to) in PROGRAMS {
        file(&mut tree, to, &source.join(from), true)?;
    }
    for name in ["poweroff", "reboot", "halt"] {
        link(&mut tree, &format!("sbin/{name}"), "shutdown");
    }
    busybox(&mut tree, unpacked)?;
    guest_agent(&mut tree, unpacked)?;
    kernel_modules(&mut tree, recipe, unpacked)?;
    let workload = build.join("wl");
    process::output(
        process::command("gcc")
            .args(["-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(&workload)
            .arg(source.join("wl.c")),
    )
    .context("cannot compile guest/wl.c")?;
    file(&mut tree, "bin/wl", &workload, true)?;
    Ok(with_parents(tree))
}

fn busybox(tree: &mut Tree, unpacked: &Path) -> Result<()> {
    let program = unpacked.join("bin/busybox");
    let applets = process::output(process::command(&program).arg("--list"))?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        // sbin comes first on the guest's path, so its own poweroff and reboot win.
        tree.entry(format!("bin/{applet}")).or_insert(Node::Link { target: "busybox".into() });
    }
    link(tree, "init", "bin/busybox");
    // The kernel asks this path for modules of devices that appear later.
    link(tree, "sbin/modprobe", "../bin/busybox");
    file(tree, "bin/busybox", &program, true)
}

/// The agent with exactly the libraries that its own loader resolves inside the unpacked packages.
fn guest_agent(tree: &mut Tree, unpacked: &Path) -> Result<()> {
    let program = unpacked.join("usr/sbin/qemu-ga");
    for library in libraries(unpacked, &program)? {
        let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let directory = if name.starts_with("ld-linux") { "lib64" } else { "lib/x86_64-linux-gnu" };
        file(tree, &format!("{directory}/{name}"), &library, true)?;
    }
    file(tree, "bin/qemu-ga", &program, true)
}

/// Shared libraries of a program in the unpacked packages, the loader included.
pub fn libraries(unpacked: &Path, program: &Path) -> Result<Vec<PathBuf>> {
    let listing = process::output(loader(unpacked).arg("--list").arg(program))?;
    let mut found = Vec::new();
    for line in listing.lines().map(str::trim) {
        let Some((name, rest)) = line.split_once(" => ") else { continue };
        let path = PathBuf::from(rest.split(" (").next().unwrap_or(rest));
        if !path.starts_with(unpacked) {
            bail!("{} needs {name}, which none of the packages in guest/packages.toml carries", program.display());
        }
        found.push(path);
    }
    Ok(found)
}

/// The unpacked dynamic loader, made to look only at unpacked libraries.
pub fn loader(unpacked: &Path) -> std::process::Command {
    let path = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"]
        .map(|directory| unpacked.join(directory).to_string_lossy().into_owned())
        .join(":");
    let mut command = process::command(unpacked.join("lib64/ld-linux-x86-64.so.2"));
    command.args(["--inhibit-cache", "--library-path", &path]);
    command
}

fn kernel_modules(tree: &mut Tree, recipe: &Recipe, unpacked: &Path) -> Result<()> {
    let set = ModuleSet::find(unpacked)?;
    let wanted = &recipe.modules;
    let mut dependencies = String::new();
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for closure in set.closure(wanted.early.iter().chain(&wanted.late).chain(&wanted.demand))? {
        // modules.dep lists what must be loaded first last.
        let needs: Vec<String> = closure.needs.iter().rev().map(|path| name(path)).collect();
        dependencies += &format!("{}: {}\n", name(&closure.file), needs.join(" "));
        let path = format!("lib/modules/{}/{}", set.release, name(&closure.file));
        file(tree, &path, &closure.file, false)?;
    }
    text(tree, &format!("lib/modules/{}/modules.dep", set.release), &dependencies);
    text(tree, "etc/modules.early", &wanted.early.join("\n"));
    text(tree, "etc/modules.late", &wanted.late.join("\n"));
    Ok(())
}

fn text(tree: &mut Tree, path: &str, content: &str) {
    tree.insert(path.into(), Node::File { bytes: content.into(), executable: false });
}

fn link(tree: &mut Tree, path: &str, target: &str) {
    tree.insert(path.into(), Node::Link { target: target.into() });
}

fn file(tree: &mut Tree, path: &str, from: &Path, executable: bool) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    tree.insert(path.into(), Node::File { bytes, executable });
    Ok(())
}

/// Adds the directories that a path implies.
fn with_parents(mut tree: Tree) -> Tree {
    let paths: Vec<String> = tree.keys().cloned().collect();
    for path in paths {
        for (end, _) in path.match_indices('/') {
            tree.entry(path[..end].to_owned()).or_insert(Node::Directory);
        }
    }
    tree
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parent_is_there_and_comes_first() {
        let mut tree = Tree::new();
        text(&mut tree, "a/b/c", "x");
        let tree = with_parents(tree);
        assert_eq!(tree.keys().collect::<Vec<_>>(), ["a", "a/b", "a/b/c"]);
        assert!(matches!(tree["a/b"], Node::Directory));
    }
}
