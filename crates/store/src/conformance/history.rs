//! Watches and compaction.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Backend, delete, describe, get, keys, next, put};
use crate::{Compare, ErrorClass, Event, Op, RangeRequest, Revision, StoreError, Txn};

pub async fn a_watch_gives_history_then_live_events(backend: &dyn Backend) {
    let store = backend.store();
    let first = put(&*store, "k", "1").await;
    put(&*store, "k", "2").await;
    let mut watch = store.watch("", first).await.expect("watch");
    let batch = next(&mut watch).await;
    assert_eq!((batch.revision, describe(&batch)), (first, vec!["+k=1".into()]));
    delete(&*store, "k").await;
    let last = put(&*store, "k", "3").await;
    let mut seen = Vec::new();
    loop {
        let batch = next(&mut watch).await;
        seen.extend(describe(&batch));
        if batch.revision == last {
            // An event carries what a read at its revision shows.
            let kv = get(&*store, "k").await.expect("is there");
            assert_eq!(batch.events, [Event::Put(kv)]);
            break;
        }
    }
    assert_eq!(seen, ["+k=2", "-k", "+k=3"]);
}

pub async fn a_watch_gives_whole_revisions_under_its_prefix(backend: &dyn Backend) {
    let store = backend.store();
    let start = put(&*store, "in/a", "1").await;
    put(&*store, "out/a", "1").await;
    put(&*store, "in", "1").await;
    let txn = Txn::new()
        .then(Op::put("in/b", "2"))
        .then(Op::put("out/b", "2"))
        .then(Op::delete("in/a"))
        .then(Op::put("in/c", "2"));
    let both = store.txn(txn).await.expect("txn").revision;
    let txn = Txn::new().then(Op::delete_prefix("in/"));
    let gone = store.txn(txn).await.expect("txn").revision;

    let mut watch = store.watch("in/", start).await.expect("watch");
    assert_eq!(describe(&next(&mut watch).await), ["+in/a=1"]);
    let batch = next(&mut watch).await;
    assert_eq!(batch.revision, both);
    let mut events = describe(&batch);
    events.sort();
    assert_eq!(events, ["+in/b=2", "+in/c=2", "-in/a"]);
    let batch = next(&mut watch).await;
    assert_eq!(batch.revision, gone);
    assert_eq!(describe(&batch), ["-in/b", "-in/c"]);
}

pub async fn a_watch_of_the_future_waits(backend: &dyn Backend) {
    let store = backend.store();
    let now = put(&*store, "k", "0").await;
    let from = Revision(now.0 + 3);
    let mut watch = store.watch("k", from).await.expect("watch");
    for n in 1..=4 {
        put(&*store, "k", &n.to_string()).await;
    }
    let batch = next(&mut watch).await;
    assert_eq!((batch.revision, describe(&batch)), (from, vec!["+k=3".into()]));
    assert_eq!(describe(&next(&mut watch).await), ["+k=4"]);
}

/// Watches that begin anywhere while writers write rebuild exactly what is stored.
pub async fn watches_and_writers_agree(backend: &dyn Backend) {
    const WRITERS: usize = 6;
    const WRITES: usize = 50;
    let store = backend.store();
    let begin = put(&*store, "k/begin", "").await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for n in 0..WRITES {
                    let txn = Txn::new()
                        .when(Compare::exists(format!("k/{}", (n * 7 + writer) % 10)))
                        .then(Op::delete(format!("k/{}", (n * 7 + writer) % 10)))
                        .then(Op::put(format!("k/x{writer}"), format!("{n}")))
                        .otherwise(Op::put(format!("k/{}", (n * 7 + writer) % 10), ""));
                    store.txn(txn).await.expect("txn");
                }
            })
        })
        .collect();
    let watchers: Vec<_> = (0..4)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                // Half begin at the beginning, half with a listing of whenever they come to it.
                let mut state = BTreeMap::new();
                let mut revision = Revision(begin.0 - 1);
                if n % 2 == 0 {
                    let page = store.range(RangeRequest::prefix("k/")).await.expect("range");
                    revision = page.revision;
                    state.extend(page.kvs.into_iter().map(|kv| (kv.key.clone(), kv)));
                }
                let mut watch = store.watch("k/", revision.next()).await.expect("watch");
                while !state.contains_key("k/end") {
                    let batch = next(&mut watch).await;
                    // Every revision changes something here, so none may be missing.
                    assert_eq!(batch.revision, revision.next());
                    revision = batch.revision;
                    for event in batch.events {
                        match event {
                            Event::Put(kv) => drop(state.insert(kv.key.clone(), kv)),
                            Event::Delete { key, .. } => {
                                assert!(state.remove(&key).is_some(), "{key} was not there");
                            }
                        }
                    }
                }
                state
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("no panic");
    }
    let end = put(&*store, "k/end", "").await;
    assert_eq!(end.0, begin.0 + (WRITERS * WRITES) as u64 + 1);
    let page = store.range(RangeRequest::prefix("k/")).await.expect("range");
    for watcher in watchers {
        let state = watcher.await.expect("no panic");
        assert_eq!(state.into_values().collect::<Vec<_>>(), page.kvs);
    }
}

pub async fn compaction_forgets_the_past_only(backend: &dyn Backend) {
    let store = backend.store();
    let first = put(&*store, "old", "1").await;
    put(&*store, "deleted", "1").await;
    delete(&*store, "deleted").await;
    let kept = put(&*store, "k", "1").await;
    let last = put(&*store, "k", "2").await;
    store.compact(kept).await.expect("compact");
    store.compact(kept).await.expect("again");
    store.compact(first).await.expect("an older one");

    let at = |revision| RangeRequest { at_revision: Some(revision), ..RangeRequest::default() };
    let page = store.range(at(kept)).await.expect("still kept");
    let shown: Vec<_> = page.kvs.iter().map(|kv| (&*kv.key, &kv.value[..])).collect();
    assert_eq!(shown, [("k", &b"1"[..]), ("old", &b"1"[..])]);
    assert_eq!(keys(&*store, "").await, ["k", "old"]);
    let kv = get(&*store, "old").await.expect("the present is untouched");
    assert_eq!((kv.create_revision, kv.version), (first, 1));
    assert_eq!(store.revision().await.expect("revision"), last);

    for revision in [first, Revision(kept.0 - 1)] {
        let error = store.range(at(revision)).await.expect_err("compacted");
        assert!(
            matches!(error, StoreError::Compacted { requested, oldest }
                if requested == revision && oldest == kept),
            "{error}"
        );
        // A backend may tell at once or through the stream.
        let error = match store.watch("", revision).await {
            Err(error) => error,
            Ok(mut watch) => futures::StreamExt::next(&mut watch).await.expect("an item").expect_err("compacted"),
        };
        assert!(matches!(error, StoreError::Compacted { oldest, .. } if oldest == kept), "{error}");
        assert_eq!(error.class(), ErrorClass::Compacted);
    }
}

pub async fn a_watch_from_the_compacted_revision_works(backend: &dyn Backend) {
    let store = backend.store();
    put(&*store, "a", "1").await;
    put(&*store, "b", "1").await;
    let deleted = delete(&*store, "a").await;
    put(&*store, "b", "2").await;
    // The event of the compacted revision itself is kept, be it a deletion.
    store.compact(deleted).await.expect("compact");
    let mut watch = store.watch("", deleted).await.expect("watch");
    assert_eq!(describe(&next(&mut watch).await), ["-a"]);
    assert_eq!(describe(&next(&mut watch).await), ["+b=2"]);
    put(&*store, "a", "2").await;
    assert_eq!(describe(&next(&mut watch).await), ["+a=2"]);
}

pub async fn the_future_cannot_be_compacted(backend: &dyn Backend) {
    let store = backend.store();
    let now = put(&*store, "k", "").await;
    let error = store.compact(now.next()).await.expect_err("the future");
    assert_eq!(error.class(), ErrorClass::Invalid, "{error}");
    store.compact(now).await.expect("the present");
    assert_eq!(keys(&*store, "").await, ["k"]);
}
