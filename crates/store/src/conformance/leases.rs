//! Leases and their end.

use std::time::Duration;

use super::{Backend, describe, get, keys, next, put};
use crate::{ErrorClass, LeaseId, Op, Store, Txn};

const TTL: Duration = Duration::from_secs(10);

async fn put_leased(store: &dyn Store, key: &str, lease: LeaseId) {
    let txn = Txn::new().then(Op::put_with_lease(key, "", lease));
    store.txn(txn).await.expect("put under a lease");
}

pub async fn expiry_deletes_all_keys_in_one_revision(backend: &dyn Backend) {
    let store = backend.store();
    let lease = store.grant(TTL).await.expect("grant");
    let longer = store.grant(TTL * 10).await.expect("grant");
    assert_ne!(lease, longer);
    put_leased(&*store, "a", lease).await;
    put_leased(&*store, "b", lease).await;
    put_leased(&*store, "c", longer).await;
    let before = put(&*store, "d", "").await;
    assert_eq!(get(&*store, "a").await.expect("is there").lease, Some(lease));
    let mut watch = store.watch("", before.next()).await.expect("watch");
    backend.advance(TTL).await;
    let batch = next(&mut watch).await;
    assert_eq!(batch.revision, before.next());
    let mut events = describe(&batch);
    events.sort();
    assert_eq!(events, ["-a", "-b"]);
    assert_eq!(keys(&*store, "").await, ["c", "d"]);
    let error = store.keep_alive(lease).await.expect_err("expired");
    assert_eq!(error.class(), ErrorClass::NotFound, "{error}");
    assert_eq!(store.keep_alive(longer).await.expect("alive"), TTL * 10);
}

pub async fn keep_alive_starts_the_time_again(backend: &dyn Backend) {
    let store = backend.store();
    let lease = store.grant(TTL).await.expect("grant");
    put_leased(&*store, "k", lease).await;
    let before = store.revision().await.expect("revision");
    for _ in 0..4 {
        backend.advance(TTL / 2).await;
        assert_eq!(store.keep_alive(lease).await.expect("alive"), TTL);
    }
    assert_eq!(keys(&*store, "").await, ["k"]);
    assert_eq!(store.revision().await.expect("revision"), before);
    let mut watch = store.watch("", before.next()).await.expect("watch");
    backend.advance(TTL).await;
    assert_eq!(describe(&next(&mut watch).await), ["-k"]);
}

pub async fn revoking_deletes_the_keys(backend: &dyn Backend) {
    let store = backend.store();
    let lease = store.grant(TTL).await.expect("grant");
    put_leased(&*store, "a", lease).await;
    put_leased(&*store, "b", lease).await;
    let before = store.revision().await.expect("revision");
    let after = store.revoke(lease).await.expect("revoke");
    assert_eq!(after, before.next());
    assert_eq!(keys(&*store, "").await, Vec::<String>::new());
    for error in
        [store.revoke(lease).await.expect_err("is revoked"), store.keep_alive(lease).await.expect_err("is revoked")]
    {
        assert_eq!(error.class(), ErrorClass::NotFound, "{error}");
    }
    // A lease without keys goes without a change.
    let lease = store.grant(TTL).await.expect("grant");
    assert_eq!(store.revoke(lease).await.expect("revoke"), after);
}

pub async fn a_put_without_the_lease_frees_the_key(backend: &dyn Backend) {
    let store = backend.store();
    let lease = store.grant(TTL).await.expect("grant");
    let other = store.grant(TTL).await.expect("grant");
    for key in ["freed", "moved", "deleted", "held"] {
        put_leased(&*store, key, lease).await;
    }
    put(&*store, "freed", "").await;
    put_leased(&*store, "moved", other).await;
    super::delete(&*store, "deleted").await;
    put(&*store, "deleted", "again").await;
    store.revoke(lease).await.expect("revoke");
    assert_eq!(keys(&*store, "").await, ["deleted", "freed", "moved"]);
    store.revoke(other).await.expect("revoke");
    assert_eq!(keys(&*store, "").await, ["deleted", "freed"]);
}

pub async fn unknown_leases_are_refused(backend: &dyn Backend) {
    let store = backend.store();
    let before = store.revision().await.expect("revision");
    let unknown = LeaseId(123_456_789);
    let txn = Txn::new().then(Op::put("a", "")).then(Op::put_with_lease("b", "", unknown));
    for error in [
        store.txn(txn).await.expect_err("unknown"),
        store.keep_alive(unknown).await.expect_err("unknown"),
        store.revoke(unknown).await.expect_err("unknown"),
    ] {
        assert_eq!(error.class(), ErrorClass::NotFound, "{error}");
    }
    assert_eq!(store.revision().await.expect("revision"), before);
    assert_eq!(keys(&*store, "").await, Vec::<String>::new());
    // Only the branch that is applied needs its leases.
    let txn = Txn::new().then(Op::put("a", "")).otherwise(Op::put_with_lease("b", "", unknown));
    assert!(store.txn(txn).await.expect("txn").succeeded);
}

pub async fn impossible_times_are_refused(backend: &dyn Backend) {
    let store = backend.store();
    for ttl in [Duration::ZERO, Duration::from_millis(999), Duration::MAX] {
        let error = store.grant(ttl).await.expect_err("impossible");
        assert_eq!(error.class(), ErrorClass::Invalid, "{error}");
    }
    // etcd counts seconds.
    let lease = store.grant(Duration::from_millis(1500)).await.expect("grant");
    let ttl = store.keep_alive(lease).await.expect("alive");
    assert_eq!(ttl, Duration::from_secs(2));
}
