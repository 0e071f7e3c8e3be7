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

use std::time::{Duration, SystemTime};

use gantry_api::agent::{MigrationState, ProtectVm};
use gantry_ha::{
    Moment,
    attempts::{Attempts, RetryPolicy, Turn},
    reaction::{Failure, Next},
    silence::{Silence, SilencePolicy},
};
use gantry_types::{HaPolicy, HaSpec, HaStatus, PowerState, Problem, Timestamp};
use tokio::time::Instant;

use super::actor::{Run, VmTask};
use super::stranding::Stranded;
use crate::records::Record;

const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What the VM's task remembers for it.
pub(crate) struct Protection {
    /// Moments count from here.
    origin: Instant,
    attempts: Attempts,
    /// When a failed VM is started again.
    pub restart_at: Option<Instant>,
    /// The same by the host's clock, for people.
    next_at: Option<Timestamp>,
    /// A failure that nothing was done about yet.
    pub noticed: Option<(Failure, String)>,
    /// What is wrong with it, where that is only told.
    pub unhealthy: Option<(Failure, String)>,
    /// Its host has lost what it needs.
    pub stranded: Option<Stranded>,
    /// When that is looked at again, though nothing has happened.
    pub loss_at: Option<Instant>,
    /// Its QEMU was killed then and has not been seen to end.
    pub condemned_at: Option<Instant>,
    /// When it is looked for life; `None` if there is nothing to look at.
    pub look_at: Option<Instant>,
    /// Silence before this says nothing: the guest was paused or on its way, or QEMU was not known yet.
    watched_from: Instant,
}

impl Protection {
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            origin: now,
            attempts: Attempts::default(),
            restart_at: None,
            next_at: None,
            noticed: None,
            unhealthy: None,
            stranded: None,
            loss_at: None,
            condemned_at: None,
            look_at: None,
            watched_from: now,
        }
    }

    /// Something is done about it now.
    pub fn begun(&mut self) {
        let now = Instant::now();
        let moment = self.moment(now);
        self.attempts.begun(moment);
        self.watched_from = now;
    }

    pub fn is_its_turn(&self, spec: &HaSpec) -> bool {
        self.attempts.turn(&retry(spec), self.moment(Instant::now())) == Turn::Now
    }

    /// What its record says, and what only this task knows.
    pub fn status(&self, known: &HaStatus, elsewhere: bool) -> HaStatus {
        let stranded = self.stranded.as_ref();
        let unhealthy = self.unhealthy.as_ref().map(|(_, reason)| reason);
        HaStatus {
            within_hour: self.attempts.count(self.moment(Instant::now())) as u64,
            next_at: self.next_at,
            unhealthy: stranded.map(|stranded| &stranded.why).or(unhealthy).cloned(),
            stranded: stranded.is_some_and(|stranded| stranded.awaits),
            elsewhere,
            ..known.clone()
        }
    }

    fn restart_at(&mut self, at: Instant) {
        self.restart_at = Some(at);
        let pause = at.saturating_duration_since(Instant::now());
        self.next_at = (!pause.is_zero()).then(|| Timestamp::from(SystemTime::now() + pause));
    }

    fn no_restart(&mut self) {
        (self.restart_at, self.next_at) = (None, None);
    }

    /// From here on silence counts anew.
    pub fn watch_anew(&mut self) {
        self.watched_from = Instant::now();
    }

    pub fn moment(&self, at: Instant) -> Moment {
        Moment::from(at.saturating_duration_since(self.origin))
    }

    /// There is nothing to watch.
    fn rest(&mut self, now: Instant) {
        (self.watched_from, self.look_at, self.unhealthy) = (now, None, None);
    }

    pub fn instant(&self, at: Moment) -> Instant {
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
            (record.ha.given_up, record.ha.failures_in_a_row) = (false, 0);
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
        let here = record.end.as_ref().is_some_and(|end| matches!(end.next, Next::Restart | Next::RollBack));
        let wanted = record.wanted == PowerState::Running && protected && here && record.fenced.is_none();
        (failed && wanted && !claimed && !record.ha.given_up).then_some(record)
    }

    /// Decides when a failed VM is started again, or that it is no more.
    pub(super) async fn plan_restart(&mut self) {
        if self.failed_and_protected().is_none() {
            return self.protection.no_restart();
        }
        if self.protection.restart_at.is_some() {
            return;
        }
        if self.lacks_lease() {
            // The next change of the lease wakes this task.
            return;
        }
        let Some(record) = self.record.clone().filter(|_| !self.waits_to_be_alone()) else {
            // So does the word that it is alone.
            return;
        };
        let (policy, now) = (retry(&record.assignment.ha), Instant::now());
        if self.waits_for_lease() {
            return self.protection.restart_at(now);
        }
        match self.protection.attempts.turn(&policy, self.protection.moment(now)) {
            Turn::Now => self.protection.restart_at(now),
            Turn::Pause { until } => self.protection.restart_at(self.protection.instant(until)),
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
        self.protection.no_restart();
        if self.failed_and_protected().is_none() {
            return;
        }
        // A lease that ran out is no failure of the VM.
        if !self.waits_for_lease() {
            self.protection.begun();
        }
        let before = self.record.as_ref().map(|record| record.ha.clone());
        if let Some(record) = &mut self.record {
            let cause = record.end.as_ref().map(|end| end.reason.clone());
            tracing::warn!(vm = %self.vm, cause, "it failed and is started again");
            record.ha.restarts += 1;
            record.ha.done_about(cause, Timestamp::from(SystemTime::now()));
        }
        self.choose_roll_back();
        // Why it failed is in the record; the next turn is planned from there.
        if let Err(error) = self.start().await {
            tracing::warn!(vm = %self.vm, %error, "it could not be started again");
            // The warden knew before this task did that the lease is over: nothing was tried.
            if let (Some(record), Some(before), "lease-not-held") = (&mut self.record, before, error.code()) {
                record.ha = before;
            }
        }
        self.protection.watch_anew();
    }

    pub(super) async fn save_protection(&self) {
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
        match self.silence(&spec, Instant::now()) {
            Some((failure, reason)) => self.notice(failure, reason),
            None => self.fails_no_more(Failure::GuestSilent),
        }
    }

    fn silence(&self, spec: &HaSpec, now: Instant) -> Option<(Failure, String)> {
        let limit = Duration::from_secs(spec.hang_s.into());
        let from = self.protection.watched_from;
        let signs = self.shared.signs_of_life();
        let answered = signs.monitor.map_or(from, |at| from.max(at.into()));
        if now.saturating_duration_since(answered) >= limit {
            return Some((Failure::Machine, format!("its QEMU has not answered for {} s", spec.hang_s)));
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
        let reason =
            format!("the guest hangs: its agent, its disk and its network have been silent for {} s", spec.hang_s);
        Some((Failure::GuestSilent, reason))
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
