//! Reads, each in its own snapshot on one of a few read connections.
//!
//! A snapshot never waits for the writer nor holds it up. Reads run on tokio's blocking threads.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::tables::key_column;
use super::{failed, from_sql_int, sql_int};
use crate::error::StoreError;
use crate::event_log::{History, HistoryPart};
use crate::model::{Event, KeyValue, LeaseId, RangeRequest, RangeResponse, Revision, WatchBatch, prefix_end};

const READING: &str = "reading";
/// One read of history stops at the first whole revision beyond either.
const HISTORY_ROWS: usize = 2048;
const HISTORY_BYTES: usize = 4 << 20;

pub(super) struct ReadPool {
    idle: Mutex<Vec<Connection>>,
    /// One permit for each connection.
    free: Arc<Semaphore>,
}

/// A connection in use; goes back when dropped, also by a panic, before its permit does.
struct Checkout<'a> {
    connection: Option<Connection>,
    pool: &'a ReadPool,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Checkout<'_> {
    fn drop(&mut self) {
        self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(self.connection.take());
    }
}

impl ReadPool {
    pub(super) fn new(connections: Vec<Connection>) -> Self {
        Self { free: Arc::new(Semaphore::new(connections.len())), idle: Mutex::new(connections) }
    }

    /// Runs a read in a fresh snapshot.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = Arc::clone(&self.free).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let pool = Arc::clone(self);
        // The permit goes along: if the caller gives up, the read still uses its connection.
        let done = tokio::task::spawn_blocking(move || pool.run_blocking(permit, read));
        done.await.map_err(|_| StoreError::Closed)?
    }

    fn run_blocking<T>(
        &self,
        permit: OwnedSemaphorePermit,
        read: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let connection = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut checkout = Checkout { connection, pool: self, _permit: permit };
        let connection = checkout.connection.as_mut().expect("a permit stands for an idle connection");
        let snapshot = connection.transaction().map_err(failed(READING))?;
        read(&snapshot)
    }
}

#[async_trait]
impl History for Arc<ReadPool> {
    async fn read(&self, prefix: &str, from: Revision) -> Result<HistoryPart, StoreError> {
        let prefix = prefix.to_owned();
        self.run(move |snapshot| history(snapshot, &prefix, from)).await
    }
}

/// The newest and the oldest readable revision.
fn bounds(snapshot: &Transaction<'_>) -> Result<(Revision, Revision), StoreError> {
    snapshot
        .prepare_cached("SELECT revision, compacted FROM position")
        .and_then(|mut statement| {
            statement
                .query_row([], |row| Ok((Revision(from_sql_int(row.get(0)?)), Revision(from_sql_int(row.get(1)?)))))
        })
        .map_err(failed(READING))
}

pub(super) fn revision(snapshot: &Transaction<'_>) -> Result<Revision, StoreError> {
    Ok(bounds(snapshot)?.0)
}

/// Refuses a watch that would have to begin with forgotten events.
pub(super) fn check_kept(snapshot: &Transaction<'_>, from: Revision) -> Result<(), StoreError> {
    let (_, oldest) = bounds(snapshot)?;
    if from < oldest {
        return Err(StoreError::Compacted { requested: from, oldest });
    }
    Ok(())
}

pub(super) fn get(snapshot: &Transaction<'_>, key: &str) -> Result<Option<KeyValue>, StoreError> {
    snapshot
        .prepare_cached(
            "SELECT v.key, v.value, v.create_revision, v.revision, v.version, v.lease
             FROM live AS l JOIN versions AS v USING (id) WHERE l.key = ?1",
        )
        .and_then(|mut statement| statement.query_row([key.as_bytes()], key_value).optional())
        .map_err(failed(READING))
}

pub(super) fn range(snapshot: &Transaction<'_>, request: &RangeRequest) -> Result<RangeResponse, StoreError> {
    let (current, compacted) = bounds(snapshot)?;
    let revision = request.resolve(current, compacted)?;
    let limit = request.limit.unwrap_or(usize::MAX);
    // One row more than asked for tells whether there are more.
    let rows = sql_int((limit as u64).saturating_add(1));
    let start = request.lower_bound();
    let end = prefix_end(&request.prefix);
    let mut kvs = if revision == current {
        let mut statement = snapshot
            .prepare_cached(
                "SELECT v.key, v.value, v.create_revision, v.revision, v.version, v.lease
                 FROM live AS l JOIN versions AS v USING (id)
                 WHERE l.key >= ?1 AND l.key < ?2 ORDER BY l.key LIMIT ?3",
            )
            .map_err(failed(READING))?;
        collect(statement.query_map(params![start, end, rows], key_value))?
    } else {
        let mut statement = snapshot
            .prepare_cached(
                // Walks the keys in order and stops at the limit, so that a page costs a page.
                "SELECT v.key, v.value, v.create_revision, v.revision, v.version, v.lease
                 FROM versions AS v INDEXED BY versions_by_key
                 WHERE v.key >= ?1 AND v.key < ?2 AND v.revision <= ?4 AND v.value IS NOT NULL
                 AND NOT EXISTS (SELECT 1 FROM versions AS newer WHERE newer.key = v.key
                                 AND newer.revision > v.revision AND newer.revision <= ?4)
                 ORDER BY v.key LIMIT ?3",
            )
            .map_err(failed(READING))?;
        let at = sql_int(revision.0);
        collect(statement.query_map(params![start, end, rows, at], key_value))?
    };
    let more = kvs.len() > limit;
    kvs.truncate(limit);
    Ok(RangeResponse { kvs, revision, more })
}

fn collect(
    rows: rusqlite::Result<impl Iterator<Item = rusqlite::Result<KeyValue>>>,
) -> Result<Vec<KeyValue>, StoreError> {
    rows.and_then(Iterator::collect).map_err(failed(READING))
}

fn history(snapshot: &Transaction<'_>, prefix: &str, from: Revision) -> Result<HistoryPart, StoreError> {
    check_kept(snapshot, from)?;
    let mut next = revision(snapshot)?.next();
    let mut batches: Vec<WatchBatch> = Vec::new();
    let (mut rows_seen, mut bytes) = (0, 0);
    let mut last_revision = None;
    let mut read = || -> rusqlite::Result<()> {
        let mut statement = snapshot.prepare_cached(
            "SELECT key, value, create_revision, revision, version, lease FROM versions
             WHERE revision >= ?1 ORDER BY revision, id",
        )?;
        let mut rows = statement.query([sql_int(from.0)])?;
        while let Some(row) = rows.next()? {
            let revision = Revision(from_sql_int(row.get(3)?));
            let whole = last_revision != Some(revision);
            if whole && (rows_seen >= HISTORY_ROWS || bytes >= HISTORY_BYTES) {
                next = revision;
                break;
            }
            last_revision = Some(revision);
            rows_seen += 1;
            let event = event(row)?;
            if !event.key().starts_with(prefix) {
                continue;
            }
            bytes += event.bytes();
            match batches.last_mut() {
                Some(batch) if batch.revision == revision => batch.events.push(event),
                _ => batches.push(WatchBatch { revision, events: vec![event] }),
            }
        }
        Ok(())
    };
    read().map_err(failed("reading history"))?;
    Ok(HistoryPart { batches, next })
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    if row.get_ref(1)? == rusqlite::types::ValueRef::Null {
        return Ok(Event::Delete { key: key_column(row, 0)?, revision: Revision(from_sql_int(row.get(3)?)) });
    }
    key_value(row).map(Event::Put)
}

/// From the columns key, value, create_revision, revision, version, lease.
fn key_value(row: &Row<'_>) -> rusqlite::Result<KeyValue> {
    Ok(KeyValue {
        key: key_column(row, 0)?,
        value: Bytes::from(row.get::<_, Vec<u8>>(1)?),
        create_revision: Revision(from_sql_int(row.get(2)?)),
        mod_revision: Revision(from_sql_int(row.get(3)?)),
        version: from_sql_int(row.get(4)?),
        lease: row.get::<_, Option<i64>>(5)?.map(|lease| LeaseId(from_sql_int(lease))),
    })
}
