//! Volumes that begin as images, and volumes as files that others read.

mod disks;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use disks::{Bench, MIB, guest_bytes, qemu_img};
use gantry_storage::{DirPool, DiskSpec, StorageError};
use gantry_types::ImageFormat;
use uuid::Uuid;

const DISK: Uuid = Uuid::from_u128(7);
const OWNER: u32 = 200_001;

async fn pool_with_volume(directory: &Path, bytes: u64) -> DirPool {
    let pool = DirPool::open(&directory.join("pool")).unwrap();
    let spec = DiskSpec { disk: DISK, size_bytes: bytes, image: None, owner_uid: Some(OWNER) };
    pool.create_disk(&spec).await.unwrap();
    pool
}

fn staged(pool: &DirPool) -> usize {
    fs::read_dir(pool.path().join("images/.staging")).unwrap().count()
}

async fn whole(pool: &DirPool, format: ImageFormat) -> Vec<u8> {
    let mut exported = pool.export_disk(DISK, format).await.unwrap();
    let mut bytes = Vec::new();
    loop {
        let part = exported.next().await.unwrap();
        if part.is_empty() {
            break;
        }
        bytes.extend(part);
    }
    assert_eq!(bytes.len() as u64, exported.bytes());
    bytes
}

#[tokio::test]
async fn a_volume_begins_as_an_image_and_is_exported_as_any_format() {
    let bench = Bench::new();
    let image = bench.import(&bench.disk_as("qcow2", &[])).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let pool = pool_with_volume(directory.path(), 16 * MIB).await;
    // Also over what an attempt has left that broke off.
    for _ in 0..2 {
        pool.fill_disk(DISK, &bench.store.image_path(image.sha256)).await.unwrap();
    }
    let mut expected = fs::read(bench.raw_disk()).unwrap();
    expected.resize(16 * MIB as usize, 0);
    assert!(guest_bytes(&pool.disk_path(DISK)) == expected, "it holds the image, and zeros behind it");
    let metadata = fs::metadata(pool.disk_path(DISK)).unwrap();
    assert_eq!(metadata.uid(), OWNER);
    assert!(metadata.blocks() * 512 < 2 * MIB, "it is thin");

    assert!(whole(&pool, ImageFormat::Raw).await == expected);
    for (format, name) in [
        (ImageFormat::Qcow2, "qcow2"),
        (ImageFormat::Vmdk, "vmdk"),
        (ImageFormat::Vhd, "vpc"),
        (ImageFormat::Vhdx, "vhdx"),
        (ImageFormat::Vdi, "vdi"),
    ] {
        let file = bench.file(&format!("exported.{format}"));
        fs::write(&file, whole(&pool, format).await).unwrap();
        let raw = bench.file("back.raw");
        qemu_img(&["convert", "-f", name, "-O", "raw", file.to_str().unwrap(), raw.to_str().unwrap()]);
        let back = fs::read(&raw).unwrap();
        // A VHD is of whole cylinders.
        assert!(back.starts_with(&expected) && back[expected.len()..].iter().all(|byte| *byte == 0), "{format}");
    }
    assert_eq!(staged(&pool), 0, "nothing is left of what was read");
    let exported = pool.export_disk(DISK, ImageFormat::Raw).await.unwrap();
    drop(exported);
    assert_eq!(staged(&pool), 0, "nor of what nobody read");
}

#[tokio::test]
async fn what_is_not_there_or_does_not_fit_is_refused_and_leaves_nothing() {
    let bench = Bench::new();
    let image = bench.import(&bench.disk_as("qcow2", &[])).await.unwrap();
    let image = bench.store.image_path(image.sha256);
    let directory = tempfile::tempdir().unwrap();
    let pool = pool_with_volume(directory.path(), MIB).await;
    assert!(matches!(pool.fill_disk(DISK, &image).await, Err(StorageError::Tool { .. })), "it is smaller");
    let missing = pool.export_disk(Uuid::from_u128(9), ImageFormat::Raw).await;
    assert!(matches!(missing, Err(StorageError::DiskMissing { .. })));
    assert_eq!(staged(&pool), 0);
}
