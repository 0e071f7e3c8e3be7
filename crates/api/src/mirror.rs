//! What hosts do so that a VM's disks in mirrored pools have copies on a second host.
//!
//! ```text
//!  host of the VM                        another host of the pool
//!    alone ── join_copy, again and again ──▶ behind       (serve_copy)
//!    paired ──────────────────────────────── behind
//!    paired ──────────────────────────────── whole        (settle_copy: from here on it may take over)
//!    alone ◀── go_alone                      whole, of an earlier generation: stale
//!                                            the disk     (take_copy, of this generation only)
//! ```
//! A VM's own disk and its volumes have their copies on the same host, and are joined and parted together: what is started elsewhere is
//! all of one instant. Who is current is the controller's to decide, in one transaction each. A paired host acknowledges no write that its peer has not
//! got; it goes on alone only when it is told that this is written down. The generation grows with each such decision.

use std::net::IpAddr;

use async_trait::async_trait;
use gantry_types::{ByteSize, Name, Problem};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::agent::ImageRef;
use crate::storage::PoolAssignment;

/// The part of a host that keeps copies. Every call can be repeated.
#[async_trait]
pub trait MirrorApi: Send + Sync {
    /// Lets the host of a VM write to this host's copy of its disk, which is behind from here on; it is made if there is none.
    async fn serve_copy(&self, request: &ServeCopy) -> Result<CopyEndpoint, Problem>;
    /// The copy has all that the VM's host has acknowledged, and gets all that it will. Refused if it was served anew since it was
    /// brought up to date (`copy-stale`).
    async fn settle_copy(&self, request: &SettleCopy) -> Result<(), Problem>;
    /// Makes the copy the disk, which is then this host's; nobody else writes to it any more. Refused unless it is whole, and of
    /// this generation (`copy-stale`): nothing has changed then.
    async fn take_copy(&self, request: &TakeCopy) -> Result<(), Problem>;
    /// Deletes the copy. One that is not there is success; a copy that was taken stays.
    async fn drop_copy(&self, request: &DropCopy) -> Result<(), Problem>;
    /// Deletes a volume that this host had, because other hosts have it by now; nothing there is success. Refused while a VM has it
    /// here, and once it was taken over again (`copy-stale`).
    async fn drop_left_volume(&self, request: &DropLeftVolume) -> Result<(), Problem>;

    /// Begins to bring the copies of its disks up to date under the running VM, or tells how far that is; asked again and again until they are
    /// paired. An attempt that failed is an error once, and begins anew when asked again.
    async fn join_copy(&self, vm: Uuid, request: &JoinCopy) -> Result<CopyProgress, Problem>;
    /// The VM goes on without its copy: that this host alone is current from this generation on is written down.
    async fn go_alone(&self, vm: Uuid, request: &GoAlone) -> Result<(), Problem>;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServeCopy {
    pub pool: PoolAssignment,
    /// The VM whose own disk it is, or the volume.
    pub disk: Uuid,
    pub size: ByteSize,
    /// What the disk lies over: it is fetched, so that the copy can be started on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,
    /// The host whose QEMU may write.
    pub source: Name,
    /// What this copy has to be whole at so that only what was written since has to be sent; all is sent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
}

/// A copy that was whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FormerCopy {
    pub host: Name,
    pub generation: u64,
}

/// Where a copy is written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CopyEndpoint {
    #[schema(value_type = String)]
    pub address: IpAddr,
    pub port: u16,
    pub export: String,
    /// The name in the certificate of the server.
    pub tls_name: String,
    /// It is empty: all has to be sent.
    pub fresh: bool,
    /// Each time that a copy is served it is another one.
    pub serving: Uuid,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SettleCopy {
    pub pool: PoolAssignment,
    pub disk: Uuid,
    pub generation: u64,
    /// What the VM's host has brought up to date; one that was served anew since is not that.
    pub serving: Uuid,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TakeCopy {
    pub pool: PoolAssignment,
    pub disk: Uuid,
    /// What it has to be whole at.
    pub from: u64,
    /// What begins with this host.
    pub generation: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DropCopy {
    pub pool: PoolAssignment,
    pub disk: Uuid,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DropLeftVolume {
    pub pool: PoolAssignment,
    pub volume: Uuid,
    /// That of which others are current, and this host is not.
    pub generation: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinCopy {
    pub epoch: u64,
    /// That of which this host is current.
    pub generation: u64,
    pub peer: Name,
    /// Of each of the VM's disks in mirrored pools, and no others.
    pub copies: Vec<ServedCopy>,
}

impl JoinCopy {
    /// Which servings of the copies these are.
    pub fn servings(&self) -> Vec<CopyServing> {
        let served = self.copies.iter();
        served.map(|copy| CopyServing { disk: copy.disk, serving: copy.endpoint.serving }).collect()
    }
}

/// The copy of one disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServedCopy {
    /// The VM if it is its own disk, or the volume.
    pub disk: Uuid,
    pub endpoint: CopyEndpoint,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CopyProgress {
    Catching { done_bytes: u64, total_bytes: u64 },
    Paired,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GoAlone {
    pub epoch: u64,
    pub generation: u64,
}

/// How a VM's disks in mirrored pools stand on its host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct CopyObservation {
    pub generation: u64,
    /// Has all that was acknowledged here, or may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<Name>,
    /// Of that peer's copies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servings: Vec<CopyServing>,
    /// It waits to be told to go on without its peer: that does not answer, or the VM is to be started, or changed while it is off.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub wants_alone: bool,
    /// It has parted from this copy, and what was written since is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<FormerCopy>,
}

/// Which of the servings of a disk's copy its host writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CopyServing {
    pub disk: Uuid,
    pub serving: Uuid,
}
