//! Random histories against the simplest model there is: a copy of the whole map for each revision.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use gantry_store::{
    Compare, Event, KeyValue, LeaseId, MemoryStore, Op, RangeRequest, Revision, SqliteOptions, SqliteStore, Store,
    StoreError, Txn,
};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Txn(Vec<CompareStep>, Vec<OpStep>, Vec<OpStep>),
    Grant,
    /// Indices are taken modulo what there is.
    Revoke(usize),
    Compact(usize),
    Range {
        prefix: &'static str,
        start_after: Option<&'static str>,
        limit: Option<usize>,
        back: usize,
    },
}

#[derive(Debug, Clone)]
enum CompareStep {
    /// Against the key's revision of that many revisions ago.
    ModRevision(&'static str, usize),
    Absent(&'static str),
    Exists(&'static str),
    Value(&'static str, u8),
}

#[derive(Debug, Clone)]
enum OpStep {
    Put(&'static str, u8, Option<usize>),
    Delete(&'static str),
    DeletePrefix(&'static str),
}

const KEYS: [&str; 7] = ["a", "a/", "a/b", "a/ü", "ab", "b", "ü"];
const PREFIXES: [&str; 5] = ["a", "a/", "b", "ü", "c"];

fn key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&KEYS[..])
}

fn compare() -> impl Strategy<Value = CompareStep> {
    prop_oneof![
        (key(), 0..3usize).prop_map(|(key, back)| CompareStep::ModRevision(key, back)),
        key().prop_map(CompareStep::Absent),
        key().prop_map(CompareStep::Exists),
        (key(), 0..3u8).prop_map(|(key, value)| CompareStep::Value(key, value)),
    ]
}

fn op() -> impl Strategy<Value = OpStep> {
    prop_oneof![
        6 => (key(), 0..3u8, prop::option::weighted(0.3, 0..4usize))
            .prop_map(|(key, value, lease)| OpStep::Put(key, value, lease)),
        2 => key().prop_map(OpStep::Delete),
        1 => prop::sample::select(&PREFIXES[..]).prop_map(OpStep::DeletePrefix),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let ops = || prop::collection::vec(op(), 0..4);
    prop_oneof![
        12 => (prop::collection::vec(compare(), 0..3), ops(), ops())
            .prop_map(|(compares, success, failure)| Step::Txn(compares, success, failure)),
        1 => Just(Step::Grant),
        1 => (0..4usize).prop_map(Step::Revoke),
        1 => (0..8usize).prop_map(Step::Compact),
        4 => (
            prop::sample::select(vec!["", "a", "a/", "b", "c"]),
            prop::option::of(key()),
            prop::option::of(1..4usize),
            0..6usize,
        )
            .prop_map(|(prefix, start_after, limit, back)| Step::Range {
                prefix,
                start_after,
                limit,
                back,
            }),
    ]
}

type Snapshot = BTreeMap<String, KeyValue>;

/// `past[n]` is how things were at revision `first + n`.
struct Model {
    first: Revision,
    past: Vec<Snapshot>,
    leases: BTreeSet<LeaseId>,
    granted: Vec<LeaseId>,
    compacted: Revision,
}

impl Model {
    fn now(&self) -> Revision {
        Revision(self.first.0 + self.past.len() as u64 - 1)
    }

    fn back(&self, back: usize) -> Revision {
        Revision(self.now().0.saturating_sub(back as u64).max(self.first.0))
    }

    fn at(&self, revision: Revision) -> &Snapshot {
        &self.past[(revision.0 - self.first.0) as usize]
    }

    fn current(&self) -> &Snapshot {
        self.at(self.now())
    }

    fn lease(&self, index: usize) -> LeaseId {
        match self.granted.len() {
            0 => LeaseId(777),
            count => self.granted[index % count],
        }
    }

    fn commit(&mut self, next: Snapshot) {
        if next != *self.current() {
            self.past.push(next);
        }
    }

    fn txn(&self, compares: &[CompareStep], success: &[OpStep], failure: &[OpStep]) -> Txn {
        let mut txn = Txn::new();
        for compare in compares {
            txn = txn.when(match compare {
                CompareStep::ModRevision(key, back) => {
                    let then = self.at(self.back(*back)).get(*key);
                    let revision = then.map_or(Revision(0), |kv| kv.mod_revision);
                    Compare::mod_revision(*key, revision)
                }
                CompareStep::Absent(key) => Compare::absent(*key),
                CompareStep::Exists(key) => Compare::exists(*key),
                CompareStep::Value(key, value) => Compare::value(*key, vec![*value]),
            });
        }
        let op = |op: &OpStep| match op {
            OpStep::Put(key, value, None) => Op::put(*key, vec![*value]),
            OpStep::Put(key, value, Some(lease)) => Op::put_with_lease(*key, vec![*value], self.lease(*lease)),
            OpStep::Delete(key) => Op::delete(*key),
            OpStep::DeletePrefix(prefix) => Op::delete_prefix(*prefix),
        };
        txn.success = success.iter().map(op).collect();
        txn.failure = failure.iter().map(op).collect();
        txn
    }

    /// `None` if it has to be refused.
    fn apply(&mut self, txn: &Txn) -> Option<bool> {
        let writes_twice = |ops: &[Op]| {
            KEYS.iter().any(|key| {
                let puts = ops.iter().filter(|op| matches!(op, Op::Put { key: k, .. } if k == key));
                let deleted = ops.iter().any(|op| match op {
                    Op::Put { .. } => false,
                    Op::Delete { key: k } => k == key,
                    Op::DeletePrefix { prefix } => key.starts_with(prefix.as_str()),
                });
                let puts = puts.count();
                puts > 1 || (puts == 1 && deleted)
            })
        };
        if writes_twice(&txn.success) || writes_twice(&txn.failure) {
            return None;
        }
        let now = self.current();
        let succeeded = txn.compare.iter().all(|compare| match compare {
            Compare::ModRevision { key, revision } => now.get(key).map_or(0, |kv| kv.mod_revision.0) == revision.0,
            Compare::Absent { key } => !now.contains_key(key),
            Compare::Exists { key } => now.contains_key(key),
            Compare::Value { key, value } => now.get(key).is_some_and(|kv| kv.value == value),
        });
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let revision = self.now().next();
        let mut next = now.clone();
        for op in branch {
            match op {
                Op::Put { key, value, lease } => {
                    if lease.is_some_and(|lease| !self.leases.contains(&lease)) {
                        return None;
                    }
                    let old = now.get(key);
                    let kv = KeyValue {
                        key: key.clone(),
                        value: value.clone(),
                        create_revision: old.map_or(revision, |kv| kv.create_revision),
                        mod_revision: revision,
                        version: old.map_or(1, |kv| kv.version + 1),
                        lease: *lease,
                    };
                    next.insert(key.clone(), kv);
                }
                Op::Delete { key } => drop(next.remove(key)),
                Op::DeletePrefix { prefix } => next.retain(|key, _| !key.starts_with(prefix)),
            }
        }
        self.commit(next);
        Some(succeeded)
    }
}

async fn check(store: &dyn Store, steps: &[Step]) -> Result<(), TestCaseError> {
    let first = store.revision().await.expect("revision");
    let mut model = Model {
        first,
        past: vec![Snapshot::new()],
        leases: BTreeSet::new(),
        granted: Vec::new(),
        compacted: Revision(0),
    };
    for step in steps {
        match step {
            Step::Txn(compares, success, failure) => {
                let txn = model.txn(compares, success, failure);
                let expected = model.apply(&txn);
                match store.txn(txn).await {
                    Ok(response) => {
                        prop_assert_eq!(Some(response.succeeded), expected);
                        prop_assert_eq!(response.revision, model.now());
                    }
                    Err(error) => prop_assert_eq!(None, expected, "{}", error),
                }
            }
            Step::Grant => {
                let lease = store.grant(Duration::from_secs(3600)).await.expect("grant");
                prop_assert!(model.leases.insert(lease), "an id was used again");
                model.granted.push(lease);
            }
            Step::Revoke(index) => {
                let lease = model.lease(*index);
                let revoked = store.revoke(lease).await;
                prop_assert_eq!(revoked.is_ok(), model.leases.remove(&lease));
                let mut next = model.current().clone();
                next.retain(|_, kv| kv.lease != Some(lease));
                model.commit(next);
            }
            Step::Compact(back) => {
                let revision = model.back(*back);
                store.compact(revision).await.expect("compact");
                model.compacted = model.compacted.max(revision);
            }
            Step::Range { prefix, start_after, limit, back } => {
                let at = model.back(*back);
                let request = RangeRequest {
                    prefix: (*prefix).into(),
                    start_after: start_after.map(Into::into),
                    limit: *limit,
                    at_revision: Some(at),
                };
                let answer = store.range(request).await;
                if at < model.compacted {
                    let refused = matches!(answer, Err(StoreError::Compacted { oldest, .. })
                        if oldest == model.compacted);
                    prop_assert!(refused, "{:?}", answer);
                    continue;
                }
                let page = answer.expect("range");
                let mut expected = model
                    .at(at)
                    .values()
                    .filter(|kv| kv.key.starts_with(prefix))
                    .filter(|kv| start_after.is_none_or(|last| kv.key.as_str() > last));
                let limit = limit.unwrap_or(usize::MAX);
                let first: Vec<_> = expected.by_ref().take(limit).cloned().collect();
                prop_assert_eq!(page.kvs, first);
                prop_assert_eq!(page.more, expected.next().is_some());
                prop_assert_eq!(page.revision, at);
            }
        }
        prop_assert_eq!(store.revision().await.expect("revision"), model.now());
    }
    check_watch(store, &model, "").await?;
    check_watch(store, &model, "a/").await
}

/// Applying the events to the oldest kept state gives every later one.
async fn check_watch(store: &dyn Store, model: &Model, prefix: &str) -> Result<(), TestCaseError> {
    let within = |revision| {
        let mut state = model.at(revision).clone();
        state.retain(|key, _| key.starts_with(prefix));
        state
    };
    let oldest = model.compacted.max(model.first);
    let mut watch = store.watch(prefix, oldest.next()).await.expect("watch");
    let mut state = within(oldest);
    for revision in (oldest.0 + 1..=model.now().0).map(Revision) {
        let expected = within(revision);
        if expected == state {
            continue;
        }
        let batch = watch.next().await.expect("open").expect("no error");
        prop_assert_eq!(batch.revision, revision);
        for event in batch.events {
            match event {
                Event::Put(kv) => drop(state.insert(kv.key.clone(), kv)),
                Event::Delete { key, .. } => prop_assert!(state.remove(&key).is_some()),
            }
        }
        prop_assert_eq!(&state, &expected);
    }
    Ok(())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn memory_agrees_with_the_model(steps in prop::collection::vec(step(), 1..60)) {
        runtime().block_on(check(&MemoryStore::default(), &steps))?;
    }
}

proptest! {
    // Each step that changes something waits for the disk.
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 500,
        ..ProptestConfig::with_cases(48)
    })]

    #[test]
    fn sqlite_agrees_with_the_model(
        steps in prop::collection::vec(step(), 1..60),
        recent_revisions in prop::sample::select(vec![1, 4, 4096]),
    ) {
        runtime().block_on(async {
            let folder = tempfile::tempdir().expect("folder");
            let options = SqliteOptions { recent_revisions, ..SqliteOptions::default() };
            let path = folder.path().join("store");
            let store = Arc::new(SqliteStore::open_with(path, options).await.expect("open"));
            check(&*store, &steps).await
        })?;
    }
}
