//! Listings, now and in the past.

use super::{Backend, delete, get, keys, put};
use crate::{ErrorClass, MAX_VALUE_BYTES, Op, RangeRequest, Revision, Txn};

pub async fn ranges_are_sorted_by_bytes(backend: &dyn Backend) {
    let store = backend.store();
    let mut all = vec!["b", "a", "B", "a/2", "a/10", "ü", "z", "a-", "\u{7F}", "日"];
    for key in &all {
        put(&*store, key, "").await;
    }
    all.sort_unstable();
    assert_eq!(keys(&*store, "").await, all);
}

pub async fn pages_show_one_revision(backend: &dyn Backend) {
    let store = backend.store();
    let all: Vec<String> = (0..25).map(|n| format!("p/{n:02}")).collect();
    for key in &all {
        put(&*store, key, "old").await;
    }
    put(&*store, "q", "").await;
    let mut request = RangeRequest::prefix("p/");
    request.limit = Some(10);
    let mut seen = Vec::new();
    loop {
        let page = store.range(request.clone()).await.expect("page");
        assert!(page.kvs.len() <= 10);
        assert!(page.kvs.iter().all(|kv| kv.value == "old"));
        assert_eq!(page.revision, request.at_revision.unwrap_or(page.revision));
        seen.extend(page.kvs.into_iter().map(|kv| kv.key));
        if !page.more {
            break;
        }
        request.at_revision = Some(page.revision);
        request.start_after = seen.last().cloned();
        // What happens between the pages is not seen.
        put(&*store, "p/00", "new").await;
        put(&*store, "p/24", "new").await;
        put(&*store, "p/10a", "new").await;
        delete(&*store, "p/20").await;
    }
    assert_eq!(seen, all);

    let exact = RangeRequest { limit: Some(1), ..RangeRequest::prefix("q") };
    assert!(!store.range(exact).await.expect("page").more);
    // A start before the prefix is no way out of it, nor is one behind it.
    let generous = RangeRequest { limit: Some(usize::MAX), ..RangeRequest::prefix("q") };
    assert_eq!(store.range(generous).await.expect("page").kvs.len(), 1);
    for (start_after, found) in [("a", 1), ("q", 0), ("z", 0)] {
        let request = RangeRequest { start_after: Some(start_after.into()), ..RangeRequest::prefix("q") };
        let page = store.range(request).await.expect("page");
        assert_eq!(page.kvs.len(), found, "after {start_after}");
    }
}

pub async fn the_past_stays_readable(backend: &dyn Backend) {
    let store = backend.store();
    let empty = store.revision().await.expect("revision");
    let first = put(&*store, "k/a", "1").await;
    let second = put(&*store, "k/b", "1").await;
    let third = put(&*store, "k/a", "2").await;
    let fourth = delete(&*store, "k/a").await;
    let fifth = put(&*store, "k/a", "3").await;
    for (revision, expected) in [
        (empty, ""),
        (first, "k/a=1@1 "),
        (second, "k/a=1@1 k/b=1@1 "),
        (third, "k/a=2@2 k/b=1@1 "),
        (fourth, "k/b=1@1 "),
        (fifth, "k/a=3@1 k/b=1@1 "),
    ] {
        let request = RangeRequest { at_revision: Some(revision), ..RangeRequest::prefix("k/") };
        let page = store.range(request).await.expect("range");
        assert_eq!(page.revision, revision);
        let shown: String = page
            .kvs
            .iter()
            .map(|kv| {
                let value = String::from_utf8_lossy(&kv.value);
                format!("{}={value}@{} ", kv.key, kv.version)
            })
            .collect();
        assert_eq!(shown, expected, "at {revision}");
    }
}

pub async fn impossible_ranges_are_refused(backend: &dyn Backend) {
    let store = backend.store();
    let revision = put(&*store, "k", "v").await;
    for request in [
        RangeRequest { at_revision: Some(revision.next()), ..RangeRequest::default() },
        RangeRequest { at_revision: Some(Revision(u64::MAX)), ..RangeRequest::default() },
        RangeRequest { limit: Some(0), ..RangeRequest::default() },
        RangeRequest::prefix("a\0"),
    ] {
        let error = store.range(request.clone()).await.expect_err("impossible");
        assert_eq!(error.class(), ErrorClass::Invalid, "{request:?}: {error}");
    }
    let error = store.get("").await.expect_err("an empty key");
    assert_eq!(error.class(), ErrorClass::Invalid, "{error}");
}

pub async fn values_may_be_empty_or_large(backend: &dyn Backend) {
    let store = backend.store();
    put(&*store, "empty", "").await;
    let large: Vec<u8> = (0..MAX_VALUE_BYTES).map(|n| (n % 251) as u8).collect();
    let txn = Txn::new().then(Op::put("large", large.clone()));
    store.txn(txn).await.expect("the largest value");
    assert_eq!(get(&*store, "empty").await.expect("is there").value, "");
    assert!(get(&*store, "large").await.expect("is there").value == large);
}
