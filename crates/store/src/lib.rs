//! The controller's durable state: a small key-value store with the semantics of etcd v3.
//!
//! Owns the [`Store`] trait (revisions, compare-and-swap transactions over several keys, reads of
//! the past, watches from a revision, leases) and two implementations: [`SqliteStore`], durable,
//! for one controller, and [`MemoryStore`], its faithful fake. [`conformance`] is the one suite
//! that every implementation passes.
//!
//! It does not know what the values mean, and nothing here may depend on how one backend stores
//! them: limits and error classes are etcd's, so that an etcd backend fits behind the same trait.
//!
//! On failure: every error has an [`ErrorClass`]. A transaction that was answered is durable. One
//! that failed as invalid changed nothing. One that failed otherwise, or whose future was dropped,
//! may or may not have been applied: read before repeating it, or guard it with a compare.

mod apply;
mod clock;
pub mod conformance;
mod error;
mod event_log;
mod lease;
mod memory;
mod model;
mod sqlite;
mod txn;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use clock::{Clock, ManualClock, SystemClock};
pub use error::{ErrorClass, StoreError};
pub use lease::{MAX_LEASE_TTL, MIN_LEASE_TTL};
pub use memory::{MemoryOptions, MemoryStore};
pub use model::{Event, KeyValue, LeaseId, RangeRequest, RangeResponse, Revision, WatchBatch, WatchStream};
pub use sqlite::{CommitCounts, OpenError, SqliteOptions, SqliteStore};
pub use txn::{Compare, MAX_KEY_BYTES, MAX_TXN_BYTES, MAX_TXN_OPS, MAX_VALUE_BYTES, Op, Txn, TxnResponse};

/// What every backend keeps of the past unless told otherwise, in revisions.
pub const DEFAULT_RETAINED_REVISIONS: u64 = 50_000;

/// An etcd-shaped store. All methods may be called from any number of tasks at once; every read
/// sees every write answered before it began.
#[async_trait]
pub trait Store: Send + Sync {
    /// The revision of the newest change.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// The current value of one key.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError>;

    /// Keys under a prefix in byte order, now or as they were at a revision.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] if `at_revision` is no longer kept, [`StoreError::Invalid`] if it
    /// lies in the future or the limit is 0.
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError>;

    /// Evaluates all compares and applies `success` or `failure`, atomically and durably. All
    /// changes of one transaction share one new revision; a transaction that changes nothing
    /// leaves the revision as it is.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if a limit is exceeded or one branch writes a key twice,
    /// [`StoreError::LeaseNotFound`] if a put of the chosen branch names an unknown lease.
    async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError>;

    /// Every change under `prefix` from revision `from` on (inclusive, may lie in the future).
    /// Each batch holds all events of one revision; batches come in revision order, each once.
    ///
    /// To follow a listing, pass `response.revision.next()`. A slow consumer loses nothing: it is
    /// served from history. The stream ends only after it yielded an error; after
    /// [`StoreError::Compacted`] list again, after any other resume from the last revision seen.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] if `from` is no longer kept.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError>;

    /// Forgets what only readers of revisions before `revision` need. Repeating it is harmless.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if the revision lies in the future.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// Makes a lease. Keys put under it are deleted, in one revision, when it is revoked or when
    /// `ttl` (rounded up to seconds) passes without [`Store::keep_alive`]. After a restart of the
    /// store each lease starts its full time again.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Starts the lease's time again and returns that time.
    ///
    /// # Errors
    /// [`StoreError::LeaseNotFound`] if it is revoked or expired.
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError>;

    /// Ends a lease and deletes its keys; returns the store's revision after that.
    ///
    /// # Errors
    /// [`StoreError::LeaseNotFound`] if it is revoked or expired.
    async fn revoke(&self, lease: LeaseId) -> Result<Revision, StoreError>;
}

/// The form in which the rest of the system holds a store.
pub type SharedStore = Arc<dyn Store>;
