//! Leases: what a host, its controller and the other members of its cluster say to each other about who may run
//! protected VMs. The rules are in `crates/ha`; who may ask what is the routers'.

use async_trait::async_trait;
use gantry_types::{Fence, HostLease, Members, Name, Problem};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A host as a member of its cluster: it keeps the records by which others are shut out.
#[async_trait]
pub trait FencingApi: Send + Sync {
    /// Whether there is a record against the host that asks. Without one this member has given its word.
    async fn ask_fence(&self, question: &FenceQuestion) -> Result<FenceAnswer, Problem>;
    /// Stores the record: on disk when it is answered. Says the same when repeated.
    async fn store_fence(&self, fence: &Fence) -> Result<StoredFence, Problem>;
    /// The fences of this host up to this generation hold no longer.
    async fn lift_fence(&self, lifted: &LiftedFence) -> Result<(), Problem>;
}

/// A host asks the others when the controller is silent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FenceQuestion {
    /// Who asks.
    pub host: Name,
    /// It knows that its fences up to this generation were lifted.
    pub lifted: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FenceAnswer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoredFence {
    pub generation: u64,
    /// How long ago, by this member's clock, it may last have told the host that there is no record.
    pub ago_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiftedFence {
    pub host: Name,
    pub generation: u64,
}

/// In a heartbeat: what the host knows of its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeaseReport {
    pub lease: HostLease,
    /// The members that it has on disk; 0 if none.
    pub members_generation: u64,
    /// All its fences up to this one were lifted, as it has on disk.
    #[serde(default)]
    pub lifted: u64,
    /// Shut out by this generation, it runs nothing protected any more, and that is on its disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<u64>,
}

/// In the answer to a heartbeat: without a fence the lease is renewed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeaseGrant {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    /// All fences of the host up to this one were lifted.
    pub lifted: u64,
    /// The members of its cluster, if the host does not know them yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Members>,
}
