//! Hosts that contend for one disk are processes; here they are this test, run again.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use gantry_storage::{Claim, DirPool, DiskSpec, StorageError};
use gantry_types::Name;
use uuid::Uuid;

const ROUNDS: u64 = 30;
const LIMIT: Duration = Duration::from_secs(60);
/// Tells a process that it is a host, and which.
const HOST: &str = "GANTRY_TEST_LEASE_HOST";
const POOL: &str = "GANTRY_TEST_LEASE_POOL";
const DISK: Uuid = Uuid::from_u128(7);

fn host(name: &str, pool: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "hosts_that_contend_hold_a_disk_one_after_the_other", "--nocapture"])
        .envs([(HOST, name.as_ref()), (POOL, pool.as_os_str())])
        .spawn()
        .expect("another host")
}

/// While it holds the disk it is alone in the log; then it claims the next epoch.
async fn contend(name: Name, directory: &Path) {
    let pool = DirPool::open(directory).expect("the pool");
    let (until, mut held) = (Instant::now() + LIMIT, 0);
    while held < ROUNDS {
        assert!(Instant::now() < until, "{name} held the disk only {held} times");
        let lease = pool.lease(DISK).await.expect("a lease");
        let epoch = lease.map_or(1, |lease| lease.epoch + 1);
        match pool.claim_disk(DISK, &Claim { host: name.clone(), epoch }).await {
            Ok(hold) => {
                for what in ["takes", "leaves"] {
                    let mut log = std::fs::File::options().append(true).open(directory.join("log")).expect("the log");
                    writeln!(log, "{what} {name} {} {}", hold.lease.epoch, hold.lease.generation).expect("written");
                    tokio::task::yield_now().await;
                }
                held += 1;
            }
            Err(StorageError::DiskInUse { .. } | StorageError::DiskElsewhere { .. }) => {}
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

#[tokio::test]
async fn hosts_that_contend_hold_a_disk_one_after_the_other() {
    if let (Ok(name), Ok(pool)) = (std::env::var(HOST), std::env::var(POOL)) {
        return contend(name.parse().expect("a name"), &PathBuf::from(pool)).await;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let pool = DirPool::open(directory.path()).expect("a pool");
    pool.create_disk(&DiskSpec { disk: DISK, size_bytes: 1 << 20, image: None, owner_uid: None })
        .await
        .expect("a disk");
    std::fs::write(directory.path().join("log"), b"").expect("a log");

    let hosts = ["host-1", "host-2"].map(|name| host(name, directory.path()));
    for mut host in hosts {
        assert!(host.wait().expect("its end").success());
    }
    let log = std::fs::read_to_string(directory.path().join("log")).expect("the log");
    let lines: Vec<Vec<&str>> = log.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(lines.len() as u64, 2 * 2 * ROUNDS);
    let mut last_epoch = 0;
    for (index, pair) in lines.chunks(2).enumerate() {
        let [taken, left] = pair else { panic!("a line is missing") };
        assert_eq!((taken[0], left[0], &taken[1..]), ("takes", "leaves", &left[1..]), "two held it at once: {pair:?}");
        let epoch: u64 = taken[2].parse().expect("an epoch");
        assert!(epoch > last_epoch, "epoch {epoch} after {last_epoch}");
        last_epoch = epoch;
        assert_eq!(taken[3], (index + 1).to_string(), "each change of hands counts");
    }
}

#[tokio::test]
async fn a_disk_takes_its_lease_along() {
    let directory = tempfile::tempdir().expect("a directory");
    let pool = DirPool::open(directory.path()).expect("a pool");
    let spec = DiskSpec { disk: DISK, size_bytes: 1 << 20, image: None, owner_uid: None };
    pool.create_disk(&spec).await.expect("a disk");
    let claim = Claim { host: "host-1".parse().expect("a name"), epoch: 5 };
    drop(pool.claim_disk(DISK, &claim).await.expect("claimed"));
    pool.delete_disk(DISK).await.expect("deleted");
    assert_eq!(pool.lease(DISK).await.expect("read"), None);
    pool.create_disk(&spec).await.expect("the same id again");
    let first = Claim { epoch: 1, ..claim };
    assert_eq!(pool.claim_disk(DISK, &first).await.expect("nobody's before").lease.generation, 1);
    let others = std::fs::read_dir(directory.path().join("disks")).expect("listed").count();
    assert_eq!(others, 2, "nothing but a disk and its lease");
}
