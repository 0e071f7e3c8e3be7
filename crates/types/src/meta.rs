//! What every object carries besides its own `spec` and `status`.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{Labels, Name, Timestamp};

/// Identity and bookkeeping of an object. A client sets `name` and `labels`; the rest is the controller's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Unique among objects of the same kind.
    pub name: Name,
    /// Unique for ever: a deleted object's uuid never comes back.
    #[serde(default = "Uuid::nil", skip_serializing_if = "Uuid::is_nil")]
    pub uuid: Uuid,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The store revision of the object's last change. A client that sends it back gets a conflict if the object
    /// has changed since; 0 (or leaving it out) means "whatever it is now".
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
}

fn is_zero(revision: &u64) -> bool {
    *revision == 0
}

impl Metadata {
    pub fn named(name: Name) -> Self {
        Self { name, uuid: Uuid::nil(), labels: Labels::default(), revision: 0, created_at: None }
    }
}

/// Which object an operation, event or problem is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct ObjectRef {
    pub kind: String,
    pub name: Name,
    #[serde(default = "Uuid::nil", skip_serializing_if = "Uuid::is_nil")]
    pub uuid: Uuid,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.kind, self.name))
    }
}
