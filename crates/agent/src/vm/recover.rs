//! After a start of the agent: what the record says, and what is really there, become one again.
//!
//! - QEMU is there: it is taken over, and an interrupted migration goes on from its recorded state.
//! - QEMU is gone: a VM that should run is started again (the host was rebooted), unless another host has, or may
//!   have, its guest.

use std::time::Duration;

use gantry_api::agent::MigrationState;
use gantry_types::{ErrorClass, PowerState};
use tokio::time::Instant;

use super::actor::{KEEP_UP_PAUSE_FIRST, Next, Run, VmTask};
use super::machine::{self, Adopted};
use crate::records::{End, MigrationRole};

const KEEP_UP_PAUSE_MAX: Duration = Duration::from_secs(60);

impl VmTask {
    pub(super) async fn recover(&mut self) -> Next {
        let Some(record) = &self.record else { return Next::Over };
        match machine::adopt(&self.host, record, &self.shared).await {
            Ok(Adopted::Machine(machine)) => {
                tracing::info!(vm = %self.vm, pid = machine.process.pid(), "QEMU taken over");
                self.run = Run::On(machine);
                // First, because until then QEMU may answer nothing else.
                self.listen_again().await;
                self.look_at_status().await;
                self.write_process().await;
                self.settle_volume_moves().await;
                self.settle_disk_move().await;
                self.settle_copy().await;
                self.settle_pairing().await;
                self.hold_disk().await;
            }
            Ok(Adopted::Deaf(process)) => self.run = Run::Deaf(process),
            Ok(Adopted::Gone) => {}
            Err(error) => tracing::error!(vm = %self.vm, %error, "cannot look for QEMU"),
        }
        self.settle_backup().await;
        self.guard_adopted().await;
        let migration = self.record.as_ref().and_then(|record| record.migration.as_ref());
        let role = migration.map(|migration| (matches!(migration.role, MigrationRole::Source(_)), migration.state));
        match role {
            Some((false, MigrationState::Receiving)) => return self.recover_receiving().await,
            Some((true, MigrationState::Sending | MigrationState::Committing)) => self.recover_sending().await,
            _ => self.go_on_after_crash().await,
        }
        self.keep_up().await;
        Next::Continue
    }

    /// The process may be one the last agent had no time to write down.
    async fn write_process(&mut self) {
        if let (Run::On(machine), Some(record)) = (&self.run, &mut self.record) {
            let process = machine.record(&self.host);
            if record.process.as_ref() == Some(&process) {
                return;
            }
            record.process = Some(process);
            record.end = None;
        }
        if let Err(error) = self.save().await {
            tracing::error!(vm = %self.vm, %error, "the process taken over is not on disk");
        }
    }

    /// Starts the VM again if it should run and another host has no claim on it. That it ran is on record until it runs
    /// again: what fails now is tried again, by this agent if it may pass, otherwise by the next.
    pub(crate) async fn keep_up(&mut self) {
        self.keep_up_at = None;
        let claimed = matches!(
            self.migration_state(),
            Some(MigrationState::Receiving | MigrationState::Committing | MigrationState::Moved)
        );
        let Some(record) = &mut self.record else { return };
        let had_run = record.process.is_some();
        if claimed || !matches!(self.run, Run::Off) || !had_run {
            return;
        }
        if record.wanted == PowerState::Stopped {
            record.process = None;
            record.end = Some(End::stopped("it ended while the agent was away"));
            if let Err(error) = self.save().await {
                tracing::error!(vm = %self.vm, %error, "the VM's state is not on disk");
            }
            return;
        }
        let wanted = record.wanted;
        if self.put_off_for_lease() {
            return;
        }
        tracing::info!(vm = %self.vm, "QEMU is gone, starting the VM again");
        match self.start().await {
            Ok(()) => {
                self.keep_up_pause = KEEP_UP_PAUSE_FIRST;
                if wanted == PowerState::Paused {
                    tracing::info!(vm = %self.vm, "it was paused before and runs now: its memory is lost");
                }
            }
            Err(error) if error.class == ErrorClass::Transient => {
                tracing::warn!(vm = %self.vm, %error, "the VM could not be started again yet");
                self.keep_up_at = Some(Instant::now() + self.keep_up_pause);
                self.keep_up_pause = (self.keep_up_pause * 2).min(KEEP_UP_PAUSE_MAX);
            }
            Err(error) => tracing::error!(vm = %self.vm, %error, "the VM could not be started again"),
        }
    }
}
