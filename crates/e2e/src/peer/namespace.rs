//! Network namespaces of the peers.

use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace that is removed when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    pub fn create() -> Result<Self> {
        let name = format!("gpeer{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `ip ARGUMENTS` in here.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        let mut words = vec!["-n", &self.name];
        words.extend_from_slice(arguments);
        ip(&words)
    }

    /// Asks for a silent neighbour again soon, so that a client's patience and not the kernel's decides when a booting
    /// guest is heard.
    pub fn ask_neighbours_often(&self, link: &str) -> Result<()> {
        let link = link.to_owned();
        self.enter(move || ask_neighbours_often(&link))?.join().ok().context("a thread panicked")?
    }

    /// Runs `work` in a thread that is in here, and so is all that it starts.
    pub fn enter<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
        let path = format!("/run/netns/{}", self.name);
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        let (entered, reply) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let result = setns(&file, CloneFlags::CLONE_NEWNET);
            let failed = result.is_err();
            entered.send(result).ok();
            // Nothing may run in the wrong namespace; the caller hears of it first.
            assert!(!failed, "the namespace could not be entered");
            work()
        });
        reply.recv().context("the thread ended")?.with_context(|| format!("cannot enter {path}"))?;
        Ok(thread)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "delete", &self.name]) {
            eprintln!("{error:#}");
        }
    }
}

/// See [`Namespace::ask_neighbours_often`]; for the caller's own namespace.
pub fn ask_neighbours_often(link: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv4/neigh/{link}/retrans_time_ms");
    std::fs::write(&path, "20").with_context(|| format!("cannot write {path}"))
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("cannot run ip; install iproute2")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
