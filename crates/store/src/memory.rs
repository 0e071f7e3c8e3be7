//! The store in memory: the faithful fake of the durable ones.
//!
//! Owns every kept version of every key behind one lock. Nothing survives it; apart from that it
//! behaves as the trait says, limits, history, retention and leases included.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::AbortHandle;

use crate::apply::{KeyHead, Tables, apply_revoke, apply_txn};
use crate::clock::{Clock, SystemClock};
use crate::error::StoreError;
use crate::event_log::{EventLog, History, HistoryPart, LogLimits};
use crate::lease::{LeaseDeadlines, whole_seconds};
use crate::model::{Event, KeyValue, LeaseId, RangeRequest, RangeResponse, Revision, WatchBatch, WatchStream};
use crate::txn::{Txn, TxnResponse, validate_key, validate_prefix};
use crate::{DEFAULT_RETAINED_REVISIONS, Store};

/// How a [`MemoryStore`] behaves.
pub struct MemoryOptions {
    pub clock: Arc<dyn Clock>,
    /// Older history is compacted away.
    pub retained_revisions: u64,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock::default()), retained_revisions: DEFAULT_RETAINED_REVISIONS }
    }
}

/// A store that is gone when it is dropped.
pub struct MemoryStore {
    shared: Arc<Shared>,
    /// Started by the first grant, so that making a store needs no runtime.
    expiry: OnceLock<AbortHandle>,
}

struct Shared {
    state: Mutex<State>,
    log: Arc<EventLog>,
    deadlines: Arc<LeaseDeadlines>,
    retained_revisions: u64,
}

struct State {
    revision: Revision,
    compacted: Revision,
    last_lease: u64,
    tables: MemoryTables,
}

/// `None` marks a deletion.
type Versions = Vec<(Revision, Option<KeyValue>)>;

#[derive(Default)]
struct MemoryTables {
    /// Never empty per key, in revision order.
    keys: BTreeMap<String, Versions>,
    leases: BTreeMap<LeaseId, BTreeSet<String>>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(MemoryOptions::default())
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(options: MemoryOptions) -> Self {
        let unbounded = LogLimits { revisions: usize::MAX, bytes: usize::MAX };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    revision: Revision::INITIAL,
                    compacted: Revision::default(),
                    last_lease: 0,
                    tables: MemoryTables::default(),
                }),
                // Compaction trims it to what may still be asked for.
                log: Arc::new(EventLog::new(Revision::INITIAL, unbounded)),
                deadlines: Arc::new(LeaseDeadlines::new(options.clock)),
                retained_revisions: options.retained_revisions,
            }),
            expiry: OnceLock::new(),
        }
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        if let Some(expiry) = self.expiry.get() {
            expiry.abort();
        }
        self.shared.log.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // `apply` refuses before it changes anything, so a panic leaves nothing half-done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the events of one change visible; without events there was no change.
    fn finish(&self, state: &mut State, events: Vec<Event>) -> Revision {
        if !events.is_empty() {
            state.revision = state.revision.next();
            let revision = state.revision;
            // Under the state's lock, so that the log sees revisions in order.
            self.log.publish(vec![WatchBatch { revision, events }]);
            let kept_from = revision.0.saturating_sub(self.retained_revisions);
            // Compaction walks all keys: pay for it only once in a while.
            if kept_from > state.compacted.0 + self.retained_revisions / 8 {
                self.compact(state, Revision(kept_from));
            }
        }
        state.revision
    }

    fn compact(&self, state: &mut State, revision: Revision) {
        if revision <= state.compacted {
            return;
        }
        state.compacted = revision;
        state.tables.compact(revision);
        self.log.forget_before(revision);
    }

    fn revoke(&self, lease: LeaseId) -> Result<Revision, StoreError> {
        let mut state = self.lock();
        let next = state.revision.next();
        let events = apply_revoke(&mut state.tables, lease, next)?;
        let revision = self.finish(&mut state, events);
        self.deadlines.forget(lease);
        Ok(revision)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.shared.lock().revision)
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        validate_key(key)?;
        Ok(self.shared.lock().tables.live(key).cloned())
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        validate_prefix(&request.prefix)?;
        let state = self.shared.lock();
        let revision = request.resolve(state.revision, state.compacted)?;
        let limit = request.limit.unwrap_or(usize::MAX);
        let start = match &request.start_after {
            Some(last) if *last >= request.prefix => Bound::Excluded(last.as_str()),
            _ => Bound::Included(request.prefix.as_str()),
        };
        let mut found = state
            .tables
            .keys
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&request.prefix))
            .filter_map(|(_, versions)| version_at(versions, revision));
        let kvs = found.by_ref().take(limit).cloned().collect();
        Ok(RangeResponse { kvs, revision, more: found.next().is_some() })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        txn.validate()?;
        let mut state = self.shared.lock();
        let next = state.revision.next();
        let applied = apply_txn(&mut state.tables, &txn, next)?;
        Ok(TxnResponse { succeeded: applied.succeeded, revision: self.shared.finish(&mut state, applied.events) })
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        validate_prefix(prefix)?;
        let history = NoHistory(Arc::clone(&self.shared));
        history.check(from)?;
        // An empty store's first event is that of the revision after the initial one.
        let from = from.max(Revision::INITIAL.next());
        Ok(self.shared.log.watch(Arc::new(history), prefix, from))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let mut state = self.shared.lock();
        if revision > state.revision {
            return Err(StoreError::future(revision, state.revision));
        }
        self.shared.compact(&mut state, revision);
        Ok(())
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let ttl = whole_seconds(ttl)?;
        self.expiry.get_or_init(|| {
            let shared = Arc::clone(&self.shared);
            let expiry = Arc::clone(&shared.deadlines).expire_forever(move |lease| {
                let revoked = shared.revoke(lease).map(drop);
                async { revoked }
            });
            tokio::spawn(expiry).abort_handle()
        });
        let mut state = self.shared.lock();
        state.last_lease += 1;
        let lease = LeaseId(state.last_lease);
        state.tables.leases.insert(lease, BTreeSet::new());
        self.shared.deadlines.start(lease, ttl);
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.shared.deadlines.keep_alive(lease)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<Revision, StoreError> {
        self.shared.revoke(lease)
    }
}

/// The log holds all there is; what it lacks is compacted.
struct NoHistory(Arc<Shared>);

impl NoHistory {
    fn check(&self, from: Revision) -> Result<(), StoreError> {
        let oldest = self.0.lock().compacted;
        if from < oldest {
            return Err(StoreError::Compacted { requested: from, oldest });
        }
        Ok(())
    }
}

#[async_trait]
impl History for NoHistory {
    async fn read(&self, _prefix: &str, from: Revision) -> Result<HistoryPart, StoreError> {
        self.check(from)?;
        // The log covers everything from the compacted revision on, so nothing lies between.
        unreachable!("revision {from} is neither in the log nor compacted")
    }
}

fn version_at(versions: &Versions, at: Revision) -> Option<&KeyValue> {
    let newer = versions.partition_point(|(revision, _)| *revision <= at);
    versions[..newer].last()?.1.as_ref()
}

impl MemoryTables {
    fn live(&self, key: &str) -> Option<&KeyValue> {
        self.keys.get(key)?.last()?.1.as_ref()
    }

    fn detach(&mut self, key: &str) {
        if let Some(lease) = self.live(key).and_then(|kv| kv.lease)
            && let Some(keys) = self.leases.get_mut(&lease)
        {
            keys.remove(key);
        }
    }

    /// Keeps what a reader at `at` or later sees, and all events from `at` on.
    fn compact(&mut self, at: Revision) {
        self.keys.retain(|_, versions| {
            let newer = versions.partition_point(|(revision, _)| *revision <= at);
            versions.drain(..newer.saturating_sub(1));
            let only_an_old_deletion = versions.len() == 1 && versions[0].1.is_none();
            !only_an_old_deletion
        });
    }
}

impl Tables for MemoryTables {
    fn head(&self, key: &str) -> Result<Option<KeyHead>, StoreError> {
        Ok(self.live(key).map(|kv| KeyHead {
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
        }))
    }

    fn value(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(self.live(key).map(|kv| kv.value.clone()))
    }

    fn keys_with_prefix(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        Ok(self
            .keys
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter(|(_, versions)| versions.last().is_some_and(|(_, kv)| kv.is_some()))
            .map(|(key, _)| key.clone())
            .collect())
    }

    fn lease_exists(&self, lease: LeaseId) -> Result<bool, StoreError> {
        Ok(self.leases.contains_key(&lease))
    }

    fn keys_of_lease(&self, lease: LeaseId) -> Result<Vec<String>, StoreError> {
        let keys = self.leases.get(&lease).into_iter().flatten();
        Ok(keys.cloned().collect())
    }

    fn put(&mut self, kv: &KeyValue) -> Result<(), StoreError> {
        self.detach(&kv.key);
        if let Some(keys) = kv.lease.and_then(|lease| self.leases.get_mut(&lease)) {
            keys.insert(kv.key.clone());
        }
        let versions = self.keys.entry(kv.key.clone()).or_default();
        versions.push((kv.mod_revision, Some(kv.clone())));
        Ok(())
    }

    fn delete(&mut self, key: &str, revision: Revision) -> Result<(), StoreError> {
        self.detach(key);
        if let Some(versions) = self.keys.get_mut(key) {
            versions.push((revision, None));
        }
        Ok(())
    }

    fn remove_lease(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        self.leases.remove(&lease);
        Ok(())
    }
}
