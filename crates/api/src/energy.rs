//! `GET /v1/energy`: what hosts drew, and whose part of it that was.

use gantry_types::{EnergySource, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
pub struct EnergyQuery {
    /// `host` (if not given), `vm`, or `label=KEY`: VMs by that label's value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Rounded down to a whole hour; 24 hours ago if not given. 35 days are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Only so many rows, those with the most; all if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EnergyReport {
    pub by: String,
    pub since: Timestamp,
    pub until: Timestamp,
    /// The most first.
    pub rows: Vec<EnergyRow>,
    /// How many rows there are without the limit.
    #[serde(default)]
    pub rows_total: u64,
    /// What all hosts drew.
    pub total_wh: f64,
    /// Of that, what is no VM's: the hosts' own work, and hosts without VMs.
    pub of_no_vm_wh: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EnergyRow {
    /// The host's or VM's name, or the label's value; empty for VMs without the label.
    pub name: String,
    pub energy_wh: f64,
    /// Mean power while it was accounted for.
    pub mean_watts: f64,
    /// How long that was.
    pub accounted_s: f64,
    pub source: EnergySource,
}
