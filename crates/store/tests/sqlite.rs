//! What only the durable store promises: it survives restarts, guards its file, groups commits,
//! bounds its history, and serves slow watchers.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use gantry_store::{
    Compare, Event, ManualClock, Op, OpenError, RangeRequest, Revision, SqliteOptions, SqliteStore, Store, StoreError,
    Txn,
};
use rusqlite::Connection;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

fn folder() -> TempDir {
    tempfile::tempdir().expect("folder")
}

fn put(key: impl Into<String>, value: &'static str) -> Txn {
    Txn::new().then(Op::put(key, value))
}

#[tokio::test]
async fn everything_survives_a_restart() {
    let folder = folder();
    let path = folder.path().join("store");
    let store = SqliteStore::open(&path).await.expect("open");
    let first = store.txn(put("a", "1")).await.expect("put").revision;
    store.txn(put("a", "2")).await.expect("put");
    store.txn(put("b", "1")).await.expect("put");
    let last = store.txn(Txn::new().then(Op::delete("b"))).await.expect("delete").revision;
    let before = store.range(RangeRequest::default()).await.expect("range");
    drop(store);

    let store = SqliteStore::open(&path).await.expect("open again");
    assert_eq!(store.revision().await.expect("revision"), last);
    let after = store.range(RangeRequest::default()).await.expect("range");
    assert_eq!(before, after);
    let mut watch = store.watch("", first).await.expect("watch");
    let next = store.txn(put("c", "1")).await.expect("put").revision;
    assert_eq!(next, last.next());
    for revision in first.0..=next.0 {
        let batch = watch.next().await.expect("open").expect("no error");
        assert_eq!(batch.revision, Revision(revision));
    }
}

#[tokio::test]
async fn leases_start_their_full_time_again_after_a_restart() {
    let folder = folder();
    let path = folder.path().join("store");
    let open = async |clock: &Arc<ManualClock>| {
        let options = SqliteOptions { clock: clock.clone(), ..SqliteOptions::default() };
        SqliteStore::open_with(&path, options).await.expect("open")
    };
    let ttl = Duration::from_secs(30);
    let clock = Arc::new(ManualClock::default());
    let store = open(&clock).await;
    let lease = store.grant(ttl).await.expect("grant");
    let revoked = store.grant(ttl).await.expect("grant");
    let txn = Txn::new().then(Op::put_with_lease("k", "", lease));
    let revision = store.txn(txn).await.expect("put").revision;
    clock.advance(Duration::from_secs(29));
    store.revoke(revoked).await.expect("revoke");
    drop(store);

    let clock = Arc::new(ManualClock::default());
    let store = open(&clock).await;
    let mut watch = store.watch("", revision.next()).await.expect("watch");
    clock.advance(Duration::from_secs(29));
    assert_eq!(store.keep_alive(lease).await.expect("alive"), ttl);
    assert!(store.keep_alive(revoked).await.is_err());
    let kv = store.get("k").await.expect("get").expect("is there");
    assert_eq!(kv.lease, Some(lease));
    clock.advance(ttl);
    let batch = tokio::time::timeout(PATIENCE, watch.next()).await;
    let batch = batch.expect("expires").expect("open").expect("no error");
    assert_eq!(batch.events.len(), 1);
    assert!(matches!(&batch.events[0], Event::Delete { key, .. } if key == "k"));
    // Ids are not used again, though all leases are gone.
    drop(store);
    let store = open(&clock).await;
    assert!(store.grant(ttl).await.expect("grant") > revoked);
}

#[tokio::test]
async fn a_second_opener_is_refused_until_the_first_is_gone() {
    let folder = folder();
    let path = folder.path().join("store");
    let store = SqliteStore::open(&path).await.expect("open");
    let Err(error) = SqliteStore::open(&path).await else {
        panic!("opened twice");
    };
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("in use"), "{error}");
    drop(store);
    SqliteStore::open(&path).await.expect("open");
}

#[tokio::test]
async fn newer_and_foreign_files_are_refused_and_left_alone() {
    let folder = folder();
    let path = folder.path().join("store");
    drop(SqliteStore::open(&path).await.expect("create"));
    let database = Connection::open(&path).expect("open");
    database.pragma_update(None, "user_version", 99).expect("pretend");
    database.close().expect("close");
    let before = std::fs::read(&path).expect("read");
    let Err(error) = SqliteStore::open(&path).await else {
        panic!("opened a newer schema");
    };
    assert!(matches!(error, OpenError::NewerSchema { found: 99, .. }), "{error}");
    assert_eq!(std::fs::read(&path).expect("read"), before);

    let foreign = folder.path().join("foreign");
    let database = Connection::open(&foreign).expect("open");
    database.execute_batch("CREATE TABLE precious (data)").expect("create");
    database.close().expect("close");
    let before = std::fs::read(&foreign).expect("read");
    let Err(error) = SqliteStore::open(&foreign).await else {
        panic!("opened a foreign database");
    };
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    assert_eq!(std::fs::read(&foreign).expect("read"), before);

    let text = folder.path().join("text");
    std::fs::write(&text, "this is no database".repeat(100)).expect("write");
    assert!(SqliteStore::open(&text).await.is_err());
    let missing = folder.path().join("missing/store");
    let Err(error) = SqliteStore::open(&missing).await else {
        panic!("opened in a missing folder");
    };
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
}

#[tokio::test]
async fn the_files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let store = SqliteStore::open(folder.path().join("store")).await.expect("open");
    store.txn(put("k", "secret")).await.expect("put");
    let mut files = 0;
    for entry in std::fs::read_dir(folder.path()).expect("list") {
        let entry = entry.expect("entry");
        let mode = entry.metadata().expect("metadata").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?}", entry.path());
        files += 1;
    }
    assert!(files >= 3, "the store, its log and its lock");
}

#[tokio::test]
async fn concurrent_txns_share_commits_and_have_one_winner() {
    let folder = folder();
    let store = SqliteStore::open(folder.path().join("store")).await.expect("open");
    let before = store.commit_counts();
    let contenders = (0..400).map(|n| {
        store.txn(
            Txn::new()
                .when(Compare::absent(format!("k{}", n % 10)))
                .then(Op::put(format!("k{}", n % 10), format!("{n}"))),
        )
    });
    let answers = futures::future::join_all(contenders).await;
    let winners = answers.iter().filter(|answer| answer.as_ref().expect("txn").succeeded).count();
    assert_eq!(winners, 10);
    let after = store.commit_counts();
    assert_eq!(after.requests - before.requests, 400);
    // All were queued before the first could be synced.
    let commits = after.commits - before.commits;
    assert!(commits < 100, "{commits} commits");
}

#[tokio::test]
async fn history_is_bounded_and_a_watcher_left_behind_is_told() {
    let folder = folder();
    let options = SqliteOptions { retained_revisions: 50, recent_revisions: 10, ..SqliteOptions::default() };
    let path = folder.path().join("store");
    let store = SqliteStore::open_with(&path, options).await.expect("open");
    let first = store.txn(put("kept", "")).await.expect("put").revision;
    let mut behind = store.watch("", first).await.expect("watch");
    let batch = behind.next().await.expect("open").expect("no error");
    assert_eq!(batch.revision, first);
    let mut last = first;
    for n in 0..200 {
        let txn = put(format!("k{}", n % 3), "v");
        last = store.txn(txn).await.expect("put").revision;
    }
    let oldest = Revision(last.0 - 50);
    let error = loop {
        match behind.next().await.expect("an error comes first") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Compacted { oldest: told, .. } if told == oldest), "{error}");
    assert!(behind.next().await.is_none());
    let mut watch = store.watch("", oldest).await.expect("watch");
    for revision in oldest.0..=last.0 {
        let batch = watch.next().await.expect("open").expect("no error");
        assert_eq!(batch.revision, Revision(revision));
    }
    assert!(store.get("kept").await.expect("get").is_some());
    drop(store);
    let database = Connection::open(&path).expect("open");
    let versions: i64 = database.query_row("SELECT count(*) FROM versions", [], |row| row.get(0)).expect("count");
    // 51 revisions, what they superseded (three keys at most), and the one that stays.
    assert!((52..=55).contains(&versions), "{versions} versions");
}

#[tokio::test]
async fn a_slow_watcher_loses_nothing() {
    let folder = folder();
    let options = SqliteOptions { recent_revisions: 8, ..SqliteOptions::default() };
    let store = SqliteStore::open_with(folder.path().join("store"), options).await.expect("open");
    let mut next = store.revision().await.expect("revision").next();
    let mut watch = store.watch("", next).await.expect("watch");
    // More than the log keeps, and more than one read of history gives.
    let puts = (0..3000).map(|n| store.txn(put(format!("k{n:04}"), "v")));
    for answer in futures::future::join_all(puts).await {
        answer.expect("put");
    }
    for _ in 0..3000 {
        let batch = watch.next().await.expect("open").expect("no error");
        assert_eq!(batch.revision, next);
        next = next.next();
    }
}

#[tokio::test]
async fn watches_end_with_an_error_when_the_store_closes() {
    let folder = folder();
    let store = SqliteStore::open(folder.path().join("store")).await.expect("open");
    let revision = store.revision().await.expect("revision");
    let mut watch = store.watch("", revision.next()).await.expect("watch");
    store.txn(put("k", "v")).await.expect("put");
    drop(store);
    // What was committed is still delivered.
    assert!(watch.next().await.expect("open").is_ok());
    let ended = tokio::time::timeout(PATIENCE, watch.next()).await;
    assert!(matches!(ended, Ok(Some(Err(StoreError::Closed)))));
}
