//! The one thread that writes, and its group commit.
//!
//! It takes all requests that wait, runs each in a savepoint inside one SQLite transaction,
//! commits with one sync, publishes the events, then answers all. So the cost of a sync is shared
//! by everybody who waited for the one before.
//!
//! A request that is refused or fails is rolled back to its savepoint and does not touch the
//! others, unless SQLite had to give up the whole transaction, as on a full disk: then all of the
//! batch fail and may be repeated. A failed commit fails all of its requests too; if it could have
//! reached the disk in spite of that (anything but a lack of space or memory), the thread stops
//! for good, because a later commit might build on what readers never saw.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::Connection;

use super::failed;
use super::open::Position;
use super::queue::{Command, CommitQueue, Reply, Request};
use super::tables::SqlTables;
use crate::apply::{apply_revoke, apply_txn};
use crate::error::{ErrorClass, StoreError};
use crate::event_log::EventLog;
use crate::lease::LeaseDeadlines;
use crate::model::{Event, LeaseId, Revision, WatchBatch};
use crate::txn::TxnResponse;

/// Superseded versions removed in one commit: more than a busy one makes, so that the garbage
/// always shrinks, and little enough to keep it short.
const PURGE_ROWS: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct WriteCounters {
    pub requests: AtomicU64,
    pub commits: AtomicU64,
}

pub(super) struct Writer {
    // Declared before the lock: the database is closed before the next process may open it.
    pub connection: Connection,
    pub lock_file: File,
    pub position: Position,
    pub retained_revisions: u64,
    /// There may be garbage to remove.
    pub purge_pending: bool,
    pub queue: Arc<CommitQueue>,
    pub log: Arc<EventLog>,
    pub deadlines: Arc<LeaseDeadlines>,
    pub counters: Arc<WriteCounters>,
}

/// An answer that is given once the batch is durable.
enum Answer {
    Txn(Reply<TxnResponse>, TxnResponse),
    Revision(Reply<Revision>, Revision),
    Granted(Reply<LeaseId>, LeaseId, Duration),
    Revoked(Reply<Revision>, LeaseId, Revision),
}

#[derive(Default)]
struct Batch {
    answers: Vec<Answer>,
    events: Vec<WatchBatch>,
    /// Versions were superseded or the compacted revision moved.
    compacts: bool,
}

impl Writer {
    pub(super) fn run(mut self) {
        let _ended = CloseOnDrop { queue: Arc::clone(&self.queue), log: Arc::clone(&self.log) };
        while let Some(requests) = self.queue.next_batch(self.purge_pending) {
            let before = self.position;
            let count = requests.len() as u64;
            // The room in the queue is given back after the answers.
            let (commands, _room): (Vec<_>, Vec<_>) = requests.into_iter().map(Request::into_parts).unzip();
            let mut batch = Batch::default();
            let outcome =
                self.begin().and_then(|()| self.fill(commands, &mut batch)).and_then(|()| self.commit(&batch));
            match outcome {
                Ok(()) => {
                    self.counters.requests.fetch_add(count, Ordering::Relaxed);
                    self.counters.commits.fetch_add(1, Ordering::Relaxed);
                    self.succeed(batch);
                }
                Err(error) => {
                    self.position = before;
                    let lost = !self.roll_back() || error.class() == ErrorClass::Permanent;
                    tracing::error!(%error, requests = count, "a commit of the store failed");
                    // Removing history can wait for the next request instead of spinning.
                    self.purge_pending = false;
                    batch.fail(&error);
                    if lost {
                        return;
                    }
                }
            }
        }
        // The lock outlives the connection: see the order of the fields.
        let Self { connection, lock_file, .. } = self;
        if let Err((_, error)) = connection.close() {
            tracing::warn!(%error, "the store could not be closed cleanly; it recovers when opened");
        }
        drop(lock_file);
    }

    fn begin(&self) -> Result<(), StoreError> {
        self.execute("BEGIN IMMEDIATE", "beginning a commit")
    }

    /// Runs each command in its savepoint. An error means that the whole batch is lost.
    fn fill(&mut self, commands: Vec<Command>, batch: &mut Batch) -> Result<(), StoreError> {
        let mut commands = commands.into_iter();
        while let Some(command) = commands.next() {
            self.execute("SAVEPOINT request", "beginning a request")?;
            let before = (self.position, batch.events.len());
            let refused = self.run_command(command, batch);
            if let Some(refused) = refused {
                self.position = before.0;
                batch.events.truncate(before.1);
                // A full disk may have made SQLite end the transaction of the whole batch.
                if self.connection.is_autocommit() {
                    let error = refused.error.clone();
                    refused.answer();
                    commands.for_each(|command| command.fail(&error));
                    return Err(error);
                }
                let undone = self.execute("ROLLBACK TO request", "undoing a request");
                refused.answer();
                undone?;
            }
            self.execute("RELEASE request", "ending a request")?;
        }
        Ok(())
    }

    /// Leaves its answer in the batch, or returns the refusal.
    fn run_command(&mut self, command: Command, batch: &mut Batch) -> Option<Refused> {
        match command {
            Command::Txn { txn, reply } => {
                let next = self.position.revision.next();
                match apply_txn(&mut self.tables(), &txn, next) {
                    Ok(applied) => {
                        let response =
                            TxnResponse { succeeded: applied.succeeded, revision: self.record(applied.events, batch) };
                        batch.answers.push(Answer::Txn(reply, response));
                        None
                    }
                    Err(error) => Some(Refused::new(error, reply)),
                }
            }
            Command::Revoke { lease, reply } => {
                let next = self.position.revision.next();
                match apply_revoke(&mut self.tables(), lease, next) {
                    Ok(events) => {
                        let revision = self.record(events, batch);
                        batch.answers.push(Answer::Revoked(reply, lease, revision));
                        None
                    }
                    Err(error) => Some(Refused::new(error, reply)),
                }
            }
            Command::Grant { ttl, reply } => match self.tables().add_lease(ttl.as_secs()) {
                Ok(lease) => {
                    batch.answers.push(Answer::Granted(reply, lease, ttl));
                    None
                }
                Err(error) => Some(Refused::new(error, reply)),
            },
            Command::Compact { revision, reply } => {
                let current = self.position.revision;
                if revision > current {
                    return Some(Refused::new(StoreError::future(revision, current), reply));
                }
                self.position.compacted = self.position.compacted.max(revision);
                batch.compacts = true;
                batch.answers.push(Answer::Revision(reply, current));
                None
            }
        }
    }

    /// Makes the next revision of the events, if there are any.
    fn record(&mut self, events: Vec<Event>, batch: &mut Batch) -> Revision {
        if !events.is_empty() {
            self.position.revision = self.position.revision.next();
            batch.events.push(WatchBatch { revision: self.position.revision, events });
        }
        self.position.revision
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let kept_from = Revision(self.position.revision.0.saturating_sub(self.retained_revisions));
        self.position.compacted = self.position.compacted.max(kept_from);
        if self.purge_pending || batch.compacts || !batch.events.is_empty() {
            self.purge_pending = self.tables().purge(PURGE_ROWS)? == PURGE_ROWS;
        }
        self.tables().save_position()?;
        self.execute("COMMIT", "committing")
    }

    fn succeed(&self, batch: Batch) {
        // Before the answers: a lease has its deadline when its holder learns of it.
        for answer in &batch.answers {
            match answer {
                Answer::Granted(_, lease, ttl) => self.deadlines.start(*lease, *ttl),
                Answer::Revoked(_, lease, _) => self.deadlines.forget(*lease),
                Answer::Txn(..) | Answer::Revision(..) => {}
            }
        }
        self.log.publish(batch.events);
        // Whoever no longer waits for an answer does not miss it.
        for answer in batch.answers {
            match answer {
                Answer::Txn(reply, response) => drop(reply.send(Ok(response))),
                Answer::Revision(reply, revision) | Answer::Revoked(reply, _, revision) => {
                    drop(reply.send(Ok(revision)));
                }
                Answer::Granted(reply, lease, _) => drop(reply.send(Ok(lease))),
            }
        }
    }

    /// Whether the connection is out of its transaction and fit for another.
    fn roll_back(&self) -> bool {
        if self.connection.is_autocommit() {
            return true;
        }
        match self.execute("ROLLBACK", "rolling back") {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "the store cannot roll back and stops");
                false
            }
        }
    }

    fn tables(&mut self) -> SqlTables<'_> {
        SqlTables { connection: &self.connection, position: &mut self.position }
    }

    fn execute(&self, sql: &str, doing: &'static str) -> Result<(), StoreError> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute([]))
            .map(drop)
            .map_err(failed(doing))
    }
}

impl Batch {
    fn fail(self, error: &StoreError) {
        for answer in self.answers {
            match answer {
                Answer::Txn(reply, _) => drop(reply.send(Err(error.clone()))),
                Answer::Revision(reply, _) | Answer::Revoked(reply, _, _) => {
                    drop(reply.send(Err(error.clone())));
                }
                Answer::Granted(reply, _, _) => drop(reply.send(Err(error.clone()))),
            }
        }
    }
}

/// A request that failed by itself, not yet told so.
struct Refused {
    error: StoreError,
    send: Box<dyn FnOnce(StoreError)>,
}

impl Refused {
    fn new<T: 'static>(error: StoreError, reply: Reply<T>) -> Self {
        Self { error, send: Box::new(move |error| drop(reply.send(Err(error)))) }
    }

    fn answer(self) {
        (self.send)(self.error);
    }
}

/// However the writer ends, by a panic too, nobody waits for it any longer.
struct CloseOnDrop {
    queue: Arc<CommitQueue>,
    log: Arc<EventLog>,
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.queue.abandon();
        self.log.close();
    }
}
