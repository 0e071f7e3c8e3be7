//! What every kind of pool must do, as one suite.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use gantry_storage::{DiskSpec, InternalSnapshot, NbdClient, PoolDriver, SERVED_EXPORT, ServeMode, StorageError};
use gantry_types::{ErrorClass, ImageFormat, PoolHealth};
use uuid::Uuid;

pub const MIB: u64 = 1 << 20;
pub const OWNER: u32 = 200_123;

pub fn spec(volume: u128, size_bytes: u64) -> DiskSpec {
    DiskSpec { disk: Uuid::from_u128(volume), size_bytes, image: None, owner_uid: None }
}

/// Every driver passes this; `same` is the pool as another process opens it, `other` another pool in the same place, `file`
/// where a volume lies in the end.
pub async fn conforms(
    pool: &dyn PoolDriver,
    same: &dyn PoolDriver,
    other: &dyn PoolDriver,
    file: impl Fn(Uuid) -> PathBuf,
) {
    // Before it is opened there is nothing, and nothing is made.
    assert_eq!(pool.examine().await.health, PoolHealth::Missing);
    assert!(matches!(pool.create(&spec(1, MIB)).await, Err(StorageError::PoolFault { .. })));
    pool.close().await.unwrap();
    for _ in 0..2 {
        pool.open().await.unwrap();
    }
    assert!(matches!(other.open().await, Err(StorageError::PoolFault { health: PoolHealth::Missing, .. })));
    assert_eq!(other.examine().await.health, PoolHealth::Missing);
    other.close().await.unwrap();
    let found = pool.examine().await;
    assert_eq!((found.health, found.reason, found.volumes.len()), (PoolHealth::Healthy, None, 0));
    assert!(found.space.unwrap().capacity.bytes() > 0);
    assert_eq!(pool.space().await.unwrap().capacity, found.space.unwrap().capacity);

    for _ in 0..2 {
        assert_eq!(pool.create(&spec(1, 4 * MIB)).await.unwrap().size_bytes, 4 * MIB);
    }
    assert_eq!(pool.create(&spec(1, 8 * MIB)).await.unwrap_err().class(), ErrorClass::Conflict);
    for wrong in [0, 513] {
        assert_eq!(pool.create(&spec(2, wrong)).await.unwrap_err().class(), ErrorClass::Invalid);
    }
    for (asked, has) in [(8 * MIB, 8 * MIB), (8 * MIB, 8 * MIB), (4 * MIB, 8 * MIB)] {
        assert_eq!(pool.grow(Uuid::from_u128(1), asked).await.unwrap().size_bytes, has);
    }
    // Whoever opens it later finds it.
    for (pool, joins) in [(same, true), (other, false)] {
        assert_eq!(pool.join().await.is_ok(), joins);
    }
    let found = same.find(Uuid::from_u128(1)).await.unwrap().expect("a volume");
    assert_eq!(found.size_bytes, 8 * MIB);
    assert!(found.allocated_bytes < MIB, "it is thin: {found:?}");
    assert_eq!(same.location(Uuid::from_u128(1)).to_string(), found.path.to_str().unwrap());
    let file = file(Uuid::from_u128(1));
    for (owner, uid) in [(Some(OWNER), OWNER), (None, 65_534)] {
        same.give(Uuid::from_u128(1), owner).await.unwrap();
        let metadata = fs::metadata(&file).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o777), (uid, 0o600));
    }
    // While a VM moves, its disk has two users.
    same.give(Uuid::from_u128(1), Some(OWNER)).await.unwrap();
    same.share(Uuid::from_u128(1), OWNER + 1).await.unwrap();
    let metadata = fs::metadata(&file).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o777), (OWNER, OWNER + 1, 0o660));
    let missing = Uuid::from_u128(9);
    assert_eq!(pool.find(missing).await.unwrap(), None);
    assert_eq!(pool.grow(missing, MIB).await.unwrap_err().class(), ErrorClass::NotFound);
    assert_eq!(pool.give(missing, None).await.unwrap_err().class(), ErrorClass::NotFound);

    keeps_snapshots(pool, same, Uuid::from_u128(1)).await;
    assert_eq!(pool.examine().await.volumes.len(), 1);
    assert!(matches!(pool.close().await, Err(StorageError::PoolNotEmpty { count: 1, .. })));
    for _ in 0..2 {
        pool.delete(Uuid::from_u128(1)).await.unwrap();
    }
    for _ in 0..2 {
        pool.close().await.unwrap();
    }
    assert_eq!(pool.examine().await.health, PoolHealth::Missing);
    // Somebody else may have the place now.
    other.open().await.unwrap();
    assert_eq!(other.examine().await.health, PoolHealth::Healthy);
}

/// Reads and writes a volume as a guest would.
pub fn on(pool: &dyn PoolDriver, volume: Uuid, commands: &[&str]) {
    let mut program = std::process::Command::new("qemu-io");
    program.args(["-f", "qcow2"]);
    commands.iter().for_each(|command| _ = program.args(["-c", command]));
    let output = program.arg(pool.location(volume).to_string()).output().unwrap();
    assert!(output.status.success() && !String::from_utf8_lossy(&output.stdout).contains("fail"), "{output:?}");
}

const WRITTEN: [&str; 2] = ["write -P 7 0 64k", "write -P 8 2M 1M"];
const READ: [&str; 4] = ["read -P 7 0 64k", "read -P 0 64k 1984k", "read -P 8 2M 1M", "read -P 0 3M 1M"];

/// Content goes from a pool to any other, and out of it. Both are open and empty.
pub async fn copies(one: &dyn PoolDriver, other: &dyn PoolDriver) {
    let volume = Uuid::from_u128(1);
    for pool in [one, other] {
        pool.create(&spec(1, 4 * MIB)).await.unwrap();
    }
    on(one, volume, &WRITTEN);
    // What an attempt left that was interrupted.
    on(other, volume, &["write -P 9 1M 2M"]);
    one.give(volume, Some(OWNER)).await.unwrap();
    for _ in 0..2 {
        one.copy_to(volume, other, volume).await.unwrap();
        on(other, volume, &READ);
    }
    // Into another volume, also of the same pool, and a larger one.
    for (copy, size) in [(2, 4 * MIB), (3, 8 * MIB)] {
        let copy = Uuid::from_u128(copy);
        one.create(&DiskSpec { disk: copy, ..spec(0, size) }).await.unwrap();
        one.copy_to(volume, one, copy).await.unwrap();
        on(one, copy, &READ);
        assert_eq!(one.find(copy).await.unwrap().unwrap().size_bytes, size);
    }
    on(one, Uuid::from_u128(2), &["write -P 5 0 64k"]);
    on(one, volume, &["read -P 7 0 64k"]);

    // As a file, over NBD, and as an image that another volume begins as.
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let mut exported = one.export(volume, ImageFormat::Qcow2).await.unwrap();
    let image = place.path().join("image.qcow2");
    let mut content = Vec::new();
    loop {
        let part = exported.next().await.unwrap();
        if part.is_empty() {
            break;
        }
        content.extend(part);
    }
    assert_eq!(content.len() as u64, exported.bytes());
    fs::write(&image, content).unwrap();
    let filled = Uuid::from_u128(2);
    for _ in 0..2 {
        one.fill(filled, &image).await.unwrap();
        on(one, filled, &READ);
    }
    let socket = place.path().join("nbd");
    let server = one.serve(volume, &socket, ServeMode::ReadOnly).await.unwrap();
    let stream = tokio::net::UnixStream::connect(server.socket()).await.unwrap();
    let mut client = NbdClient::connect(stream, SERVED_EXPORT, None).await.unwrap();
    let mut read = [0; 4096];
    client.read(2 * MIB, &mut read).await.unwrap();
    assert_eq!(read, [8; 4096]);
    drop(client);
    server.end().await;

    one.grow(volume, 8 * MIB).await.unwrap();
    on(one, volume, &READ);
    assert_eq!(one.copy_to(volume, other, volume).await.unwrap_err().class(), ErrorClass::Conflict);
    other.delete(volume).await.unwrap();
    assert_eq!(one.copy_to(volume, other, volume).await.unwrap_err().class(), ErrorClass::NotFound);
}

/// States inside a volume, whoever has it: taken, gone back to, deleted, each as often as one likes.
async fn keeps_snapshots(pool: &dyn PoolDriver, same: &dyn PoolDriver, volume: Uuid) {
    for value in ["1", "2"] {
        on(pool, volume, &[&format!("write -P {value} 0 64k")]);
        for pool in [pool, same] {
            pool.create_snapshot(volume, &format!("s-{value}")).await.unwrap();
        }
    }
    on(pool, volume, &["write -P 3 0 64k"]);
    let names = |found: Vec<InternalSnapshot>| found.into_iter().map(|one| one.name).collect::<Vec<_>>();
    assert_eq!(names(same.snapshots(volume).await.unwrap()), ["s-1", "s-2"]);
    for value in ["1", "2", "1"] {
        for pool in [pool, same] {
            pool.apply_snapshot(volume, &format!("s-{value}")).await.unwrap();
        }
        on(pool, volume, &[&format!("read -P {value} 0 64k")]);
    }
    let gone = pool.apply_snapshot(volume, "s-3").await.unwrap_err();
    assert!(matches!(gone, StorageError::SnapshotMissing { .. }), "{gone}");
    on(pool, volume, &["read -P 1 0 64k"]);
    for name in ["s-1", "s-2", "s-3", "s-1"] {
        pool.delete_snapshot(volume, name).await.unwrap();
    }
    assert_eq!(names(pool.snapshots(volume).await.unwrap()), Vec::<String>::new());
    on(pool, volume, &["read -P 1 0 64k"]);
    let missing = Uuid::from_u128(9);
    assert_eq!(pool.create_snapshot(missing, "s-1").await.unwrap_err().class(), ErrorClass::NotFound);
}
