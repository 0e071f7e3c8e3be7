//! VMs that leave a host while they run: what `crates/agent/src/migration` (`source.rs`, `sending.rs`, `watch.rs`) does,
//! written down once more.
//!
//! ```text
//!   sending ── the stream is complete ──▶ committing ── the destination's word ──▶ moved
//!      └── given up: the guest goes on ──▶ failed, cancelled ◀── "aborted" ──┘
//! ```
//! Each word on top of an arrow's end is on disk before the next thing is done.

use std::sync::Arc;
use std::time::Duration;

use gantry_api::agent::{MigrationState, SendMigration, Verdict};
use gantry_types::Problem;
use rand::RngExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::agent::AgentSide;
use super::hub::Node;
use super::records::{Disk, MoveRecord, Side};
use super::streams::Flow;
use super::tasks::VmTask;
use crate::Planted;
use crate::rules::host_node;

/// As the agent's.
const SWITCHOVER_LIMIT: Duration = Duration::from_secs(30);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
const ABORT_TRIES: u32 = 5;
const ASK_INTERVAL: Duration = Duration::from_secs(2);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const FAILURES_MAX: u32 = 5;
/// As of calls over HTTP.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked how far the stream is.
const COPYING_LOOK: Duration = Duration::from_millis(200);
const SWITCHING_LOOK: Duration = Duration::from_millis(10);

/// The task that sends; dropping it stops it where it is.
pub struct SendingTask {
    migration: Uuid,
    cancel: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

/// Where the task takes the move up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Fresh,
    /// The agent was restarted before the hand-over was on record.
    Interrupted,
    /// The hand-over is on record.
    Committing,
}

impl AgentSide {
    pub async fn send_migration(self: &Arc<Self>, vm: Uuid, request: &SendMigration) -> Result<(), Problem> {
        self.vms.find(vm)?;
        let (task, _turn) = self.turn(vm).await;
        let (known, machine) = (self.vms.find(vm)?, &self.vms.link.machine);
        let record = machine.record(vm);
        if let Some(migration) = record.of_move(request.migration) {
            let over = || Problem::conflict("migration-over", "this migration has ended");
            return match migration.state {
                MigrationState::Failed | MigrationState::Cancelled => Err(migration.error.clone().unwrap_or_else(over)),
                _ => Ok(()),
            };
        }
        self.vms.find_at(vm, request.epoch)?;
        record.expect_not_moving(&known.name)?;
        if machine.process_of(vm).is_none() {
            return Err(Problem::conflict("vm-not-running", "only a running VM is migrated"));
        }
        let side = Side::Source(Box::new(request.clone()));
        let begun = MoveRecord { id: request.migration, state: MigrationState::Sending, side, error: None };
        let mut noted = Ok(());
        let note = |disk: &mut Disk, _| {
            noted = self.vms.world.guest_goes(&machine.name, vm, request);
            if noted.is_ok() {
                disk.vms.entry(vm).or_default().migration = Some(begun);
            }
        };
        self.vms.link.write_move(vm, note).await;
        noted?;
        self.start_sending(vm, &task, request.clone(), Start::Fresh);
        Ok(())
    }

    fn start_sending(self: &Arc<Self>, vm: Uuid, task: &VmTask, request: SendMigration, start: Start) {
        let (migration, cancel) = (request.migration, CancellationToken::new());
        let to = host_node(&request.destination).unwrap_or(super::hub::CONTROLLER);
        let sending = Sending { agent: self.clone(), vm, request, to, cancel: cancel.clone() };
        let handle = AbortOnDropHandle::new(tokio::spawn(sending.run(start)));
        *task.sending() = Some(SendingTask { migration, cancel, _task: handle });
    }

    pub async fn cancel_migration(self: &Arc<Self>, vm: Uuid, migration: Uuid) -> Result<(), Problem> {
        self.vms.find(vm)?;
        let (task, _turn) = self.turn(vm).await;
        let state = self.vms.link.machine.record(vm).of_move(migration).map(|known| known.state);
        match (state, &*task.sending()) {
            (Some(MigrationState::Sending), Some(sending)) if sending.migration == migration => {
                sending.cancel.cancel();
                Ok(())
            }
            (Some(MigrationState::Failed | MigrationState::Cancelled), _) => Ok(()),
            (Some(_), _) => Err(Problem::conflict("migration-handed-over", "too late to cancel")),
            (None, _) => Err(Problem::not_found("migration", &migration.to_string())),
        }
    }

    /// What the sending task has found out; on disk when it is done. Whether it could still be so.
    async fn step(self: &Arc<Self>, vm: Uuid, id: Uuid, state: MigrationState, error: Option<Problem>) -> bool {
        let (_task, _turn) = self.turn(vm).await;
        let machine = &self.vms.link.machine;
        let before = machine.record(vm).of_move(id).map(|known| known.state);
        let fits = match state {
            MigrationState::Moved => matches!(before, Some(MigrationState::Sending | MigrationState::Committing)),
            MigrationState::Failed if before == Some(MigrationState::Committing) => true,
            _ => before == Some(MigrationState::Sending),
        };
        if !fits {
            // From a task whose move was ended meanwhile.
            return false;
        }
        self.note_sent(vm, state, error).await;
        if matches!(state, MigrationState::Failed | MigrationState::Cancelled) {
            self.go_on_here(vm, id);
        }
        true
    }

    async fn note_sent(&self, vm: Uuid, state: MigrationState, error: Option<Problem>) {
        let (machine, world) = (&self.vms.link.machine, &self.vms.world);
        let note = |disk: &mut Disk, has_qemu: bool| {
            world.note_move(&machine.name, vm, state, has_qemu);
            if let Some(record) = disk.vms.get_mut(&vm) {
                *record = std::mem::take(record).with_move(state, error);
            }
        };
        self.vms.link.write_move(vm, note).await;
    }

    /// The guest stays: it runs if it should and the move has stopped it. One whose disk was given away is ended.
    pub fn go_on_here(&self, vm: Uuid, migration: Uuid) {
        let machine = &self.vms.link.machine;
        if machine.process_of(vm).is_none() {
            return;
        }
        match self.vms.world.claim_disk(&machine.name, vm) {
            Err(problem) if problem.code() == "disk-elsewhere" => machine.end(vm, "its disk is another host's"),
            _ if machine.record(vm).wanted => machine.go_on(vm, migration),
            _ => {}
        }
    }

    /// The agent was restarted while this VM was being sent.
    pub async fn recover_sending(self: &Arc<Self>, vm: Uuid, task: &VmTask) {
        let machine = &self.vms.link.machine;
        let Some(MoveRecord { state, side: Side::Source(request), .. }) = machine.record(vm).migration else { return };
        match state {
            MigrationState::Committing => self.start_sending(vm, task, *request, Start::Committing),
            // Not on record as handed over: commit was never asked, so the guest is ours.
            _ if machine.process_of(vm).is_none() => self.sending_ended(vm, task).await,
            _ => self.start_sending(vm, task, *request, Start::Interrupted),
        }
    }

    /// Its QEMU has ended, or is going to. Before the hand-over that ends the move; after it, the destination's verdict
    /// still counts.
    pub async fn sending_ended(self: &Arc<Self>, vm: Uuid, task: &VmTask) {
        let record = self.vms.link.machine.record(vm);
        let Some(MoveRecord { state: MigrationState::Sending, side: Side::Source(request), .. }) = record.migration
        else {
            return;
        };
        *task.sending() = None;
        let ended = Problem::permanent("source-ended", "the QEMU on the source ended during the migration");
        self.note_sent(vm, MigrationState::Failed, Some(ended)).await;
        let to = host_node(&request.destination).unwrap_or(super::hub::CONTROLLER);
        let telling = Sending { agent: self.clone(), vm, request: *request, to, cancel: CancellationToken::new() };
        tokio::spawn(async move { telling.abort().await });
    }

    pub async fn release_migration(self: &Arc<Self>, vm: Uuid, migration: Uuid) -> Result<(), Problem> {
        if self.vms.find(vm).is_err() {
            return Ok(());
        }
        let (task, _turn) = self.turn(vm).await;
        match self.vms.link.machine.record(vm).of_move(migration).map(|known| known.state) {
            Some(MigrationState::Moved) => {
                *task.sending() = None;
                self.vms.tear_down(vm, "it was moved").await;
                Ok(())
            }
            None => Ok(()),
            Some(_) => Err(Problem::conflict("migration-not-moved", "only a moved VM is released")),
        }
    }
}

struct Sending {
    agent: Arc<AgentSide>,
    vm: Uuid,
    request: SendMigration,
    to: Node,
    cancel: CancellationToken,
}

impl Sending {
    async fn run(self, start: Start) {
        if start != Start::Committing && !self.reach_hand_over(start).await {
            return;
        }
        let aborted = || Problem::transient("migration-aborted", "the destination gave it up");
        let (state, error) = match self.settle(start).await {
            Verdict::Committed => (MigrationState::Moved, None),
            Verdict::Aborted => (MigrationState::Failed, Some(aborted())),
        };
        self.step(state, error).await;
    }

    async fn step(&self, state: MigrationState, error: Option<Problem>) -> bool {
        self.agent.step(self.vm, self.request.migration, state, error).await
    }

    async fn sleep(&self, duration: Duration) {
        self.agent.vms.keeper.sleep(duration).await;
    }

    /// Whether the guest is handed over; otherwise it is still here, and that is on record.
    async fn reach_hand_over(&self, start: Start) -> bool {
        let machine = &self.agent.vms.link.machine;
        let sent = match start {
            Start::Fresh => tokio::select! {
                biased;
                () = self.cancel.cancelled() => Err(Problem::conflict("cancelled", "the migration was cancelled")),
                sent = self.send() => sent,
            },
            _ => Err(Problem::transient("agent-restarted", "the source's agent was restarted")),
        };
        let Err(error) = sent else { return true };
        // Too late to give up: everything is on the other side, and its agent decides.
        let resume = machine.record(self.vm).wanted;
        if machine.give_up(self.vm, self.request.migration, resume).is_err() {
            return true;
        }
        let was_cancelled = error.code() == "cancelled";
        let state = if was_cancelled { MigrationState::Cancelled } else { MigrationState::Failed };
        self.step(state, Some(error)).await;
        self.abort().await;
        false
    }

    async fn send(&self) -> Result<(), Problem> {
        tokio::select! {
            biased;
            lost = self.destination_lost() => return Err(lost),
            copied = self.copy() => copied?,
        }
        let (vm, migration) = (self.vm, self.request.migration);
        let machine = &self.agent.vms.link.machine;
        machine.halt(vm, migration)?;
        // A destination whose agent doesn't answer could not commit: better to stay here.
        self.expect_receiving().await?;
        machine.finish(vm, migration);
        let mut waited = Duration::ZERO;
        while machine.flow(migration) == Flow::Still && waited < SWITCHOVER_LIMIT {
            self.sleep(SWITCHING_LOOK).await;
            waited += SWITCHING_LOOK;
        }
        match machine.flow(migration) {
            Flow::Complete => Ok(()),
            flow => Err(Problem::transient("stream-lost", format!("the stream is {flow:?}"))),
        }
    }

    /// Disk and memory, while the guest runs.
    async fn copy(&self) -> Result<(), Problem> {
        let machine = &self.agent.vms.link.machine;
        let mut left_ms = machine.hub.draw(|rng| rng.random_range(100..4_000_u64));
        while left_ms > 0 {
            self.sleep(COPYING_LOOK).await;
            match machine.flow(self.request.migration) {
                _ if !machine.reaches(self.to) => continue,
                Flow::Listens => machine.connect(self.vm, self.request.migration)?,
                Flow::Flows => {}
                flow => return Err(Problem::transient("stream-lost", format!("the stream is {flow:?}"))),
            }
            left_ms = left_ms.saturating_sub(COPYING_LOOK.as_millis() as u64);
        }
        Ok(())
    }

    /// Ends when the destination has to be given up, and says why.
    async fn destination_lost(&self) -> Problem {
        let mut failures = 0;
        loop {
            match self.expect_receiving().await {
                Ok(()) => failures = 0,
                Err(problem) if problem.code() == "not-receiving" => return problem,
                Err(problem) => {
                    failures += 1;
                    if failures == FAILURES_MAX {
                        return problem;
                    }
                }
            }
            self.sleep(ASK_INTERVAL).await;
        }
    }

    async fn expect_receiving(&self) -> Result<(), Problem> {
        let (vm, migration) = (self.vm, self.request.migration);
        let report = self.agent.vms.way.ask_host(self.to, "migration_report", ANSWER_LIMIT, move |agent| {
            Box::pin(async move { agent.migration_report(vm, migration).await })
        });
        let state = report.await?.state;
        match state {
            MigrationState::Receiving => Ok(()),
            _ => Err(Problem::transient("not-receiving", format!("the destination says '{state:?}'"))),
        }
    }

    /// Asks the destination until it has decided.
    async fn settle(&self, start: Start) -> Verdict {
        // If the hand-over can't be written down, the destination must not commit on our word.
        let is_recorded = start == Start::Committing || self.step(MigrationState::Committing, None).await;
        let (vm, migration) = (self.vm, self.request.migration);
        let what = if is_recorded { "commit_migration" } else { "abort_migration" };
        let mut pause = RETRY_FIRST;
        loop {
            let asking = self.agent.vms.way.ask_host(self.to, what, CALL_LIMIT, move |agent| {
                Box::pin(async move {
                    match is_recorded {
                        true => agent.commit_migration(vm, migration).await,
                        false => agent.abort_migration(vm, migration).await,
                    }
                })
            });
            match asking.await {
                Ok(verdict) => return verdict,
                Err(_) if self.agent.vms.link.machine.planted == Some(Planted::TakesBack) => return Verdict::Aborted,
                Err(_) => {}
            }
            self.sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Lets the destination clean up early. Only a courtesy.
    async fn abort(&self) {
        let (vm, migration) = (self.vm, self.request.migration);
        let mut pause = RETRY_FIRST;
        for _ in 0..ABORT_TRIES {
            let told = self.agent.vms.way.ask_host(self.to, "abort_migration", CALL_LIMIT, move |agent| {
                Box::pin(async move { agent.abort_migration(vm, migration).await })
            });
            if told.await.is_ok() {
                return;
            }
            self.sleep(pause).await;
            pause *= 2;
        }
    }
}
