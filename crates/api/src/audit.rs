//! The audit log: who did what, from where, and what came of it.

use gantry_types::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::overview::Named;

/// One entry. Entries are never changed; the oldest are dropped by age and size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Grows by one with each entry.
    pub id: u64,
    pub at: Timestamp,
    /// `user/NAME`, `token/NAME` or `host/NAME`; of a login, who it was tried as.
    pub who: String,
    /// Where the request came from.
    pub address: String,
    /// Method and path as in the OpenAPI document (`POST /v1/vms/{name}/start`), `login`, `logout`, `console` or `vnc`.
    pub action: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Named>,
    pub outcome: AuditOutcome,
    /// Of the HTTP answer.
    pub status: u16,
    /// Of the problem, if it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditOutcome {
    /// Done, or begun as an operation.
    Done,
    /// The request was wrong or not allowed.
    Refused,
    /// The controller could not.
    Failed,
}

/// Query of `GET /v1/audit`. An entry must fit all that is given.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
pub struct AuditQuery {
    /// `user/ann`, or `ann` for whoever is called so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A part of the action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// `vm/web`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// `done`, `refused` or `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<AuditOutcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// At most this many, 1–1000; 100 if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only older ones than this id.
    #[serde(rename = "continue", skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// `GET /v1/audit`: the newest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    pub items: Vec<AuditEntry>,
    /// Send it back as `continue` for older ones; absent when there are none. A page may have fewer entries than the
    /// limit, even none, and yet go on: each request reads a bounded part of the log.
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}
