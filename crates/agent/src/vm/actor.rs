//! The VM's task: takes commands and QEMU's events in turn, keeps the record, publishes what it sees.

use std::sync::Arc;
use std::time::Duration;

use gantry_api::agent::{MigrationState, VmRunState};
use gantry_ha::reaction::Failure;
use gantry_qemu::process::{QemuProcess, log_tail};
use gantry_qemu::qmp::{Event, command::QueryStatus};
use gantry_types::{Flow, PowerState, Problem, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::backup::BackupWork;
use super::disk_move::DiskMove;
use super::happening::{Happening, happening, moment};
use super::last_known_good::LOOK_INTERVAL;
use super::machine::{self, Machine};
use super::pairing::Pairing;
use super::probing::Probing;
use super::protection::Protection;
use super::room::Hold;
use super::{Command, MONITOR_LIMIT, Shared, liveness, within};
use crate::host::Host;
use crate::lease::LeaseView;
use crate::losses::LossView;
use crate::migration::{Interrupted, SendingTask};
use crate::records::{End, Record};

/// After QEMU has gone its last events are read; this is how long they may take.
const LAST_EVENTS_LIMIT: Duration = Duration::from_secs(1);

/// How long a file system may take to give up a lock.
const LET_GO_LIMIT: Duration = Duration::from_secs(5);

const PANICKED: &str = "the guest's kernel panicked";
const NOT_FED: &str = "the guest hangs: it has not fed its watchdog";

pub(super) const KEEP_UP_PAUSE_FIRST: Duration = Duration::from_secs(1);

pub(crate) struct VmTask {
    pub(crate) host: Arc<Host>,
    pub(crate) vm: Uuid,
    pub(crate) record: Option<Record>,
    pub(crate) run: Run,
    pub(crate) paused: bool,
    pub(crate) hold: Option<Hold>,
    /// The guest shut down or panicked; QEMU's end follows.
    pub(super) expected_end: Option<End>,
    pub(crate) sending: Option<SendingTask>,
    /// Held by whoever sends or copies the VM's disk.
    pub(super) loan: Arc<()>,
    /// Its own disk is on its way to another pool of this host.
    pub(super) disk_move: Option<DiskMove>,
    /// The task that takes a snapshot.
    pub(super) snapshotting: Option<tokio::task::JoinHandle<()>>,
    pub(super) backup_work: Option<BackupWork>,
    /// Post-copy to this host was interrupted and waits to go on.
    pub(crate) interrupted: Option<Interrupted>,
    /// Of the VM that is on its way here: deleted again if it does not come.
    pub(crate) adopted_flows: Vec<Flow>,
    /// The agent has just started and has not looked for QEMU yet.
    pub(super) recovering: bool,
    /// When it is tried again to start the VM, and how long is waited the next time.
    pub(super) keep_up_at: Option<Instant>,
    pub(super) keep_up_pause: Duration,
    pub(super) protection: Protection,
    pub(super) pairing: Pairing,
    pub(super) probing: Option<Probing>,
    pub(super) lease_views: watch::Receiver<LeaseView>,
    pub(super) loss_views: watch::Receiver<LossView>,
    pub(crate) shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    pub(crate) self_commands: mpsc::WeakSender<Command>,
}

/// What there is of the VM's QEMU.
pub(crate) enum Run {
    Off,
    On(Box<Machine>),
    /// It runs, but can't be talked to.
    Deaf(QemuProcess),
}

/// Whether the task goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Continue,
    /// The VM is no longer this host's.
    Over,
}

impl VmTask {
    pub fn new(
        host: Arc<Host>,
        vm: Uuid,
        record: Option<Record>,
        commands: mpsc::Receiver<Command>,
        self_commands: mpsc::WeakSender<Command>,
        shared: Arc<Shared>,
    ) -> Self {
        let recovering = record.is_some();
        let (lease_views, loss_views) = (host.lease.views(), host.losses.views());
        let task = Self {
            host,
            vm,
            record,
            run: Run::Off,
            paused: false,
            hold: None,
            expected_end: None,
            sending: None,
            loan: Arc::default(),
            disk_move: None,
            snapshotting: None,
            backup_work: None,
            interrupted: None,
            adopted_flows: Vec::new(),
            recovering,
            keep_up_at: None,
            keep_up_pause: KEEP_UP_PAUSE_FIRST,
            protection: Protection::new(),
            pairing: Pairing::default(),
            probing: None,
            lease_views,
            loss_views,
            shared,
            commands,
            self_commands,
        };
        // At once: a heartbeat that left the VM out would say that it is not here.
        task.publish();
        task
    }

    pub async fn run(mut self) {
        let mut next = Next::Continue;
        if self.recovering {
            next = self.recover().await;
            self.recovering = false;
        }
        let mut points_look = tokio::time::interval(LOOK_INTERVAL);
        points_look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while next == Next::Continue {
            self.heed_lease().await;
            self.plan_restart().await;
            self.plan_look();
            self.plan_probes();
            self.heed_probes();
            self.heed_failure().await;
            self.heed_losses();
            self.publish();
            let run_dir = self.host.records.run_dir(self.vm);
            // Nothing can be looked after while QEMU is silent, and each look would cut short the attempt to reach it.
            let reachable = !matches!(self.run, Run::Deaf(_));
            next = tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => {
                        let next = self.obey(command).await;
                        self.over_if_nothing(next)
                    }
                    // The agent ends; QEMU stays.
                    None => return,
                },
                happening = happening(&mut self.run, &run_dir) => {
                    let next = self.react(happening).await;
                    self.over_if_nothing(next)
                }
                // The keeper lives as long as the host: this ends only with a change.
                _ = self.lease_views.changed() => Next::Continue,
                _ = self.loss_views.changed() => Next::Continue,
                () = moment(self.protection.loss_at) => Next::Continue,
                () = moment(self.keep_up_at) => {
                    self.keep_up().await;
                    Next::Continue
                }
                () = moment(self.protection.restart_at) => {
                    self.restart().await;
                    Next::Continue
                }
                () = moment(self.protection.look_at) => {
                    self.look_for_life();
                    Next::Continue
                }
                _ = points_look.tick(), if reachable => {
                    self.give_room_back();
                    self.go_on_with_room().await;
                    self.forget_old_changes().await;
                    self.look_after_points().await;
                    Next::Continue
                }
            };
        }
    }

    /// Nothing was made of a VM whose first command failed. Until that command has come, the task waits for it.
    fn over_if_nothing(&self, next: Next) -> Next {
        if self.record.is_none() { Next::Over } else { next }
    }

    async fn obey(&mut self, command: Command) -> Next {
        // An answer nobody waits for any more is no error: what was done is seen at the next observation.
        match command {
            Command::Define(assignment, reply) => drop(reply.send(self.define(*assignment).await)),
            Command::Adopt(request, reply) => drop(reply.send(self.adopt(*request).await)),
            Command::Power(request, reply) => self.power(request, reply).await,
            Command::Protect(request, reply) => {
                drop(reply.send(self.change_protection(&request).await));
            }
            Command::TakeSnapshot(request, reply) => self.take_snapshot(request, reply).await,
            Command::DeleteSnapshot { epoch, snapshot, reply } => {
                drop(reply.send(self.delete_snapshot(epoch, snapshot).await));
            }
            Command::Revert(request, reply) => drop(reply.send(self.revert(request).await)),
            Command::BackUp(request, reply) => drop(reply.send(self.back_up(*request).await)),
            Command::CancelBackup(backup, reply) => drop(reply.send(self.cancel_backup(backup).await)),
            Command::FillDisk(request, reply) => drop(reply.send(self.fill_disk(*request).await)),
            Command::AttachVolume(request, reply) => drop(reply.send(self.attach_volume(*request).await)),
            Command::MoveVolume(request, reply) => drop(reply.send(self.move_volume(request).await)),
            Command::CancelVolumeMove(request, reply) => drop(reply.send(self.cancel_volume_move(request).await)),
            Command::MoveDisk(request, reply) => drop(reply.send(self.move_disk(request).await)),
            Command::CancelDiskMove(request, reply) => drop(reply.send(self.cancel_disk_move(request).await)),
            Command::JoinCopy(request, reply) => drop(reply.send(self.join_copy(*request).await)),
            Command::GoAlone(request, reply) => drop(reply.send(self.go_alone(request).await)),
            Command::ClearLeftDisk(request, reply) => drop(reply.send(self.clear_left_disk(request).await)),
            Command::DetachVolume { epoch, volume, reply } => {
                drop(reply.send(self.detach_volume(epoch, volume).await));
            }
            Command::Lend { epoch, reply } => drop(reply.send(self.lend(epoch).await)),
            Command::Copy { epoch, snapshot, reply } => drop(reply.send(self.copy(epoch, snapshot).await)),
            Command::HasArrived { relocation, epoch, reply } => {
                drop(reply.send(self.has_arrived(relocation, epoch).await));
            }
            Command::Arrive(arrival, reply) => drop(reply.send(self.arrive(*arrival).await)),
            Command::Receive(request, reply) => drop(reply.send(self.receive(*request).await)),
            Command::Send(request, reply) => drop(reply.send(self.send(*request).await)),
            Command::Report(migration, reply) => drop(reply.send(self.report(migration).await)),
            Command::Cancel(migration, reply) => drop(reply.send(self.cancel(migration))),
            Command::Probe(reply) => drop(reply.send(self.probe())),
            Command::Probed(probed) => self.note_probed(probed).await,
            Command::Step(step, reply) => drop(reply.send(self.step(step).await)),
            Command::AdoptFlows(migration, flows, reply) => {
                drop(reply.send(self.adopt_flows(migration, &flows).await));
            }
            Command::Commit(migration, reply) => {
                let (verdict, next) = self.commit(migration).await;
                return self.conclude(verdict, next, reply);
            }
            Command::Abort(migration, reply) => {
                let (verdict, next) = self.abort(migration).await;
                return self.conclude(verdict, next, reply);
            }
            Command::Remove { epoch, reply } => {
                let removed = self.remove(epoch).await;
                return self.conclude_removal(removed, reply);
            }
            Command::Release(migration, reply) => {
                let released = self.release(migration).await;
                return self.conclude_removal(released, reply);
            }
        }
        Next::Continue
    }

    fn conclude_removal(&mut self, result: Result<(), Problem>, reply: super::Reply<()>) -> Next {
        let next = if self.record.is_none() { Next::Over } else { Next::Continue };
        self.conclude(result, next, reply)
    }

    /// Answers a command that may be the task's last: whoever hears the answer must find the VM as it says.
    fn conclude<T>(&mut self, result: Result<T, Problem>, next: Next, reply: super::Reply<T>) -> Next {
        if next == Next::Over {
            self.commands.close();
        } else {
            self.publish();
        }
        drop(reply.send(result));
        next
    }

    async fn react(&mut self, happening: Happening) -> Next {
        match happening {
            Happening::Event(event) => {
                self.note(&event);
                if event.name == "BLOCK_IO_ERROR" {
                    self.look_for_full_exports().await;
                }
                if let ("STOP", Err(error)) = (event.name.as_str(), self.go_on_parted().await) {
                    tracing::warn!(vm = %self.vm, %error, "the guest stands still though it is alone");
                }
                self.note_migration(&event).await;
                Next::Continue
            }
            Happening::MonitorLost => self.reconnect().await,
            Happening::Exited(how) => self.qemu_ended(&how).await,
        }
    }

    /// Follows the guest's state through QEMU's events.
    pub(super) fn note(&mut self, event: &Event) {
        match event.name.as_str() {
            "STOP" => {
                self.paused = true;
                let at_ms = event.timestamp.seconds * 1000 + event.timestamp.microseconds / 1000;
                self.shared.set_stopped_at(Timestamp::from_unix_ms(at_ms));
            }
            "RESUME" => {
                self.paused = false;
                self.hold = None;
            }
            "BLOCK_IO_ERROR" if event.data["action"] == "stop" => {
                let cause = event.data["reason"].as_str().unwrap_or("unknown cause");
                self.hold = Some(Hold::of_write(cause, event.data["nospace"] == true));
            }
            "QUORUM_REPORT_BAD" => self.note_bad_write(event),
            "GUEST_PANICKED" => self.notice(Failure::GuestHalted, PANICKED.to_owned()),
            "WATCHDOG" => self.notice(Failure::GuestHalted, NOT_FED.to_owned()),
            "RESET" => self.forget_probes(),
            "SHUTDOWN" => {
                let by_guest = event.data["guest"] == true;
                let reason = if by_guest { "guest shut down" } else { "QEMU was told to quit" };
                let end = if by_guest { End::stopped(reason) } else { End::failed(reason) };
                self.expected_end.get_or_insert(end);
            }
            _ => {}
        }
    }

    async fn reconnect(&mut self) -> Next {
        if matches!(&self.run, Run::On(machine) if machine.monitored) {
            // Only events were lost: the state they told of can be asked for.
            self.listen_again().await;
            self.look_at_status().await;
            return Next::Continue;
        }
        let Some(record) = &self.record else { return Next::Over };
        tracing::warn!(vm = %self.vm, "the connection to QEMU's monitor was lost, connecting again");
        match machine::adopt(&self.host, record, &self.shared).await {
            Ok(machine::Adopted::Machine(machine)) => self.run = Run::On(machine),
            Ok(machine::Adopted::Deaf(process)) => self.run = Run::Deaf(process),
            // The exit is noticed next.
            Ok(machine::Adopted::Gone) => {}
            Err(error) => tracing::error!(vm = %self.vm, %error, "cannot look for QEMU"),
        }
        self.listen_again().await;
        self.look_at_status().await;
        self.hold_disk().await;
        if matches!(self.migration_state(), Some(MigrationState::Sending | MigrationState::Committing)) {
            // Its task spoke over the lost connection; as after a restart, another one goes on.
            self.sending = None;
            self.recover_sending().await;
        }
        if self.is_receiving() && matches!(self.run, Run::On(_)) {
            return self.recover_receiving().await;
        }
        self.go_on_after_crash().await;
        Next::Continue
    }

    /// Asks QEMU whether the guest runs.
    pub(crate) async fn look_at_status(&mut self) {
        let Run::On(machine) = &self.run else { return };
        match within(MONITOR_LIMIT, self.vm, machine.qmp.execute(QueryStatus {})).await {
            Ok(Ok(status)) => {
                self.paused = !status.running;
                // Events of a time in which nobody listened.
                match status.status.as_str() {
                    "guest-panicked" => self.notice(Failure::GuestHalted, PANICKED.to_owned()),
                    "watchdog" => self.notice(Failure::GuestHalted, NOT_FED.to_owned()),
                    _ => {}
                }
                if status.status == "prelaunch" {
                    self.go_on_after_reset().await;
                }
                if status.status == "io-error" && self.hold.is_none() {
                    self.look_why_held().await;
                }
            }
            Ok(Err(error)) => tracing::warn!(vm = %self.vm, %error, "QEMU does not tell its state"),
            Err(error) => tracing::warn!(vm = %self.vm, %error, "QEMU does not tell its state"),
        }
    }

    async fn qemu_ended(&mut self, how: &str) -> Next {
        if let Run::On(machine) = &mut self.run {
            let mut last = Vec::new();
            let drain = async {
                while let Ok(event) = machine.events.next().await {
                    last.push(event);
                }
            };
            // What it said before its end is in the socket already.
            drop(tokio::time::timeout(LAST_EVENTS_LIMIT, drain).await);
            last.iter().for_each(|event| self.note(event));
        }
        self.note_failed_end();
        let files = machine::files(&self.host, self.vm);
        self.let_go().await;
        self.disk_move = None;
        self.pairing.run_ended();
        self.interrupted = None;
        self.shared.forget_run();
        let end = self.expected_end.take().unwrap_or_else(|| {
            let said = log_tail(&files.log);
            let said = if said.is_empty() { String::new() } else { format!(": {said}") };
            self.lease_end().unwrap_or_else(|| End::failed(format!("QEMU {how}{said}")))
        });
        self.host.lease.forget_guarded(self.vm);
        if self.is_receiving() {
            return self.receiving_failed(&end.reason).await;
        }
        self.sending_ended(&end.reason).await;
        if let Some(record) = &mut self.record {
            tracing::info!(vm = %self.vm, reason = end.reason, failed = end.failed, "QEMU ended");
            record.process = None;
            if !end.failed {
                record.wanted = PowerState::Stopped;
            }
            record.end = Some(end);
        }
        if let Err(error) = self.save().await {
            tracing::error!(vm = %self.vm, %error, "the end of QEMU is not on disk");
            // The next agent would start it here.
            self.keep_to_itself();
        }
        Next::Continue
    }

    /// Nothing of QEMU is there any more. A disk's lock is given up on its file system, which may have gone: that is not
    /// waited for for ever, and who takes the disk over finds it locked for as long.
    async fn let_go(&mut self) {
        let run = std::mem::replace(&mut self.run, Run::Off);
        let dropped = tokio::task::spawn_blocking(move || drop(run));
        if tokio::time::timeout(LET_GO_LIMIT, dropped).await.is_err() {
            tracing::warn!(vm = %self.vm, "the lock of its disk is not given up yet: its file system does not answer");
        }
    }

    fn probe(&self) -> Result<liveness::Probe, Problem> {
        let machine = self.machine()?;
        let waits_for_room = self.hold.as_ref().filter(|hold| hold.no_space).map(|hold| hold.reason.clone());
        Ok(liveness::Probe { process: machine.process.clone(), qmp: machine.qmp.clone(), waits_for_room })
    }

    pub(crate) fn machine(&self) -> Result<&Machine, Problem> {
        match &self.run {
            Run::On(machine) => Ok(machine),
            Run::Off => Err(Problem::conflict("vm-not-running", format!("VM {} does not run on this host", self.vm))),
            Run::Deaf(process) => {
                let detail = format!("QEMU process {} of VM {} does not answer", process.pid(), self.vm);
                Err(Problem::conflict("qemu-silent", detail).remedy("stop the VM with force, then start it"))
            }
        }
    }

    pub(crate) fn known(&self) -> Result<&Record, Problem> {
        self.record.as_ref().ok_or_else(|| Problem::not_found("vm", &self.vm.to_string()))
    }

    pub(crate) async fn save(&self) -> Result<(), Problem> {
        match &self.record {
            Some(record) => self.host.records.save(record).await.map_err(|error| error.problem()),
            None => Ok(()),
        }
    }

    pub(crate) fn check_epoch(&self, epoch: u64) -> Result<(), Problem> {
        let record = self.known()?;
        let known = record.assignment.epoch;
        if epoch >= known {
            return Ok(());
        }
        let name = &record.assignment.name;
        let detail = format!("VM '{name}' is at epoch {known} on this host, the command is from epoch {epoch}");
        Err(Problem::conflict("stale-epoch", detail).remedy("observe the VM again"))
    }

    /// `Err` in the middle of a move, whichever side this is, or whatever moves.
    pub(crate) fn check_not_moving(&self) -> Result<(), Problem> {
        self.check_not_migrating()?;
        self.check_disk_stays()?;
        self.check_not_lent()
    }

    pub(super) fn check_not_migrating(&self) -> Result<(), Problem> {
        self.check_not_handed_over("changed")?;
        let state = self.known()?.migration.as_ref().map(|migration| migration.state);
        if !matches!(state, Some(MigrationState::Sending | MigrationState::Receiving)) {
            return Ok(());
        }
        Err(Problem::conflict("vm-migrating", format!("VM {} is being migrated", self.vm))
            .remedy("wait for the migration's end or cancel it"))
    }

    pub(crate) fn check_not_handed_over(&self, verb: &str) -> Result<(), Problem> {
        if self.run_state() != VmRunState::HandedOver {
            return Ok(());
        }
        let detail = format!("VM {} was handed over to another host and can't be {verb} here", self.vm);
        Err(Problem::conflict("vm-handed-over", detail).remedy("ask the host it went to"))
    }

    pub(crate) fn is_receiving(&self) -> bool {
        self.record.as_ref().is_some_and(Record::is_receiving)
    }
}
