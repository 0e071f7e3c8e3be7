//! `cargo xtask setup`: what the build and the tests need and this machine lacks.
//!
//! Owns the lists of programs and packages. Debian packages are installed with apt, as root or through sudo; the two
//! cargo tools are compiled into `target/tools`, and one server for the tests comes from PyPI. Finding that nothing is missing takes milliseconds and touches
//! neither network nor privileges.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::workspace;

/// A program or file that tells whether a package is there, and the package.
const NEEDS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", QEMU_SYSTEM),
    ("qemu-img", QEMU_UTILS),
    // QEMU's NFS client.
    ("/usr/share/doc/qemu-block-extra", "qemu-block-extra"),
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    // A DHCP client that is not ours, for the tests.
    ("dhclient", "isc-dhcp-client"),
    ("gcc", "gcc"),
    // The guest's workload tool is linked statically.
    ("/usr/include/stdio.h", "libc6-dev"),
    ("zstd", "zstd"),
    ("mke2fs", "e2fsprogs"),
    ("dpkg-deb", "dpkg"),
    ("apt-cache", "apt"),
    ("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
    ("node", "nodejs"),
    ("npm", "npm"),
];
/// What only the tests need: a real browser, and letters for it to draw.
const TEST_NEEDS: &[(&str, &str)] = &[
    ("chromium", "chromium"),
    ("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf", "fonts-dejavu-core"),
    // A real NFS server, in namespaces of the tests' own.
    ("ganesha.nfsd", "nfs-ganesha"),
    ("/usr/share/doc/nfs-ganesha-vfs", "nfs-ganesha-vfs"),
    ("rpcbind", "rpcbind"),
    // Wall clocks of their own for programs of a lab.
    ("/usr/share/doc/faketime", "faketime"),
    // For the server that speaks S3.
    ("/usr/share/doc/python3-venv", "python3-venv"),
];
/// What the benchmark of availability is compared with.
const PEER_NEEDS: &[(&str, &str)] = &[
    ("corosync", "corosync"),
    ("pacemakerd", "pacemaker"),
    ("crm_mon", "pacemaker-cli-utils"),
    ("/usr/lib/ocf/resource.d/heartbeat/anything", "resource-agents"),
    ("fence_dummy", "fence-agents"),
];
const QEMU_SYSTEM: &str = "qemu-system-x86";
const QEMU_UTILS: &str = "qemu-utils";

/// `cargo xtask setup`
pub fn run() -> Result<()> {
    install(NEEDS.iter().chain(TEST_NEEDS))?;
    for tool in [CargoTool::NEXTEST, CargoTool::DENY] {
        tool.install()?;
    }
    install_s3_server()
}

/// The server that speaks S3, into `target/tools/s3`, with everything that it needs in the versions of `s3-server.txt`.
fn install_s3_server() -> Result<()> {
    let place = workspace::target().join("tools/s3");
    if place.join("bin/moto_server").is_file() {
        return Ok(());
    }
    eprintln!("installing moto into target/tools/s3 (once)");
    // One that was begun and not finished is begun anew.
    process::run(process::command("python3").args(["-m", "venv", "--clear"]).arg(&place))?;
    let mut pip = process::command(place.join("bin/pip"));
    pip.args(["install", "--quiet", "--no-compile", "--disable-pip-version-check", "--requirement"]);
    process::run(pip.arg(workspace::root().join("xtask/s3-server.txt"))).context("cannot install moto from PyPI")
}

/// Only what building and running the lab need.
pub fn install_packages() -> Result<()> {
    install(NEEDS.iter())
}

/// Only what driving the web UI in a browser needs.
pub fn install_browser() -> Result<()> {
    install(TEST_NEEDS.iter())
}

/// Only what the benchmark of availability is compared with.
pub fn install_peer() -> Result<()> {
    install(PEER_NEEDS.iter())
}

fn install<'a>(needs: impl Iterator<Item = &'a (&'a str, &'a str)> + Clone) -> Result<()> {
    let missing: Vec<&str> =
        needs.clone().filter(|(probe, _)| !is_present(probe)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("installing Debian packages: {}", missing.join(" "));
    refresh_package_lists()?;
    let candidate = missing.contains(&QEMU_SYSTEM).then(|| candidate_of(QEMU_SYSTEM)).transpose()?;
    let requests = requests(&missing, candidate.as_deref());
    let line = format!("apt-get install {}", requests.join(" "));
    let mut install = privileged("apt-get").with_context(|| format!("please run `{line}` yourself"))?;
    install.args(["install", "-y", "-qq", "--no-install-recommends", "--allow-downgrades"]).args(&requests);
    process::run(install.env("DEBIAN_FRONTEND", "noninteractive"))
        .with_context(|| format!("cannot install what is missing; please run `{line}` yourself"))?;
    match needs.clone().find(|(probe, _)| !is_present(probe)) {
        Some((probe, package)) => bail!("package {package} is installed, yet {probe} is not there"),
        None => Ok(()),
    }
}

/// What to ask apt for. A `qemu-utils` newer than the system emulator's suite offers conflicts with it, and apt
/// would solve that by removing it; so both are asked for together, in one version.
fn requests(missing: &[&str], qemu_version: Option<&str>) -> Vec<String> {
    let mut requests: Vec<String> = missing
        .iter()
        .filter(|package| qemu_version.is_none() || ![QEMU_SYSTEM, QEMU_UTILS].contains(package))
        .map(|package| (*package).to_owned())
        .collect();
    if let Some(version) = qemu_version {
        requests.extend([QEMU_SYSTEM, QEMU_UTILS].map(|package| format!("{package}={version}")));
    }
    requests
}

/// `apt-get update`.
pub fn refresh_package_lists() -> Result<()> {
    let mut update = privileged("apt-get").context("please run `apt-get update` yourself")?;
    process::run(update.args(["update", "-qq"]))
}

fn candidate_of(package: &str) -> Result<String> {
    let policy = process::output(process::command("apt-cache").args(["policy", package]))?;
    candidate_in(&policy).with_context(|| format!("apt offers no package {package}"))
}

fn candidate_in(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

fn is_present(probe: &str) -> bool {
    if probe.starts_with('/') { Path::new(probe).exists() } else { process::is_installed(probe) }
}

/// The program itself for root, through sudo for others. The user's own home stays the home.
pub fn privileged(program: impl AsRef<OsStr>) -> Result<Command> {
    let program = program.as_ref();
    let user = process::output(process::command("id").arg("-u"))?;
    if user.trim() == "0" {
        return Ok(process::command(program));
    }
    if !process::is_installed("sudo") {
        bail!("`{}` needs root, and there is no sudo", program.display());
    }
    let mut command = process::command("sudo");
    command.arg("--preserve-env=HOME,GANTRY_CONFIG,GANTRY_LAB_DIR,DEBIAN_FRONTEND").arg(program);
    Ok(command)
}

/// A cargo subcommand that the checks use.
pub struct CargoTool {
    /// The binary, `cargo-<name>`.
    binary: &'static str,
    package: &'static str,
}

impl CargoTool {
    pub const NEXTEST: Self = Self { binary: "cargo-nextest", package: "cargo-nextest" };
    pub const DENY: Self = Self { binary: "cargo-deny", package: "cargo-deny" };

    /// The tool on this machine's path, or our own build of it.
    pub fn command(&self) -> Command {
        let own = self.own();
        if own.is_file() { process::command(own) } else { process::command(self.binary) }
    }

    fn own(&self) -> PathBuf {
        workspace::target().join("tools/bin").join(self.binary)
    }

    /// Compiled without optimisation: these run for seconds, but optimising them takes many minutes on two cores.
    fn install(&self) -> Result<()> {
        let in_cargo_home = std::env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
        let installed = in_cargo_home.is_some_and(|home| home.join("bin").join(self.binary).is_file());
        if installed || self.own().is_file() || process::is_installed(self.binary) {
            return Ok(());
        }
        eprintln!("compiling {} into target/tools (once)", self.package);
        let tools = workspace::target().join("tools");
        let build = tools.join("build");
        process::run(
            process::command("cargo")
                .args(["install", "--quiet", "--locked", "--profile", "dev", "--config", "profile.dev.debug=false"])
                .arg("--root")
                .arg(&tools)
                .arg(self.package)
                .env("CARGO_TARGET_DIR", &build),
        )
        .with_context(|| format!("cannot install {}", self.package))?;
        std::fs::remove_dir_all(&build).with_context(|| format!("cannot clear {}", build.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemus_two_packages_are_asked_for_together_in_one_version() {
        assert_eq!(
            requests(&["nftables", QEMU_SYSTEM], Some("1:7.2")),
            ["nftables", "qemu-system-x86=1:7.2", "qemu-utils=1:7.2"]
        );
        assert_eq!(requests(&[QEMU_UTILS, "zstd"], None), ["qemu-utils", "zstd"]);
    }

    #[test]
    fn a_package_without_candidate_is_no_candidate() {
        assert_eq!(candidate_in("qemu:\n  Installed: (none)\n  Candidate: 1:7.2+b3\n").as_deref(), Some("1:7.2+b3"));
        assert_eq!(candidate_in("qemu:\n  Candidate: (none)\n"), None);
        assert_eq!(candidate_in(""), None);
    }
}
