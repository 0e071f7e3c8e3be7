//! The controller's store as it is on a disk that stalls: what was written stays, also when nobody learns of that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use gantry_store::{
    KeyValue, LeaseId, MemoryStore, RangeRequest, RangeResponse, Revision, Store, StoreError, Txn, TxnResponse,
    WatchStream,
};
use rand::RngExt;

use super::hub::Hub;
use super::time::Timers;

/// What outlives the controller.
#[derive(Default)]
pub struct Shelf {
    pub store: MemoryStore,
    pub stalled_until_us: AtomicU64,
}

/// The same, for one life of it.
pub struct ShelfStore {
    pub shelf: Arc<Shelf>,
    pub hub: Arc<Hub>,
    pub timers: Arc<Timers>,
}

impl ShelfStore {
    fn delays(&self) -> (Duration, Duration) {
        let stall_us = self.shelf.stalled_until_us.load(Ordering::Relaxed).saturating_sub(self.hub.now_us());
        let (before_us, after_us) = self.hub.draw(|rng| (rng.random_range(0..2_000), rng.random_range(0..2_000)));
        (Duration::from_micros(stall_us + before_us), Duration::from_micros(after_us))
    }
}

#[async_trait]
impl Store for ShelfStore {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.shelf.store.revision().await
    }
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        self.shelf.store.get(key).await
    }
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        self.shelf.store.range(request).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        let (before, after) = self.delays();
        self.timers.sleep(before).await;
        let written = self.shelf.store.txn(txn).await;
        self.timers.sleep(after).await;
        written
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        self.shelf.store.watch(prefix, from).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.shelf.store.compact(revision).await
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.shelf.store.grant(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.shelf.store.keep_alive(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<Revision, StoreError> {
        self.shelf.store.revoke(lease).await
    }
}
