//! Network namespaces and what runs inside them.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Runs `ip` with `arguments`; what it prints on failure becomes the error.
pub fn ip(arguments: &[&str]) -> Result<String> {
    run("ip", arguments)
}

pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let Output { status, stdout, stderr } =
        Command::new(program).args(arguments).stdin(Stdio::null()).output().with_context(|| {
            format!("could not run {program}; install it: apt-get install iproute2 nftables qemu-system-x86 qemu-utils")
        })?;
    if !status.success() {
        let message = String::from_utf8_lossy(&stderr);
        bail!("{program} {}: {}", arguments.join(" "), message.trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

pub fn exists(namespace: &str) -> bool {
    fs::exists(format!("/run/netns/{namespace}")).unwrap_or(false)
}

pub fn create(namespace: &str) -> Result<()> {
    if exists(namespace) {
        return Ok(());
    }
    ip(&["netns", "add", namespace])?;
    ip(&["-n", namespace, "link", "set", "lo", "up"]).map(drop)
}

/// Whether `link` exists in `namespace`.
pub fn has_link(namespace: &str, link: &str) -> bool {
    ip(&["-n", namespace, "link", "show", "dev", link]).is_ok()
}

/// Pids of all processes whose network namespace is `namespace`.
pub fn processes(namespace: &str) -> Vec<i32> {
    let Ok(wanted) = fs::metadata(format!("/run/netns/{namespace}")).map(|m| (m.dev(), m.ino())) else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        // Following the link gives the namespace's own inode; a process that has just ended has none.
        .filter(|pid| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|m| (m.dev(), m.ino()) == wanted))
        .collect()
}

/// Kills everything in `namespace` at once, as power loss does, and returns how many processes that were.
pub fn kill_all(namespace: &str) -> Result<usize> {
    let deadline = Instant::now() + Duration::from_secs(20);
    // By pid: one that takes its time to die is met again in the next round.
    let mut killed = BTreeSet::new();
    loop {
        let pids = processes(namespace);
        if pids.is_empty() {
            return Ok(killed.len());
        }
        for pid in pids {
            // A process that ended in between is what we want.
            if kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok() {
                killed.insert(pid);
            }
        }
        if Instant::now() > deadline {
            bail!("processes {:?} in namespace {namespace} do not end", processes(namespace));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Kills all processes of `namespace` and removes it with its links.
pub fn remove(namespace: &str) -> Result<()> {
    if !exists(namespace) {
        return Ok(());
    }
    kill_all(namespace)?;
    ip(&["netns", "delete", namespace]).map(drop)
}

/// All namespaces whose name begins with `prefix`.
pub fn with_prefix(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/run/netns") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect()
}
