//! What people do about alarms.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /v1/alarms/{name}/acknowledge`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AcknowledgeRequest {
    /// `KIND/NAME`; every object that it fires for if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
}

/// `POST /v1/alarms/{name}/silence`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SilenceRequest {
    /// `KIND/NAME`; every object of the alarm if not given. It takes the place of the silence that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Seconds from now; 0 ends the silence.
    pub for_s: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}
