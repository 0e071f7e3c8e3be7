//! A VM that should go from one host to another.

use gantry_types::Name;
use serde::Serialize;
use uuid::Uuid;

/// A proposal; nothing happens by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Move {
    pub vm: Uuid,
    pub name: Name,
    pub from: Name,
    pub to: Name,
    /// In words.
    pub reason: String,
}
