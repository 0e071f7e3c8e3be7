//! What `/proc` says about a process (proc_pid_stat(5), proc_pid_status(5)).

use std::io;

/// Linux reports times to user space in 1/100 s on every architecture Gantry runs on (USER_HZ).
const TICK_MS: u64 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessUsage {
    /// User and system time of all threads.
    pub cpu_time_ms: u64,
    pub resident_bytes: u64,
}

/// Fields of `/proc/PID/stat` from the third on: the second, the command's name, may contain anything.
fn stat_fields(pid: u32) -> io::Result<Vec<String>> {
    let text = std::fs::read(format!("/proc/{pid}/stat"))?;
    let text = String::from_utf8_lossy(&text);
    let (_, rest) = text.rsplit_once(')').ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(rest.split_ascii_whitespace().map(str::to_owned).collect())
}

/// `field` counted from 1 as the manual page does.
fn number(fields: &[String], field: usize) -> io::Result<u64> {
    fields.get(field - 3).and_then(|text| text.parse().ok()).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

pub(super) fn start_time_ticks(pid: u32) -> io::Result<u64> {
    number(&stat_fields(pid)?, 22)
}

pub(super) fn usage(pid: u32) -> io::Result<ProcessUsage> {
    let fields = stat_fields(pid)?;
    let cpu_ticks = number(&fields, 14)? + number(&fields, 15)?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    // A process that has ended but was not reaped has no such line.
    let resident_kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|value| value.trim().strip_suffix(" kB")?.trim().parse().ok())
        .unwrap_or(0u64);
    Ok(ProcessUsage { cpu_time_ms: cpu_ticks * TICK_MS, resident_bytes: resident_kib * 1024 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_process() {
        let usage = usage(std::process::id()).expect("usage");
        assert!(usage.resident_bytes > 0);
        assert!(start_time_ticks(std::process::id()).expect("start") > 0);
    }
}
