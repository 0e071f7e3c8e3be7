//! The sending side of a move up to the hand-over; giving it up is in [`super::cancel`], what post-copy needs after it in
//! [`super::post_copy`]. A value of [`MigrationSource`] holds no state of its own beyond what it was
//! made from: made again after a restart with the same disks and peer, it goes on.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::progress::{MigrationPhase, MigrationProgress};
use super::tls::{self, PeerTls};
use super::{MigrationError, host_port, next_look};
use crate::qmp::command::*;
use crate::qmp::{Qmp, QmpError};

/// The monitor is blocked while it connects to the export: give up soon.
const CONNECT_LIMIT_S: u32 = 3;

/// A disk that moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorDisk {
    pub node_name: String,
    /// What the other side calls it.
    pub export: String,
    pub sync: MirrorSync,
}

/// Where the destination listens; see [`super::Listening`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub host: String,
    /// `None` if there is no disk to move.
    pub nbd_port: Option<u16>,
    pub ram_port: u16,
    pub tls: Option<PeerTls>,
}

/// No event tells how much is left.
const MIRROR_LOOK: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MirrorProgress {
    pub copied_bytes: u64,
    pub total_bytes: u64,
}

/// How far the copying of the disks has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mirrored {
    /// All but so many bytes of each.
    AllBut(u64),
    /// All but the latest writes.
    All,
}

/// With this limit QEMU stops the guest only when it writes next to nothing. With 0 it would do so after the first pass,
/// whatever was written meanwhile: it looks for that only once what is left is below the limit.
pub const LEAST_DOWNTIME_MS: u64 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamTuning {
    /// `None` means no limit.
    pub max_bandwidth_bytes_per_s: Option<u64>,
    /// The switchover is made when the rest can be sent within this time; [`LEAST_DOWNTIME_MS`] at the least.
    pub downtime_limit_ms: u64,
    /// Allow [`MigrationSource::switch_to_postcopy`]; the destination must have been told, too.
    pub postcopy: bool,
}

impl Default for RamTuning {
    fn default() -> Self {
        Self { max_bandwidth_bytes_per_s: None, downtime_limit_ms: 300, postcopy: false }
    }
}

/// What the caller of [`MigrationSource::wait_pre_switchover`] wants after having seen the progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directive {
    Wait,
    SwitchToPostcopy,
}

/// How the guest left this host. In both cases it must never run here again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandedOver {
    Completed,
    /// The destination fetches the rest of the memory while the guest runs there: the source process must
    /// stay until [`MigrationSource::wait_completed`].
    PostcopyActive,
}

#[derive(Debug, Clone)]
pub struct MigrationSource {
    pub(super) qmp: Qmp,
    pub(super) disks: Vec<MirrorDisk>,
    pub(super) peer: Peer,
}

impl MigrationSource {
    pub fn new(qmp: Qmp, disks: Vec<MirrorDisk>, peer: Peer) -> Self {
        Self { qmp, disks, peer }
    }

    /// Loads the TLS credentials, opens the exports and starts copying the disks, new writes
    /// included. After an error, `cancel`.
    pub async fn start_mirror(&self) -> Result<(), MigrationError> {
        let tls_creds = self.load_tls().await?;
        let Some(port) = self.peer.nbd_port else {
            return Ok(());
        };
        self.check_reachable(port).await?;
        for (index, disk) in self.disks.iter().enumerate() {
            self.qmp
                .execute(BlockdevAdd::Nbd {
                    node_name: mirror_id(index),
                    server: SocketAddress::Inet(InetAddress { host: self.peer.host.clone(), port: port.to_string() }),
                    export: disk.export.clone(),
                    open_timeout: CONNECT_LIMIT_S,
                    tls_creds: tls_creds.clone(),
                    tls_hostname: self.peer.tls.as_ref().map(|tls| tls.peer_name.clone()),
                })
                .await?;
            self.qmp
                .execute(BlockdevMirror {
                    job_id: mirror_id(index),
                    device: disk.node_name.clone(),
                    target: mirror_id(index),
                    sync: disk.sync,
                    copy_mode: MirrorCopyMode::Background,
                    speed: 0,
                    replaces: None,
                    filter_node_name: None,
                    auto_finalize: true,
                    auto_dismiss: false,
                })
                .await?;
        }
        Ok(())
    }

    /// A dead peer is noticed here, in our time, and not by a QEMU that holds its lock while connecting.
    async fn check_reachable(&self, port: u16) -> Result<(), MigrationError> {
        let address = host_port(&self.peer.host, port);
        let limit = Duration::from_secs(CONNECT_LIMIT_S.into());
        let connected = timeout(limit, TcpStream::connect(&address)).await;
        let connected = connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        match connected {
            Ok(_) => Ok(()),
            Err(source) => Err(MigrationError::Unreachable { address, source }),
        }
    }

    async fn load_tls(&self) -> Result<Option<String>, MigrationError> {
        let Some(tls) = &self.peer.tls else {
            return Ok(None);
        };
        let id = tls::load(&self.qmp, &tls.creds_dir, TlsEndpoint::Client).await?;
        Ok(Some(id))
    }

    /// Waits until so much of every disk is copied. Answers with how much that is.
    pub async fn wait_mirrored(
        &self,
        wanted: Mirrored,
        mut on_progress: impl FnMut(MirrorProgress),
        deadline: Instant,
    ) -> Result<MirrorProgress, MigrationError> {
        let mut events = self.qmp.events();
        loop {
            let jobs = self.mirrors().await?;
            let progress = MirrorProgress {
                copied_bytes: jobs.iter().map(|job| job.offset).sum(),
                total_bytes: jobs.iter().map(|job| job.len).sum(),
            };
            on_progress(progress);
            let done = |job: &BlockJobInfo| match wanted {
                // A job does not know yet how much there is while its length is zero.
                Mirrored::AllBut(bytes) => job.len > 0 && job.len.saturating_sub(job.offset) <= bytes,
                Mirrored::All => false,
            };
            if jobs.iter().all(|job| job.ready || done(job)) {
                return Ok(progress);
            }
            if wanted != Mirrored::All && Instant::now() < deadline {
                tokio::time::sleep(MIRROR_LOOK).await;
                continue;
            }
            self.look_again(&mut events, deadline, "copying the disks").await?;
        }
    }

    /// The jobs of all disks; an error if one of them is missing or broken.
    async fn mirrors(&self) -> Result<Vec<BlockJobInfo>, MigrationError> {
        if self.peer.nbd_port.is_none() {
            return Ok(Vec::new());
        }
        let jobs = self.qmp.execute(QueryBlockJobs {}).await?;
        let mut mirrors = Vec::new();
        for (index, disk) in self.disks.iter().enumerate() {
            let broken = |reason: String| MigrationError::Mirror { node_name: disk.node_name.clone(), reason };
            let job = jobs.iter().find(|job| job.id == mirror_id(index));
            let job = job.ok_or_else(|| broken("its job does not exist".to_owned()))?;
            if let Some(error) = &job.error {
                return Err(broken(error.clone()));
            }
            if job.status == "concluded" {
                return Err(broken("its job ended too early".to_owned()));
            }
            mirrors.push(job.clone());
        }
        Ok(mirrors)
    }

    /// Sets capabilities and parameters; the destination must have the same capabilities.
    pub async fn configure(&self, tuning: &RamTuning) -> Result<(), MigrationError> {
        let capabilities = [
            ("events", true),
            ("return-path", true),
            ("pause-before-switchover", true),
            ("postcopy-ram", tuning.postcopy),
        ];
        set_capabilities(&self.qmp, &capabilities).await?;
        let tls_creds = self.load_tls().await?;
        let tls_hostname = self.peer.tls.as_ref().map(|tls| tls.peer_name.clone());
        self.qmp
            .execute(MigrateSetParameters {
                max_bandwidth: Some(tuning.max_bandwidth_bytes_per_s.unwrap_or(0)),
                // What the guest waits for goes ahead of the limited rest.
                max_postcopy_bandwidth: Some(tuning.max_bandwidth_bytes_per_s.unwrap_or(0)),
                downtime_limit: Some(tuning.downtime_limit_ms),
                tls_creds: Some(tls_creds.unwrap_or_default()),
                tls_hostname: Some(tls_hostname.unwrap_or_default()),
                ..MigrateSetParameters::default()
            })
            .await?;
        Ok(())
    }

    /// Changes how long the guest may stand still, also while its memory is being sent.
    pub async fn limit_downtime(&self, limit_ms: u64) -> Result<(), MigrationError> {
        let limit = MigrateSetParameters { downtime_limit: Some(limit_ms), ..MigrateSetParameters::default() };
        self.qmp.execute(limit).await?;
        Ok(())
    }

    /// Starts sending the memory. Refused, with QEMU's reason, while something blocks migration.
    pub async fn start_ram(&self) -> Result<(), MigrationError> {
        let uri = format!("tcp:{}", host_port(&self.peer.host, self.peer.ram_port));
        self.qmp.execute(Migrate { uri, resume: None }).await?;
        Ok(())
    }

    pub async fn progress(&self) -> Result<MigrationProgress, MigrationError> {
        Ok(MigrationProgress::query(&self.qmp).await?)
    }

    /// Stops going over the memory: the switchover follows at once, the rest of the memory later.
    pub async fn switch_to_postcopy(&self) -> Result<(), MigrationError> {
        self.qmp.execute(MigrateStartPostcopy {}).await?;
        Ok(())
    }

    /// Waits until the guest is stopped and only the switchover is left. `on_progress` is asked about
    /// five times a second; once it has said [`Directive::SwitchToPostcopy`], that is done.
    pub async fn wait_pre_switchover(
        &self,
        mut on_progress: impl FnMut(&MigrationProgress) -> Directive,
        deadline: Instant,
    ) -> Result<(), MigrationError> {
        let mut events = self.qmp.events();
        let mut postcopy = false;
        loop {
            let progress = self.progress().await?;
            let directive = on_progress(&progress);
            match progress.phase {
                MigrationPhase::PreSwitchover => return Ok(()),
                ref phase if phase.is_handed_over() => return Err(MigrationError::HandedOver),
                ref phase if phase.is_final() => return Err(ram_failure(&progress)),
                _ => {}
            }
            self.mirrors().await?;
            if directive == Directive::SwitchToPostcopy && !postcopy {
                self.switch_to_postcopy().await?;
                postcopy = true;
            }
            self.look_again(&mut events, deadline, "copying the memory").await?;
        }
    }

    /// Ends the mirrors with both sides equal, and removes them. The guest must be stopped at
    /// pre-switchover. After an error, `cancel`.
    pub async fn finish_mirror(&self, deadline: Instant) -> Result<(), MigrationError> {
        let mut events = self.qmp.events();
        for job in self.mirrors().await? {
            self.qmp.execute(BlockJobCancel { device: job.id, force: false }).await?;
        }
        let disks = self.peer.nbd_port.map_or(&[][..], |_| &self.disks[..]);
        for (index, disk) in disks.iter().enumerate() {
            let failed = |reason: String| MigrationError::Mirror { node_name: disk.node_name.clone(), reason };
            loop {
                let job = self.job(index).await?;
                let job = job.ok_or_else(|| failed("its job vanished".to_owned()))?;
                if let Some(error) = job.error {
                    return Err(failed(error));
                }
                if job.status == "concluded" {
                    break;
                }
                self.look_again(&mut events, deadline, "finishing the copy of the disks").await?;
            }
            let id = mirror_id(index);
            self.qmp.execute(JobDismiss { id: id.clone() }).await?;
            self.qmp.execute(BlockdevDel { node_name: id }).await?;
        }
        Ok(())
    }

    pub(super) async fn job(&self, index: usize) -> Result<Option<BlockJobInfo>, MigrationError> {
        let jobs = self.qmp.execute(QueryBlockJobs {}).await?;
        Ok(jobs.into_iter().find(|job| job.id == mirror_id(index)))
    }

    /// Sends the device state. Refused while a mirror still runs: the destination's disk would be stale.
    pub async fn continue_switchover(&self) -> Result<(), MigrationError> {
        for (index, disk) in self.disks.iter().enumerate() {
            if self.job(index).await?.is_some() {
                return Err(MigrationError::MirrorUnfinished { node_name: disk.node_name.clone() });
            }
        }
        self.qmp.execute(MigrateContinue { state: ContinueFrom::PreSwitchover }).await?;
        Ok(())
    }

    /// Waits until the destination has all it needs. An error other than a lost connection means that the
    /// guest is still this side's.
    pub async fn wait_handed_over(&self, deadline: Instant) -> Result<HandedOver, MigrationError> {
        let mut events = self.qmp.events();
        loop {
            let progress = self.progress().await?;
            match progress.phase {
                MigrationPhase::Completed => return Ok(HandedOver::Completed),
                ref phase if phase.is_handed_over() => return Ok(HandedOver::PostcopyActive),
                ref phase if phase.is_final() => return Err(ram_failure(&progress)),
                _ => {}
            }
            self.look_again(&mut events, deadline, "the switchover").await?;
        }
    }

    pub(super) async fn look_again(
        &self,
        events: &mut crate::qmp::EventStream,
        deadline: Instant,
        what: &'static str,
    ) -> Result<(), MigrationError> {
        if Instant::now() >= deadline {
            return Err(MigrationError::Timeout { what });
        }
        next_look(events).await
    }
}

/// Name of both the job and the target node of the disk at `index`.
pub(super) fn mirror_id(index: usize) -> String {
    format!("mirror{index}")
}

pub(super) fn ram_failure(progress: &MigrationProgress) -> MigrationError {
    MigrationError::Ram { phase: progress.phase.clone(), reason: progress.reason() }
}

pub(super) async fn set_capabilities(qmp: &Qmp, capabilities: &[(&str, bool)]) -> Result<(), QmpError> {
    let capabilities = capabilities
        .iter()
        .map(|&(capability, state)| MigrationCapability { capability: capability.to_owned(), state })
        .collect();
    qmp.execute(MigrateSetCapabilities { capabilities }).await?;
    Ok(())
}
