//! An interrupted post-copy, on the destination: its QEMU is made to listen again, for as long as it lacks memory.
//!
//! QEMU tells of the interruption by an event, and takes the order to listen out of band: both work while all else in it
//! waits for a page that can't come. Where it listens is part of the migration's report, which the source reads. Nothing
//! is on disk: an agent that was restarted gives the order again, and QEMU refuses it if nothing is interrupted.

use std::time::Duration;

use gantry_api::agent::MigrationState;
use gantry_qemu::migration::MigrationDestination;
use gantry_qemu::qmp::Event;
use tokio::time::Instant;

use super::destination::PORTS;
use crate::records::MigrationRole;
use crate::vm::{MONITOR_LIMIT, Run, VmTask, within};

/// A port serves one connection. If that fails before memory flows, nobody tells: so a port that was not used for this
/// long is replaced when it is asked for.
const PORT_LIFETIME: Duration = Duration::from_secs(15);

pub(crate) struct Interrupted {
    port: u16,
    listening_since: Instant,
}

impl Interrupted {
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl VmTask {
    pub(crate) async fn note_migration(&mut self, event: &Event) {
        if event.name != "MIGRATION" {
            return;
        }
        match event.data["status"].as_str() {
            Some("postcopy-paused") => self.listen_again().await,
            Some("postcopy-active" | "completed") if self.interrupted.take().is_some() => {
                tracing::info!(vm = %self.vm, "the interrupted post-copy goes on");
            }
            _ => {}
        }
    }

    /// Lets an interrupted post-copy to this host go on; nothing happens if there is none.
    pub(crate) async fn listen_again(&mut self) {
        let migration = self.record.as_ref().and_then(|record| record.migration.as_ref());
        let arrived = migration.is_some_and(|migration| {
            matches!(migration.role, MigrationRole::Destination { .. }) && migration.state == MigrationState::Committed
        });
        let (true, Run::On(machine)) = (arrived, &self.run) else { return };
        let destination = MigrationDestination::new(machine.qmp.clone());
        let host = self.host.config.underlay_address.to_string();
        self.interrupted = match within(MONITOR_LIMIT, self.vm, destination.listen_again(&host, PORTS)).await {
            Ok(Ok(None)) => None,
            Ok(Ok(Some(port))) => {
                tracing::warn!(vm = %self.vm, port, "post-copy is interrupted; its guest waits for the source");
                Some(Interrupted { port, listening_since: Instant::now() })
            }
            Ok(Err(error)) => {
                let error = crate::problem::chain(&error);
                tracing::error!(vm = %self.vm, error, "the interrupted post-copy can't go on");
                None
            }
            Err(error) => {
                tracing::error!(vm = %self.vm, %error, "QEMU does not listen for the rest of an interrupted post-copy");
                None
            }
        };
    }

    /// Before the port is told: it must be one that works.
    pub(super) async fn renew_recovery(&mut self) {
        let is_old = |interrupted: &Interrupted| interrupted.listening_since.elapsed() >= PORT_LIFETIME;
        if self.interrupted.as_ref().is_some_and(is_old) {
            self.listen_again().await;
        }
    }
}
