//! The test guest: a real, small Linux that boots in seconds, built offline from Debian packages.
//!
//! Owns `target/guest/{vmlinuz,initramfs.zst,guest.qcow2}`, and next to them `inputs`, the list of everything they
//! were made from; an unchanged list means nothing to do. The guest itself is described in the `guest/` directory.
//! Nothing is installed on the machine that builds. A failed build leaves the previous guest in place.

mod disk;
mod initramfs;
mod modules;
mod packages;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::process;
use crate::setup;
use crate::workspace;
use packages::Recipe;

/// The built guest.
pub struct Guest {
    /// Bootable with `-kernel`.
    pub kernel: PathBuf,
    /// The whole system, for `-initrd`.
    pub initramfs: PathBuf,
    /// Bootable BIOS disk with a partition that outlives reboots.
    pub disk: PathBuf,
}

/// `cargo xtask guest`
pub fn run() -> Result<()> {
    let guest = build()?;
    for path in [guest.kernel, guest.initramfs, guest.disk] {
        println!("{}", path.display());
    }
    Ok(())
}

/// Builds the guest unless it is there already and made from the same inputs.
pub fn build() -> Result<Guest> {
    let source = workspace::root().join("guest");
    let output = workspace::target().join("guest");
    let guest = Guest {
        kernel: output.join("vmlinuz"),
        initramfs: output.join("initramfs.zst"),
        disk: output.join("guest.qcow2"),
    };
    let recipe = Recipe::read(&source.join("packages.toml"))?;
    let mut archives = packages::resolve(&recipe).or_else(|_| {
        // A machine that never asked for the package lists.
        setup::refresh_package_lists()?;
        packages::resolve(&recipe)
    })?;
    let inputs = inputs(&source, &archives)?;
    let stamp = output.join("inputs");
    let complete = [&guest.kernel, &guest.initramfs, &guest.disk].iter().all(|path| path.is_file());
    if complete && fs::read_to_string(&stamp).is_ok_and(|previous| previous == inputs) {
        return Ok(guest);
    }

    let build = workspace::target().join("guest-build");
    let unpacked = build.join("unpacked");
    let debs = build.join("debs");
    let mut built_from = inputs;
    if packages::fetch_and_unpack(&archives, &debs, &unpacked).is_err() {
        // Old lists name versions that the archive no longer has.
        setup::refresh_package_lists()?;
        archives = packages::resolve(&recipe)?;
        built_from = self::inputs(&source, &archives)?;
        packages::fetch_and_unpack(&archives, &debs, &unpacked)?;
    }
    let kernel = packages::kernel_image(&unpacked)?;
    let system = tree::system(&recipe, &source, &unpacked, &build)?;
    let initramfs = build.join("initramfs.zst");
    initramfs::write(&system, &initramfs)?;
    let disk = build.join("guest.qcow2");
    disk::write(&unpacked, &kernel, &initramfs, &build, &disk)?;

    fs::create_dir_all(&output).with_context(|| format!("cannot create {}", output.display()))?;
    let staged_kernel = build.join("vmlinuz");
    fs::copy(&kernel, &staged_kernel).with_context(|| format!("cannot copy {}", kernel.display()))?;
    // Without a stamp a half-replaced guest is rebuilt.
    if stamp.exists() {
        fs::remove_file(&stamp).with_context(|| format!("cannot remove {}", stamp.display()))?;
    }
    for (from, to) in [(&staged_kernel, &guest.kernel), (&initramfs, &guest.initramfs), (&disk, &guest.disk)] {
        fs::rename(from, to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))?;
    }
    fs::write(&stamp, built_from).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(guest)
}

/// One line per input, with its checksum: packages, the files in `guest/`, this builder, the compiler.
fn inputs(source: &Path, archives: &[packages::Archive]) -> Result<String> {
    let mut lines: Vec<String> =
        archives.iter().map(|archive| format!("{} {} {}", archive.package, archive.version, archive.sha256)).collect();
    for directory in [source, &workspace::root().join("xtask/src/guest")] {
        for entry in fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))? {
            let path = entry?.path();
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let name = path.strip_prefix(workspace::root()).unwrap_or(&path).display();
            let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            lines.push(format!("{name} {digest}"));
        }
    }
    lines.sort();
    lines.push(process::output(process::command("gcc").arg("-dumpfullversion")).context("the guest needs gcc")?);
    Ok(lines.join("\n"))
}
