//! What a VM uses, measured each second from outside the guest. A figure that can't be read stays as it was.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry_qemu::machine::{Disk, Volume};
use gantry_qemu::process::QemuProcess;
use gantry_qemu::qmp::{
    Qmp,
    command::{BlockStats, QueryBlockstats},
};
use gantry_types::{ByteSize, VmMetrics};
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::Shared;
use super::machine::DISK_NODE;
use crate::pool_load::VolumeRates;

const INTERVAL: Duration = Duration::from_secs(1);
const MONITOR_LIMIT: Duration = Duration::from_secs(2);

/// Counters that only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counters {
    cpu_time_ms: u64,
    disk_read_bytes: u64,
    disk_write_bytes: u64,
    net_rx_bytes: u64,
    net_tx_bytes: u64,
}

pub(super) fn start(
    process: Arc<QemuProcess>,
    qmp: Qmp,
    taps: Vec<String>,
    shared: Arc<Shared>,
    volume_rates: Arc<VolumeRates>,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last: Option<(Instant, Counters)> = None;
        let mut volumes: Option<(Instant, BTreeMap<String, u64>)> = None;
        loop {
            ticks.tick().await;
            let Ok(usage) = process.usage() else { return };
            let mut counters = last.map(|(_, counters)| counters).unwrap_or_default();
            counters.cpu_time_ms = usage.cpu_time_ms;
            if let Some(stats) = block_stats(&qmp).await {
                if let Some((read, written)) = disk_bytes(&stats) {
                    (counters.disk_read_bytes, counters.disk_write_bytes) = (read, written);
                }
                shared.monitor_answered();
                let now = (Instant::now(), volume_bytes(&stats));
                if let Some((then, before)) = volumes.replace(now.clone()) {
                    tell_volume_rates(&volume_rates, &before, &now.1, now.0 - then);
                }
            }
            if let Ok(text) = fs::read_to_string("/proc/thread-self/net/dev") {
                (counters.net_rx_bytes, counters.net_tx_bytes) = guest_bytes(&text, &taps);
            }
            // What others send to it is no sign of its life.
            shared.io_seen(counters.disk_read_bytes + counters.disk_write_bytes + counters.net_tx_bytes);
            let now = Instant::now();
            let (before, elapsed) = match last {
                Some((moment, before)) => (before, now - moment),
                None => (counters, INTERVAL),
            };
            last = Some((now, counters));
            shared.set_metrics(rates(before, counters, elapsed, ByteSize(usage.resident_bytes)));
        }
    }))
}

async fn block_stats(qmp: &Qmp) -> Option<Vec<BlockStats>> {
    timeout(MONITOR_LIMIT, qmp.execute(QueryBlockstats {})).await.ok()?.ok()
}

/// Read and written together, by the volume's node.
fn volume_bytes(all: &[BlockStats]) -> BTreeMap<String, u64> {
    let named = all.iter().filter_map(|entry| entry.node_name.as_ref().map(|node| (node, entry)));
    let volumes = named.filter(|(node, _)| Volume::is_node(node));
    volumes.map(|(node, entry)| (node.clone(), entry.stats.rd_bytes + entry.stats.wr_bytes)).collect()
}

fn tell_volume_rates(
    rates: &VolumeRates,
    before: &BTreeMap<String, u64>,
    now: &BTreeMap<String, u64>,
    elapsed: Duration,
) {
    let elapsed_ms = (elapsed.as_millis() as u64).max(1);
    for (node, bytes) in now {
        let before = before.get(node).copied().unwrap_or(*bytes);
        rates.set(node, bytes.saturating_sub(before) * 1000 / elapsed_ms);
    }
}

/// Read and written by the guest on its disk since QEMU started.
fn disk_bytes(all: &[BlockStats]) -> Option<(u64, u64)> {
    let disk = all.iter().find(|stats| stats.qdev.as_deref().is_some_and(|qdev| Disk::is_device(qdev, DISK_NODE)))?;
    Some((disk.stats.rd_bytes, disk.stats.wr_bytes))
}

/// Received and sent by the guest; its tap counts the other way round. `text` is `/proc/net/dev`.
fn guest_bytes(text: &str, taps: &[String]) -> (u64, u64) {
    let of_tap = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        taps.iter().any(|tap| tap == name.trim()).then_some(())?;
        let fields: Vec<u64> = counters.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        Some((*fields.get(8)?, *fields.first()?))
    };
    text.lines().filter_map(of_tap).fold((0, 0), |sum, tap| (sum.0 + tap.0, sum.1 + tap.1))
}

fn rates(before: Counters, now: Counters, elapsed: Duration, resident_memory: ByteSize) -> VmMetrics {
    let elapsed_ms = (elapsed.as_millis() as u64).max(1);
    // Counters start anew when a device does.
    let per_second = |now: u64, before: u64| now.saturating_sub(before) * 1000 / elapsed_ms;
    VmMetrics {
        cpu_time_ms: now.cpu_time_ms,
        cpu_percent: now.cpu_time_ms.saturating_sub(before.cpu_time_ms) as f64 * 100.0 / elapsed_ms as f64,
        resident_memory,
        disk_read_bytes_per_s: per_second(now.disk_read_bytes, before.disk_read_bytes),
        disk_write_bytes_per_s: per_second(now.disk_write_bytes, before.disk_write_bytes),
        net_rx_bytes_per_s: per_second(now.net_rx_bytes, before.net_rx_bytes),
        net_tx_bytes_per_s: per_second(now.net_tx_bytes, before.net_tx_bytes),
        guest_clock_lag_ms: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tap_sent_the_guest_received() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes\n  gt01: 10 1 0 0 0 0 0 0 99 2 0 0 0 0 0 0\n\
                    eth0: 5 1 0 0 0 0 0 0 6 2 0 0 0 0 0 0\n";
        assert_eq!(guest_bytes(text, &["gt01".to_owned()]), (99, 10));
        assert_eq!(guest_bytes(text, &[]), (0, 0));
    }

    #[test]
    fn rates_are_per_second_and_survive_a_counter_that_starts_anew() {
        let before = Counters { cpu_time_ms: 1000, net_rx_bytes: 500, ..Counters::default() };
        let now = Counters { cpu_time_ms: 2000, disk_write_bytes: 4096, ..Counters::default() };
        let metrics = rates(before, now, Duration::from_secs(2), ByteSize(1));
        assert_eq!(metrics.cpu_percent, 50.0);
        assert_eq!((metrics.disk_write_bytes_per_s, metrics.net_rx_bytes_per_s), (2048, 0));
    }
}
