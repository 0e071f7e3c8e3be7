//! The VM's task: takes commands and QEMU's events in turn, keeps the record, publishes what it sees.

use std::sync::Arc;
use std::time::Duration;

use gantry_api::agent::{Assignment, MigrationReport, MigrationState, VmObservation, VmRunState};
use gantry_qemu::process::{QemuProcess, log_tail};
use gantry_qemu::qmp::{Event, QmpError, command::QueryStatus};
use gantry_types::{PowerState, Problem, Timestamp};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::machine::{self, Machine};
use super::{Command, MONITOR_LIMIT, Shared, liveness, within};
use crate::host::Host;
use crate::migration::{Interrupted, SendingTask};
use crate::networks::Place;
use crate::problem::problem;
use crate::records::{End, MigrationRole, Record};

/// After QEMU has gone its last events are read; this is how long they may take.
const LAST_EVENTS_LIMIT: Duration = Duration::from_secs(1);
/// A monitor connection that ended is first thought to be QEMU's end.
const EXIT_FOLLOWS: Duration = Duration::from_secs(2);

pub(crate) struct VmTask {
    pub(crate) host: Arc<Host>,
    pub(crate) vm: Uuid,
    pub(crate) record: Option<Record>,
    pub(crate) run: Run,
    pub(crate) paused: bool,
    /// QEMU stopped the guest by itself, for this reason.
    pub(crate) hold_reason: Option<String>,
    /// The guest shut down or panicked; QEMU's end follows.
    pub(super) expected_end: Option<End>,
    pub(crate) sending: Option<SendingTask>,
    /// Post-copy to this host was interrupted and waits to go on.
    pub(crate) interrupted: Option<Interrupted>,
    /// The agent has just started and has not looked for QEMU yet.
    recovering: bool,
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

enum Happening {
    Exited(String),
    Event(Event),
    MonitorLost,
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
        let task = Self {
            host,
            vm,
            record,
            run: Run::Off,
            paused: false,
            hold_reason: None,
            expected_end: None,
            sending: None,
            interrupted: None,
            recovering,
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
        while next == Next::Continue {
            self.publish();
            next = tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    // The agent ends; QEMU stays.
                    None => return,
                },
                happening = happening(&mut self.run) => self.react(happening).await,
            };
            // Nothing was made of a VM whose first command failed.
            if self.record.is_none() {
                next = Next::Over;
            }
        }
    }

    async fn obey(&mut self, command: Command) -> Next {
        // An answer nobody waits for any more is no error: what was done is seen at the next observation.
        match command {
            Command::Define(assignment, reply) => drop(reply.send(self.define(*assignment).await)),
            Command::Power(request, reply) => self.power(request, reply).await,
            Command::Receive(request, reply) => drop(reply.send(self.receive(*request).await)),
            Command::Send(request, reply) => drop(reply.send(self.send(*request).await)),
            Command::Report(migration, reply) => drop(reply.send(self.report(migration).await)),
            Command::Cancel(migration, reply) => drop(reply.send(self.cancel(migration))),
            Command::Probe(reply) => drop(reply.send(self.probe())),
            Command::Step(step, reply) => drop(reply.send(self.step(step).await)),
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
                self.note_migration(&event).await;
                Next::Continue
            }
            Happening::MonitorLost => {
                self.reconnect().await;
                Next::Continue
            }
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
                self.hold_reason = None;
            }
            "BLOCK_IO_ERROR" if event.data["action"] == "stop" => {
                let cause = event.data["reason"].as_str().unwrap_or("unknown cause");
                self.hold_reason = Some(format!("writing to its disk failed ({cause}): make room in the pool, resume"));
            }
            "GUEST_PANICKED" => {
                self.expected_end = Some(End { failed: true, reason: "the guest's kernel panicked".to_owned() });
                if let Run::On(machine) = &self.run
                    && let Err(error) = machine.process.kill()
                {
                    tracing::error!(vm = %self.vm, %error, "cannot end QEMU after its guest panicked");
                }
            }
            "SHUTDOWN" => {
                let by_guest = event.data["guest"] == true;
                let reason = if by_guest { "guest shut down" } else { "QEMU was told to quit" };
                self.expected_end.get_or_insert(End { failed: !by_guest, reason: reason.to_owned() });
            }
            _ => {}
        }
    }

    async fn reconnect(&mut self) {
        if matches!(&self.run, Run::On(machine) if machine.monitored) {
            // Only events were lost: the state they told of can be asked for.
            self.listen_again().await;
            return self.look_at_status().await;
        }
        let Some(record) = &self.record else { return };
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
        if matches!(self.migration_state(), Some(MigrationState::Sending | MigrationState::Committing)) {
            // Its task spoke over the lost connection; as after a restart, another one goes on.
            self.sending = None;
            self.recover_sending().await;
        }
    }

    /// Asks QEMU whether the guest runs.
    pub(crate) async fn look_at_status(&mut self) {
        let Run::On(machine) = &self.run else { return };
        match within(MONITOR_LIMIT, self.vm, machine.qmp.execute(QueryStatus {})).await {
            Ok(Ok(status)) => self.paused = !status.running,
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
        let files = machine::files(&self.host, self.vm);
        self.run = Run::Off;
        self.interrupted = None;
        self.shared.forget_run();
        let end = self.expected_end.take().unwrap_or_else(|| {
            let said = log_tail(&files.log);
            let said = if said.is_empty() { String::new() } else { format!(": {said}") };
            End { failed: true, reason: format!("QEMU {how}{said}") }
        });
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
        }
        Next::Continue
    }

    async fn define(&mut self, assignment: Assignment) -> Result<VmObservation, Problem> {
        let Some(record) = &self.record else { return self.define_new(assignment).await };
        self.check_epoch(assignment.epoch)?;
        self.check_not_moving()?;
        if record.assignment == assignment && record.process.is_some() {
            return self.observation();
        }
        let same_machine = Assignment { epoch: record.assignment.epoch, ..assignment.clone() };
        let same_machine = Assignment { power: record.assignment.power, ..same_machine } == record.assignment;
        if !matches!(self.run, Run::Off) && !same_machine {
            let detail = format!("VM '{}' runs; its machine is changed while it is stopped", assignment.name);
            return Err(Problem::conflict("vm-running", detail).remedy("stop it first"));
        }
        let before = record.clone();
        let changed = Record { assignment, ..before.clone() };
        let made = self.make(changed).await;
        if made.is_err() {
            // What can't be made is not what the VM is.
            self.record = Some(before);
            self.save().await?;
        }
        made
    }

    async fn define_new(&mut self, assignment: Assignment) -> Result<VmObservation, Problem> {
        let owner_uid = self.host.uids.take()?;
        let record =
            Record { assignment, owner_uid, wanted: PowerState::Stopped, process: None, end: None, migration: None };
        let made = self.make(record).await;
        if made.is_err() && self.record.is_none() {
            self.host.uids.release(owner_uid);
        }
        made
    }

    /// The record first: what a crash leaves of the rest is found through it.
    async fn make(&mut self, record: Record) -> Result<VmObservation, Problem> {
        self.host.records.save(&record).await.map_err(|error| error.problem())?;
        let record = self.record.insert(record);
        let is_off = matches!(self.run, Run::Off);
        if is_off {
            machine::prepare_files(&self.host, record).await?;
        }
        let (nics, uid) = (&record.assignment.nics, record.owner_uid);
        self.host.networks.ensure(self.vm, nics, uid, Place::Here).await?;
        self.observation()
    }

    async fn remove(&mut self, epoch: u64) -> Result<(), Problem> {
        if self.record.is_none() {
            return Ok(());
        }
        self.check_epoch(epoch)?;
        self.check_not_handed_over("removed")?;
        if self.is_receiving() {
            self.decide_aborted("the VM was removed").await?;
        }
        self.stop_sending("the VM was removed").await;
        // An agent that is killed half way must not start it again.
        self.want(PowerState::Stopped).await?;
        self.tear_down().await
    }

    /// Ends QEMU and deletes everything of the VM; the record last.
    pub(crate) async fn tear_down(&mut self) -> Result<(), Problem> {
        self.end_qemu().await?;
        self.host.networks.remove(self.vm).await?;
        let what = format!("the disk of VM {}", self.vm);
        self.host.pool.delete_disk(self.vm).await.map_err(|error| problem("disk-not-deleted", &what, &error))?;
        self.host.records.remove(self.vm).await.map_err(|error| error.problem())?;
        if let Some(record) = self.record.take() {
            self.host.uids.release(record.owner_uid);
        }
        Ok(())
    }

    /// Nothing of QEMU is left afterwards.
    pub(crate) async fn end_qemu(&mut self) -> Result<(), Problem> {
        match &self.run {
            Run::Off => {}
            Run::On(machine) => machine::end(&machine.process).await?,
            Run::Deaf(process) => machine::end(process).await?,
        }
        self.run = Run::Off;
        self.interrupted = None;
        self.expected_end = None;
        self.hold_reason = None;
        self.shared.forget_run();
        Ok(())
    }

    fn probe(&self) -> Result<liveness::Probe, Problem> {
        let machine = self.machine()?;
        Ok(liveness::Probe { process: machine.process.clone(), qmp: machine.qmp.clone() })
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

    /// `Err` in the middle of a migration, whichever side this is.
    pub(crate) fn check_not_moving(&self) -> Result<(), Problem> {
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

    fn run_state(&self) -> VmRunState {
        let Some(record) = &self.record else { return VmRunState::Stopped };
        if let Some(migration) = &record.migration {
            match (&migration.role, migration.state) {
                (MigrationRole::Source(_), MigrationState::Committing | MigrationState::Moved) => {
                    return VmRunState::HandedOver;
                }
                (MigrationRole::Destination { .. }, MigrationState::Receiving) => return VmRunState::Receiving,
                _ => {}
            }
        }
        match &self.run {
            Run::On(_) if self.paused => VmRunState::Paused,
            Run::On(_) => VmRunState::Running,
            Run::Deaf(_) => VmRunState::Failed,
            // Its QEMU may well run: a heartbeat that called it stopped would be believed.
            Run::Off if self.recovering => VmRunState::Starting,
            Run::Off if record.end.as_ref().is_some_and(|end| end.failed) => VmRunState::Failed,
            Run::Off => VmRunState::Stopped,
        }
    }

    pub(crate) fn observation(&self) -> Result<VmObservation, Problem> {
        let record = self.known()?;
        let reason = match &self.run {
            Run::On(_) => self.hold_reason.clone(),
            Run::Deaf(process) => Some(format!("QEMU process {} runs but does not answer", process.pid())),
            Run::Off => record.end.as_ref().map(|end| end.reason.clone()),
        };
        let accelerator = match &self.run {
            Run::On(machine) => Some(machine.accelerator.clone()),
            _ => None,
        };
        let base = VmObservation {
            uuid: self.vm,
            name: record.assignment.name.clone(),
            epoch: record.assignment.epoch,
            state: self.run_state(),
            reason,
            guest_agent: false,
            guest: None,
            accelerator,
            metrics: None,
            migration: record.migration.as_ref().map(|migration| MigrationReport {
                migration: migration.id,
                state: migration.state,
                progress: Default::default(),
                figures: migration.figures.clone(),
                error: migration.error.clone(),
                source: migration.source(&self.host.config.name),
                recovery_port: self.interrupted.as_ref().map(Interrupted::port),
            }),
            owner_uid: record.owner_uid,
        };
        self.shared.publish(base.clone());
        Ok(self.shared.observation().unwrap_or(base))
    }

    pub(crate) fn publish(&self) {
        // Without a record there is nothing to show.
        drop(self.observation());
    }
}

async fn happening(run: &mut Run) -> Happening {
    let describe = |exited: Result<Option<std::process::ExitStatus>, _>| match exited {
        Ok(Some(status)) => format!("ended: {status}"),
        Ok(None) => "ended".to_owned(),
        Err::<_, gantry_qemu::process::ProcessError>(error) => format!("can't be watched: {error}"),
    };
    match run {
        Run::Off => std::future::pending().await,
        Run::Deaf(process) => Happening::Exited(describe(process.wait_exit().await)),
        Run::On(machine) if machine.monitored => {
            let process = machine.process.clone();
            tokio::select! {
                biased;
                event = machine.events.next() => match event {
                    Ok(event) => Happening::Event(event),
                    Err(QmpError::EventsLost { .. }) => Happening::MonitorLost,
                    Err(_) => {
                        machine.monitored = false;
                        match tokio::time::timeout(EXIT_FOLLOWS, process.wait_exit()).await {
                            Ok(exited) => Happening::Exited(describe(exited)),
                            Err(_) => Happening::MonitorLost,
                        }
                    }
                },
                exited = process.wait_exit() => Happening::Exited(describe(exited)),
            }
        }
        Run::On(machine) => Happening::Exited(describe(machine.process.wait_exit().await)),
    }
}
