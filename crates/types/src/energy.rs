//! Energy: where a figure comes from.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EnergySource {
    /// By the host's own counters (RAPL): its processors and their memory, not its disks, fans and power supply.
    Measured,
    /// By its processors' use and its SPECpower curve.
    Estimated,
    /// Part of the time the one, part the other.
    Mixed,
}

impl EnergySource {
    pub fn with(self, other: Self) -> Self {
        if self == other { self } else { Self::Mixed }
    }
}
