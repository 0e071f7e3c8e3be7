//! Directory pools: the image cache, disks, and what happens when space or a process ends.

mod disks;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use disks::{Bench, MIB, chain, guest_bytes, qemu_img};
use gantry_storage::{DirPool, DiskSpec, ImageInfo, Sha256Digest, StorageError};
use gantry_types::ErrorClass;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;
use tokio::io::AsyncRead;
use uuid::Uuid;

const VM_UID: u32 = 200_001;
const MAX_IMAGE_BYTES: u64 = 100 * MIB;

/// A pool, and a store of the controller's that holds one image.
struct Site {
    _directory: TempDir,
    pool: DirPool,
    bench: Bench,
    image: ImageInfo,
}

impl Site {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pool = DirPool::open(&directory.path().join("pool")).unwrap();
        let bench = Bench::new();
        let image = bench.import(&bench.disk_as("qcow2", &[])).await.unwrap();
        Self { _directory: directory, pool, bench, image }
    }

    fn image_path(&self) -> std::path::PathBuf {
        self.bench.store.image_path(self.image.sha256)
    }

    async fn fetch(&self) {
        let open = || tokio::fs::File::open(self.image_path());
        self.pool.ensure_image(self.image.sha256, MAX_IMAGE_BYTES, open).await.unwrap();
    }

    fn overlay(&self, id: u128) -> DiskSpec {
        DiskSpec {
            disk: Uuid::from_u128(id),
            size_bytes: 16 * MIB,
            image: Some(self.image.sha256),
            owner_uid: Some(VM_UID),
        }
    }

    fn assert_nothing_staged(&self) {
        assert_eq!(fs::read_dir(self.pool.path().join("images/.staging")).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn many_at_once_fetch_an_image_once() {
    let site = Site::new().await;
    let opened = AtomicUsize::new(0);
    let fetch = || {
        site.pool.ensure_image(site.image.sha256, MAX_IMAGE_BYTES, || {
            opened.fetch_add(1, Ordering::SeqCst);
            tokio::fs::File::open(site.image_path())
        })
    };
    let (a, b, c) = tokio::join!(fetch(), fetch(), fetch());
    assert_eq!(a.unwrap(), b.unwrap());
    assert!(c.unwrap().path.starts_with(site.pool.path()));
    assert_eq!(opened.load(Ordering::SeqCst), 1);
    assert_eq!(site.pool.list_images().await.unwrap().len(), 1);
    site.assert_nothing_staged();
}

#[tokio::test]
async fn a_damaged_broken_or_endless_arrival_leaves_nothing_and_can_be_repeated() {
    let site = Site::new().await;
    let good = fs::read(site.image_path()).unwrap();
    let mut damaged = good.clone();
    damaged[5000] ^= 1;
    let fetch = async |bytes: Box<dyn AsyncRead + Unpin>, limit| {
        site.pool.ensure_image(site.image.sha256, limit, async || Ok(bytes)).await
    };

    let error = fetch(Box::new(io::Cursor::new(damaged)), MAX_IMAGE_BYTES).await.unwrap_err();
    assert!(matches!(error, StorageError::ArrivedDamaged { .. }), "{}", chain(&error));
    assert_eq!(error.class(), ErrorClass::Transient);
    let error = fetch(Box::new(io::Cursor::new(good[..7000].to_vec())), MAX_IMAGE_BYTES).await.unwrap_err();
    assert!(matches!(error, StorageError::ArrivedDamaged { .. }), "{}", chain(&error));
    let error = fetch(Box::new(tokio::io::repeat(7)), MIB).await.unwrap_err();
    assert!(matches!(error, StorageError::ArrivedTooLarge { .. }), "{}", chain(&error));
    let refuse = async || Err::<tokio::io::Empty, _>(io::ErrorKind::ConnectionRefused.into());
    let error = site.pool.ensure_image(site.image.sha256, MIB, refuse).await.unwrap_err();
    assert!(matches!(error, StorageError::Receive { .. }), "{}", chain(&error));

    site.assert_nothing_staged();
    assert_eq!(site.pool.image(site.image.sha256).await.unwrap(), None);
    site.fetch().await;
    assert!(site.pool.image(site.image.sha256).await.unwrap().is_some());
}

#[tokio::test]
async fn an_arrival_with_the_right_digest_must_still_be_a_standalone_image() {
    let site = Site::new().await;
    let file = site.bench.file("overlay.qcow2");
    let path = file.to_str().unwrap();
    qemu_img(&["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", path, "1M"]);
    let bytes = fs::read(&file).unwrap();
    let open = async || Ok(io::Cursor::new(bytes.clone()));
    let error = site.pool.ensure_image(Sha256Digest::of(&bytes), MIB, open).await.unwrap_err();
    assert!(matches!(error, StorageError::Refused { .. }), "{}", chain(&error));
    assert_eq!(site.pool.list_images().await.unwrap(), []);
}

#[tokio::test]
async fn a_disk_is_a_thin_overlay_that_only_its_vm_can_open() {
    let site = Site::new().await;
    let spec = site.overlay(1);
    let error = site.pool.create_disk(&spec).await.unwrap_err();
    assert!(matches!(error, StorageError::ImageMissing { .. }), "{}", chain(&error));
    site.fetch().await;
    let disk = site.pool.create_disk(&spec).await.unwrap();
    assert_eq!((disk.size_bytes, disk.image), (16 * MIB, Some(site.image.sha256)));
    assert!(disk.allocated_bytes < MIB);
    assert_eq!(disk.path, site.pool.disk_path(spec.disk));

    let metadata = fs::metadata(&disk.path).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.uid(), metadata.gid()), (0o600, VM_UID, VM_UID));
    let content = guest_bytes(&disk.path);
    let image = guest_bytes(&site.image_path());
    assert!(content[..image.len()] == image && content[image.len()..].iter().all(|byte| *byte == 0));
    site.assert_nothing_staged();
}

#[tokio::test]
async fn creating_again_is_fine_and_creating_otherwise_is_a_conflict() {
    let site = Site::new().await;
    site.fetch().await;
    let spec = site.overlay(2);
    let first = site.pool.create_disk(&spec).await.unwrap();
    let again = DiskSpec { owner_uid: Some(VM_UID + 1), ..spec.clone() };
    assert_eq!(site.pool.create_disk(&again).await.unwrap(), first);
    assert_eq!(fs::metadata(&first.path).unwrap().uid(), VM_UID + 1);

    for other in [DiskSpec { size_bytes: 32 * MIB, ..spec.clone() }, DiskSpec { image: None, ..spec.clone() }] {
        let error = site.pool.create_disk(&other).await.unwrap_err();
        assert!(matches!(error, StorageError::DiskConflict { .. }), "{}", chain(&error));
        assert_eq!(error.class(), ErrorClass::Conflict);
    }
    site.pool.delete_disk(spec.disk).await.unwrap();
    site.pool.delete_disk(spec.disk).await.unwrap();
    assert_eq!(site.pool.disk(spec.disk).await.unwrap(), None);
}

#[tokio::test]
async fn blank_disks_and_wrong_sizes() {
    let site = Site::new().await;
    site.fetch().await;
    let blank = DiskSpec { disk: Uuid::from_u128(3), size_bytes: 24 * MIB, image: None, owner_uid: None };
    let disk = site.pool.create_disk(&blank).await.unwrap();
    assert_eq!((disk.size_bytes, disk.image), (24 * MIB, None));
    assert!(guest_bytes(&disk.path).iter().all(|byte| *byte == 0));

    for size_bytes in [0, 1, 513, 4 * MIB, u64::MAX] {
        let spec = DiskSpec { size_bytes, ..site.overlay(4) };
        let error = site.pool.create_disk(&spec).await.unwrap_err();
        assert!(matches!(error, StorageError::DiskSize { .. }), "{size_bytes}: {}", chain(&error));
    }
    assert_eq!(site.pool.list_disks().await.unwrap(), [disk]);
}

#[tokio::test]
async fn an_image_goes_only_when_no_disk_needs_it() {
    let site = Site::new().await;
    site.fetch().await;
    let disk = site.pool.create_disk(&site.overlay(5)).await.unwrap();
    let error = site.pool.remove_image(site.image.sha256).await.unwrap_err();
    assert!(matches!(error, StorageError::ImageInUse { .. }), "{}", chain(&error));
    site.pool.delete_disk(disk.disk).await.unwrap();
    site.pool.remove_image(site.image.sha256).await.unwrap();
    site.pool.remove_image(site.image.sha256).await.unwrap();
    assert_eq!(site.pool.list_images().await.unwrap(), []);
}

#[tokio::test]
async fn a_disk_whose_header_names_a_foreign_file_has_no_image() {
    let site = Site::new().await;
    let path = site.pool.disk_path(Uuid::from_u128(6));
    let target = path.to_str().unwrap();
    qemu_img(&["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", target, "1M"]);
    assert_eq!(site.pool.disk(Uuid::from_u128(6)).await.unwrap().unwrap().image, None);
    // What is no disk is not taken for one, and a damaged one does not hide the others.
    fs::write(path.with_file_name("notes.txt"), "x").unwrap();
    fs::write(site.pool.disk_path(Uuid::from_u128(7)), "damaged").unwrap();
    assert_eq!(site.pool.list_disks().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_pool_opened_again_has_everything_but_the_leftovers() {
    let site = Site::new().await;
    site.fetch().await;
    let disk = site.pool.create_disk(&site.overlay(8)).await.unwrap();
    let leftover = site.pool.path().join("images/.staging/job-crashed");
    fs::create_dir(&leftover).unwrap();
    fs::write(leftover.join("input"), "half a disk").unwrap();

    let pool = DirPool::open(site.pool.path()).unwrap();
    assert_eq!(pool.sweep().await.unwrap(), 1);
    assert_eq!(pool.sweep().await.unwrap(), 0);
    site.assert_nothing_staged();
    assert_eq!(pool.list_disks().await.unwrap(), [disk]);
    assert_eq!(pool.list_images().await.unwrap().len(), 1);
    let capacity = pool.capacity().unwrap();
    assert!(capacity.free_bytes <= capacity.capacity_bytes && capacity.capacity_bytes > 0);
}

/// A small filesystem of its own, unmounted at the end. Needs root, as the tests of this product do.
struct SmallFilesystem(TempDir);

impl SmallFilesystem {
    fn mount(size: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        mount(Some("tmpfs"), directory.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallFilesystem {
    fn drop(&mut self) {
        umount2(self.0.path(), MntFlags::MNT_DETACH).unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_is_said_plainly_and_left_clean() {
    let site = Site::new().await;
    // Full while copying in, and full while converting.
    let source = site.bench.raw_disk();
    for size in ["100k", "600k"] {
        let small = SmallFilesystem::mount(size);
        let store = gantry_storage::ImageStore::open(&small.path().join("store")).unwrap();
        let error = store.import(&source, &Default::default(), |_| {}).await.unwrap_err();
        assert!(matches!(error, StorageError::NoSpace { .. }), "{size}: {}", chain(&error));
        assert_eq!(error.class(), ErrorClass::Permanent);
        assert_eq!(fs::read_dir(store.path().join(".staging")).unwrap().count(), 0);
        assert_eq!(store.list().await.unwrap(), []);
    }
    // Full while receiving.
    let small = SmallFilesystem::mount("100k");
    let pool = DirPool::open(&small.path().join("pool")).unwrap();
    let open = || tokio::fs::File::open(site.image_path());
    let error = pool.ensure_image(site.image.sha256, MAX_IMAGE_BYTES, open).await.unwrap_err();
    assert!(matches!(error, StorageError::NoSpace { .. }), "{}", chain(&error));
    assert_eq!(fs::read_dir(pool.path().join("images/.staging")).unwrap().count(), 0);
    // Full while making a disk.
    fs::write(small.path().join("filler"), vec![1; 90 << 10]).unwrap();
    let blank = DiskSpec { disk: Uuid::from_u128(9), size_bytes: 16 * MIB, image: None, owner_uid: None };
    let error = pool.create_disk(&blank).await.unwrap_err();
    assert!(matches!(error, StorageError::NoSpace { .. }), "{}", chain(&error));
    assert_eq!(pool.list_disks().await.unwrap(), []);
}

#[tokio::test]
async fn a_dropped_import_leaves_nothing() {
    let bench = Bench::new();
    let file = disks::compress("gzip", &bench.raw_disk());
    let (started, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let options = Default::default();
    let import = bench.store.import(&file, &options, move |progress| {
        started.send(progress).ok();
    });
    tokio::select! {
        done = import => panic!("finished before it could be dropped: {done:?}"),
        _ = seen.recv() => {}
    }
    // The blocking part notices on its own; the sender goes when it has.
    while seen.recv().await.is_some() {}
    bench.assert_empty();
}
