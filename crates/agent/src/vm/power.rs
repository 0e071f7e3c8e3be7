//! Starting, stopping and holding a VM. Every action looks first whether its effect is already there.

use gantry_api::agent::{MigrationState, PowerAction, PowerRequest, VmObservation};
use gantry_qemu::qmp::command::{Command as QmpCommand, Cont, Stop, SystemPowerdown, SystemReset};
use gantry_types::{PowerState, Problem};

use super::actor::{Run, VmTask};
use super::machine::{self, Begin};
use super::{MONITOR_LIMIT, Reply, within};
use crate::problem::problem;
use crate::records::{End, Record};

impl VmTask {
    pub(super) async fn power(&mut self, request: PowerRequest, reply: Reply<VmObservation>) {
        let taken = match self.check_power(&request) {
            Ok(()) => self.take_command(request.command).await,
            Err(error) => Err(error),
        };
        if let Err(error) = taken {
            drop(reply.send(Err(error)));
            return;
        }
        if request.action == PowerAction::Reboot {
            return self.reboot(reply);
        }
        let done = self.carry_out(request.action).await;
        let answer = match done {
            Ok(()) => self.observation(),
            Err(error) => Err(error),
        };
        drop(reply.send(answer));
    }

    fn check_power(&self, request: &PowerRequest) -> Result<(), Problem> {
        self.check_epoch(request.epoch)?;
        self.check_command(request.command)?;
        let record = self.known()?;
        if record.arrived.is_some() {
            let name = &record.assignment.name;
            let detail = format!("VM '{name}' has come to this host and is not said to be its VM yet");
            return Err(
                Problem::conflict("vm-arrived", detail).remedy("define it here first, or start it where it was")
            );
        }
        match request.action {
            // A guest that is being sent may still be shut down or killed; the migration then fails.
            PowerAction::ShutDown | PowerAction::Kill if !self.is_receiving() => self.check_not_handed_over("stopped"),
            _ => self.check_not_moving().and_then(|()| self.check_no_snapshot_at_work()),
        }
    }

    /// What this host does by itself has no number: a `Kill` that was wanted last of all also ends a QEMU that was started
    /// again since because the one before had failed, and one that came before the last start ends neither.
    ///
    /// # Errors
    /// `stale-command` for one from before the last that was taken here.
    pub(super) fn check_command(&self, command: u64) -> Result<(), Problem> {
        let record = self.known()?;
        if command >= record.command {
            return Ok(());
        }
        let (name, last) = (&record.assignment.name, record.command);
        let detail = format!("VM '{name}' has taken command {last} on this host, this one is older: {command}");
        Err(Problem::conflict("stale-command", detail).remedy("observe the VM again, then give it a new command"))
    }

    /// On disk before anything is done: an agent that dies in between takes no older one afterwards.
    pub(super) async fn take_command(&mut self, command: u64) -> Result<(), Problem> {
        let record = self.known()?;
        if record.command == command {
            return Ok(());
        }
        let record = Record { command, ..record.clone() };
        self.host.records.save(&record).await.map_err(|error| error.problem())?;
        self.record = Some(record);
        Ok(())
    }

    async fn carry_out(&mut self, action: PowerAction) -> Result<(), Problem> {
        match action {
            PowerAction::Start => {
                self.leave_fence().await?;
                self.forget_failures();
                self.start().await
            }
            PowerAction::ShutDown => self.shut_down().await,
            PowerAction::Kill => self.kill().await,
            PowerAction::Reset => self.tell(SystemReset {}).await,
            PowerAction::Pause => {
                self.machine()?;
                self.expect_exports_answer().await?;
                self.want(PowerState::Paused).await?;
                self.tell(Stop {}).await?;
                self.paused = true;
                Ok(())
            }
            PowerAction::Resume => self.resume().await,
            // Answered by a task of its own.
            PowerAction::Reboot => Ok(()),
        }
    }

    pub(super) async fn start(&mut self) -> Result<(), Problem> {
        match &self.run {
            Run::On(_) if self.paused => return self.resume().await,
            Run::On(_) => return self.want(PowerState::Running).await,
            Run::Deaf(_) => return self.machine().map(drop),
            Run::Off => {}
        }
        self.want(PowerState::Running).await?;
        let prepared = self.finish_roll_back().await;
        let launched = match prepared {
            Ok(()) => self.launch(Begin::Running).await,
            Err(error) => Err(error),
        };
        match launched {
            Ok(()) => Ok(()),
            Err(error) => {
                let lease_over = error.code() == "lease-not-held";
                if let Some(record) = &mut self.record {
                    // That it was stopped with the lease says more than that it may not start yet.
                    let is_told = lease_over && record.end.as_ref().is_some_and(|end| end.lease_over);
                    if !is_told {
                        record.end = Some(End { lease_over, ..End::failed(&error.detail) });
                    }
                }
                self.save().await?;
                Err(error)
            }
        }
    }

    /// Starts QEMU and writes down which process it is.
    pub(crate) async fn launch(&mut self, begin: Begin) -> Result<(), Problem> {
        if begin != Begin::Incoming {
            self.expect_alone()?;
            self.forget_probes();
            self.take_left_disk().await?;
        }
        let record = self.known()?;
        let machine = machine::launch(&self.host, record, &self.shared, begin).await?;
        let process = machine.record(&self.host);
        self.run = Run::On(Box::new(machine));
        self.paused = begin != Begin::Running;
        self.expected_end = None;
        self.hold = None;
        if let Some(record) = &mut self.record {
            record.process = Some(process);
            record.end = None;
        }
        self.save().await?;
        self.look_at_status().await;
        Ok(())
    }

    async fn shut_down(&mut self) -> Result<(), Problem> {
        self.want(PowerState::Stopped).await?;
        match self.run {
            Run::Off => Ok(()),
            _ => self.tell(SystemPowerdown {}).await,
        }
    }

    /// Starts QEMU without letting the guest run; for a state that is put into it.
    pub(super) async fn launch_halted(&mut self) -> Result<(), Problem> {
        self.want(PowerState::Paused).await?;
        self.launch(Begin::Halted).await
    }

    pub(super) async fn kill(&mut self) -> Result<(), Problem> {
        self.want(PowerState::Stopped).await?;
        if !matches!(self.run, Run::Off) {
            self.stop_sending("the VM was stopped").await;
            self.end_qemu().await?;
            if let Some(record) = &mut self.record {
                record.end = Some(End::stopped("stopped"));
            }
        }
        if let Some(record) = &mut self.record {
            record.process = None;
            // A VM that had failed is stopped now, as was asked.
            record.end = record.end.take().map(|end| End::stopped(end.reason));
        }
        self.save().await
    }

    pub(super) async fn resume(&mut self) -> Result<(), Problem> {
        self.machine()?;
        self.want(PowerState::Running).await?;
        self.tell(Cont {}).await?;
        self.paused = false;
        self.hold = None;
        Ok(())
    }

    pub(super) async fn want(&mut self, wanted: PowerState) -> Result<(), Problem> {
        let Some(record) = &self.record else { return Ok(()) };
        if record.wanted == wanted {
            return Ok(());
        }
        let record = Record { wanted, ..record.clone() };
        // What is not on disk is not wanted: a repeated command must write it again.
        self.host.records.save(&record).await.map_err(|error| error.problem())?;
        self.record = Some(record);
        Ok(())
    }

    pub(super) async fn tell<C: QmpCommand>(&self, command: C) -> Result<(), Problem> {
        let told = within(MONITOR_LIMIT, self.vm, self.machine()?.qmp.execute(command)).await?;
        told.map(drop).map_err(|error| problem("qemu-refused", &format!("VM {}", self.vm), &error))
    }

    /// The guest is asked outside this task, which never waits for a guest.
    fn reboot(&self, reply: Reply<VmObservation>) {
        let guest = match self.machine() {
            Ok(machine) => machine.guest.clone(),
            Err(error) => {
                drop(reply.send(Err(error)));
                return;
            }
        };
        let observation = self.observation();
        tokio::spawn(async move {
            let answer = match guest.reboot().await {
                Ok(()) => observation,
                Err(error) => Err(error),
            };
            drop(reply.send(answer));
        });
    }

    pub(crate) fn migration_state(&self) -> Option<MigrationState> {
        self.record.as_ref()?.migration.as_ref().map(|migration| migration.state)
    }

    /// On its way here or away; where its guest runs may be undecided.
    pub(super) fn is_moving(&self) -> bool {
        matches!(
            self.migration_state(),
            Some(MigrationState::Sending | MigrationState::Receiving | MigrationState::Committing)
        )
    }
}
