//! What transactions do and refuse.

use std::sync::Arc;

use super::{Backend, delete, get, keys, put};
use crate::{Compare, ErrorClass, LeaseId, MAX_KEY_BYTES, MAX_TXN_OPS, MAX_VALUE_BYTES, Op, Revision, Txn};

pub async fn versions_count_from_creation(backend: &dyn Backend) {
    let store = backend.store();
    assert_eq!(get(&*store, "k").await, None);
    let first = put(&*store, "k", "a").await;
    put(&*store, "other", "x").await;
    let second = put(&*store, "k", "b").await;
    assert!(second > first.next());
    let kv = get(&*store, "k").await.expect("is there");
    assert_eq!((kv.key.as_str(), &kv.value[..]), ("k", &b"b"[..]));
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version, kv.lease), (first, second, 2, None));
    assert_eq!(delete(&*store, "k").await, second.next());
    assert_eq!(get(&*store, "k").await, None);
    let again = put(&*store, "k", "c").await;
    let kv = get(&*store, "k").await.expect("is there again");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (again, again, 1));
    assert_eq!(store.revision().await.expect("revision"), again);
}

pub async fn every_compare_decides(backend: &dyn Backend) {
    let store = backend.store();
    let revision = put(&*store, "k", "v").await;
    let other = put(&*store, "other", "v").await;
    let cases = [
        (Compare::mod_revision("k", revision), true),
        (Compare::mod_revision("k", other), false),
        (Compare::mod_revision("k", Revision(0)), false),
        (Compare::mod_revision("none", Revision(0)), true),
        (Compare::mod_revision("none", revision), false),
        (Compare::absent("k"), false),
        (Compare::absent("none"), true),
        (Compare::exists("k"), true),
        (Compare::exists("none"), false),
        (Compare::value("k", "v"), true),
        (Compare::value("k", "w"), false),
        (Compare::value("none", ""), false),
    ];
    for (compare, holds) in &cases {
        let response = store.txn(Txn::new().when(compare.clone())).await;
        let succeeded = response.expect("txn").succeeded;
        assert_eq!(succeeded, *holds, "{compare:?}");
    }
    let all_but_one =
        cases.iter().filter(|(_, holds)| *holds).fold(Txn::new(), |txn, (compare, _)| txn.when(compare.clone()));
    let all = all_but_one.clone();
    assert!(store.txn(all).await.expect("txn").succeeded);
    let one_fails = all_but_one.when(Compare::absent("k"));
    assert!(!store.txn(one_fails).await.expect("txn").succeeded);
}

pub async fn the_failure_branch_is_applied(backend: &dyn Backend) {
    let store = backend.store();
    let before = store.revision().await.expect("revision");
    let response = store
        .txn(Txn::new().when(Compare::exists("k")).then(Op::put("then", "")).otherwise(Op::put("otherwise", "")))
        .await
        .expect("txn");
    assert!(!response.succeeded);
    assert_eq!(response.revision, before.next());
    assert_eq!(keys(&*store, "").await, ["otherwise"]);
}

pub async fn a_txn_without_change_keeps_the_revision(backend: &dyn Backend) {
    let store = backend.store();
    let revision = put(&*store, "k", "v").await;
    for txn in [
        Txn::new(),
        Txn::new().when(Compare::absent("k")).then(Op::delete("k")),
        Txn::new().then(Op::delete("none")),
        Txn::new().then(Op::delete_prefix("none")),
    ] {
        let response = store.txn(txn.clone()).await.expect("txn");
        assert_eq!(response.revision, revision, "{txn:?}");
    }
    // Putting the same value again is a change.
    assert_eq!(put(&*store, "k", "v").await, revision.next());
}

pub async fn all_changes_of_a_txn_share_a_revision(backend: &dyn Backend) {
    let store = backend.store();
    put(&*store, "gone", "").await;
    put(&*store, "kept", "").await;
    let response = store
        .txn(
            Txn::new()
                .when(Compare::exists("gone"))
                .then(Op::delete("gone"))
                .then(Op::put("kept", "2"))
                .then(Op::put("new", "1")),
        )
        .await
        .expect("txn");
    assert!(response.succeeded);
    assert_eq!(keys(&*store, "").await, ["kept", "new"]);
    for key in ["kept", "new"] {
        let kv = get(&*store, key).await.expect("is there");
        assert_eq!(kv.mod_revision, response.revision);
    }
}

pub async fn one_branch_writes_a_key_once(backend: &dyn Backend) {
    let store = backend.store();
    let before = store.revision().await.expect("revision");
    for txn in [
        Txn::new().then(Op::put("k", "1")).then(Op::put("k", "2")),
        Txn::new().then(Op::put("k", "1")).then(Op::delete("k")),
        Txn::new().then(Op::delete_prefix("k")).then(Op::put("k/1", "")),
        Txn::new().otherwise(Op::put("k", "1")).otherwise(Op::put("k", "2")),
    ] {
        let error = store.txn(txn).await.expect_err("writes a key twice");
        assert_eq!(error.class(), ErrorClass::Invalid, "{error}");
    }
    assert_eq!(store.revision().await.expect("revision"), before);
    // Deleting twice, and writing in both branches, is no conflict.
    let fine = Txn::new().then(Op::delete("k")).then(Op::delete_prefix("k")).otherwise(Op::put("k", ""));
    store.txn(fine).await.expect("txn");
}

pub async fn limits_are_enforced(backend: &dyn Backend) {
    let store = backend.store();
    let puts = |count: usize| (0..count).fold(Txn::new(), |txn, n| txn.then(Op::put(format!("k{n}"), "")));
    let long_key = "k".repeat(MAX_KEY_BYTES + 1);
    let half = vec![0; MAX_VALUE_BYTES / 2 + MAX_KEY_BYTES * 2];
    for (what, txn) in [
        ("operations", puts(MAX_TXN_OPS + 1)),
        ("compares", (0..=MAX_TXN_OPS).fold(Txn::new(), |txn, n| txn.when(Compare::absent(format!("k{n}"))))),
        ("key", Txn::new().then(Op::put(long_key.clone(), ""))),
        ("compared key", Txn::new().when(Compare::exists(long_key))),
        ("empty key", Txn::new().then(Op::put("", ""))),
        ("NUL", Txn::new().then(Op::put("a\0b", ""))),
        ("empty prefix", Txn::new().then(Op::delete_prefix(""))),
        ("value", Txn::new().then(Op::put("k", vec![0; MAX_VALUE_BYTES + 1]))),
        ("sum", Txn::new().then(Op::put("a", half.clone())).otherwise(Op::put("b", half))),
    ] {
        let error = store.txn(txn).await.expect_err(what);
        assert_eq!(error.class(), ErrorClass::Invalid, "{what}: {error}");
    }
    assert_eq!(keys(&*store, "").await, Vec::<String>::new());
    store.txn(puts(MAX_TXN_OPS)).await.expect("as many as allowed");
    assert_eq!(keys(&*store, "").await.len(), MAX_TXN_OPS);
}

pub async fn prefixes_end_where_they_should(backend: &dyn Backend) {
    let store = backend.store();
    let all = ["a", "a/", "a/b", "a/ÿ", "a/\u{10FFFF}", "a0", "b", "é", "ê"];
    for key in all {
        put(&*store, key, "").await;
    }
    assert_eq!(keys(&*store, "a/").await, ["a/", "a/b", "a/ÿ", "a/\u{10FFFF}"]);
    assert_eq!(keys(&*store, "é").await, ["é"]);
    assert_eq!(keys(&*store, "").await, all);
    let txn = Txn::new().then(Op::delete_prefix("a/"));
    store.txn(txn).await.expect("delete the prefix");
    assert_eq!(keys(&*store, "").await, ["a", "a0", "b", "é", "ê"]);
}

pub async fn one_of_many_wins(backend: &dyn Backend) {
    let store = backend.store();
    for round in 0..8 {
        let key = format!("round/{round}");
        let contenders = (0..48).map(|n| {
            let store = Arc::clone(&store);
            let txn = Txn::new()
                .when(Compare::absent(key.clone()))
                .then(Op::put(key.clone(), format!("{n}")))
                .then(Op::put(format!("winner/{round}/{n}"), ""));
            tokio::spawn(async move { store.txn(txn).await.expect("txn").succeeded })
        });
        let won = futures::future::join_all(contenders.collect::<Vec<_>>()).await;
        let winners: Vec<usize> = (0..won.len()).filter(|n| *won[*n].as_ref().expect("no panic")).collect();
        assert_eq!(winners.len(), 1, "winners {winners:?}");
        let kv = get(&*store, &key).await.expect("someone won");
        assert_eq!(kv.value, winners[0].to_string());
        assert_eq!(kv.version, 1);
        let traces = keys(&*store, &format!("winner/{round}/")).await;
        assert_eq!(traces, [format!("winner/{round}/{}", winners[0])]);
    }
}

pub async fn a_refused_txn_does_not_touch_others(backend: &dyn Backend) {
    let store = backend.store();
    let before = store.revision().await.expect("revision");
    let txns = (0..60).map(|n| {
        let store = Arc::clone(&store);
        let mut txn = Txn::new().then(Op::put(format!("k{n:02}"), ""));
        if n % 3 == 0 {
            txn = txn.then(Op::put_with_lease("leased", "", LeaseId(987_654)));
        }
        tokio::spawn(async move { store.txn(txn).await })
    });
    let answers = futures::future::join_all(txns.collect::<Vec<_>>()).await;
    let mut revisions = Vec::new();
    for (n, answer) in answers.into_iter().enumerate() {
        match answer.expect("no panic") {
            Ok(response) => {
                assert_ne!(n % 3, 0, "a put with an unknown lease succeeded");
                revisions.push(response.revision.0);
            }
            Err(error) => {
                assert_eq!(n % 3, 0, "{error}");
                assert_eq!(error.class(), ErrorClass::NotFound, "{error}");
            }
        }
    }
    revisions.sort_unstable();
    let expected: Vec<u64> = (before.0 + 1..=before.0 + 40).collect();
    assert_eq!(revisions, expected);
    let mut wanted: Vec<String> = (0..60).map(|n| format!("k{n:02}")).collect();
    wanted.retain(|key| key[1..].parse::<usize>().is_ok_and(|n| n % 3 != 0));
    assert_eq!(keys(&*store, "").await, wanted);
}

pub async fn increments_are_not_lost(backend: &dyn Backend) {
    let store = backend.store();
    let tasks = (0..8).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for _ in 0..20 {
                loop {
                    let old = get(&*store, "n").await;
                    let (revision, count) = old.map_or((Revision(0), 0), |kv| {
                        let text = String::from_utf8(kv.value.to_vec()).expect("text");
                        (kv.mod_revision, text.parse::<u64>().expect("number"))
                    });
                    let txn = Txn::new()
                        .when(Compare::mod_revision("n", revision))
                        .then(Op::put("n", format!("{}", count + 1)));
                    if store.txn(txn).await.expect("txn").succeeded {
                        break;
                    }
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("no panic");
    }
    let kv = get(&*store, "n").await.expect("counted");
    assert_eq!((&kv.value[..], kv.version), (&b"160"[..], 160));
}
