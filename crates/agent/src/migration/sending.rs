//! The task that sends a VM. It drives QEMU and asks the destination; every fact that must survive goes through the
//! VM's task, which writes it down before it answers.

use std::sync::Arc;
use std::time::Duration;

use gantry_api::AgentApi;
use gantry_api::agent::{NicAssignment, SendMigration, Verdict};
use gantry_hostlink::AgentClient;
use gantry_qemu::migration::{HandedOver, MigrationError, MigrationPhase, MigrationSource};
use gantry_qemu::qmp::{Event, EventStream, Qmp};
use gantry_trust::LiveIdentity;
use gantry_types::{ErrorClass, MigrationFigures, MigrationMode, Name, Problem, Timestamp};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::flows;
use crate::host::Host;
use crate::problem::problem;
use crate::vm::{Command, Shared, SourceStep};

/// A disk of terabytes over a slow link; progress is shown, and it can be cancelled at any time.
pub(super) const COPY_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Connections that are not sent by then stay behind: the commit waits for them, and the guest for the commit.
const FLOWS_LIMIT: Duration = Duration::from_secs(1);
/// The guest stands still during these.
pub(super) const SWITCHOVER_LIMIT: Duration = Duration::from_secs(30);
const CANCEL_LIMIT: Duration = Duration::from_secs(30);
/// So long post-copy may stand still before its connection is given up: nothing else notices a cut cable for minutes.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);
const RESUME_LIMIT: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
const ABORT_TRIES: u32 = 5;

pub(super) struct Sending {
    pub vm: Uuid,
    pub vm_name: Name,
    pub host_name: String,
    pub request: SendMigration,
    /// Absent if QEMU is gone; then only the destination's verdict is still to be had.
    pub source: Option<MigrationSource>,
    pub qmp: Option<Qmp>,
    pub peer: AgentClient,
    pub nics: Vec<NicAssignment>,
    pub host: Arc<Host>,
    /// The guest runs, and goes on running if the migration fails.
    pub resume: bool,
    pub shared: Arc<Shared>,
    pub commands: mpsc::WeakSender<Command>,
    pub cancel: CancellationToken,
}

/// Where the task takes the migration up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    Fresh,
    /// The agent was restarted before the hand-over was on record.
    Interrupted,
    /// The hand-over is on record.
    Committing,
}

/// What is measured on the way.
pub(super) struct Measured {
    started: std::time::Instant,
    pub disk_bytes: u64,
    /// Not known if the agent was restarted on the way.
    mode: Option<MigrationMode>,
}

impl Sending {
    pub async fn run(self, begin: Begin) {
        let mut measured = Measured { started: std::time::Instant::now(), disk_bytes: 0, mode: None };
        if begin != Begin::Committing && !self.reach_hand_over(begin, &mut measured).await {
            return;
        }
        let verdict = self.settle(begin).await;
        match verdict {
            Some(Verdict::Committed) => self.moved(measured).await,
            Some(Verdict::Aborted) => {
                let detail = format!("{}: '{}' gave the migration up", self.what(), self.request.destination);
                let error = Problem::transient("migration-aborted", detail)
                    .remedy(format!("migrate again, or to another host; the VM goes on at '{}'", self.host_name));
                self.insist(|| SourceStep::Returned(error.clone())).await;
            }
            None => {}
        }
    }

    /// True if the guest is handed over; otherwise it is still here, and that is on record.
    async fn reach_hand_over(&self, begin: Begin, measured: &mut Measured) -> bool {
        let Some(source) = &self.source else { return false };
        let sent = match begin {
            Begin::Fresh => tokio::select! {
                sent = self.send(source, measured) => sent,
                () = self.cancel.cancelled() => Err(self.cancelled()),
            },
            _ => Err(self.agent_restarted()),
        };
        let Err(error) = sent else { return true };
        let mut pause = RETRY_FIRST;
        loop {
            match source.cancel(self.resume, Instant::now() + CANCEL_LIMIT).await {
                Ok(()) => break,
                // Too late to give up: everything is on the other side, and its agent decides.
                Err(MigrationError::HandedOver) => return true,
                Err(failure) => {
                    // QEMU's end is noticed by the VM's task, which then ends this one.
                    tracing::warn!(vm = %self.vm, error = crate::problem::chain(&failure), "cancelling failed, trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
        let was_cancelled = error.code() == "cancelled";
        self.insist(|| SourceStep::GivenUp { cancelled: was_cancelled, error: error.clone() }).await;
        abort(&self.peer, self.vm, self.request.migration).await;
        false
    }

    /// The migration in a sentence that a person reads.
    pub(super) fn what(&self) -> String {
        format!("moving VM '{}' from '{}' to '{}'", self.vm_name, self.host_name, self.request.destination)
    }

    pub(super) fn failed(&self, error: MigrationError) -> Problem {
        problem("migration-failed", &self.what(), &error)
    }

    fn cancelled(&self) -> Problem {
        Problem::conflict("cancelled", format!("{}: the migration was cancelled", self.what()))
            .remedy("nothing is to be done; migrate again when you want it")
    }

    fn agent_restarted(&self) -> Problem {
        let detail = format!("{}: the source's agent was restarted during the migration", self.what());
        Problem::transient("agent-restarted", detail)
            .remedy(format!("migrate again; the VM goes on at '{}'", self.host_name))
    }

    async fn send(&self, source: &MigrationSource, measured: &mut Measured) -> Result<(), Problem> {
        let mut events = tokio::select! {
            copied = self.copy(source, measured) => copied?,
            lost = self.destination_lost() => return Err(lost),
        };
        self.phase("switchover");
        let deadline = Instant::now() + SWITCHOVER_LIMIT;
        // The guest stands still: its connections do not change any more but for what others send.
        let (handed_over, ()) = tokio::join!(self.hand_over(source, deadline), self.hand_over_flows());
        let handed_over = handed_over?;
        if handed_over == HandedOver::PostcopyActive {
            self.phase("post_copy");
        }
        // A short post-copy is over before anybody looks.
        let seen = match &mut events {
            Some(events) => saw_post_copy(events).await,
            None => false,
        };
        let post_copy = seen || handed_over == HandedOver::PostcopyActive;
        measured.mode = Some(if post_copy { MigrationMode::PostCopy } else { MigrationMode::PreCopy });
        Ok(())
    }

    async fn hand_over(&self, source: &MigrationSource, deadline: Instant) -> Result<HandedOver, Problem> {
        let failed = |error| self.failed(error);
        // A destination that does not answer is known sooner than a copy that does not get on.
        tokio::try_join!(self.check_destination(), async { source.finish_mirror(deadline).await.map_err(failed) })?;
        source.continue_switchover().await.map_err(failed)?;
        source.wait_handed_over(deadline).await.map_err(failed)
    }

    /// Sends the guest's tracked connections ahead of it, even if there are none: then the destination makes ready for
    /// its frames. Without them it moves all the same.
    async fn hand_over_flows(&self) {
        let hand_over = async {
            let routers = self.host.networks.routers_of(&self.nics).await;
            let flows = flows::of_vm(&self.nics, &routers).await?;
            self.peer.adopt_flows(self.vm, self.request.migration, &flows).await
        };
        match timeout(FLOWS_LIMIT, hand_over).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(vm = %self.vm, %error, "the VM moves without its tracked connections"),
            Err(_) => tracing::warn!(vm = %self.vm, "the VM moves without its tracked connections: it took too long"),
        }
    }

    /// Asks the destination until it has decided. `None` if the agent ends.
    async fn settle(&self, begin: Begin) -> Option<Verdict> {
        // If the hand-over can't be written down, the destination must not commit on our word: ask it to give up.
        let recorded = begin == Begin::Committing || self.report(SourceStep::HandedOver).await.is_ok();
        let (vm, migration) = (self.vm, self.request.migration);
        let mut pause = RETRY_FIRST;
        let mut complained = false;
        loop {
            let answer = match recorded {
                true => self.peer.commit_migration(vm, migration).await,
                false => self.peer.abort_migration(vm, migration).await,
            };
            match answer {
                Ok(verdict) => return Some(verdict),
                Err(error) if !complained => {
                    complained = true;
                    tracing::warn!(%vm, %migration, %error, "the destination has not decided yet, asking on");
                }
                Err(_) => {}
            }
            self.commands.upgrade()?;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn moved(&self, measured: Measured) {
        let answered = Timestamp::from(std::time::SystemTime::now());
        let stopped_at = self.shared.stopped_at();
        let mut figures = MigrationFigures {
            from: self.host_name.clone(),
            to: self.request.destination.to_string(),
            mode: measured.mode,
            blackout_ms: stopped_at.map(|stopped| answered.since(stopped).as_millis() as u64),
            disk_bytes: measured.disk_bytes,
            ..MigrationFigures::default()
        };
        if let Some(source) = &self.source {
            self.await_rest(source, &mut figures).await;
        }
        figures.total_ms = measured.started.elapsed().as_millis() as u64;
        self.phase("done");
        self.insist(|| SourceStep::Moved(Box::new(figures.clone()))).await;
    }

    /// After post-copy the destination still fetches memory from here: this QEMU must stay until it has everything.
    async fn await_rest(&self, source: &MigrationSource, figures: &mut MigrationFigures) {
        let mut pause = RETRY_FIRST;
        loop {
            let on_progress = |progress: &gantry_qemu::migration::MigrationProgress| {
                if matches!(progress.phase, MigrationPhase::PostcopyActive) {
                    self.phase("post_copy");
                    self.show(progress);
                }
            };
            let deadline = Instant::now() + COPY_LIMIT;
            match source.wait_completed(on_progress, SILENCE_LIMIT, deadline).await {
                Ok(progress) => {
                    figures.downtime_ms = progress.downtime_ms;
                    figures.memory_bytes = progress.ram_transferred_bytes;
                    figures.passes = progress.passes;
                    return;
                }
                Err(error) if self.qmp.as_ref().is_none_or(Qmp::is_closed) => {
                    tracing::error!(vm = %self.vm, error = crate::problem::chain(&error), "QEMU ended after the hand-over");
                    return;
                }
                Err(error) => {
                    tracing::warn!(vm = %self.vm, error = crate::problem::chain(&error), "post-copy is interrupted");
                    self.phase("post_copy_interrupted");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                    match self.resume(source).await {
                        Ok(()) => pause = RETRY_FIRST,
                        Err(error) => tracing::warn!(vm = %self.vm, %error, "post-copy does not go on yet"),
                    }
                }
            }
        }
    }

    /// Sends the rest of an interrupted post-copy to where the destination waits for it.
    async fn resume(&self, source: &MigrationSource) -> Result<(), Problem> {
        let report = self.peer.migration_report(self.vm, self.request.migration).await?;
        let Some(port) = report.recovery_port else {
            let detail = format!("'{}' has not noticed yet that the connection is lost", self.request.destination);
            return Err(Problem::transient("not-interrupted-there", detail));
        };
        let resumed = source.resume(port, Instant::now() + RESUME_LIMIT).await;
        resumed.map_err(|error| problem("post-copy-not-resumed", &self.what(), &error))
    }

    pub(super) fn phase(&self, phase: &str) {
        self.shared.update_progress(|shown| shown.phase = phase.to_owned());
    }

    async fn report(&self, step: SourceStep) -> Result<(), Problem> {
        let over = || Problem::transient("vm-going", "the VM's task has ended");
        let commands = self.commands.upgrade().ok_or_else(over)?;
        let (reply, answer) = oneshot::channel();
        commands.send(Command::Step(step, reply)).await.map_err(|_| over())?;
        answer.await.map_err(|_| over())?
    }

    /// Reports until it is on record, or the VM's task is gone.
    async fn insist(&self, step: impl Fn() -> SourceStep) {
        let mut pause = RETRY_FIRST;
        while let Err(error) = self.report(step()).await {
            let task_is_over = self.commands.upgrade().is_none_or(|commands| commands.is_closed());
            if task_is_over || error.class == ErrorClass::Conflict {
                return;
            }
            tracing::error!(vm = %self.vm, %error, "the migration's outcome is not on disk, trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }
}

/// Whether QEMU has reported post-copy so far.
async fn saw_post_copy(events: &mut EventStream) -> bool {
    let is_post_copy = |event: &Event| event.name == "MIGRATION" && event.data["status"] == "postcopy-active";
    while let Ok(Ok(event)) = timeout(Duration::ZERO, events.next()).await {
        if is_post_copy(&event) {
            return true;
        }
    }
    false
}

/// Lets the destination clean up early. Only a courtesy: it gives up by itself when the streams end, or when the
/// controller asks it to.
async fn abort(peer: &AgentClient, vm: Uuid, migration: Uuid) {
    let mut pause = RETRY_FIRST;
    for _ in 0..ABORT_TRIES {
        if peer.abort_migration(vm, migration).await.is_ok() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    tracing::warn!(%vm, %migration, "the destination could not be told that the migration ended");
}

/// Like the courtesy at the end of a sending task, when there is none any more.
pub(super) fn tell_aborted(identity: &LiveIdentity, vm: Uuid, request: &SendMigration) {
    match AgentClient::new(identity, &request.destination, &request.destination_agent) {
        Ok(peer) => {
            let migration = request.migration;
            tokio::spawn(async move { abort(&peer, vm, migration).await });
        }
        Err(error) => tracing::warn!(%vm, %error, "the destination can't be told that the migration ended"),
    }
}
