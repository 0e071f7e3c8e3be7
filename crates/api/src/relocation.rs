//! How a stopped VM goes to another host: its disk is sent as it is, with all states inside it. A clone gets a copy of its
//! source's disk in the same way, also on the source's own host.
//!
//! ```text
//!  controller ──expect_disk──▶ destination          controller ──send_disk──▶ source ──content──▶ destination
//!                              "expected" in memory                           lent: not started      staged, then "arrived"
//!  controller records the VM at the destination ──define_vm──▶ destination: "stopped"     ──remove_vm──▶ source
//! ```
//! Nothing runs meanwhile, so nobody has to agree on a moment: until the controller records the VM at the destination, the
//! source has it, and what the destination has is removed if the move is given up.

use async_trait::async_trait;
use gantry_types::{Name, Problem};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::agent::Assignment;

/// The part of [`AgentApi`](crate::AgentApi) that is about moving stopped VMs.
#[async_trait]
pub trait RelocationApi: Send + Sync {
    /// Destination: the VM will come with its disk, from this host; tells how much has come. Asked again and again until
    /// it has `arrived`: the VM is here then, and this host's once it is defined. Removing the VM ends the expectation, too.
    async fn expect_disk(&self, vm: Uuid, request: &ExpectDisk) -> Result<DiskArrival, Problem>;
    /// Source: sends the disk of the VM, which must be stopped and is not started meanwhile, to the host that expects it.
    /// For a clone it may run: then what its disk holds at one instant is sent, and it is not changed meanwhile. Answers
    /// when all has arrived; whoever stops waiting for the answer stops the sending.
    async fn send_disk(&self, vm: Uuid, request: &SendDisk) -> Result<(), Problem>;
    /// Source: how far the copy is that is made for this clone before it is sent; `None` while none is made.
    async fn disk_copied(&self, vm: Uuid, clone: Uuid) -> Result<Option<DiskCopied>, Problem>;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExpectDisk {
    /// New with each move: by it a host knows what came for an earlier one that was given up.
    pub relocation: Uuid,
    /// With the epoch the VM will have here.
    pub assignment: Assignment,
    /// The only host that may send it.
    pub source: Name,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiskArrival {
    Expected {
        received_bytes: u64,
        /// What the disk takes at the source; 0 until that has told it.
        total_bytes: u64,
    },
    Arrived,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskCopied {
    pub copied_bytes: u64,
    /// What the source's disk takes, with all its states; the copy may take less.
    pub total_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SendDisk {
    /// The VM's epoch here, at the source.
    pub epoch: u64,
    /// The destination's agent: name and `ADDRESS:PORT`.
    pub destination: Name,
    pub destination_agent: String,
    /// Another VM that begins with what this one's disk holds now, without the states kept in it. Absent: the VM itself
    /// moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone: Option<Uuid>,
    /// Of a clone: it begins with this snapshot of the disk, instead of with what the disk holds now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Uuid>,
}
