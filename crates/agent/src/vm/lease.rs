//! A protected VM runs only while this host's lease is held.
//!
//! ```text
//!   runs ── lease over: the warden kills QEMU ──▶ waits ── lease held again ──▶ runs
//!                                                  └── the host is shut out ──▶ failed, until the controller starts it
//! ```
//! The task kills nothing by itself as long as there is a warden; it draws the conclusions, and they are on disk before
//! the host acknowledges a fence.

use std::time::Duration;

use gantry_qemu::process::QemuProcess;
use gantry_types::{PowerState, Problem};
use tokio::time::Instant;

use super::actor::{Run, VmTask};
use super::machine;
use crate::lease::Process;
use crate::records::{End, Record};

/// How often a VM that is to be kept up looks whether the lease is held.
const LEASE_LOOK: Duration = Duration::from_millis(250);

fn id(process: &QemuProcess) -> Process {
    (process.pid(), process.start_time_ticks())
}

impl VmTask {
    fn is_guarded(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.guarded)
    }

    /// It was stopped by the end of the lease and will be started by the next one.
    pub(super) fn waits_for_lease(&self) -> bool {
        let waits = |record: &Record| {
            record.fenced.is_none()
                && record.wanted == PowerState::Running
                && record.end.as_ref().is_some_and(|end| end.lease_over)
        };
        matches!(self.run, Run::Off) && self.record.as_ref().is_some_and(waits)
    }

    /// Whether a start has to wait.
    pub(super) fn lacks_lease(&self) -> bool {
        self.is_guarded() && !self.host.lease.view().may_run
    }

    /// Draws the conclusions from how the lease stands. Nothing to conclude is most often.
    pub(super) async fn heed_lease(&mut self) {
        let view = *self.lease_views.borrow_and_update();
        if !self.is_guarded() {
            return;
        }
        if view.stop {
            self.stop_for_lease();
        }
        if let Some(generation) = view.fenced {
            self.settle_fence(generation).await;
        }
    }

    /// There is no warden that would do it.
    fn stop_for_lease(&self) {
        let killed = match &self.run {
            Run::Off => return,
            Run::On(machine) => machine.process.kill(),
            Run::Deaf(process) => process.kill(),
        };
        if let Err(error) = killed {
            tracing::error!(vm = %self.vm, %error, "the lease is over and its QEMU can't be ended");
        }
    }

    /// Writes down that it does not start by itself any more, once nothing of it runs.
    async fn settle_fence(&mut self, generation: u64) {
        let Some(record) = &self.record else { return };
        if record.fenced.is_some_and(|settled| settled >= generation) || !matches!(self.run, Run::Off) {
            return;
        }
        let mut settled = Record { fenced: Some(generation), process: None, ..record.clone() };
        if settled.wanted != PowerState::Stopped {
            settled.end = Some(End::failed("its host was shut out, so it was stopped; it may run elsewhere"));
        }
        match self.host.records.save(&settled).await {
            Ok(()) => {
                self.record = Some(settled);
                self.keep_up_at = None;
            }
            Err(error) => tracing::error!(vm = %self.vm, %error, "that it is stopped is not on disk"),
        }
    }

    /// The controller starts it: what was before the fence counts no more.
    pub(super) async fn leave_fence(&mut self) -> Result<(), Problem> {
        let Some(record) = &self.record else { return Ok(()) };
        if record.guarded {
            self.host.lease.expect_held(&format!("VM '{}'", record.assignment.name))?;
        }
        if record.fenced.is_none() {
            return Ok(());
        }
        let record = Record { fenced: None, ..record.clone() };
        self.host.records.save(&record).await.map_err(|error| error.problem())?;
        self.record = Some(record);
        Ok(())
    }

    /// What the end of a process that was not expected means, if the lease is its cause.
    pub(super) fn lease_end(&self) -> Option<End> {
        let record = self.record.as_ref().filter(|record| record.guarded)?;
        let process = record.process.as_ref()?;
        let by_warden = self.host.lease.was_stopped((process.pid, process.start_time_ticks));
        // The warden writes down what it has stopped after it has; on a slow disk the end is seen sooner.
        let is_over = by_warden || !self.host.lease.is_held();
        let reason = "this host had no lease any more, so it was stopped".to_owned();
        is_over.then(|| End { lease_over: true, ..End::failed(reason) })
    }

    /// Has the warden guard what runs.
    ///
    /// # Errors
    /// `lease-not-held` (transient).
    pub(super) async fn guard_running(&self) -> Result<(), Problem> {
        let guarded = match &self.run {
            Run::Off => true,
            Run::On(machine) => self.host.lease.guard(self.vm, id(&machine.process)).await,
            Run::Deaf(process) => self.host.lease.guard(self.vm, id(process)).await,
        };
        if guarded {
            return Ok(());
        }
        let detail = format!("VM {} can't be protected now: this host's lease is not held", self.vm);
        Err(Problem::transient("lease-not-held", detail).remedy("it is tried again"))
    }

    /// What was taken over after a start of the agent goes on only under guard.
    pub(super) async fn guard_adopted(&mut self) {
        if !self.is_guarded() || self.guard_running().await.is_ok() {
            return;
        }
        let ended = match &self.run {
            Run::Off => Ok(()),
            Run::On(machine) => machine::end(&machine.process).await,
            Run::Deaf(process) => machine::end(process).await,
        };
        if let Err(error) = ended {
            // It is seen to end, or the fence is not acknowledged.
            tracing::error!(vm = %self.vm, %error, "nobody guards it and it does not end");
            return;
        }
        tracing::warn!(vm = %self.vm, "it was stopped: nobody guarded it and there is no lease");
        self.run = Run::Off;
        self.disk_move = None;
        self.shared.forget_run();
    }

    /// Puts a start off until the lease is held. Whether it was.
    pub(super) fn put_off_for_lease(&mut self) -> bool {
        let lacks = self.lacks_lease();
        if lacks {
            self.keep_up_at = Some(Instant::now() + LEASE_LOOK);
        }
        lacks
    }
}
