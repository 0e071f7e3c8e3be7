//! The durable store of one controller: SQLite in WAL mode, synced at every commit.
//!
//! ```text
//!   txn, compact, grant, revoke ─► CommitQueue ─► writer thread ─► one commit + fsync for all
//!   keep_alive ─► LeaseDeadlines ─(expired)─►┘          │ after it: answers, then
//!   get, range ─► ReadPool (own snapshots)              ▼
//!   watch ◄─ ReadPool (history) + EventLog (recent) ◄─ events
//! ```
//!
//! One process owns the file: a lock file beside it keeps others out. Dropping the store finishes
//! what was queued, then closes.
//!
//! On failure: a full disk fails the requests at hand and nothing else. If a commit fails in a way
//! that leaves its outcome unknown, the store stops writing for good until it is opened again.

mod open;
mod queue;
mod reader;
mod tables;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::ErrorCode;
use tokio::task::AbortHandle;

use crate::clock::{Clock, SystemClock};
use crate::error::StoreError;
use crate::event_log::{EventLog, History, LogLimits};
use crate::lease::{LeaseDeadlines, whole_seconds};
use crate::model::{KeyValue, LeaseId, RangeRequest, RangeResponse, Revision, WatchStream};
use crate::txn::{Txn, TxnResponse, validate_key, validate_prefix};
use crate::{DEFAULT_RETAINED_REVISIONS, Store};

pub use open::OpenError;
use queue::{Command, CommitQueue};
use reader::ReadPool;
use writer::{WriteCounters, Writer};

/// How a [`SqliteStore`] behaves.
pub struct SqliteOptions {
    pub clock: Arc<dyn Clock>,
    /// Older history is compacted away.
    pub retained_revisions: u64,
    /// How many reads go on at once.
    pub read_connections: usize,
    /// How many recent revisions watches read from memory instead of the file.
    pub recent_revisions: usize,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock::default()),
            retained_revisions: DEFAULT_RETAINED_REVISIONS,
            read_connections: 4,
            recent_revisions: 4096,
        }
    }
}

const RECENT_BYTES: usize = 16 << 20;

/// What the writer did since the store was opened; requests per commit tell how well it groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitCounts {
    pub requests: u64,
    pub commits: u64,
}

/// A store in a file.
pub struct SqliteStore {
    queue: Arc<CommitQueue>,
    reads: Arc<ReadPool>,
    log: Arc<EventLog>,
    deadlines: Arc<LeaseDeadlines>,
    counters: Arc<WriteCounters>,
    expiry: AbortHandle,
    writer: Option<JoinHandle<()>>,
}

impl SqliteStore {
    /// Opens or creates a store with default options.
    ///
    /// # Errors
    /// As [`SqliteStore::open_with`].
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open_with(path, SqliteOptions::default()).await
    }

    /// Opens or creates a store. Must be called within a tokio runtime that outlives the store.
    ///
    /// # Errors
    /// [`OpenError`] if another process has it open, the file is something else, or it was written
    /// by a newer version.
    pub async fn open_with(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self, OpenError> {
        let path = path.as_ref().to_owned();
        let read_connections = options.read_connections.max(1);
        let opened = {
            let opened_path = path.clone();
            tokio::task::spawn_blocking(move || open::open(&opened_path, read_connections)).await.map_err(
                |source| OpenError::Io {
                    path: path.clone(),
                    doing: "starting the opening thread",
                    source: source.into(),
                },
            )??
        };
        Self::start(opened, &path, options)
    }

    fn start(opened: open::Opened, path: &Path, options: SqliteOptions) -> Result<Self, OpenError> {
        let recent = LogLimits { revisions: options.recent_revisions, bytes: RECENT_BYTES };
        let log = Arc::new(EventLog::new(opened.position.revision, recent));
        let deadlines = Arc::new(LeaseDeadlines::new(options.clock));
        for (lease, ttl) in opened.leases {
            deadlines.start(lease, ttl);
        }
        let queue = Arc::new(CommitQueue::default());
        let counters = Arc::new(WriteCounters::default());
        let writer = Writer {
            connection: opened.writer,
            lock_file: opened.lock_file,
            position: opened.position,
            retained_revisions: options.retained_revisions,
            purge_pending: true,
            queue: Arc::clone(&queue),
            log: Arc::clone(&log),
            deadlines: Arc::clone(&deadlines),
            counters: Arc::clone(&counters),
        };
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(|source| OpenError::Io { path: path.to_owned(), doing: "starting the writer thread", source })?;
        let expiry = {
            let queue = Arc::clone(&queue);
            let expiry = Arc::clone(&deadlines).expire_forever(move |lease| {
                let queue = Arc::clone(&queue);
                async move { revoke(&queue, lease).await.map(drop) }
            });
            tokio::spawn(expiry).abort_handle()
        };
        Ok(Self {
            queue,
            reads: Arc::new(ReadPool::new(opened.readers)),
            log,
            deadlines,
            counters,
            expiry,
            writer: Some(writer),
        })
    }

    /// How many requests were committed in how many commits.
    #[must_use]
    pub fn commit_counts(&self) -> CommitCounts {
        CommitCounts {
            requests: self.counters.requests.load(Ordering::Relaxed),
            commits: self.counters.commits.load(Ordering::Relaxed),
        }
    }
}

impl Drop for SqliteStore {
    /// Waits for the queued requests, so that the file can be opened again right after.
    fn drop(&mut self) {
        self.expiry.abort();
        self.queue.close();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer thread had panicked");
        }
    }
}

async fn revoke(queue: &CommitQueue, lease: LeaseId) -> Result<Revision, StoreError> {
    queue.submit(0, |reply| Command::Revoke { lease, reply }).await
}

#[async_trait]
impl Store for SqliteStore {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.reads.run(reader::revision).await
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        validate_key(key)?;
        let key = key.to_owned();
        self.reads.run(move |db| reader::get(db, &key)).await
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        validate_prefix(&request.prefix)?;
        self.reads.run(move |db| reader::range(db, &request)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        txn.validate()?;
        self.queue.submit(txn.bytes(), |reply| Command::Txn { txn, reply }).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        validate_prefix(prefix)?;
        self.reads.run(move |db| reader::check_kept(db, from)).await?;
        // An empty store's first event is that of the revision after the initial one.
        let from = from.max(Revision::INITIAL.next());
        let history: Arc<dyn History> = Arc::new(Arc::clone(&self.reads));
        Ok(self.log.watch(history, prefix, from))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.queue.submit(0, |reply| Command::Compact { revision, reply }).await.map(drop)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let ttl = whole_seconds(ttl)?;
        self.queue.submit(0, |reply| Command::Grant { ttl, reply }).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.deadlines.keep_alive(lease)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<Revision, StoreError> {
        revoke(&self.queue, lease).await
    }
}

/// Sorts SQLite's failures: what passes by itself or by freeing space is transient.
fn failed(doing: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |error| {
        let transient = matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::OutOfMemory)
        );
        let source = Arc::new(error);
        if transient { StoreError::Transient { doing, source } } else { StoreError::Permanent { doing, source } }
    }
}

/// SQLite's integers are signed; what is beyond them lies after everything stored.
fn sql_int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Reads back what [`sql_int`] wrote.
fn from_sql_int(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorClass, Op, RangeRequest};

    /// Two keys, of which the first has room when the second has not.
    fn put(key: &str, bytes: usize) -> Txn {
        Txn::new().then(Op::put(format!("small/{key}"), "")).then(Op::put(key, vec![7; bytes]))
    }

    /// Stands in for a full disk: SQLite reports the same error when the file may not grow.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_full_disk_fails_what_needs_space_and_loses_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("store");
        let opened = open::open(&path, 2).expect("open");
        opened.writer.pragma_update(None, "max_page_count", 400).expect("limit the file");
        let options = SqliteOptions { retained_revisions: 5, ..SqliteOptions::default() };
        let store = Arc::new(SqliteStore::start(opened, &path, options).expect("start"));
        let mut answers = Vec::new();
        for n in 0..40 {
            let store = Arc::clone(&store);
            answers.push(tokio::spawn(async move {
                let key = format!("k{n:02}");
                (key.clone(), store.txn(put(&key, 100_000)).await)
            }));
        }
        let (mut stored, mut refused) = (Vec::new(), 0);
        for answer in answers {
            match answer.await.expect("no panic") {
                (key, Ok(response)) => stored.push((key, response.revision)),
                (_, Err(error)) => {
                    assert_eq!(error.class(), ErrorClass::Transient, "{error}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 0, "400 pages do not hold 4 MB");
        // The store goes on: what needs no room still works, and frees some.
        for (key, _) in &stored {
            let txn = Txn::new().then(Op::delete(format!("small/{key}"))).then(Op::delete(key.clone()));
            store.txn(txn).await.expect("delete");
        }
        let last = store.txn(put("last", 100_000)).await.expect("room again");
        drop(store);
        let store = SqliteStore::open(&path).await.expect("open again");
        assert_eq!(store.revision().await.expect("revision"), last.revision);
        let all = store.range(RangeRequest::default()).await.expect("range");
        let keys: Vec<_> = all.kvs.iter().map(|kv| kv.key.as_str()).collect();
        assert_eq!(keys, ["last", "small/last"], "what was refused left traces");
        let changes = 2 * stored.len() as u64 + 1;
        assert_eq!(last.revision.0, Revision::INITIAL.0 + changes);
    }

    /// A trigger stands for whatever may go wrong in the middle of one request.
    #[tokio::test]
    async fn a_request_that_fails_half_way_is_undone_and_leaves_its_batch_alone() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("store");
        let opened = open::open(&path, 2).expect("open");
        opened
            .writer
            .execute_batch(
                "CREATE TEMP TRIGGER poison BEFORE INSERT ON versions
                 WHEN NEW.key = CAST('poison' AS BLOB)
                 BEGIN SELECT RAISE(ABORT, 'poisoned'); END",
            )
            .expect("create the trigger");
        let store = SqliteStore::start(opened, &path, SqliteOptions::default()).expect("start");
        let first = store.txn(put("k", 1)).await.expect("put").revision;
        let names = ["a", "poison", "b", "poison", "c"];
        let answers = futures::future::join_all(names.map(|name| store.txn(put(name, 1)))).await;
        let mut revisions = Vec::new();
        for (name, answer) in names.iter().zip(answers) {
            match answer {
                Ok(response) => revisions.push((*name, response.revision.0 - first.0)),
                Err(error) => {
                    assert_eq!(*name, "poison", "{error}");
                    assert_eq!(error.class(), ErrorClass::Permanent, "{error}");
                }
            }
        }
        assert_eq!(revisions, [("a", 1), ("b", 2), ("c", 3)]);
        let all = store.range(RangeRequest::default()).await.expect("range");
        let keys: Vec<_> = all.kvs.iter().map(|kv| kv.key.as_str()).collect();
        assert_eq!(keys, ["a", "b", "c", "k", "small/a", "small/b", "small/c", "small/k"]);
    }
}
