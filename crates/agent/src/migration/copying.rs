//! Copying disks and memory while the guest runs, until it stops for the rest.
//!
//! The memory does not wait for the last of the disks: both go on together, and meanwhile QEMU may not stop the guest
//! for its memory. Once so little of the disks is left that it fits into the time the guest may stand still, it may.

use std::time::Duration;

use gantry_qemu::migration::{
    LEAST_DOWNTIME_MS, MigrationProgress, MigrationSource, MirrorProgress, Mirrored, RamTuning,
};
use gantry_qemu::qmp::{EventStream, Qmp};
use gantry_types::Problem;
use tokio::time::Instant;

use super::convergence::Convergence;
use super::sending::{COPY_LIMIT, Measured, SWITCHOVER_LIMIT, Sending};

/// With so little left of a disk, its rest and the memory are copied together.
const MEMORY_BEGINS_BYTES: u64 = 32 << 20;
/// With so little left of a disk, the guest may be stopped.
const MAY_STOP_BYTES: u64 = 4 << 20;
/// Of the time that the guest may stand still, a quarter is for the rest of its disk and half for that of its memory; the
/// hosts need what is left to agree.
const DISK_SHARE_OF_DOWNTIME: u64 = 4;
const MEMORY_SHARE_OF_DOWNTIME: u64 = 2;

impl Sending {
    /// Answers with what QEMU reports from the memory's first byte on.
    pub(super) async fn copy(
        &self,
        source: &MigrationSource,
        measured: &mut Measured,
    ) -> Result<Option<EventStream>, Problem> {
        let failed = |error| self.failed(error);
        let policy = &self.request.policy;
        let downtime_limit_ms = u64::from(policy.max_downtime_ms);
        let on_disk = |progress| self.show_mirrored(progress);
        let begun = Instant::now();
        let deadline = begun + COPY_LIMIT;
        self.phase("disk");
        source.start_mirror().await.map_err(failed)?;
        let most = Mirrored::AllBut(MEMORY_BEGINS_BYTES);
        let mirrored = source.wait_mirrored(most, on_disk, deadline).await.map_err(failed)?;
        let may_stop = rest_in_time(mirrored.copied_bytes, begun.elapsed(), downtime_limit_ms);

        let limit = u64::from(policy.bandwidth_mib_per_s) << 20;
        let tuning = RamTuning {
            max_bandwidth_bytes_per_s: (limit > 0).then_some(limit),
            // The guest must not be stopped for its memory while its disk still needs time.
            downtime_limit_ms: LEAST_DOWNTIME_MS,
            // Both ends must have the same capabilities.
            postcopy: self.request.post_copy,
        };
        source.configure(&tuning).await.map_err(failed)?;
        let events = self.qmp.as_ref().map(Qmp::events);
        source.start_ram().await.map_err(failed)?;
        // Ends even if the guest was stopped meanwhile, as one that writes nothing is: its disk is copied all the same.
        source.wait_mirrored(Mirrored::AllBut(may_stop), on_disk, deadline).await.map_err(failed)?;

        self.phase("memory");
        let for_memory_ms = (downtime_limit_ms / MEMORY_SHARE_OF_DOWNTIME).max(LEAST_DOWNTIME_MS);
        let mut convergence = Convergence::new(policy.post_copy, self.request.post_copy, for_memory_ms);
        source.limit_downtime(convergence.downtime_limit_ms()).await.map_err(failed)?;
        let on_memory = |progress: &MigrationProgress| {
            self.show(progress);
            convergence.judge(progress)
        };
        source.wait_pre_switchover(on_memory, deadline).await.map_err(failed)?;
        // The guest stands still and writes no more.
        let deadline = Instant::now() + SWITCHOVER_LIMIT;
        let mirrored = source.wait_mirrored(Mirrored::All, on_disk, deadline).await.map_err(failed)?;
        measured.disk_bytes = mirrored.copied_bytes;
        Ok(events)
    }

    fn show_mirrored(&self, progress: MirrorProgress) {
        self.shared.update_progress(|shown| {
            shown.disk_bytes_done = progress.copied_bytes;
            shown.disk_bytes_total = progress.total_bytes;
        });
    }

    pub(super) fn show(&self, progress: &MigrationProgress) {
        let rate_bytes_per_s = (progress.rate_mbps * 125_000.0) as u64;
        let gain_bytes_per_s = rate_bytes_per_s.saturating_sub(progress.dirty_bytes_per_s);
        self.shared.update_progress(|shown| {
            shown.memory_bytes_done = progress.ram_transferred_bytes;
            shown.memory_bytes_remaining = progress.ram_remaining_bytes;
            shown.memory_bytes_total = progress.ram_total_bytes;
            shown.rate_bytes_per_s = rate_bytes_per_s;
            shown.dirty_bytes_per_s = progress.dirty_bytes_per_s;
            shown.remaining_ms = (progress.ram_remaining_bytes * 1000).checked_div(gain_bytes_per_s);
        });
    }
}

/// How much of the disks may be left when the guest is stopped, by the rate at which they were copied so far.
fn rest_in_time(copied_bytes: u64, elapsed: Duration, downtime_limit_ms: u64) -> u64 {
    let per_ms = copied_bytes / u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    per_ms.saturating_mul(downtime_limit_ms / DISK_SHARE_OF_DOWNTIME).min(MAY_STOP_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_stops_early_only_for_what_is_sent_in_time() {
        let second = Duration::from_secs(1);
        // 100 MiB/s: 75 ms of it are more than is ever left.
        assert_eq!(rest_in_time(100 << 20, second, 300), MAY_STOP_BYTES);
        // 10 Mbit/s
        assert_eq!(rest_in_time(1_250_000, second, 300), 1250 * 75);
        assert_eq!(rest_in_time(0, Duration::ZERO, 300), 0);
        assert_eq!(rest_in_time(100 << 20, second, 0), 0);
    }
}
