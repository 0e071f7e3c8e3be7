//! What one controller is told when it starts. Plain data; nothing here is read from the environment.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use gantry_ha::Timing;

use crate::{access::SessionLimits, audit::AuditLimits};

/// Settings of a controller process.
#[derive(Debug, Clone)]
pub struct Config {
    /// Holds the store, the CA, uploads and images.
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    /// The datacenter's name, for people.
    pub datacenter: String,
    /// How often agents should report.
    pub heartbeat_interval: Duration,
    /// Without a heartbeat for longer than this a host counts as lost.
    pub host_lost_after: Duration,
    /// The durations of leases: what the hosts go by, too.
    pub timing: Timing,
    /// How long a watch goes at most without telling where it can be resumed.
    pub bookmark_interval: Duration,
    /// How long a JSON body may take to arrive.
    pub body_timeout: Duration,
    /// How long an upload may bring nothing.
    pub upload_idle_timeout: Duration,
    /// A step that keeps failing transiently is given up after this, unless it waits without limit.
    pub step_patience: Duration,
    /// How long a host may take from power on to its agent's first heartbeat.
    pub wake_patience: Duration,
    pub sessions: SessionLimits,
    pub audit: AuditLimits,
    /// Events beyond this many are dropped, oldest first.
    pub max_events: usize,
    /// Finished operations beyond this many are dropped, oldest first.
    pub max_finished_operations: usize,
    /// Largest content an image import accepts, in bytes.
    pub max_image_bytes: u64,
}

impl Config {
    pub fn new(data_dir: impl Into<PathBuf>, listen: SocketAddr, datacenter: impl Into<String>) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen,
            datacenter: datacenter.into(),
            heartbeat_interval: Duration::from_secs(1),
            host_lost_after: Duration::from_secs(4),
            timing: Timing::DEFAULT,
            bookmark_interval: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            upload_idle_timeout: Duration::from_secs(60),
            step_patience: Duration::from_secs(120),
            wake_patience: Duration::from_secs(600),
            sessions: SessionLimits { idle: Duration::from_secs(3600), lifetime: Duration::from_secs(12 * 3600) },
            audit: AuditLimits::default(),
            max_events: 10_000,
            max_finished_operations: 2_000,
            max_image_bytes: 1 << 40,
        }
    }

    /// Content as it was uploaded or fetched, one file per image uuid.
    pub fn uploads_dir(&self) -> PathBuf {
        self.data_dir.join("uploads")
    }
    pub fn energy_dir(&self) -> PathBuf {
        self.data_dir.join("energy")
    }
    pub fn audit_dir(&self) -> PathBuf {
        self.data_dir.join("audit")
    }
    /// Imported images, `<sha256>.qcow2`.
    pub fn images_dir(&self) -> PathBuf {
        self.data_dir.join("images")
    }
}
