//! Controller and agents as ordinary processes: started in a namespace, in a session of their own, so that they
//! outlive the shell that started the lab.

use std::{
    fs::{self, File},
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::namespace;

/// The executable this lab's programs are started from: the one that runs now.
pub fn own_executable() -> Result<PathBuf> {
    std::env::var_os("GANTRY_BIN")
        .map(PathBuf::from)
        .map_or_else(|| std::env::current_exe().context("could not find the running executable"), Ok)
}

/// Starts `gantry ARGUMENTS` in `namespace`, output appended to `log`. It is not waited for.
pub fn start(namespace: &str, arguments: &[&str], log: &Path) -> Result<u32> {
    let open = || File::options().create(true).append(true).open(log);
    let output = open().with_context(|| format!("could not open {}", log.display()))?;
    let errors = output.try_clone().with_context(|| format!("could not open {}", log.display()))?;
    let path = format!("/run/netns/{namespace}");
    let inside = File::open(&path).with_context(|| format!("could not open {path}"))?;
    let mut command = Command::new(own_executable()?);
    command.args(arguments).stdin(Stdio::null()).stdout(output).stderr(errors).current_dir("/");
    // Not by `ip netns exec`: in its mount namespace the namespaces that an agent makes for routers would end with it.
    let enter = move || {
        nix::sched::setns(inside.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET)?;
        nix::unistd::setsid().map(drop)?;
        Ok(())
    };
    // SAFETY: setns and setsid are async-signal-safe and touch no memory of the parent.
    unsafe {
        command.pre_exec(enter);
    }
    let child = command.spawn().with_context(|| format!("could not start a process in namespace {namespace}"))?;
    Ok(child.id())
}

/// Runs `program ARGUMENTS` in `namespace` with this terminal.
pub fn in_namespace(namespace: &str, program: &Path) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

/// The process in `namespace` that was started with `arguments` (as in its command line), if it lives.
pub fn running(namespace: &str, arguments: &[&str]) -> Option<i32> {
    namespace::processes(namespace).into_iter().find(|pid| {
        let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
        let words: Vec<_> = line.split(|byte| *byte == 0).skip(1).take(arguments.len()).collect();
        words.len() == arguments.len() && words.iter().zip(arguments).all(|(a, b)| *a == b.as_bytes())
    })
}
