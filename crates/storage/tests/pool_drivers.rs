//! Pools in directories: what all pools must do, and what these do besides when something is wrong with them.

mod conformance;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use conformance::{MIB, conforms, copies, spec};
use gantry_storage::{MarkedDir, PoolDriver, StorageError, container_bytes};
use gantry_types::{DiskLocation, PoolHealth};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use uuid::Uuid;

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
    let file = |volume: Uuid| path.join(format!("disks/{volume}.qcow2"));
    conforms(&dir(&path, 1), &dir(&path, 1), &dir(&path, 2), file).await;
}

#[tokio::test]
async fn directories_whose_disks_have_copies_conform() {
    let place = directory();
    let path = place.path().join("safe");
    let mirrored = |pool| MarkedDir::mirrored(path.clone(), Uuid::from_u128(pool));
    let file = |volume: Uuid| path.join(format!("disks/{volume}.qcow2"));
    conforms(&mirrored(1), &mirrored(1), &mirrored(2), file).await;
}

#[tokio::test]
async fn a_mirrored_volume_is_as_long_as_its_copy_is_to_be() {
    let place = directory();
    let pool = MarkedDir::mirrored(place.path().join("safe"), Uuid::from_u128(1));
    pool.open().await.unwrap();
    let length = || match pool.location(Uuid::from_u128(1)) {
        DiskLocation::Mirrored { file, size, .. } => {
            assert_eq!(fs::metadata(&file).unwrap().len(), size);
            size
        }
        other => panic!("it has no copy: {other}"),
    };
    pool.create(&spec(1, 4 * MIB)).await.unwrap();
    assert_eq!(length(), container_bytes(4 * MIB));
    pool.grow(Uuid::from_u128(1), 64 * MIB).await.unwrap();
    assert_eq!(length(), container_bytes(64 * MIB));
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

#[tokio::test]
async fn what_is_in_a_directory_goes_to_another_one() {
    let place = directory();
    let (one, other) = (dir(&place.path().join("one"), 1), dir(&place.path().join("other"), 2));
    for pool in [&one, &other] {
        pool.open().await.unwrap();
    }
    copies(&one, &other).await;
}
