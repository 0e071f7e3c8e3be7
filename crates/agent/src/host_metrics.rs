//! The load of this host, from `/proc` (proc_stat(5), proc_meminfo(5), proc_loadavg(5)).
//!
//! A figure that can't be read is zero: the heartbeat matters more.

use std::fs;

use gantry_types::{ByteSize, HostMetrics};

use crate::rapl::EnergyMeter;

pub(crate) struct Memory {
    pub total_bytes: u64,
    pub available_bytes: u64,
}

pub(crate) fn memory() -> Memory {
    parse_memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default())
}

fn parse_memory(text: &str) -> Memory {
    let bytes = |key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB")?.parse().ok());
        value.unwrap_or(0u64) * 1024
    };
    Memory { total_bytes: bytes("MemTotal:"), available_bytes: bytes("MemAvailable:") }
}

/// Time of all processors since boot, in ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct CpuTicks {
    total: u64,
    idle: u64,
}

fn parse_cpu(text: &str) -> CpuTicks {
    let line = text.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal; the guest fields after them are counted in user already.
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
    let idle = ticks.get(3).copied().unwrap_or(0) + ticks.get(4).copied().unwrap_or(0);
    CpuTicks { total: ticks.iter().sum(), idle }
}

/// Measures between its calls.
#[derive(Default)]
pub(crate) struct HostMeter {
    last: CpuTicks,
    energy: EnergyMeter,
}

impl HostMeter {
    pub fn measure(&mut self) -> HostMetrics {
        let now = parse_cpu(&fs::read_to_string("/proc/stat").unwrap_or_default());
        let total = now.total.saturating_sub(self.last.total);
        let idle = now.idle.saturating_sub(self.last.idle).min(total);
        self.last = now;
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let memory = memory();
        HostMetrics {
            cpu_percent: if total == 0 { 0.0 } else { (total - idle) as f64 * 100.0 / total as f64 },
            memory_used: ByteSize(memory.total_bytes.saturating_sub(memory.available_bytes)),
            energy_joules: self.energy.joules(),
            load_1m: load.split_whitespace().next().and_then(|field| field.parse().ok()).unwrap_or(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_texts() {
        let memory = parse_memory("MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    400 kB\n");
        assert_eq!((memory.total_bytes, memory.available_bytes), (1_024_000, 409_600));
        let cpu = parse_cpu("cpu  10 0 5 80 5 0 0 0 7 0\ncpu0 1 1 1 1\n");
        assert_eq!(cpu, CpuTicks { total: 100, idle: 85 });
    }
}
