//! Who really executes a guest, seen in `/proc` and not by asking the product.
//!
//! A guest is executed where the virtual processors' threads of a QEMU with its uuid use processor time.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use uuid::Uuid;

/// A QEMU process of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuSight {
    pub pid: u32,
    /// Inode of its network namespace: the host it is on.
    pub namespace: u64,
    /// Processor time of its virtual processors, in clock ticks (1/100 s).
    pub guest_ticks: u64,
}

/// All QEMUs with the machine uuid `vm`.
pub fn qemus(vm: Uuid) -> Vec<QemuSight> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let wanted = vm.to_string();
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let is_qemu = words.first().is_some_and(|word| String::from_utf8_lossy(word).contains("qemu-system-"));
        let is_it = words.windows(2).any(|pair| pair[0] == b"-uuid" && pair[1] == wanted.as_bytes());
        if !(is_qemu && is_it) {
            return None;
        }
        let namespace = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino();
        Some(QemuSight { pid, namespace, guest_ticks: guest_ticks(pid) })
    })
    .collect()
}

/// Sum over the threads that QEMU names `CPU 0/TCG`, `CPU 0/KVM` or `ALL CPUs/TCG`.
fn guest_ticks(pid: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let ticks = threads.flatten().filter_map(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).ok()?;
        // proc_pid_stat(5): the name is in parentheses and may hold anything.
        let (head, tail) = stat.rsplit_once(')')?;
        if !head.contains("CPU") {
            return None;
        }
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    });
    ticks.sum()
}

/// When a process began, to a hundredth of a second.
pub fn started_at(pid: u32) -> Result<SystemTime> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    // proc_pid_stat(5): field 22, in ticks since the machine booted.
    let ticks = stat.rsplit_once(')').and_then(|(_, tail)| tail.split_ascii_whitespace().nth(19)?.parse::<u64>().ok());
    let ticks = ticks.context("its start time is unreadable")?;
    let uptime = fs::read_to_string("/proc/uptime")?;
    let uptime_s: f64 = uptime.split_ascii_whitespace().next().context("no uptime")?.parse()?;
    let age = Duration::from_secs_f64(uptime_s).saturating_sub(Duration::from_millis(ticks * 10));
    Ok(SystemTime::now() - age)
}

/// The QEMUs of `vm` whose guest made progress within `window`.
pub fn executing(vm: Uuid, window: Duration) -> Vec<QemuSight> {
    let before = qemus(vm);
    std::thread::sleep(window);
    let progressed = |now: &QemuSight| {
        let then = before.iter().find(|then| then.pid == now.pid);
        then.is_some_and(|then| now.guest_ticks > then.guest_ticks)
    };
    qemus(vm).into_iter().filter(progressed).collect()
}

/// Watches one VM and remembers whether two QEMUs ever executed it at once.
pub struct Sentinel {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Option<String>>,
}

const WINDOW: Duration = Duration::from_millis(100);
/// A hand-over within one window makes both sides look busy in it; the time of a thread that has just stopped may be
/// accounted late. Three windows in a row have no such explanation.
const SUSPICIOUS_WINDOWS: u32 = 3;

impl Sentinel {
    pub fn watch(vm: Uuid) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut in_a_row = 0;
            while !stopped.load(Ordering::Relaxed) {
                let busy = executing(vm, WINDOW);
                in_a_row = if busy.len() > 1 { in_a_row + 1 } else { 0 };
                if in_a_row >= SUSPICIOUS_WINDOWS {
                    return Some(format!("VM {vm} is executed by {} QEMUs at once: {busy:?}", busy.len()));
                }
            }
            None
        });
        Self { stop, thread }
    }

    /// Fails if it ever ran twice.
    pub fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(None) => Ok(()),
            Ok(Some(finding)) => bail!("{finding}"),
            Err(_) => bail!("the sentinel panicked"),
        }
    }
}
