//! The source's side, as the VM's task holds it: what is on record, and which of the sending task's steps it accepts.

use std::sync::Arc;

use gantry_api::agent::{MigrationReport, MigrationState, SendMigration};
use gantry_hostlink::AgentClient;
use gantry_qemu::migration::{MigrationSource, MirrorDisk, Peer, PeerTls};
use gantry_qemu::qmp::command::{Cont, MirrorSync, QueryStatus};
use gantry_trust::{CredentialReader, write_qemu_credentials};
use gantry_types::{MigrationProgress, PowerState, Problem};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::sending::{self, Sending};
use crate::host::Host;
use crate::problem::problem;
use crate::records::{MigrationRecord, MigrationRole, blocking};
use crate::vm::{MONITOR_LIMIT, Machine, Run, SourceStep, VmTask, files, within};

/// The task that sends; dropping it stops it where it is.
pub(crate) struct SendingTask {
    migration: Uuid,
    cancel: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

impl VmTask {
    pub(crate) async fn send(&mut self, request: SendMigration) -> Result<(), Problem> {
        let known = self.known()?.migration.as_ref().filter(|migration| migration.id == request.migration);
        if let Some(migration) = known {
            return match migration.state {
                MigrationState::Failed | MigrationState::Cancelled => {
                    Err(migration.error.clone().unwrap_or_else(|| {
                        Problem::conflict("migration-over", format!("migration {} has ended", request.migration))
                    }))
                }
                _ => Ok(()),
            };
        }
        self.check_epoch(request.epoch)?;
        self.check_not_moving()?;
        self.machine()?;
        self.expect_exports_answer().await?;
        self.check_no_snapshots().await?;
        self.leave_copy().await?;
        write_credentials(&self.host, self.vm, self.known()?.owner_uid).await?;
        self.shared.update_progress(|progress| {
            *progress = MigrationProgress { phase: "prepare".to_owned(), ..MigrationProgress::default() };
        });
        let before = self.known()?.migration.clone();
        if let Some(record) = &mut self.record {
            record.migration = Some(MigrationRecord {
                id: request.migration,
                state: MigrationState::Sending,
                role: MigrationRole::Source(Box::new(request.clone())),
                figures: None,
                error: None,
            });
        }
        let started = match self.save().await {
            Ok(()) => self.start_sending(request, sending::Begin::Fresh),
            Err(error) => Err(error),
        };
        if started.is_err() {
            self.remove_credentials().await;
            // Nobody sends it: on record it would be under way for ever.
            if let Some(record) = &mut self.record {
                record.migration = before;
            }
            if let Err(error) = self.save().await {
                tracing::error!(vm = %self.vm, %error, "a migration that did not start is still on disk");
            }
        }
        started
    }

    fn start_sending(&mut self, request: SendMigration, begin: sending::Begin) -> Result<(), Problem> {
        let cancel = CancellationToken::new();
        let peer = AgentClient::new(&self.host.identity, &request.destination, &request.destination_agent)
            .map_err(|error| Problem::new(error.class(), "no-agent-client", crate::problem::chain(&error)))?;
        let source = match &self.run {
            Run::On(machine) => Some(self.source(machine, &request)?),
            _ => None,
        };
        let qmp = match &self.run {
            Run::On(machine) => Some(machine.qmp.clone()),
            _ => None,
        };
        let resume = self.known()?.wanted == PowerState::Running;
        let migration = request.migration;
        let sending = Sending {
            vm: self.vm,
            vm_name: self.known()?.assignment.name.clone(),
            host_name: self.host.config.name.to_string(),
            request,
            source,
            qmp,
            peer,
            nics: self.known()?.assignment.nics.clone(),
            host: self.host.clone(),
            resume,
            shared: self.shared.clone(),
            commands: self.self_commands.clone(),
            cancel: cancel.clone(),
        };
        let task = AbortOnDropHandle::new(tokio::spawn(sending.run(begin)));
        self.sending = Some(SendingTask { migration, cancel, _task: task });
        Ok(())
    }

    fn source(&self, machine: &Machine, request: &SendMigration) -> Result<MigrationSource, Problem> {
        // The destination's disk lies over the same image, which it has already.
        let has_image = self.known()?.assignment.disk.image.is_some();
        let sync = if has_image { MirrorSync::Top } else { MirrorSync::Full };
        let travels = self.known()?.assignment.disk.travels();
        let export = request.endpoint.disk_export.clone();
        let disk = MirrorDisk { node_name: machine.disk_node.clone(), export, sync };
        let disks = travels.then_some(disk).into_iter().collect();
        let peer = Peer {
            host: request.endpoint.address.to_string(),
            nbd_port: travels.then_some(request.endpoint.disk_port),
            ram_port: request.endpoint.ram_port,
            tls: Some(PeerTls {
                creds_dir: files(&self.host, self.vm).tls,
                peer_name: request.endpoint.tls_name.clone(),
            }),
        };
        Ok(MigrationSource::new(machine.qmp.clone(), disks, peer))
    }

    /// QEMU reads them when its streams begin, and they are written anew for each migration: afterwards they are only
    /// something to steal.
    pub(crate) async fn remove_credentials(&self) {
        let directory = files(&self.host, self.vm).tls;
        let removed = blocking(move || match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        });
        if let Err(error) = removed.await {
            tracing::warn!(vm = %self.vm, %error, "the migration's credentials are not removed");
        }
    }

    pub(crate) async fn report(&mut self, migration: Uuid) -> Result<MigrationReport, Problem> {
        self.renew_recovery().await;
        let record = self.record.as_ref().and_then(|record| record.migration.as_ref());
        if record.is_some_and(|record| record.id == migration)
            && let Some(report) = self.observation()?.migration
        {
            return Ok(report);
        }
        super::destination::settled_report(&self.host, migration).await
    }

    pub(crate) fn cancel(&self, migration: Uuid) -> Result<(), Problem> {
        let record = self.known()?.migration.as_ref().filter(|record| record.id == migration);
        let state = record.map(|record| record.state);
        match (state, &self.sending) {
            (Some(MigrationState::Sending), Some(sending)) if sending.migration == migration => {
                sending.cancel.cancel();
                Ok(())
            }
            (Some(MigrationState::Failed | MigrationState::Cancelled), _) => Ok(()),
            (Some(_), _) => {
                let detail = format!("migration {migration} was handed over and can't be cancelled");
                Err(Problem::conflict("migration-handed-over", detail))
            }
            (None, _) => Err(Problem::not_found("migration", &migration.to_string())),
        }
    }

    /// What the sending task has found out; on disk when it is answered.
    pub(crate) async fn step(&mut self, step: SourceStep) -> Result<(), Problem> {
        let Some(migration) = self.record.as_mut().and_then(|record| record.migration.as_mut()) else {
            return Ok(());
        };
        if !fits(&step, migration.state) {
            // From a task whose migration was ended meanwhile.
            let detail = format!("migration {} is '{:?}' by now", migration.id, migration.state);
            return Err(Problem::conflict("migration-over", detail.to_lowercase()));
        }
        let before = migration.clone();
        let mut moved_to = None;
        let returned = matches!(step, SourceStep::Returned(_));
        match step {
            SourceStep::HandedOver => migration.state = MigrationState::Committing,
            SourceStep::Moved(figures) => {
                migration.state = MigrationState::Moved;
                migration.figures = Some(*figures);
                if let MigrationRole::Source(request) = &migration.role {
                    moved_to = Some(request.endpoint.address);
                }
            }
            SourceStep::Returned(error) => {
                migration.state = MigrationState::Failed;
                migration.error = Some(error);
            }
            SourceStep::GivenUp { cancelled, error } => {
                migration.state = if cancelled { MigrationState::Cancelled } else { MigrationState::Failed };
                migration.error = Some(error);
            }
        }
        let state = migration.state;
        if state != MigrationState::Committing {
            self.remove_credentials().await;
        }
        if let Err(error) = self.save().await {
            // What is not on disk has not happened; the sending task tries again.
            if let Some(record) = &mut self.record {
                record.migration = Some(before);
            }
            return Err(error);
        }
        if state == MigrationState::Committing {
            self.let_disk_go();
        }
        if let Some(vtep) = moved_to
            && let Err(error) = self.host.networks.move_away(self.vm, vtep).await
        {
            tracing::warn!(vm = %self.vm, %error, "frames of guests here may miss the moved VM until the next update");
        }
        // An agent that was restarted meanwhile took the guest for gone.
        if returned && let Err(error) = self.host.networks.activate(self.vm).await {
            tracing::error!(vm = %self.vm, %error, "the returned guest's network port is not active");
        }
        if matches!(state, MigrationState::Failed | MigrationState::Cancelled) {
            self.go_on_here().await;
        }
        Ok(())
    }

    /// The guest stays: let it run if it should and something stopped it.
    async fn go_on_here(&mut self) {
        self.look_at_status().await;
        self.take_disks_back().await;
        let wanted_running = self.record.as_ref().is_some_and(|record| record.wanted == PowerState::Running);
        match &self.run {
            Run::On(machine) if self.paused && wanted_running => match self.let_run(machine).await {
                Ok(()) => self.paused = false,
                Err(error) => {
                    tracing::error!(vm = %self.vm, %error, "the guest can't go on after the failed migration")
                }
            },
            Run::Off => self.keep_up().await,
            _ => {}
        }
    }

    /// After a crash between the note that a migration has failed and the guest's going on.
    pub(crate) async fn go_on_after_crash(&mut self) {
        let migration = self.record.as_ref().and_then(|record| record.migration.as_ref());
        let failed_here = migration.is_some_and(|migration| {
            matches!(migration.role, MigrationRole::Source(_))
                && matches!(migration.state, MigrationState::Failed | MigrationState::Cancelled)
        });
        let Run::On(machine) = &self.run else { return };
        if !failed_here {
            return;
        }
        match within(MONITOR_LIMIT, self.vm, machine.qmp.execute(QueryStatus {})).await {
            Ok(Ok(status)) if matches!(status.status.as_str(), "postmigrate" | "finish-migrate") => {
                self.go_on_here().await;
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(vm = %self.vm, %error, "QEMU does not tell its state"),
            Err(error) => tracing::warn!(vm = %self.vm, %error, "QEMU does not tell its state"),
        }
    }

    /// Lets the guest execute.
    pub(super) async fn let_run(&self, machine: &Machine) -> Result<(), Problem> {
        let what = format!("VM '{}'", self.known()?.assignment.name);
        let run = within(MONITOR_LIMIT, self.vm, machine.qmp.execute(Cont {})).await?;
        run.map(drop).map_err(|error| problem("guest-not-resumed", &what, &error))
    }

    /// The agent was restarted while this VM was being sent.
    pub(crate) async fn recover_sending(&mut self) {
        let Some(MigrationRecord { state, role: MigrationRole::Source(request), .. }) =
            self.record.as_ref().and_then(|record| record.migration.clone())
        else {
            return;
        };
        let begin = match (state, &self.run) {
            (MigrationState::Committing, _) => sending::Begin::Committing,
            // Whether it has handed over only QEMU knows; taken up when it answers.
            (_, Run::Deaf(_)) => return,
            // Not on record as handed over: commit was never asked, so the guest is ours.
            (_, Run::Off) => {
                self.sending_ended("QEMU ended while the agent was away").await;
                return;
            }
            _ => sending::Begin::Interrupted,
        };
        if let Err(error) = self.start_sending(*request, begin) {
            tracing::error!(vm = %self.vm, %error, "the interrupted migration can't be taken up");
        }
    }

    /// QEMU ended. Before the hand-over that ends the migration; after it, the destination's verdict still counts.
    pub(crate) async fn sending_ended(&mut self, reason: &str) {
        if self.migration_state() != Some(MigrationState::Sending) {
            return;
        }
        self.sending = None;
        let Some(record) = &mut self.record else { return };
        let name = record.assignment.name.clone();
        let Some(migration) = record.migration.as_mut() else { return };
        migration.state = MigrationState::Failed;
        let detail = format!("the QEMU of VM '{name}' on the source ended during the migration: {reason}");
        migration.error = Some(
            Problem::permanent("source-ended", detail)
                .remedy("start the VM (gantry vm start), unless it was stopped on purpose"),
        );
        if let MigrationRole::Source(request) = &migration.role {
            sending::tell_aborted(&self.host.identity, self.vm, request);
        }
        self.remove_credentials().await;
        if let Err(error) = self.save().await {
            tracing::error!(vm = %self.vm, %error, "the migration's end is not on disk");
        }
    }

    /// The VM is going to be ended on purpose.
    pub(crate) async fn stop_sending(&mut self, reason: &str) {
        self.sending_ended(reason).await;
    }

    pub(crate) async fn release(&mut self, migration: Uuid) -> Result<(), Problem> {
        let Some(record) = &self.record else { return Ok(()) };
        let known = record.migration.as_ref().filter(|known| known.id == migration);
        match known.map(|known| known.state) {
            Some(MigrationState::Moved) => {
                self.sending = None;
                // The guest is elsewhere: its port need not wait for the end of its QEMU.
                let (host, vm) = (Arc::clone(&self.host), self.vm);
                let (ended, removed) = tokio::join!(self.end_qemu(), host.networks.remove(vm));
                ended.and(removed)?;
                self.take_left_disk().await?;
                // What both hosts reach went along, also while the destination, which has committed, has yet to claim it: one that died
                // in between does that when it starts the VM.
                self.tear_down_as(true).await
            }
            // Nothing of that migration is left, and what is here belongs to another.
            None => Ok(()),
            Some(state) => {
                let detail = format!("migration {migration} is '{state:?}' here; only a moved VM is released");
                Err(Problem::conflict("migration-not-moved", detail.to_lowercase()))
            }
        }
    }
}

/// Whether what the sending task says can follow on what is on record.
fn fits(step: &SourceStep, state: MigrationState) -> bool {
    match step {
        SourceStep::HandedOver | SourceStep::GivenUp { .. } => state == MigrationState::Sending,
        // The destination's verdict counts, also if the hand-over could not be written down.
        SourceStep::Moved(_) | SourceStep::Returned(_) => {
            matches!(state, MigrationState::Sending | MigrationState::Committing)
        }
    }
}

/// Today's certificate of this host's QEMU processes, for the QEMU of this VM.
pub(crate) async fn write_credentials(host: &Host, vm: Uuid, owner_uid: u32) -> Result<(), Problem> {
    let directory = files(host, vm).tls;
    let identity = host.qemu_identity.current();
    let written =
        blocking(move || write_qemu_credentials(&directory, &identity, CredentialReader::Uid(owner_uid))).await;
    written.map_err(|error| Problem::new(error.class(), "no-credentials", crate::problem::chain(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_ends_the_migration_even_if_the_hand_over_is_not_on_record() {
        let problem = || Problem::transient("migration-aborted", "given up");
        let returned = || SourceStep::Returned(problem());
        let given_up = || SourceStep::GivenUp { cancelled: false, error: problem() };
        assert!(fits(&returned(), MigrationState::Sending) && fits(&returned(), MigrationState::Committing));
        assert!(fits(&given_up(), MigrationState::Sending) && !fits(&given_up(), MigrationState::Committing));
        // What is over stays as it ended.
        for state in [MigrationState::Failed, MigrationState::Cancelled, MigrationState::Moved] {
            assert!(!fits(&returned(), state) && !fits(&given_up(), state) && !fits(&SourceStep::HandedOver, state));
        }
    }
}
