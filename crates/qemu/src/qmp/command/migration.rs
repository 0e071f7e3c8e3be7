//! Moving a machine. `tests/schema.rs` checks these, too.

use serde::{Deserialize, Serialize};

use super::{Command, Nothing};

plain_command!(QueryMigrate, "query-migrate", MigrationInfo);
plain_command!(MigrateCancel, "migrate_cancel", Nothing);
plain_command!(MigrateStartPostcopy, "migrate-start-postcopy", Nothing);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationCapability {
    pub capability: String,
    pub state: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct MigrateSetCapabilities {
    pub capabilities: Vec<MigrationCapability>,
}
command!(MigrateSetCapabilities, "migrate-set-capabilities", Nothing);

/// Unset members leave QEMU's value as it is.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrateSetParameters {
    /// Bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bandwidth: Option<u64>,
    /// Bytes a second; zero means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_postcopy_bandwidth: Option<u64>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime_limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub announce_initial: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub announce_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub announce_rounds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub announce_step: Option<u64>,
    /// Empty text turns TLS off again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_creds: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_hostname: Option<String>,
    /// Looked up for each connection; without it, any certificate of the CA may connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_authz: Option<String>,
}
command!(MigrateSetParameters, "migrate-set-parameters", Nothing);

#[derive(Debug, Clone, Serialize)]
pub struct Migrate {
    pub uri: String,
    /// Goes on with an interrupted post-copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<bool>,
}
command!(Migrate, "migrate", Nothing);

#[derive(Debug, Clone, Serialize)]
pub struct MigrateIncoming {
    pub uri: String,
}
command!(MigrateIncoming, "migrate-incoming", Nothing);

/// Lets the destination of an interrupted post-copy listen again.
#[derive(Debug, Clone, Serialize)]
pub struct MigrateRecover {
    pub uri: String,
}
impl Command for MigrateRecover {
    const NAME: &'static str = "migrate-recover";
    type Return = Nothing;
    /// The ordinary commands may wait for a piece of memory that can't come before this.
    const OUT_OF_BAND: bool = true;
}

/// Gives up the connection of a post-copy, so that it can be made anew.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MigratePause {}
impl Command for MigratePause {
    const NAME: &'static str = "migrate-pause";
    type Return = Nothing;
    const OUT_OF_BAND: bool = true;
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContinueFrom {
    PreSwitchover,
}

#[derive(Debug, Clone, Serialize)]
pub struct MigrateContinue {
    pub state: ContinueFrom,
}
command!(MigrateContinue, "migrate-continue", Nothing);

/// Times in milliseconds. All members are absent before the first migration.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationInfo {
    #[serde(default)]
    pub status: Option<String>,
    #[serde(default)]
    pub error_desc: Option<String>,
    #[serde(default)]
    pub total_time: Option<u64>,
    #[serde(default)]
    pub setup_time: Option<u64>,
    #[serde(default)]
    pub downtime: Option<u64>,
    #[serde(default)]
    pub expected_downtime: Option<u64>,
    #[serde(default)]
    pub ram: Option<MigrationRam>,
    #[serde(default)]
    pub blocked_reasons: Option<Vec<String>>,
}

/// Sizes in bytes; `mbps` in megabits a second; `dirty_pages_rate` in pages a second.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationRam {
    pub transferred: u64,
    pub remaining: u64,
    pub total: u64,
    pub mbps: f64,
    #[serde(default)]
    pub dirty_pages_rate: u64,
    #[serde(default)]
    pub page_size: u64,
    #[serde(default)]
    pub dirty_sync_count: u64,
    #[serde(default)]
    pub postcopy_requests: u64,
}
