//! Recent events in memory, and the watch streams that read them.
//!
//! A watch is a cursor, the next revision it needs, and nothing else: it takes what the log has,
//! reads what the log no longer has from the backend's [`History`], and waits when there is
//! nothing yet. So history and live events meet without a gap or a duplicate, nobody buffers for
//! a slow consumer, and none is ever dropped from the middle.
//!
//! If history fails, or the log is closed and read to its end, the stream yields that error and
//! ends.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use tokio::sync::watch;

use crate::error::StoreError;
use crate::model::{Event, Revision, WatchBatch, WatchStream};

/// How many revisions a cursor takes at once.
const TAKE_REVISIONS: usize = 256;

/// Where events older than the log come from.
#[async_trait]
pub(crate) trait History: Send + Sync {
    /// Some of the events from `from` on, in whole revisions.
    async fn read(&self, prefix: &str, from: Revision) -> Result<HistoryPart, StoreError>;
}

/// Batches under a prefix, complete up to but not including `next`.
pub(crate) struct HistoryPart {
    pub batches: Vec<WatchBatch>,
    pub next: Revision,
}

/// How much the log keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogLimits {
    pub revisions: usize,
    pub bytes: usize,
}

pub(crate) struct EventLog {
    recent: Mutex<Recent>,
    head: watch::Sender<Head>,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    revision: Revision,
    closed: bool,
}

struct Recent {
    batches: VecDeque<Arc<WatchBatch>>,
    /// Everything from here on is in `batches`.
    oldest: Revision,
    bytes: usize,
    limits: LogLimits,
}

enum Taken {
    Part(HistoryPart),
    TooOld { oldest: Revision },
    NotYet,
}

impl EventLog {
    /// A log that will first be given the events of `revision.next()`.
    pub(crate) fn new(revision: Revision, limits: LogLimits) -> Self {
        Self {
            recent: Mutex::new(Recent { batches: VecDeque::new(), oldest: revision.next(), bytes: 0, limits }),
            head: watch::Sender::new(Head { revision, closed: false }),
        }
    }

    /// Adds the events of the following revisions and wakes the watches.
    pub(crate) fn publish(&self, batches: Vec<WatchBatch>) {
        let Some(last) = batches.last().map(|batch| batch.revision) else {
            return;
        };
        let mut recent = self.lock();
        for batch in batches {
            recent.push(batch);
        }
        drop(recent);
        self.head.send_modify(|head| head.revision = last);
    }

    /// Drops what was before `revision`.
    pub(crate) fn forget_before(&self, revision: Revision) {
        let mut recent = self.lock();
        while recent.batches.front().is_some_and(|batch| batch.revision < revision) {
            recent.pop();
        }
        recent.oldest = recent.oldest.max(revision);
    }

    /// The watches end once they have read what there is.
    pub(crate) fn close(&self) {
        self.head.send_modify(|head| head.closed = true);
    }

    /// A stream of the changes under `prefix` from `from` on.
    pub(crate) fn watch(self: &Arc<Self>, history: Arc<dyn History>, prefix: &str, from: Revision) -> WatchStream {
        let cursor = Cursor {
            head: self.head.subscribe(),
            log: Arc::clone(self),
            history,
            prefix: prefix.to_owned(),
            next: from,
            ready: VecDeque::new(),
        };
        stream::unfold(Some(cursor), |cursor| async {
            let mut cursor = cursor?;
            match cursor.next_batch().await {
                Ok(batch) => Some((Ok(batch), Some(cursor))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    fn take(&self, prefix: &str, from: Revision) -> Taken {
        let recent = self.lock();
        if from < recent.oldest {
            return Taken::TooOld { oldest: recent.oldest };
        }
        let start = recent.batches.partition_point(|batch| batch.revision < from);
        let mut next = None;
        let mut batches = Vec::new();
        for batch in recent.batches.iter().skip(start).take(TAKE_REVISIONS) {
            next = Some(batch.revision.next());
            batches.extend(under_prefix(batch, prefix));
        }
        match next {
            Some(next) => Taken::Part(HistoryPart { batches, next }),
            None => Taken::NotYet,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        // Pushing and popping cannot panic half-way.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recent {
    fn push(&mut self, batch: WatchBatch) {
        let expected = self.batches.back().map_or(self.oldest, |last| last.revision.next());
        assert_eq!(batch.revision, expected, "a revision was skipped or repeated");
        self.bytes += batch_bytes(&batch);
        self.batches.push_back(Arc::new(batch));
        while self.batches.len() > self.limits.revisions || self.bytes > self.limits.bytes {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(batch) = self.batches.pop_front() {
            self.bytes -= batch_bytes(&batch);
            self.oldest = batch.revision.next();
        }
    }
}

fn batch_bytes(batch: &WatchBatch) -> usize {
    batch.events.iter().map(Event::bytes).sum()
}

fn under_prefix(batch: &WatchBatch, prefix: &str) -> Option<WatchBatch> {
    let events: Vec<Event> = batch.events.iter().filter(|event| event.key().starts_with(prefix)).cloned().collect();
    (!events.is_empty()).then_some(WatchBatch { revision: batch.revision, events })
}

struct Cursor {
    log: Arc<EventLog>,
    head: watch::Receiver<Head>,
    history: Arc<dyn History>,
    prefix: String,
    next: Revision,
    ready: VecDeque<WatchBatch>,
}

impl Cursor {
    async fn next_batch(&mut self) -> Result<WatchBatch, StoreError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(batch);
            }
            let part = match self.log.take(&self.prefix, self.next) {
                Taken::Part(part) => part,
                Taken::TooOld { oldest } => {
                    let part = self.history.read(&self.prefix, self.next).await?;
                    assert!(part.next > self.next, "history before {oldest} gave nothing from {}", self.next);
                    part
                }
                Taken::NotYet => {
                    let next = self.next;
                    let head = self
                        .head
                        .wait_for(|head| head.revision >= next || head.closed)
                        .await
                        .map_err(|_| StoreError::Closed)?;
                    if head.revision < next {
                        return Err(StoreError::Closed);
                    }
                    continue;
                }
            };
            self.ready.extend(part.batches);
            self.next = part.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has every revision up to 100, two at a time.
    struct Deletes;

    fn deletion(revision: u64) -> WatchBatch {
        WatchBatch {
            revision: Revision(revision),
            events: vec![Event::Delete { key: "k".into(), revision: Revision(revision) }],
        }
    }

    #[async_trait]
    impl History for Deletes {
        async fn read(&self, _: &str, from: Revision) -> Result<HistoryPart, StoreError> {
            let until = (from.0 + 2).min(101);
            Ok(HistoryPart { batches: (from.0..until).map(deletion).collect(), next: Revision(until) })
        }
    }

    #[tokio::test]
    async fn a_watch_moves_from_history_to_the_log_and_ends_when_closed() {
        let limits = LogLimits { revisions: 5, bytes: 1000 };
        let log = Arc::new(EventLog::new(Revision(1), limits));
        log.publish((2..=100).map(deletion).collect());
        let mut watch = log.watch(Arc::new(Deletes), "", Revision(50));
        for revision in 50..=100 {
            let batch = watch.next().await.expect("open").expect("no error");
            assert_eq!(batch, deletion(revision));
        }
        log.publish(vec![deletion(101)]);
        log.close();
        let batch = watch.next().await.expect("open").expect("no error");
        assert_eq!(batch, deletion(101));
        assert!(matches!(watch.next().await, Some(Err(StoreError::Closed))));
        assert!(watch.next().await.is_none());
    }

    #[test]
    fn the_log_is_bounded_by_revisions_and_by_bytes() {
        let limits = LogLimits { revisions: 5, bytes: 3 };
        let log = EventLog::new(Revision(1), limits);
        log.publish((2..=100).map(deletion).collect());
        // Each deletion weighs the one byte of its key.
        assert_eq!(log.lock().batches.len(), 3);
        assert_eq!(log.lock().oldest, Revision(98));
    }
}
