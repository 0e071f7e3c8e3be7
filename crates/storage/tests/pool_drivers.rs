//! What every driver of pools must do, as one suite; and what directories do besides when something is wrong with them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use gantry_storage::{DiskSpec, MarkedDir, PoolDriver, StorageError};
use gantry_types::{ErrorClass, PoolHealth};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use uuid::Uuid;

const MIB: u64 = 1 << 20;
const OWNER: u32 = 200_123;

fn spec(volume: u128, size_bytes: u64) -> DiskSpec {
    DiskSpec { disk: Uuid::from_u128(volume), size_bytes, image: None, owner_uid: None }
}

/// Every driver passes this; `same` is the pool as another process opens it, `other` another pool in the same place.
async fn conforms(pool: &dyn PoolDriver, same: &dyn PoolDriver, other: &dyn PoolDriver) {
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
    assert_eq!(same.file(Uuid::from_u128(1)), found.path);
    for (owner, uid) in [(Some(OWNER), OWNER), (None, 65_534)] {
        same.give(Uuid::from_u128(1), owner).await.unwrap();
        let metadata = fs::metadata(&found.path).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o777), (uid, 0o600));
    }
    // While a VM moves, its disk has two users.
    same.give(Uuid::from_u128(1), Some(OWNER)).await.unwrap();
    same.share(Uuid::from_u128(1), OWNER + 1).await.unwrap();
    let metadata = fs::metadata(&found.path).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o777), (OWNER, OWNER + 1, 0o660));
    let missing = Uuid::from_u128(9);
    assert_eq!(pool.find(missing).await.unwrap(), None);
    assert_eq!(pool.grow(missing, MIB).await.unwrap_err().class(), ErrorClass::NotFound);
    assert_eq!(pool.give(missing, None).await.unwrap_err().class(), ErrorClass::NotFound);

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

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    directory
}

fn dir(path: &Path, pool: u128) -> MarkedDir {
    MarkedDir::new(path.to_owned(), Uuid::from_u128(pool))
}

#[tokio::test]
async fn directories_conform() {
    assert!(rustix::process::geteuid().is_root(), "root is needed");
    let place = directory();
    let path = place.path().join("fast");
    conforms(&dir(&path, 1), &dir(&path, 1), &dir(&path, 2)).await;
}

async fn fault(pool: &MarkedDir) -> (PoolHealth, String) {
    match pool.open().await {
        Err(StorageError::PoolFault { health, reason, .. }) => (health, reason),
        other => panic!("it must be refused: {other:?}"),
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_directory_is_named_and_nothing_is_made_there() {
    let place = directory();
    let (health, reason) = fault(&dir(&place.path().join("not/there"), 1)).await;
    assert!(health == PoolHealth::Missing && reason.contains("directory above"), "{health} {reason}");
    let file = place.path().join("file");
    fs::write(&file, b"x").unwrap();
    assert_eq!(fault(&dir(&file, 1)).await.0, PoolHealth::Missing);

    // A directory that VMs' users can't pass is found out by trying.
    let closed = place.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    let (health, reason) = fault(&dir(&closed.join("pool"), 1)).await;
    assert!(health == PoolHealth::NotWritable && reason.contains("chmod o+x"), "{health} {reason}");
    assert!(!closed.join("pool/gantry-pool.json").exists());
    fs::set_permissions(&closed, Permissions::from_mode(0o711)).unwrap();
    dir(&closed.join("pool"), 1).open().await.unwrap();
}

#[tokio::test]
async fn a_file_system_that_went_away_is_missing_and_never_replaced() {
    let place = directory();
    let path = place.path().join("fast");
    let pool = dir(&path, 1);
    pool.open().await.unwrap();
    pool.create(&spec(1, MIB)).await.unwrap();
    // What is left when it is not mounted: the mount point.
    let away = place.path().join("away");
    fs::rename(&path, &away).unwrap();
    fs::create_dir(&path).unwrap();
    let found = pool.examine().await;
    assert!(found.health == PoolHealth::Missing && found.reason.as_ref().unwrap().contains("mount"), "{found:?}");
    assert!(pool.create(&spec(2, MIB)).await.is_err() && pool.delete(Uuid::from_u128(1)).await.is_err());
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "nothing was made in its place");
    fs::remove_dir(&path).unwrap();
    fs::rename(&away, &path).unwrap();
    assert_eq!(pool.examine().await.volumes.len(), 1);
}

/// A file system of 8 MiB, gone with the value.
struct Mounted(PathBuf);

impl Mounted {
    fn at(path: &Path) -> Self {
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some("size=8m,mode=755")).unwrap();
        Self(path.to_owned())
    }
    fn make_read_only(&self) {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, &self.0, None::<&str>, flags, None::<&str>).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}

#[tokio::test]
async fn a_full_and_a_read_only_file_system_are_told_apart() {
    let place = directory();
    let mounted = Mounted::at(place.path());
    let pool = dir(place.path(), 1);
    pool.open().await.unwrap();
    let before = pool.examine().await.space.unwrap();
    fs::write(place.path().join("filler"), vec![1; usize::try_from(before.free.bytes()).unwrap() - 4096]).unwrap();
    let found = pool.examine().await;
    assert!(found.health == PoolHealth::Full && found.space.unwrap().used_percent() >= 99, "{found:?}");
    fs::remove_file(place.path().join("filler")).unwrap();
    assert_eq!(pool.examine().await.health, PoolHealth::Healthy);

    mounted.make_read_only();
    let found = pool.examine().await;
    assert!(found.health == PoolHealth::ReadOnly && found.reason.is_some(), "{found:?}");
    assert_eq!(fault(&dir(place.path(), 1)).await.0, PoolHealth::ReadOnly);
}

fn on(path: &Path, commands: &[&str]) {
    let mut program = std::process::Command::new("qemu-io");
    program.args(["-f", "qcow2"]);
    commands.iter().for_each(|command| _ = program.args(["-c", command]));
    let output = program.arg(path).output().unwrap();
    assert!(output.status.success() && !String::from_utf8_lossy(&output.stdout).contains("fail"), "{output:?}");
}

#[tokio::test]
async fn a_copy_in_another_pool_is_the_same_whatever_was_there() {
    let place = directory();
    let (one, other) = (dir(&place.path().join("one"), 1), dir(&place.path().join("other"), 2));
    for pool in [&one, &other] {
        pool.open().await.unwrap();
        pool.create(&spec(1, 4 * MIB)).await.unwrap();
    }
    let volume = Uuid::from_u128(1);
    on(&one.file(volume), &["write -P 7 0 64k", "write -P 8 2M 1M"]);
    // What an attempt left that was interrupted.
    on(&other.file(volume), &["write -P 9 1M 2M"]);
    one.give(volume, Some(OWNER)).await.unwrap();
    for _ in 0..2 {
        one.copy_to(volume, &other, volume).await.unwrap();
        on(&other.file(volume), &["read -P 7 0 64k", "read -P 0 64k 1984k", "read -P 8 2M 1M", "read -P 0 3M 1M"]);
    }
    // Into another volume, also of the same pool, and a larger one.
    for (copy, size) in [(2, 4 * MIB), (3, 8 * MIB)] {
        let copy = Uuid::from_u128(copy);
        one.create(&DiskSpec { disk: copy, ..spec(0, size) }).await.unwrap();
        one.copy_to(volume, &one, copy).await.unwrap();
        on(&one.file(copy), &["read -P 7 0 64k", "read -P 0 64k 1984k", "read -P 8 2M 1M", "read -P 0 3M 1M"]);
        assert_eq!(one.find(copy).await.unwrap().unwrap().size_bytes, size);
    }
    on(&one.file(Uuid::from_u128(2)), &["write -P 5 0 64k"]);
    on(&one.file(volume), &["read -P 7 0 64k"]);
    one.grow(volume, 8 * MIB).await.unwrap();
    assert_eq!(one.copy_to(volume, &other, volume).await.unwrap_err().class(), ErrorClass::Conflict);
    other.delete(volume).await.unwrap();
    assert_eq!(one.copy_to(volume, &other, volume).await.unwrap_err().class(), ErrorClass::NotFound);
}
