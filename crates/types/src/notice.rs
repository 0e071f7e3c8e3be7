//! `notice`: one message about an alarm to one receiver, until it has arrived.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{AlarmSeverity, Name, ObjectRef, Timestamp, resource::resource};

resource!(
    /// A message about an alarm to one receiver. It is written with the alarm's change and stays until it has arrived.
    Notice, "notice", "notices", NoticeSpec, NoticeStatus
);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NoticeSpec {
    pub receiver: Name,
    pub alarm: Name,
    pub severity: AlarmSeverity,
    pub state: NoticeState,
    pub object: ObjectRef,
    pub message: String,
    /// When the alarm began for the object.
    pub since: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoticeState {
    Firing,
    Resolved,
    /// Nothing has happened: somebody tries the receiver.
    Test,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NoticeStatus {
    pub phase: NoticePhase,
    pub attempts: u32,
    /// When it is tried next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// Why it has not arrived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoticePhase {
    #[default]
    Pending,
    Delivered,
    /// Given up after a day.
    Failed,
}
