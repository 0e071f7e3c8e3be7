//! Snapshots inside disks: against a model of what a guest would read, and against damaged tables.

mod disks;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use disks::{MIB, guest_bytes, patch};
use gantry_storage::{DirPool, DiskSpec, StorageError};
use gantry_types::ErrorClass;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use uuid::Uuid;

const VM_UID: u32 = 200_001;
const DISK: Uuid = Uuid::from_u128(7);
const CLUSTER_BYTES: usize = 64 * 1024;
const CLUSTERS: usize = 16;

#[derive(Debug, Clone)]
enum Step {
    Write { cluster: usize, value: u8 },
    Take(u8),
    Apply(u8),
    Delete(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..CLUSTERS, 1u8..=255).prop_map(|(cluster, value)| Step::Write { cluster, value }),
        2 => (0u8..4).prop_map(Step::Take),
        2 => (0u8..4).prop_map(Step::Apply),
        1 => (0u8..4).prop_map(Step::Delete),
    ]
}

async fn disk() -> (tempfile::TempDir, DirPool) {
    let directory = tempfile::tempdir().unwrap();
    let pool = DirPool::open(&directory.path().join("pool")).unwrap();
    let size_bytes = (CLUSTERS * CLUSTER_BYTES) as u64;
    pool.create_disk(&DiskSpec { disk: DISK, size_bytes, image: None, owner_uid: Some(VM_UID) }).await.unwrap();
    (directory, pool)
}

/// As the disk's own QEMU would.
fn write(pool: &DirPool, cluster: usize, value: u8) {
    let command = format!("write -P {value} {} {CLUSTER_BYTES}", cluster * CLUSTER_BYTES);
    let output =
        Command::new("qemu-io").args(["-f", "qcow2", "-c", &command]).arg(pool.disk_path(DISK)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn run(steps: Vec<Step>) {
    let (_directory, pool) = disk().await;
    let mut content = [0u8; CLUSTERS];
    let mut kept: BTreeMap<String, [u8; CLUSTERS]> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Write { cluster, value } => {
                write(&pool, cluster, value);
                content[cluster] = value;
            }
            Step::Take(name) => {
                let name = format!("s-{name}");
                pool.create_disk_snapshot(DISK, &name).await.unwrap();
                kept.entry(name).or_insert(content);
            }
            Step::Apply(name) => {
                let name = format!("s-{name}");
                let applied = pool.apply_disk_snapshot(DISK, &name).await;
                match kept.get(&name) {
                    Some(known) => {
                        applied.unwrap();
                        content = *known;
                    }
                    None => assert!(matches!(applied, Err(StorageError::SnapshotMissing { .. })), "{applied:?}"),
                }
            }
            Step::Delete(name) => {
                let name = format!("s-{name}");
                pool.delete_disk_snapshot(DISK, &name).await.unwrap();
                kept.remove(&name);
            }
        }
    }
    let mut names: Vec<_> = pool.disk_snapshots(DISK).await.unwrap().into_iter().map(|found| found.name).collect();
    names.sort();
    assert_eq!(names, kept.keys().cloned().collect::<Vec<_>>());
    let read = guest_bytes(&pool.disk_path(DISK));
    for (cluster, value) in content.iter().enumerate() {
        let found = &read[cluster * CLUSTER_BYTES..][..CLUSTER_BYTES];
        assert!(found.iter().all(|byte| byte == value), "cluster {cluster} is {}, not {value}", found[0]);
    }
    assert_eq!(fs::metadata(pool.disk_path(DISK)).unwrap().uid(), VM_UID);
    disks::qemu_img(&["check", "-q", pool.disk_path(DISK).to_str().unwrap()]);
}

#[test]
fn a_disk_is_what_the_model_says_after_any_steps() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut runner = TestRunner::new(Config { cases: 12, ..Config::default() });
    let steps = proptest::collection::vec(step(), 1..14);
    runner
        .run(&steps, |steps| {
            runtime.block_on(run(steps));
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn space_that_only_a_snapshot_takes_is_given_back() {
    let (_directory, pool) = disk().await;
    let allocated = || fs::metadata(pool.disk_path(DISK)).unwrap().blocks() * 512;
    (0..CLUSTERS).for_each(|cluster| write(&pool, cluster, 1));
    let full = allocated();
    pool.create_disk_snapshot(DISK, "s-1").await.unwrap();
    (0..CLUSTERS).for_each(|cluster| write(&pool, cluster, 2));
    assert!(allocated() >= full + MIB - CLUSTER_BYTES as u64, "both are there");
    pool.delete_disk_snapshot(DISK, "s-1").await.unwrap();
    assert!(allocated() < full + MIB / 2, "{} of {full} bytes are taken", allocated());
}

#[tokio::test]
async fn a_damaged_table_is_told_of_and_a_missing_disk_too() {
    let (_directory, pool) = disk().await;
    pool.create_disk_snapshot(DISK, "s-1").await.unwrap();
    let path = pool.disk_path(DISK);
    let sound = fs::read(&path).unwrap();
    // Number of snapshots, place of their table (QEMU docs/interop/qcow2.txt).
    for (offset, bytes) in
        [(60, vec![0xff; 4]), (64, vec![0x7f; 8]), (64, (sound.len() as u64 - 8).to_be_bytes().to_vec())]
    {
        patch(&path, offset, &bytes);
        let error = pool.disk_snapshots(DISK).await.unwrap_err();
        assert!(matches!(error, StorageError::DiskDamaged { .. }), "{error}");
        fs::write(&path, &sound).unwrap();
    }
    let gone = pool.disk_snapshots(Uuid::from_u128(8)).await.unwrap_err();
    assert_eq!(gone.class(), ErrorClass::NotFound);

    // A program that still has the disk open: not now, but later.
    let mut holder = Command::new("qemu-io")
        .args(["-f", "qcow2", "-c", "sleep 60000"])
        .arg(&path)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // Looked at from outside: who asks by opening it is in the holder's way. QEMU locks bytes from 200 on last (raw driver).
    let file = format!(":{}", fs::metadata(&path).unwrap().ino());
    let is_held = || {
        fs::read_to_string("/proc/locks").unwrap().lines().any(|lock| {
            let words: Vec<_> = lock.split_whitespace().collect();
            words[5].ends_with(&file) && words[6].parse::<u64>().is_ok_and(|first| first >= 200)
        })
    };
    while !is_held() {
        assert!(holder.try_wait().unwrap().is_none(), "nobody holds it");
    }
    let busy = pool.create_disk_snapshot(DISK, "s-2").await.unwrap_err();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(busy.class(), ErrorClass::Transient, "{busy}");
}
