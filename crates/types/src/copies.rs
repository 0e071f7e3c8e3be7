//! Who has the content of disks in mirrored pools.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Name;

/// The copies of a VM's disks in mirrored pools, which are on the same hosts, or of a volume that no VM has. A host that is not named
/// here is never started on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskCopies {
    /// Grows with each decision about who is current; hosts know their copies by it.
    pub generation: u64,
    /// The hosts that have all that the guest was told is durable, that which has it as its own first.
    #[schema(value_type = Vec<String>)]
    pub current: Vec<Name>,
}

impl DiskCopies {
    /// The generation of a disk that was never copied.
    pub const FIRST: u64 = 1;

    /// The only one there is.
    pub fn first(host: Name) -> Self {
        Self { generation: Self::FIRST, current: vec![host] }
    }

    /// From here on this host alone.
    pub fn alone(&self, host: Name) -> Self {
        Self { generation: self.generation + 1, current: vec![host] }
    }

    /// This host has caught up.
    pub fn paired(&self, peer: Name) -> Self {
        let mut current = self.current.clone();
        if !current.contains(&peer) {
            current.push(peer);
        }
        Self { generation: self.generation, current }
    }

    pub fn is_current(&self, host: &Name) -> bool {
        self.current.contains(host)
    }

    /// The host that has it as its own; the others have copies.
    pub fn owner(&self) -> Option<&Name> {
        self.current.first()
    }

    /// A current copy on another host.
    pub fn other(&self, host: &Name) -> Option<&Name> {
        self.current.iter().find(|current| *current != host)
    }
}
