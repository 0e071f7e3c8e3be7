//! `event`: something that happened to an object, kept for people.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Name, ObjectRef, resource::resource};

resource!(
    /// One thing that happened. Events are written in the transaction of the change they tell of; the oldest are
    /// dropped when there are too many.
    Event, "event", "events", EventSpec, EventStatus
);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventSpec {
    pub regarding: ObjectRef,
    pub severity: Severity,
    /// CamelCase, stable, for filters: `VmStarted`, `HostLost`.
    pub reason: String,
    /// For people: what happened, and what to do if something is to be done.
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Name>,
    /// The operation that caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Name>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Normal,
    Warning,
}

/// Events have no state of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventStatus {}
