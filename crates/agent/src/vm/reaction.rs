//! What this host does about a failure that was noticed: [`gantry_ha::reaction`] decides, this carries it out.
//!
//! Going back to a good state is on record before the disk is touched, and the VM is not started before it is done: an
//! agent that is restarted in between goes on with it.

use std::time::SystemTime;

use gantry_ha::reaction::{self, Decision, Failure, Next, Situation};
use gantry_qemu::qmp::command::{Cont, SystemReset};
use gantry_storage::Claiming;
use gantry_types::{HaPolicy, PowerState, Problem, RecoveryPointKind, Timestamp};
use tokio::time::Instant;
use uuid::Uuid;

use super::actor::{Run, VmTask};
use super::disk;
use super::revert::replace_points;
use super::snapshots::point_tag;
use crate::records::{End, RollBack};

impl VmTask {
    /// Keeps a failure for the next turn of the task. One that is being reacted to is not noticed again.
    pub(super) fn notice(&mut self, failure: Failure, reason: String) {
        if !matches!(self.run, Run::Off) && self.expected_end.is_none() {
            self.protection.noticed.get_or_insert((failure, reason));
        }
    }

    pub(super) async fn heed_failure(&mut self) {
        let Some((failure, reason)) = self.protection.noticed.take() else { return };
        if matches!(self.run, Run::Off) || self.expected_end.is_some() {
            return;
        }
        match self.decide(failure) {
            Decision::Tell => self.tell_of(failure, reason),
            Decision::Reset => self.reset_guest(reason).await,
            Decision::End(next) => self.condemn(reason, next),
        }
    }

    /// QEMU has ended by itself with a failure that was not reacted to yet.
    pub(super) fn note_failed_end(&mut self) {
        let Some((failure, reason)) = self.protection.noticed.take() else { return };
        if self.expected_end.is_none() {
            let next = match self.decide(failure) {
                Decision::End(next) => next,
                Decision::Tell | Decision::Reset => Next::Restart,
            };
            self.expected_end = Some(End { next, ..End::failed(reason) });
        }
    }

    fn decide(&mut self, failure: Failure) -> Decision {
        let may_reset = self.may_reset();
        let has_good = self.good_state().is_some();
        let Some(record) = &mut self.record else { return Decision::End(Next::Stay) };
        let in_a_row = match failure {
            Failure::Machine => record.ha.failures_in_a_row,
            Failure::GuestHalted | Failure::GuestSilent | Failure::Application => record.ha.failures_in_a_row + 1,
        };
        let situation = Situation { failure, in_a_row, has_good, may_reset };
        let decision = reaction::decide(&record.assignment.ha, situation);
        if decision != Decision::Tell {
            record.ha.failures_in_a_row = in_a_row;
        }
        decision
    }

    fn may_reset(&self) -> bool {
        let spec = self.record.as_ref().map(|record| &record.assignment.ha);
        matches!(self.run, Run::On(_))
            && !self.is_moving()
            && self.check_no_snapshot_at_work().is_ok()
            && spec.is_some_and(|spec| self.protection.is_its_turn(spec))
    }

    fn good_state(&self) -> Option<Uuid> {
        let recovery = &self.record.as_ref()?.recovery;
        let good = recovery.points.iter().rev().filter(|point| point.kind == RecoveryPointKind::Good);
        let good: Vec<Uuid> = good.map(|point| point.uuid).collect();
        reaction::good_state(&good, recovery.rolled_back_to)
    }

    fn tell_of(&mut self, failure: Failure, reason: String) {
        let unhealthy = Some((failure, reason));
        if self.protection.unhealthy != unhealthy {
            tracing::warn!(vm = %self.vm, ?unhealthy, "it fails, which is only told of");
            self.protection.unhealthy = unhealthy;
        }
    }

    pub(super) fn fails_no_more(&mut self, failure: Failure) {
        self.protection.unhealthy.take_if(|(known, _)| *known == failure);
    }

    /// Ends a QEMU whose guest is of no use any more; what follows is as after any other failure.
    pub(super) fn condemn(&mut self, reason: String, next: Next) {
        let process = match &self.run {
            Run::Off => return,
            Run::On(machine) => machine.process.kill(),
            Run::Deaf(process) => process.kill(),
        };
        tracing::warn!(vm = %self.vm, reason, ?next, "QEMU is ended");
        if let Err(error) = process {
            tracing::error!(vm = %self.vm, %error, "cannot end QEMU");
        }
        self.expected_end = Some(End { next, ..End::failed(reason) });
        self.protection.condemned_at = Some(Instant::now());
        self.protection.watch_anew();
    }

    async fn reset_guest(&mut self, reason: String) {
        self.protection.begun();
        if let Err(error) = self.press_reset().await {
            tracing::warn!(vm = %self.vm, %error, "its machine can't be reset");
            return self.condemn(reason, Next::Restart);
        }
        tracing::warn!(vm = %self.vm, reason, "its machine was reset");
        self.shared.forget_guest();
        self.forget_probes();
        if let Some(record) = &mut self.record {
            record.ha.resets += 1;
            record.ha.done_about(Some(reason), Timestamp::from(SystemTime::now()));
            // Another run: its good state is kept as that of a VM that was started.
            record.recovery.kept_in = None;
        }
        self.save_protection().await;
    }

    /// A guest that is halted executes again afterwards. An agent that dies in between leaves a machine that was reset and
    /// is told to go on by the next one.
    async fn press_reset(&mut self) -> Result<(), Problem> {
        self.tell(SystemReset {}).await?;
        self.tell(Cont {}).await?;
        (self.paused, self.hold) = (false, None);
        Ok(())
    }

    /// A machine that was reset and that nobody has told to go on.
    pub(super) async fn go_on_after_reset(&mut self) {
        let is_wanted = self.record.as_ref().is_some_and(|record| record.wanted == PowerState::Running);
        if !is_wanted || self.is_moving() {
            return;
        }
        match self.tell(Cont {}).await {
            Ok(()) => self.paused = false,
            Err(error) => tracing::error!(vm = %self.vm, %error, "its machine was reset and does not go on"),
        }
    }

    /// It has failed for good here, or was stopped because its host was shut out and does not start by itself any more: the
    /// controller starts it, elsewhere if it can. Of most that were stopped so it knows already.
    pub(super) fn is_left_to_others(&self) -> bool {
        let Some(record) = self.record.as_ref().filter(|_| matches!(self.run, Run::Off)) else { return false };
        let is_fenced = record.fenced.is_some();
        let left = record.end.as_ref().is_some_and(|end| end.failed && (end.next == Next::Elsewhere || is_fenced));
        left && record.wanted == PowerState::Running && record.assignment.ha.policy == HaPolicy::Restart
    }

    /// What is not on record is not left to others.
    pub(super) fn keep_to_itself(&mut self) {
        if let Some(end) = self.record.as_mut().and_then(|record| record.end.as_mut()) {
            end.next = if end.next == Next::Elsewhere { Next::Restart } else { end.next };
        }
    }

    /// If its disk is to go back to a good state first, chooses which.
    pub(super) fn choose_roll_back(&mut self) {
        let good = self.good_state();
        let Some(record) = &mut self.record else { return };
        let is_due = record.end.as_ref().is_some_and(|end| end.next == Next::RollBack);
        if let Some(to) = good.filter(|_| is_due && record.recovery.rolling_back.is_none()) {
            record.recovery.rolling_back = Some(RollBack { to, keep_as: Uuid::new_v4() });
        }
    }

    /// Brings the disk of a VM that is off to the state that it is on its way to. Can be repeated. As a start, it is only for
    /// whoever has the lease and the disk.
    pub(super) async fn finish_roll_back(&mut self) -> Result<(), Problem> {
        let record = self.known()?;
        let Some(RollBack { to, keep_as }) = record.recovery.rolling_back else { return Ok(()) };
        if record.guarded {
            self.host.lease.expect_held(&self.named()?)?;
        }
        let assignment = record.assignment.clone();
        self.expect_alone()?;
        let _hold = disk::claim(&self.host, &assignment, Claiming::Keep).await?;
        self.save().await?;
        if self.find_tag(&point_tag(to)).await?.is_some() {
            self.keep_disks(&point_tag(keep_as), &[]).await?;
            self.keep_uefi_variables(keep_as).await?;
            let applied = self.disks().await?.apply_disk_snapshot(self.vm, &point_tag(to)).await;
            applied.map_err(|error| self.storage_problem("snapshot-not-applied", &error))?;
            self.put_uefi_variables_back(to).await?;
        } else {
            tracing::error!(vm = %self.vm, point = %to, "its disk no longer has the good state, it starts as it is");
        }
        let now = Timestamp::from(SystemTime::now());
        let before = self.record.clone();
        if let Some(record) = &mut self.record {
            record.recovery.rolling_back = None;
            record.recovery.rolled_back_to = Some(to);
            record.recovery.kept_in = None;
            replace_points(&mut record.recovery.points, to, Some(keep_as), now);
            record.ha.roll_backs += 1;
            record.ha.failures_in_a_row = 0;
        }
        let saved = self.save().await;
        if saved.is_err() {
            self.record = before;
        }
        saved
    }
}
