//! The one suite that every [`crate::Store`] passes.
//!
//! Each case is a function over a [`Backend`]: an empty store and a way to let its time pass.
//! [`conformance_tests!`](crate::conformance_tests) turns all cases into tests of one backend.
//! A case fails by panicking. It assumes nothing a real etcd would not do.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;

use crate::{Event, KeyValue, Op, RangeRequest, Revision, Store, Txn, WatchBatch, WatchStream};

pub mod history;
pub mod leases;
pub mod reads;
pub mod txns;

/// An empty store under test.
#[async_trait]
pub trait Backend: Send + Sync {
    fn store(&self) -> Arc<dyn Store>;
    /// Lets so much of the store's time pass; a backend with a real clock waits.
    async fn advance(&self, by: Duration);
}

/// Makes a test of each case. `$backend` is an expression in async context that gives a
/// [`Backend`].
#[macro_export]
macro_rules! conformance_tests {
    ($backend:expr) => {
        $crate::conformance_tests!(@cases $backend, txns: [
            versions_count_from_creation,
            every_compare_decides,
            the_failure_branch_is_applied,
            a_txn_without_change_keeps_the_revision,
            all_changes_of_a_txn_share_a_revision,
            one_branch_writes_a_key_once,
            limits_are_enforced,
            prefixes_end_where_they_should,
            one_of_many_wins,
            a_refused_txn_does_not_touch_others,
            increments_are_not_lost,
        ]);
        $crate::conformance_tests!(@cases $backend, reads: [
            ranges_are_sorted_by_bytes,
            pages_show_one_revision,
            the_past_stays_readable,
            impossible_ranges_are_refused,
            values_may_be_empty_or_large,
        ]);
        $crate::conformance_tests!(@cases $backend, history: [
            a_watch_gives_history_then_live_events,
            a_watch_gives_whole_revisions_under_its_prefix,
            a_watch_of_the_future_waits,
            watches_and_writers_agree,
            compaction_forgets_the_past_only,
            a_watch_from_the_compacted_revision_works,
            the_future_cannot_be_compacted,
        ]);
        $crate::conformance_tests!(@cases $backend, leases: [
            expiry_deletes_all_keys_in_one_revision,
            keep_alive_starts_the_time_again,
            revoking_deletes_the_keys,
            a_put_without_the_lease_frees_the_key,
            unknown_leases_are_refused,
            impossible_times_are_refused,
        ]);
    };
    (@cases $backend:expr, $module:ident: [$($case:ident,)*]) => {
        mod $module {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let backend = $backend;
                    $crate::conformance::$module::$case(&backend).await;
                }
            )*
        }
    };
}

/// No case waits longer for anything; a hang fails instead.
const PATIENCE: Duration = Duration::from_secs(60);

async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    let response = store.txn(Txn::new().then(Op::put(key, value.to_owned()))).await.expect("put");
    assert!(response.succeeded);
    response.revision
}

async fn delete(store: &dyn Store, key: &str) -> Revision {
    let response = store.txn(Txn::new().then(Op::delete(key))).await.expect("delete");
    response.revision
}

async fn get(store: &dyn Store, key: &str) -> Option<KeyValue> {
    store.get(key).await.expect("get")
}

async fn keys(store: &dyn Store, prefix: &str) -> Vec<String> {
    let page = store.range(RangeRequest::prefix(prefix)).await.expect("range");
    page.kvs.into_iter().map(|kv| kv.key).collect()
}

async fn next(watch: &mut WatchStream) -> WatchBatch {
    tokio::time::timeout(PATIENCE, watch.next())
        .await
        .expect("the watch gives nothing")
        .expect("the watch has ended")
        .expect("the watch failed")
}

/// `+key=value` or `-key`.
fn describe(batch: &WatchBatch) -> Vec<String> {
    assert!(!batch.events.is_empty(), "an empty batch");
    batch
        .events
        .iter()
        .map(|event| {
            assert_eq!(event.revision(), batch.revision, "of another revision");
            match event {
                Event::Put(kv) => {
                    format!("+{}={}", kv.key, String::from_utf8_lossy(&kv.value))
                }
                Event::Delete { key, .. } => format!("-{key}"),
            }
        })
        .collect()
}
