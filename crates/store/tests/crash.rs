//! `kill -9` at any moment loses no answered write.
//!
//! The test runs itself again as a child that writes and prints what was answered, kills it, and
//! looks into the file it left.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use futures::StreamExt;
use gantry_store::{Compare, Op, RangeRequest, Revision, SqliteOptions, SqliteStore, Store, Txn};

const STORE_PATH: &str = "CRASH_TEST_STORE";
const ROUND: &str = "CRASH_TEST_ROUND";
const WRITERS: usize = 8;

/// Little history, so that the kill also hits the removal of history.
fn options() -> SqliteOptions {
    SqliteOptions { retained_revisions: 100, ..SqliteOptions::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "is the child of no_answered_write_is_lost"]
async fn writing_child() {
    let path = std::env::var(STORE_PATH).expect("run by the test below");
    let round = std::env::var(ROUND).expect("run by the test below");
    let store = SqliteStore::open_with(path, options()).await.expect("open");
    let store = Arc::new(store);
    let writers = (0..WRITERS).map(|writer| {
        let (store, round) = (Arc::clone(&store), round.clone());
        tokio::spawn(async move {
            for n in 0.. {
                let key = format!("r{round}/w{writer}/{n:06}");
                let txn = Txn::new()
                    .when(Compare::absent(key.clone()))
                    .then(Op::put(key.clone(), key.clone()))
                    .then(Op::put(format!("pair/{key}"), key.clone()))
                    .then(Op::put(format!("last/w{writer}"), key.clone()));
                let response = store.txn(txn).await.expect("txn");
                assert!(response.succeeded);
                let line = format!("answered {key} {}\n", response.revision);
                let mut out = std::io::stdout().lock();
                out.write_all(line.as_bytes()).and_then(|()| out.flush()).expect("the parent reads");
            }
        })
    });
    futures::future::join_all(writers.collect::<Vec<_>>()).await;
}

/// Lets a child write until `enough` answers came, kills it, returns all that came.
fn run_and_kill(path: &Path, round: usize, enough: usize) -> Vec<(String, Revision)> {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--ignored", "--exact", "writing_child", "--nocapture"])
        .env(STORE_PATH, path)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts");
    let lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
    let mut answered = Vec::new();
    for line in lines {
        let line = line.expect("the child's output");
        // The test harness prints lines of its own; the kill may cut the last one.
        let words: Vec<&str> = line.split(' ').collect();
        if let ["answered", key, revision] = words[..] {
            answered.push((key.to_owned(), Revision(revision.parse().expect("number"))));
            if answered.len() == enough {
                child.kill().expect("kill -9");
            }
        }
    }
    let status = child.wait().expect("wait");
    assert!(!status.success(), "the child ended by itself");
    assert!(answered.len() >= enough, "the child died early");
    // The kill may cut the last number short, so only whole lines count.
    answered.truncate(answered.len() - 1);
    answered
}

#[tokio::test]
async fn no_answered_write_is_lost() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("store");
    let mut all: Vec<(String, Revision)> = Vec::new();
    let mut newest = Revision(0);
    for round in 0..6 {
        let answered = run_and_kill(&path, round, 100 + 157 * round);
        let store = SqliteStore::open_with(&path, options()).await.expect("opens after the crash");
        let revision = store.revision().await.expect("revision");
        for (key, answered_at) in &answered {
            assert!(*answered_at > newest, "{key} was answered with an old revision");
            assert!(*answered_at <= revision);
        }
        all.extend(answered);
        for (key, answered_at) in &all {
            for key in [key.clone(), format!("pair/{key}")] {
                let kv = store.get(&key).await.expect("get");
                let kv = kv.unwrap_or_else(|| panic!("{key} was answered and is lost"));
                assert_eq!(kv.mod_revision, *answered_at, "{key}");
            }
        }
        // Nothing was applied by half, answered or not.
        let count = async |prefix: &str| {
            let page = store.range(RangeRequest::prefix(prefix)).await;
            page.expect("range").kvs.len()
        };
        assert_eq!(count("r").await, count("pair/").await);
        // What is left of the history has no holes.
        let oldest = Revision(revision.0 - 100).max(Revision(2));
        let mut watch = store.watch("", oldest).await.expect("watch");
        for expected in oldest.0..=revision.0 {
            let batch = watch.next().await.expect("open").expect("no error");
            assert_eq!(batch.revision, Revision(expected));
            assert_eq!(batch.events.len(), 3);
        }
        newest = revision;
    }
}
