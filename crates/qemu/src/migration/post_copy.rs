//! Post-copy after the hand-over: the guest runs at the destination and fetches the rest of its memory from the source.
//!
//! If the connection between the two breaks, both QEMUs pause the migration, and the guest stands still as soon as it
//! needs a page that is not there. Nothing is lost: [`MigrationDestination::listen_again`], then
//! [`MigrationSource::resume`], as often as it takes. A connection that only falls silent is noticed by neither QEMU
//! for many minutes; the source gives it up after a while without progress.
//!
//! Limit: a QEMU older than 8.2 that loses the connection once more within the handshake of a resume (some
//! milliseconds) stays in `postcopy-recover` for ever.

use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::Instant;

use super::destination::MigrationDestination;
use super::progress::{MigrationPhase, MigrationProgress};
use super::source::{MigrationSource, ram_failure};
use super::{MigrationError, host_port};
use crate::qmp::QmpError;
use crate::qmp::command::{Migrate, MigratePause, MigrateRecover};

impl MigrationSource {
    /// Waits until the destination no longer needs this process. A connection that carries nothing for
    /// `silence_limit` is given up; an interrupted post-copy is a [`MigrationError::Ram`] in phase
    /// [`MigrationPhase::PostcopyPaused`].
    pub async fn wait_completed(
        &self,
        mut on_progress: impl FnMut(&MigrationProgress),
        silence_limit: Duration,
        deadline: Instant,
    ) -> Result<MigrationProgress, MigrationError> {
        let mut events = self.qmp.events();
        let mut transferred_bytes = 0;
        let mut moved_on = Instant::now();
        loop {
            let progress = self.progress().await?;
            on_progress(&progress);
            match progress.phase {
                MigrationPhase::Completed => return Ok(progress),
                MigrationPhase::PostcopyPaused => return Err(ram_failure(&progress)),
                ref phase if phase.is_final() => return Err(ram_failure(&progress)),
                _ => {}
            }
            let is_silent = progress.ram_transferred_bytes == transferred_bytes;
            if !is_silent || progress.phase != MigrationPhase::PostcopyActive {
                transferred_bytes = progress.ram_transferred_bytes;
                moved_on = Instant::now();
            } else if moved_on.elapsed() >= silence_limit {
                self.interrupt().await?;
                moved_on = Instant::now();
            }
            self.look_again(&mut events, deadline, "fetching the rest of the memory").await?;
        }
    }

    /// Gives up the connection of a post-copy. It has ended by itself if this is refused.
    pub async fn interrupt(&self) -> Result<(), MigrationError> {
        match self.qmp.execute(MigratePause {}).await {
            Ok(_) | Err(QmpError::Refused { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Goes on with an interrupted post-copy at this port of the same destination. QEMU does not tell that a
    /// connection could not be made; then this times out, and may be repeated.
    pub async fn resume(&self, ram_port: u16, deadline: Instant) -> Result<(), MigrationError> {
        let uri = format!("tcp:{}", host_port(&self.peer.host, ram_port));
        let mut events = self.qmp.events();
        self.qmp.execute(Migrate { uri, resume: Some(true) }).await?;
        while self.progress().await?.phase == MigrationPhase::PostcopyPaused {
            self.look_again(&mut events, deadline, "connecting for the rest of the memory").await?;
        }
        Ok(())
    }
}

impl MigrationDestination {
    /// Lets an interrupted post-copy go on at a new port, with the credentials of [`Self::listen`]; `None` if none is
    /// interrupted. Works also while the monitor is stuck because QEMU itself waits for a page. May be repeated: the
    /// port before is closed.
    pub async fn listen_again(&self, host: &str, ports: RangeInclusive<u16>) -> Result<Option<u16>, MigrationError> {
        let listening =
            self.first_free_port(host, ports, |port| MigrateRecover { uri: format!("tcp:{}", host_port(host, port)) });
        match listening.await {
            Ok(port) => Ok(Some(port)),
            Err(MigrationError::Qmp(QmpError::Refused { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
