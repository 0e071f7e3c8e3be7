//! The nouns of the store: revisions, key-values, leases, events, listings.
//!
//! Plain data; no behaviour beyond construction and key order.

use std::fmt;

use bytes::Bytes;
use futures::stream::BoxStream;

use crate::error::StoreError;

/// A point in the store's history. Every transaction that changes something makes the next one.
/// An empty store is at 1, as etcd is; 0 stands for "never" in [`crate::Compare::ModRevision`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl Revision {
    /// Where a new store starts.
    pub(crate) const INITIAL: Revision = Revision(1);

    /// The revision after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a lease; never 0, never reused within one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One key as it is at some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: String,
    pub value: Bytes,
    /// When the key last came into being.
    pub create_revision: Revision,
    /// When it was last put.
    pub mod_revision: Revision,
    /// How often it was put since it came into being, from 1.
    pub version: u64,
    /// The lease that will take the key with it.
    pub lease: Option<LeaseId>,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Put(KeyValue),
    Delete { key: String, revision: Revision },
}

impl Event {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }

    /// What the event weighs in a buffer.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Put(kv) => kv.key.len() + kv.value.len(),
            Self::Delete { key, .. } => key.len(),
        }
    }
}

/// All changes of one revision under the watched prefix; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchBatch {
    pub revision: Revision,
    pub events: Vec<Event>,
}

/// Batches in revision order. An error is always the last item.
pub type WatchStream = BoxStream<'static, Result<WatchBatch, StoreError>>;

/// What to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RangeRequest {
    /// Empty for every key.
    pub prefix: String,
    /// The last key of the page before.
    pub start_after: Option<String>,
    /// At most this many; `None` for all.
    pub limit: Option<usize>,
    /// As things were then; `None` for now. Later pages pass the first page's revision.
    pub at_revision: Option<Revision>,
}

impl RangeRequest {
    /// Every current key under a prefix.
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..Self::default() }
    }

    /// The smallest key, as bytes, that belongs to the page.
    pub(crate) fn lower_bound(&self) -> Vec<u8> {
        let prefix = self.prefix.as_bytes();
        match &self.start_after {
            Some(last) if last.as_bytes() >= prefix => {
                let mut bound = last.clone().into_bytes();
                // Keys hold no NUL, so this is the least string above `last`.
                bound.push(0);
                bound
            }
            _ => prefix.to_vec(),
        }
    }

    /// Checks the limit and that the revision asked for is kept; returns the one to read at.
    pub(crate) fn resolve(&self, current: Revision, compacted: Revision) -> Result<Revision, StoreError> {
        if self.limit == Some(0) {
            return Err(StoreError::invalid("a listing with limit 0 asks for nothing"));
        }
        let at = self.at_revision.unwrap_or(current);
        if at > current {
            return Err(StoreError::future(at, current));
        }
        if at < compacted {
            return Err(StoreError::Compacted { requested: at, oldest: compacted });
        }
        Ok(at)
    }
}

/// The first byte string above every key with this prefix. UTF-8 never holds 0xFF, so adding one
/// to the last byte cannot overflow, and 0xFF alone lies above every key.
pub(crate) fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    match end.last_mut() {
        Some(last) => *last += 1,
        None => end.push(0xFF),
    }
    end
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeResponse {
    pub kvs: Vec<KeyValue>,
    /// What the page shows: `at_revision` if one was asked for, else the store's newest.
    pub revision: Revision,
    /// There are further keys after the last one.
    pub more: bool,
}
