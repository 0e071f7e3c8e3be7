//! When pre-copy is given up for post-copy. Pure.

use gantry_qemu::migration::{Directive, LEAST_DOWNTIME_MS, MigrationPhase, MigrationProgress};
use gantry_types::PostCopy;

/// So many passes over the memory are given to pre-copy before it is judged.
const PASSES_MIN: u64 = 3;

/// Watches one migration's memory.
#[derive(Debug)]
pub(super) struct Convergence {
    policy: PostCopy,
    downtime_limit_ms: u64,
    pass: u64,
    /// The least that was left at the end of a pass.
    least_remaining_bytes: Option<u64>,
    /// Passes in a row that left no less than an earlier one.
    stalled_passes: u64,
}

impl Convergence {
    /// `post_copy` says whether both hosts are capable of it.
    pub fn new(policy: PostCopy, post_copy: bool, downtime_limit_ms: u64) -> Self {
        let policy = if post_copy { policy } else { PostCopy::Never };
        Self { policy, downtime_limit_ms, pass: 0, least_remaining_bytes: None, stalled_passes: 0 }
    }

    /// What QEMU is told: pre-copy that is not meant to converge ends by itself only when the guest writes nothing.
    pub fn downtime_limit_ms(&self) -> u64 {
        if self.policy == PostCopy::Always { LEAST_DOWNTIME_MS } else { self.downtime_limit_ms }
    }

    pub fn judge(&mut self, progress: &MigrationProgress) -> Directive {
        if progress.phase != MigrationPhase::Active {
            return Directive::Wait;
        }
        match self.policy {
            PostCopy::Never => return Directive::Wait,
            PostCopy::Always => {
                // QEMU counts the pass that is under way.
                return if progress.passes >= 2 { Directive::SwitchToPostcopy } else { Directive::Wait };
            }
            PostCopy::Auto => {}
        }
        if progress.passes != self.pass {
            self.pass = progress.passes;
            let least = self.least_remaining_bytes.unwrap_or(u64::MAX);
            self.stalled_passes = if progress.ram_remaining_bytes < least { 0 } else { self.stalled_passes + 1 };
            self.least_remaining_bytes = Some(least.min(progress.ram_remaining_bytes));
        }
        let rate_bytes_per_s = (progress.rate_mbps * 125_000.0) as u64;
        let outpaced = rate_bytes_per_s > 0 && progress.dirty_bytes_per_s >= rate_bytes_per_s;
        let too_long = progress.expected_downtime_ms.is_some_and(|ms| ms > self.downtime_limit_ms);
        let stalled = self.stalled_passes > 0 && too_long;
        if progress.passes >= PASSES_MIN && (outpaced || stalled || self.stalled_passes >= PASSES_MIN) {
            Directive::SwitchToPostcopy
        } else {
            Directive::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(passes: u64, remaining_mib: u64, dirty_mib_per_s: u64) -> MigrationProgress {
        MigrationProgress {
            phase: MigrationPhase::Active,
            ram_transferred_bytes: 0,
            ram_remaining_bytes: remaining_mib << 20,
            ram_total_bytes: 256 << 20,
            // 100 MiB/s
            rate_mbps: 838.8608,
            dirty_bytes_per_s: dirty_mib_per_s << 20,
            passes,
            postcopy_requests: 0,
            total_time_ms: None,
            setup_time_ms: None,
            downtime_ms: None,
            expected_downtime_ms: Some(5000),
            error: None,
        }
    }

    fn first_switch(policy: PostCopy, capable: bool, steps: &[(u64, u64, u64)]) -> Option<u64> {
        let mut convergence = Convergence::new(policy, capable, 300);
        let switches = |&&(passes, remaining, dirty): &&(u64, u64, u64)| {
            convergence.judge(&progress(passes, remaining, dirty)) == Directive::SwitchToPostcopy
        };
        steps.iter().find(switches).map(|step| step.0)
    }

    #[test]
    fn policy_decides_when() {
        let hopeless = [(1, 200, 0), (2, 150, 120), (3, 150, 120), (4, 150, 120), (5, 150, 120)];
        let converging = [(1, 200, 0), (2, 60, 30), (3, 20, 30), (4, 7, 30), (5, 2, 30)];
        assert_eq!(first_switch(PostCopy::Auto, true, &hopeless), Some(3));
        assert_eq!(first_switch(PostCopy::Auto, true, &converging), None);
        assert_eq!(first_switch(PostCopy::Never, true, &hopeless), None);
        assert_eq!(first_switch(PostCopy::Auto, false, &hopeless), None);
        assert_eq!(first_switch(PostCopy::Always, true, &converging), Some(2));
    }
}
