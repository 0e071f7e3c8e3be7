//! One task per VM. It alone starts, commands and ends the VM's QEMU, and writes the VM's record.
//!
//! ```text
//!       define, adopt          start
//!  (none) ----------> stopped ----------> running <---pause, resume---> paused
//!                      ^  |                 |  |                          |
//!                      |  +<--guest shut down, kill-----------------------+
//!                      |                    |  |
//!                      +--start--> failed <-+  +--send: handed over--> handed over --release--> (none)
//!                               QEMU died,              ^                   |
//!                               guest panicked          +---- running <-----+ the destination aborted
//!
//!           disk sent by another host          define
//!  (none) -----------------------------> arrived ------> stopped
//!
//!           receive              commit
//!  (none) ----------> receiving --------> running or paused
//!                         +--abort, QEMU died, stream lost--> (none)
//! ```
//! Commands come one after the other; nothing in the task waits for the guest. What takes long has a task of its own:
//! metrics, guest agent, console and the sending of a migration, which reports back as commands.
//!
//! If the agent ends, QEMU goes on; a new agent's task takes it over from the record ([`recover`]).

mod actor;
pub(crate) mod backup;
mod console;
mod copying;
mod definition;
mod disk;
mod disk_move;
mod guest;
mod happening;
mod last_known_good;
mod lease;
mod liveness;
mod machine;
mod metrics;
mod observation;
mod pairing;
mod power;
mod probing;
mod protection;
mod reaction;
mod recover;
mod relocation;
mod revert;
mod room;
mod screen;
mod snapshots;
mod stranding;
mod volume_move;
mod volume_states;
mod volumes;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use gantry_api::agent::{
    AdoptVm, Assignment, MigrationEndpoint, MigrationReport, PowerRequest, ProtectVm, ReceiveMigration, RevertVm,
    SendMigration, TakeSnapshot, TakenSnapshot, Verdict, VmObservation, VmRunState,
};
use gantry_api::backup::{BackUp, BackedUp, FillDisk, Work};
use gantry_api::mirror::{CopyProgress, GoAlone, JoinCopy};
use gantry_api::storage::{AttachVolume, LeftDisk, MoveDisk, MoveVolume, VolumeMoveReport};
use gantry_types::{Flow, GuestInfo, MigrationFigures, MigrationProgress, Problem, Timestamp, VmMetrics};
use tokio::sync::{Notify, futures::Notified, mpsc, oneshot};
use uuid::Uuid;

use crate::host::Host;
use crate::records::Record;
pub(crate) use actor::{Next, Run, VmTask};
pub(crate) use console::ConsoleLine;
pub(crate) use copying::{CopyInSight, Copying};
pub(crate) use definition::committed_here;
pub(crate) use disk::{check_arriving, place as disk_place};
pub(crate) use liveness::check as check_liveness;
pub(crate) use machine::{Begin, DISK_NODE, Machine, files, prepare_files, seed_of, start_time_ticks};
pub(crate) use pairing::Copied;
pub(crate) use relocation::{Arrival, Lent};
pub(crate) use screen::open as open_screen;
pub(crate) use volumes::node_of;

/// A guest agent that was silent for longer is not reported as there.
const GUEST_AGENT_MEMORY: Duration = Duration::from_secs(10);
/// Below the time a caller waits for a quick call.
pub(crate) const MONITOR_LIMIT: Duration = Duration::from_secs(5);
const COMMAND_BACKLOG: usize = 32;

pub(crate) type Reply<T> = oneshot::Sender<Result<T, Problem>>;

pub(crate) enum Command {
    Define(Box<Assignment>, Reply<VmObservation>),
    Adopt(Box<AdoptVm>, Reply<VmObservation>),
    Power(PowerRequest, Reply<VmObservation>),
    Protect(ProtectVm, Reply<()>),
    Remove {
        epoch: u64,
        reply: Reply<()>,
    },
    TakeSnapshot(TakeSnapshot, Reply<TakenSnapshot>),
    DeleteSnapshot {
        epoch: u64,
        snapshot: Uuid,
        reply: Reply<()>,
    },
    Revert(RevertVm, Reply<VmObservation>),
    BackUp(Box<BackUp>, Reply<Work<BackedUp>>),
    CancelBackup(Uuid, Reply<()>),
    FillDisk(Box<FillDisk>, Reply<Work<()>>),
    AttachVolume(Box<AttachVolume>, Reply<()>),
    MoveVolume(MoveVolume, Reply<VolumeMoveReport>),
    CancelVolumeMove(MoveVolume, Reply<VolumeMoveReport>),
    MoveDisk(MoveDisk, Reply<VolumeMoveReport>),
    CancelDiskMove(MoveDisk, Reply<VolumeMoveReport>),
    ClearLeftDisk(LeftDisk, Reply<()>),
    JoinCopy(Box<JoinCopy>, Reply<CopyProgress>),
    GoAlone(GoAlone, Reply<()>),
    DetachVolume {
        epoch: u64,
        volume: Uuid,
        reply: Reply<()>,
    },
    Lend {
        epoch: u64,
        reply: Reply<Lent>,
    },
    Copy {
        epoch: u64,
        /// What this snapshot holds, instead of what the disk holds now.
        snapshot: Option<Uuid>,
        reply: Reply<Copying>,
    },
    HasArrived {
        relocation: Uuid,
        epoch: u64,
        reply: Reply<bool>,
    },
    Arrive(Box<Arrival>, Reply<()>),
    Receive(Box<ReceiveMigration>, Reply<MigrationEndpoint>),
    Send(Box<SendMigration>, Reply<()>),
    Report(Uuid, Reply<MigrationReport>),
    Cancel(Uuid, Reply<()>),
    AdoptFlows(Uuid, Vec<Flow>, Reply<()>),
    Commit(Uuid, Reply<Verdict>),
    Abort(Uuid, Reply<Verdict>),
    Release(Uuid, Reply<()>),
    Probe(Reply<liveness::Probe>),
    /// From the tasks that ask the guest.
    Probed(probing::Probed),
    /// From the task that sends a migration.
    Step(SourceStep, Reply<()>),
}

/// What has become of a migration, as the sending task finds out. Durable when it is answered.
#[derive(Debug)]
pub(crate) enum SourceStep {
    /// QEMU has given everything away. From here on only the destination's verdict counts.
    HandedOver,
    /// The destination has the guest.
    Moved(Box<MigrationFigures>),
    /// The destination gave up after the hand-over: the guest goes on here.
    Returned(Problem),
    /// Ended before the hand-over; the guest is still here.
    GivenUp { cancelled: bool, error: Problem },
}

/// What others may read of a VM at any time, without waiting for its task.
#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<SharedState>,
    guest_wanted: Notify,
    guest_has_answered: Notify,
}

#[derive(Default)]
struct SharedState {
    base: Option<VmObservation>,
    metrics: Option<VmMetrics>,
    guest: GuestView,
    signs: SignsOfLife,
    progress: MigrationProgress,
    console: Option<ConsoleLine>,
    /// Of a VM that is to be guarded: the fence from which it has drawn its conclusion.
    guarded: Option<Option<u64>>,
    /// When the guest last stopped executing.
    stopped_at: Option<Timestamp>,
}

#[derive(Default)]
struct GuestView {
    last_answer: Option<Instant>,
    /// When somebody last wanted it to be asked out of turn.
    asked: Option<Instant>,
    /// Since when it has answered without a gap.
    healthy_since: Option<Instant>,
    /// As of the last answer.
    clock_lag_ms: Option<i64>,
    info: Option<GuestInfo>,
}

/// When a run of QEMU last showed that it is alive.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SignsOfLife {
    /// QEMU's monitor answered.
    pub monitor: Option<Instant>,
    pub guest_agent: Option<Instant>,
    /// What the guest read, wrote and sent so far, and since when it stands at that.
    pub io: Option<(u64, Instant)>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, SharedState> {
        // Each holder makes plain assignments; a panic can't leave half of one.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// `None` only before the task has looked at its record.
    pub fn observation(&self) -> Option<VmObservation> {
        let state = self.lock();
        let mut observation = state.base.clone()?;
        let executes = matches!(observation.state, VmRunState::Running | VmRunState::Paused);
        if executes {
            let guest_clock_lag_ms = state.guest.clock_lag_ms;
            observation.metrics = state.metrics.map(|metrics| VmMetrics { guest_clock_lag_ms, ..metrics });
            observation.guest_agent =
                state.guest.last_answer.is_some_and(|answered| answered.elapsed() < GUEST_AGENT_MEMORY);
            observation.guest = state.guest.info.clone();
        }
        if let Some(migration) = &mut observation.migration {
            migration.progress = state.progress.clone();
        }
        Some(observation)
    }

    pub fn guest_agent_answered_since(&self, moment: Instant) -> bool {
        self.lock().guest.last_answer.is_some_and(|answered| answered > moment)
    }
    /// How long the guest's agent has answered without a gap until now.
    pub fn guest_healthy_for(&self) -> Option<Duration> {
        let guest = &self.lock().guest;
        guest.last_answer.filter(|answered| answered.elapsed() < GUEST_AGENT_MEMORY)?;
        guest.healthy_since.map(|since| since.elapsed())
    }
    pub fn guest_clock_lag_ms(&self) -> Option<i64> {
        self.lock().guest.clock_lag_ms
    }
    /// Has the guest's agent asked now instead of at its next turn, over a new connection.
    pub fn ask_guest_now(&self) {
        self.lock().guest.asked = Some(Instant::now());
        self.guest_wanted.notify_one();
    }
    pub fn guest_was_asked_since(&self, moment: Instant) -> bool {
        self.lock().guest.asked.is_some_and(|asked| asked > moment)
    }
    async fn guest_is_wanted(&self) {
        self.guest_wanted.notified().await;
    }
    pub fn console(&self) -> Option<ConsoleLine> {
        self.lock().console.clone()
    }
    pub fn stopped_at(&self) -> Option<Timestamp> {
        self.lock().stopped_at
    }
    pub fn update_progress(&self, update: impl FnOnce(&mut MigrationProgress)) {
        update(&mut self.lock().progress);
    }
    /// Whether nothing of it runs because of this fence, and that is on disk.
    pub fn has_settled(&self, generation: u64) -> bool {
        self.lock().guarded.is_none_or(|settled| settled.is_some_and(|settled| settled >= generation))
    }
    fn publish(&self, base: VmObservation, guarded: Option<Option<u64>>) {
        let mut state = self.lock();
        (state.base, state.guarded) = (Some(base), guarded);
    }
    pub(super) fn signs_of_life(&self) -> SignsOfLife {
        let state = self.lock();
        SignsOfLife { guest_agent: state.guest.last_answer, ..state.signs }
    }
    fn monitor_answered(&self) {
        self.lock().signs.monitor = Some(Instant::now());
    }
    fn io_seen(&self, bytes: u64) {
        let io = &mut self.lock().signs.io;
        if io.is_none_or(|(known, _)| known != bytes) {
            *io = Some((bytes, Instant::now()));
        }
    }
    fn set_metrics(&self, metrics: VmMetrics) {
        self.lock().metrics = Some(metrics);
    }
    fn guest_answered(&self, clock_lag_ms: Option<i64>) {
        let guest = &mut self.lock().guest;
        let now = Instant::now();
        let gap = guest.last_answer.is_none_or(|answered| now.duration_since(answered) >= GUEST_AGENT_MEMORY);
        if gap {
            guest.healthy_since = Some(now);
        }
        (guest.last_answer, guest.clock_lag_ms) = (Some(now), clock_lag_ms);
        self.guest_has_answered.notify_waiters();
    }
    /// Its agent has said something, if not that it is well.
    fn guest_showed_life(&self) {
        if let Some(last_answer) = &mut self.lock().guest.last_answer {
            *last_answer = Instant::now();
        }
    }
    /// Ends with the next answer of the guest's agent after this call.
    fn guest_answer(&self) -> Notified<'_> {
        self.guest_has_answered.notified()
    }
    fn set_guest_info(&self, info: GuestInfo) {
        self.lock().guest.info = Some(info);
    }
    fn set_console(&self, console: Option<ConsoleLine>) {
        self.lock().console = console;
    }
    fn set_stopped_at(&self, moment: Timestamp) {
        self.lock().stopped_at = Some(moment);
    }
    /// The guest boots anew.
    fn forget_guest(&self) {
        self.lock().guest = GuestView::default();
    }
    /// Nothing measured of one QEMU may be shown for the next.
    fn forget_run(&self) {
        let mut state = self.lock();
        state.metrics = None;
        state.guest = GuestView::default();
        state.signs = SignsOfLife::default();
        state.console = None;
    }
}

/// QEMU answers in milliseconds. One that hangs must not hold up the VM's task, which may have to kill it.
pub(crate) async fn within<T>(limit: Duration, vm: Uuid, work: impl Future<Output = T>) -> Result<T, Problem> {
    tokio::time::timeout(limit, work).await.map_err(|_| {
        let detail = format!("QEMU of VM {vm} does not answer within {} s", limit.as_secs());
        Problem::transient("qemu-silent", detail).remedy("if it stays so, stop the VM with force and start it again")
    })
}

/// The way to a VM's task.
#[derive(Clone)]
pub(crate) struct VmHandle {
    commands: mpsc::Sender<Command>,
    pub shared: Arc<Shared>,
}

impl VmHandle {
    /// Starts the task of a VM: one with a record goes on where it was, one without waits for `define` or `receive`.
    pub fn start(host: Arc<Host>, vm: Uuid, record: Option<Record>) -> Self {
        let (commands, receiver) = mpsc::channel(COMMAND_BACKLOG);
        let shared = Arc::new(Shared::default());
        let task = VmTask::new(host, vm, record, receiver, commands.downgrade(), shared.clone());
        tokio::spawn(task.run());
        Self { commands, shared }
    }

    /// The VM was removed, or never came to be.
    pub fn is_over(&self) -> bool {
        self.commands.is_closed()
    }

    pub async fn ask<T>(&self, vm: Uuid, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Problem> {
        let (reply, answer) = oneshot::channel();
        let gone = || {
            Problem::transient("vm-going", format!("VM {vm} is just being removed from this host"))
                .remedy("look again where the VM is; if it is to be here, repeat the command")
        };
        self.commands.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}
