//! What can go wrong in a store, sorted by what the caller should do about it.
//!
//! Backends translate their own failures into these; no backend's error type is public here.

use std::error::Error;
use std::sync::Arc;

use crate::model::{LeaseId, Revision};

/// What the caller should do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The request can never succeed as it is.
    Invalid,
    /// The named thing does not exist.
    NotFound,
    /// The history asked for is gone: list again.
    Compacted,
    /// Trying again later may succeed.
    Transient,
    /// Someone has to repair the store first.
    Permanent,
}

/// A failed store request. Cloneable, because one failed commit answers many callers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("invalid store request: {reason}")]
    Invalid { reason: String },
    #[error("lease {lease} does not exist: it has expired or was revoked; grant a new one")]
    LeaseNotFound { lease: LeaseId },
    #[error(
        "revision {requested} of the store is compacted, the oldest one kept is {oldest}; list again and watch from that listing's revision"
    )]
    Compacted { requested: Revision, oldest: Revision },
    #[error("the store failed while {doing}; the request may be repeated later")]
    Transient {
        doing: &'static str,
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
    #[error("the store failed while {doing}; it needs repair before requests can succeed")]
    Permanent {
        doing: &'static str,
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
    #[error("the store is closed; open it again and repeat the request")]
    Closed,
}

impl StoreError {
    /// What to do about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Invalid { .. } => ErrorClass::Invalid,
            Self::LeaseNotFound { .. } => ErrorClass::NotFound,
            Self::Compacted { .. } => ErrorClass::Compacted,
            Self::Transient { .. } | Self::Closed => ErrorClass::Transient,
            Self::Permanent { .. } => ErrorClass::Permanent,
        }
    }

    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid { reason: reason.into() }
    }

    pub(crate) fn future(requested: Revision, current: Revision) -> Self {
        Self::invalid(format!("revision {requested} lies in the future, the store is at {current}"))
    }
}
