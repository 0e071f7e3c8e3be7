//! A store under which the controller dies, or in which somebody asks for a cancel, at a chosen write.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use gantry_store::{
    KeyValue, LeaseId, Op, RangeRequest, RangeResponse, Revision, SharedStore, Store, StoreError, Txn, TxnResponse,
    WatchStream,
};
use tokio::sync::Notify;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    Nothing,
    /// The controller dies while it writes: this write is lost.
    DieBefore(usize),
    /// The write is done, and the controller dies before it learns of that.
    DieAfter(usize),
    /// After this write somebody cancels the operation under this key.
    CancelAfter(usize, String),
}

pub struct CrashingStore {
    inner: SharedStore,
    plan: Plan,
    writes: AtomicUsize,
    pub died: Notify,
}

impl CrashingStore {
    pub fn new(inner: SharedStore, plan: Plan) -> Arc<Self> {
        Arc::new(Self { inner, plan, writes: AtomicUsize::new(0), died: Notify::new() })
    }

    pub fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    async fn die(&self) -> Result<TxnResponse, StoreError> {
        self.died.notify_one();
        std::future::pending().await
    }

    async fn cancel(&self, key: &str) -> Result<(), StoreError> {
        loop {
            let Some(kv) = self.inner.get(key).await? else { return Ok(()) };
            let mut operation: serde_json::Value = serde_json::from_slice(&kv.value).expect("an operation");
            operation["status"]["cancel_requested"] = true.into();
            let value = serde_json::to_vec(&operation).expect("writable");
            let txn = Txn::new()
                .when(gantry_store::Compare::mod_revision(key, kv.mod_revision))
                .then(Op::put(key.to_owned(), value));
            if self.inner.txn(txn).await?.succeeded {
                return Ok(());
            }
        }
    }
}

#[async_trait]
impl Store for CrashingStore {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        self.inner.get(key).await
    }
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        self.inner.range(request).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        let write = self.writes.fetch_add(1, Ordering::SeqCst);
        if self.plan == Plan::DieBefore(write) {
            return self.die().await;
        }
        let response = self.inner.txn(txn).await?;
        match &self.plan {
            Plan::DieAfter(at) if *at == write => return self.die().await,
            Plan::CancelAfter(at, key) if *at == write => self.cancel(key).await?,
            _ => {}
        }
        Ok(response)
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        self.inner.watch(prefix, from).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.inner.grant(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.inner.keep_alive(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<Revision, StoreError> {
        self.inner.revoke(lease).await
    }
}
