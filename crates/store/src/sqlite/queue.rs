//! The requests that wait for the writer thread.
//!
//! Bounded by bytes: whoever brings more waits its turn. Requests are taken in the order they
//! came. After closing, what is queued is still served and new requests are refused.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::error::StoreError;
use crate::model::{LeaseId, Revision};
use crate::txn::{Txn, TxnResponse};

/// What may wait: 64 MiB, in KiB, each request counting at least one.
const QUEUE_KIB: u32 = 64 * 1024;
/// What goes into one commit, at most.
const BATCH_REQUESTS: usize = 1024;
const BATCH_KIB: usize = 16 * 1024;

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A change and where its answer goes.
pub(super) enum Command {
    Txn { txn: Txn, reply: Reply<TxnResponse> },
    Compact { revision: Revision, reply: Reply<Revision> },
    Grant { ttl: Duration, reply: Reply<LeaseId> },
    Revoke { lease: LeaseId, reply: Reply<Revision> },
}

impl Command {
    /// Answers with an error.
    pub(super) fn fail(self, error: &StoreError) {
        // Whoever no longer waits for an answer does not miss it.
        match self {
            Self::Txn { reply, .. } => drop(reply.send(Err(error.clone()))),
            Self::Compact { reply, .. } | Self::Revoke { reply, .. } => {
                drop(reply.send(Err(error.clone())));
            }
            Self::Grant { reply, .. } => drop(reply.send(Err(error.clone()))),
        }
    }
}

pub(super) struct Request {
    command: Command,
    room: OwnedSemaphorePermit,
}

impl Request {
    /// The room is to be held until the answer, so that the queue's bound covers the batch being
    /// committed too.
    pub(super) fn into_parts(self) -> (Command, OwnedSemaphorePermit) {
        (self.command, self.room)
    }
}

pub(super) struct CommitQueue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    closed: bool,
}

impl Default for CommitQueue {
    fn default() -> Self {
        Self { waiting: Mutex::default(), arrived: Condvar::new(), room: Arc::new(Semaphore::new(QUEUE_KIB as usize)) }
    }
}

impl CommitQueue {
    /// Queues a request and waits for its answer.
    pub(super) async fn submit<T>(
        &self,
        bytes: usize,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, StoreError> {
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(QUEUE_KIB);
        let room =
            Arc::clone(&self.room).acquire_many_owned(kib.min(QUEUE_KIB)).await.map_err(|_| StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let request = Request { command: command(reply), room };
        {
            let mut waiting = self.lock();
            if waiting.closed {
                return Err(StoreError::Closed);
            }
            waiting.requests.push_back(request);
        }
        self.arrived.notify_one();
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// The next requests to commit together. Blocks for the first one unless `idle_work` is
    /// waiting; `None` once the queue is closed and empty.
    pub(super) fn next_batch(&self, idle_work: bool) -> Option<Vec<Request>> {
        let mut waiting = self.lock();
        while waiting.requests.is_empty() && !waiting.closed && !idle_work {
            waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        if waiting.requests.is_empty() && waiting.closed {
            return None;
        }
        let mut kib = 0;
        let mut batch = Vec::new();
        while batch.len() < BATCH_REQUESTS
            && kib < BATCH_KIB
            && let Some(request) = waiting.requests.pop_front()
        {
            kib += request.room.num_permits();
            batch.push(request);
        }
        Some(batch)
    }

    /// Refuses what comes from now on.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.room.close();
        self.arrived.notify_all();
    }

    /// Closes and drops what is queued; whoever waits for it is told that the store is closed.
    pub(super) fn abandon(&self) {
        self.close();
        self.lock().requests.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while the queue is half-changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
