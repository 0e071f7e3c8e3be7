//! What this host does by itself about a protected VM that fails (`ha.policy: restart`), controller or not.
//!
//! ```text
//!   runs ── QEMU ended, guest panicked ─────────────────────────────┐
//!     │ ── silent: QEMU, or agent and devices ──▶ QEMU is killed ──▶ failed ── its turn ──▶ runs
//!     └◀─────────────── pause over ────────────────────────────────  │
//!                                                                    └── limit reached ──▶ given up, until it is started
//! ```
//! That a failed VM is to be started again is what its record says, so a restart of the agent in between loses nothing
//! but the count of attempts. A VM that another host has, or may have, is never started.

use std::time::Duration;

use gantry_api::agent::{MigrationState, ProtectVm};
use gantry_ha::{
    Moment,
    attempts::{Attempts, RetryPolicy, Turn},
    silence::{Silence, SilencePolicy},
};
use gantry_types::{HaPolicy, HaSpec, HaStatus, PowerState, Problem, Timestamp};
use tokio::time::Instant;

use super::actor::{Run, VmTask};
use crate::records::{End, Record};

const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What the VM's task remembers for it.
pub(crate) struct Protection {
    /// Moments count from here.
    origin: Instant,
    attempts: Attempts,
    /// When a failed VM is started again.
    pub restart_at: Option<Instant>,
    /// When it is looked for life; `None` if there is nothing to look at.
    pub look_at: Option<Instant>,
    /// Silence before this says nothing: the guest was paused or on its way, or QEMU was not known yet.
    watched_from: Instant,
}

impl Protection {
    pub fn new() -> Self {
        let now = Instant::now();
        Self { origin: now, attempts: Attempts::default(), restart_at: None, look_at: None, watched_from: now }
    }

    fn moment(&self, at: Instant) -> Moment {
        Moment::from(at.saturating_duration_since(self.origin))
    }

    /// There is nothing to watch.
    fn rest(&mut self, now: Instant) {
        (self.watched_from, self.look_at) = (now, None);
    }

    fn instant(&self, at: Moment) -> Instant {
        self.origin + Duration::from_millis(at.0)
    }
}

fn retry(spec: &HaSpec) -> RetryPolicy {
    RetryPolicy { per_hour: spec.restarts_per_hour as usize, ..RetryPolicy::default() }
}

impl VmTask {
    fn protect(&self, wanted: &ProtectVm) -> Option<Record> {
        let mut record = self.record.clone()?;
        record.assignment.ha.clone_from(&wanted.ha);
        record.assignment.probes.clone_from(&wanted.probes);
        (self.record.as_ref() != Some(&record)).then_some(record)
    }

    /// Somebody starts it: whatever was before counts no more.
    pub(super) fn forget_failures(&mut self) {
        self.protection.attempts = Attempts::default();
        if let Some(record) = &mut self.record {
            record.ha.given_up = false;
        }
    }

    fn failed_and_protected(&self) -> Option<&Record> {
        let claimed = matches!(
            self.migration_state(),
            Some(MigrationState::Receiving | MigrationState::Committing | MigrationState::Moved)
        );
        let record = self.record.as_ref()?;
        let failed = matches!(self.run, Run::Off) && record.end.as_ref().is_some_and(|end| end.failed);
        let by_lease = record.end.as_ref().is_some_and(|end| end.lease_over);
        let protected = record.assignment.ha.policy == HaPolicy::Restart || by_lease;
        let wanted = record.wanted == PowerState::Running && protected && record.fenced.is_none();
        (failed && wanted && !claimed && !record.ha.given_up).then_some(record)
    }

    /// Decides when a failed VM is started again, or that it is no more.
    pub(super) async fn plan_restart(&mut self) {
        let Some(record) = self.failed_and_protected() else {
            self.protection.restart_at = None;
            return;
        };
        if self.protection.restart_at.is_some() {
            return;
        }
        if self.lacks_lease() {
            // The next change of the lease wakes this task.
            return;
        }
        let (policy, now) = (retry(&record.assignment.ha), Instant::now());
        if self.waits_for_lease() {
            self.protection.restart_at = Some(now);
            return;
        }
        match self.protection.attempts.turn(&policy, self.protection.moment(now)) {
            Turn::Now => self.protection.restart_at = Some(now),
            Turn::Pause { until } => self.protection.restart_at = Some(self.protection.instant(until)),
            Turn::Exhausted { .. } => self.give_up(policy.per_hour).await,
        }
    }

    async fn give_up(&mut self, limit: usize) {
        if let Some(record) = &mut self.record {
            record.ha.given_up = true;
            if let Some(end) = &mut record.end {
                end.reason =
                    format!("{}; it was restarted {limit} times within an hour, which is its limit", end.reason);
            }
            tracing::warn!(vm = %self.vm, limit, "failed too often, it is not started again");
        }
        self.save_protection().await;
    }

    pub(super) async fn restart(&mut self) {
        self.protection.restart_at = None;
        if self.failed_and_protected().is_none() {
            return;
        }
        // A lease that ran out is no failure of the VM.
        if !self.waits_for_lease() {
            let now = self.protection.moment(Instant::now());
            self.protection.attempts.begun(now);
        }
        let before = self.record.as_ref().map(|record| record.ha.clone());
        if let Some(record) = &mut self.record {
            let cause = record.end.as_ref().map(|end| end.reason.clone());
            tracing::warn!(vm = %self.vm, cause, "it failed and is started again");
            record.ha = HaStatus {
                restarts: record.ha.restarts + 1,
                last_cause: cause,
                last_at: Some(Timestamp::from(std::time::SystemTime::now())),
                given_up: false,
            };
        }
        // Why it failed is in the record; the next turn is planned from there.
        if let Err(error) = self.start().await {
            tracing::warn!(vm = %self.vm, %error, "it could not be started again");
            // The warden knew before this task did that the lease is over: nothing was tried.
            if let (Some(record), Some(before), "lease-not-held") = (&mut self.record, before, error.code()) {
                record.ha = before;
            }
        }
        self.protection.watched_from = Instant::now();
    }

    async fn save_protection(&self) {
        if let Err(error) = self.save().await {
            tracing::error!(vm = %self.vm, %error, "what was done about its failures is not on disk");
        }
    }

    /// Called whenever something has happened.
    pub(super) fn plan_look(&mut self) {
        let now = Instant::now();
        let spec = self.record.as_ref().map(|record| &record.assignment.ha);
        let limit = spec.filter(|spec| spec.policy == HaPolicy::Restart).map(|spec| spec.hang_s);
        let (Some(hang_s), false, false) = (limit, self.paused, self.is_moving()) else {
            return self.protection.rest(now);
        };
        let next = match self.run {
            Run::Off => return self.protection.rest(now),
            Run::On(_) => now + LOOK_INTERVAL,
            // Each look interrupts the attempt to connect to it.
            Run::Deaf(_) => {
                let over = self.protection.watched_from + Duration::from_secs(hang_s.into());
                over.max(now + LOOK_INTERVAL)
            }
        };
        self.protection.look_at.get_or_insert(next);
    }

    /// Whether it still shows life.
    pub(super) fn look_for_life(&mut self) {
        self.protection.look_at = None;
        let Some(spec) = self.record.as_ref().map(|record| record.assignment.ha.clone()) else { return };
        if let Some(reason) = self.silence(&spec, Instant::now()) {
            self.condemn(reason);
        }
    }

    fn silence(&self, spec: &HaSpec, now: Instant) -> Option<String> {
        let limit = Duration::from_secs(spec.hang_s.into());
        let from = self.protection.watched_from;
        let signs = self.shared.signs_of_life();
        let answered = signs.monitor.map_or(from, |at| from.max(at.into()));
        if now.saturating_duration_since(answered) >= limit {
            return Some(format!("its QEMU has not answered for {} s", spec.hang_s));
        }
        let mut guest = Silence::default();
        if let Some(at) = signs.guest_agent {
            guest.agent_answered(self.protection.moment(from.max(at.into())));
        }
        if let Some((operations, at)) = signs.io {
            guest.io_seen(operations, self.protection.moment(from.max(at.into())));
        }
        let policy = SilencePolicy { limit_ms: u64::from(spec.hang_s) * 1000 };
        guest.hangs(policy, self.protection.moment(now))?;
        Some(format!("the guest hangs: its agent, its disk and its network have been silent for {} s", spec.hang_s))
    }

    /// Ends a QEMU whose guest is of no use any more; what follows is as after any other failure.
    pub(super) fn condemn(&mut self, reason: String) {
        let process = match &self.run {
            Run::Off => return,
            Run::On(machine) => machine.process.kill(),
            Run::Deaf(process) => process.kill(),
        };
        tracing::warn!(vm = %self.vm, reason, "QEMU is ended");
        if let Err(error) = process {
            tracing::error!(vm = %self.vm, %error, "cannot end QEMU");
        }
        self.expected_end = Some(End::failed(reason));
        self.protection.watched_from = Instant::now();
    }

    /// Takes over another protection, also while it runs.
    pub(super) async fn change_protection(&mut self, wanted: &ProtectVm) -> Result<(), Problem> {
        self.check_epoch(wanted.epoch)?;
        self.check_not_moving()?;
        let Some(mut changed) = self.protect(wanted) else { return Ok(()) };
        if Record::is_to_be_guarded(&changed.assignment) && !changed.guarded {
            self.guard_running().await?;
            changed.guarded = true;
        }
        self.host.records.save(&changed).await.map_err(|error| error.problem())?;
        self.record = Some(changed);
        self.protection.watched_from = Instant::now();
        Ok(())
    }
}
