//! Switching a host's power: the states, and what is said to a lab's power strip.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PowerStatus {
    On,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerSwitch {
    On,
    Off,
    /// Only look.
    Status,
}

/// One line of JSON to a power strip; it answers with one line, a [`PowerAnswer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerOrder {
    pub switch: PowerSwitch,
    pub outlet: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerAnswer {
    /// As it is now.
    Power(PowerStatus),
    /// Why it was not done.
    Refused(String),
}
