//! The receiving side of a move: a QEMU started with `incoming`, which never runs the guest by itself.

use std::ops::RangeInclusive;

use tokio::time::Instant;

use super::progress::MigrationProgress;
use super::source::set_capabilities;
use super::tls::{self, ListenTls};
use super::{MigrationError, next_look};
use crate::qmp::command::*;
use crate::qmp::{Qmp, QmpError};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenOptions {
    /// The address to listen on.
    pub host: String,
    /// Ports to try, in order; two are needed if there are disks.
    pub ports: RangeInclusive<u16>,
    /// Node names of the disks that are to be filled.
    pub disks: Vec<String>,
    pub tls: Option<ListenTls>,
    pub postcopy: bool,
    /// Disks that the source has open, too, are taken (and locked) only when the guest is let run.
    pub late_activation: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    /// `None` if there are no disks.
    pub nbd_port: Option<u16>,
    pub ram_port: u16,
}

/// Ids of the objects that guard both listeners, and the one of an interrupted post-copy.
struct Guard {
    creds: String,
    authz: String,
}

#[derive(Debug, Clone)]
pub struct MigrationDestination {
    qmp: Qmp,
}

impl MigrationDestination {
    pub fn new(qmp: Qmp) -> Self {
        Self { qmp }
    }

    /// Opens both listeners. A destination whose `listen` failed is of no use: end its process.
    pub async fn listen(&self, options: &ListenOptions) -> Result<Listening, MigrationError> {
        let guard = match &options.tls {
            Some(tls) => Some(Guard {
                authz: tls::authorize(&self.qmp, &tls.source_dn).await?,
                creds: tls::load(&self.qmp, &tls.creds_dir, TlsEndpoint::Server).await?,
            }),
            None => None,
        };
        let capabilities = [
            ("events", true),
            ("return-path", true),
            ("postcopy-ram", options.postcopy),
            ("late-block-activate", options.late_activation),
        ];
        set_capabilities(&self.qmp, &capabilities).await?;
        self.qmp
            .execute(MigrateSetParameters {
                tls_creds: Some(guard.as_ref().map(|guard| guard.creds.clone()).unwrap_or_default()),
                tls_authz: guard.as_ref().map(|guard| guard.authz.clone()),
                announce_initial: Some(10),
                announce_max: Some(300),
                announce_rounds: Some(8),
                announce_step: Some(50),
                ..MigrateSetParameters::default()
            })
            .await?;
        let mut nbd_port = None;
        if !options.disks.is_empty() {
            nbd_port = Some(self.export_disks(options, guard.as_ref()).await?);
        }
        let ram_port = self
            .first_free_port(&options.host, options.ports.clone(), |port| MigrateIncoming {
                uri: format!("tcp:{}", super::host_port(&options.host, port)),
            })
            .await?;
        Ok(Listening { nbd_port, ram_port })
    }

    async fn export_disks(&self, options: &ListenOptions, guard: Option<&Guard>) -> Result<u16, MigrationError> {
        let port = self
            .first_free_port(&options.host, options.ports.clone(), |port| NbdServerStart {
                addr: SocketAddressLegacy::Inet(InetAddress { host: options.host.clone(), port: port.to_string() }),
                tls_creds: guard.map(|guard| guard.creds.clone()),
                tls_authz: guard.map(|guard| guard.authz.clone()),
            })
            .await?;
        for node_name in &options.disks {
            self.qmp
                .execute(BlockExportAdd::Nbd {
                    id: format!("export-{node_name}"),
                    node_name: node_name.clone(),
                    name: node_name.clone(),
                    writable: true,
                    bitmaps: Vec::new(),
                })
                .await?;
        }
        Ok(port)
    }

    pub(super) async fn first_free_port<C: Command>(
        &self,
        host: &str,
        ports: RangeInclusive<u16>,
        command: impl Fn(u16) -> C,
    ) -> Result<u16, MigrationError> {
        let (first, last) = (*ports.start(), *ports.end());
        for port in ports {
            match self.qmp.execute(command(port)).await {
                Ok(_) => return Ok(port),
                Err(error) if is_port_taken(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(MigrationError::NoFreePort { host: host.to_owned(), first, last })
    }

    pub async fn progress(&self) -> Result<MigrationProgress, MigrationError> {
        Ok(MigrationProgress::query(&self.qmp).await?)
    }

    /// Closes the exports and, unless the guest was paused when it left, lets it run. To be called only
    /// after the source has handed over; waits (until `deadline`) for this side to have loaded the guest,
    /// since QEMU would otherwise remember the order to run. May be repeated.
    pub async fn commit(&self, run: bool, deadline: Instant) -> Result<(), MigrationError> {
        let mut events = self.qmp.events();
        loop {
            let status = self.qmp.execute(QueryStatus {}).await?;
            if status.running {
                return self.close_exports().await;
            }
            if status.status != "inmigrate" {
                break;
            }
            if Instant::now() >= deadline {
                return Err(MigrationError::NotLoaded { status: status.status });
            }
            next_look(&mut events).await?;
        }
        // Before `cont`: an export that may write keeps the guest's device from taking its disk.
        self.close_exports().await?;
        if run {
            self.qmp.execute(Cont {}).await?;
        }
        Ok(())
    }

    async fn close_exports(&self) -> Result<(), MigrationError> {
        match self.qmp.execute(NbdServerStop {}).await {
            // Refused: the server does not run.
            Ok(_) | Err(QmpError::Refused { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// QEMU has no error class for this, only the C library's text (QEMU runs in the C locale here: its
/// environment is cleared).
fn is_port_taken(error: &QmpError) -> bool {
    error.refusal().is_some_and(|desc| desc.contains("Address already in use"))
}
