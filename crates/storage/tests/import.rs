//! Every format that is read comes out as a standalone qcow2 with the same content.

mod disks;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex};

use disks::{Bench, MIB, chain, compress, guest_bytes};
use gantry_storage::{Compression, ImportOptions, ImportPhase, Refusal, Sha256Digest, StorageError};
use gantry_types::{ErrorClass, ImageFormat};

async fn round_trip(format: &str, options: &[&str], expected: ImageFormat) {
    let bench = Bench::new();
    let file = bench.disk_as(format, options);
    let info = bench.import(&file).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(info.source_format, expected);
    assert_eq!(info.source_compression, None);
    assert_eq!(info.source_sha256, Sha256Digest::of(&fs::read(&file).unwrap()));

    let stored = bench.store.get(info.sha256).await.unwrap().unwrap();
    assert_eq!(stored.virtual_size_bytes, info.virtual_size_bytes);
    assert_eq!(Sha256Digest::of(&fs::read(&stored.path).unwrap()), info.sha256);
    let metadata = fs::metadata(&stored.path).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o444);
    assert_eq!(metadata.uid(), rustix::process::geteuid().as_raw());

    let expected = fs::read(bench.file("disk.raw")).unwrap();
    let found = guest_bytes(&stored.path);
    // A VHD's geometry may round the disk up; what is added reads as zeros.
    assert!(found[..expected.len()] == expected, "the content changed");
    assert!(found[expected.len()..].iter().all(|byte| *byte == 0));
    assert_eq!(found.len() as u64, info.virtual_size_bytes);
}

#[tokio::test]
async fn raw() {
    round_trip("raw", &[], ImageFormat::Raw).await;
}

#[tokio::test]
async fn qcow2() {
    for options in [
        &["compat=1.1"][..],
        &["compat=0.10"],
        &["cluster_size=512"],
        &["cluster_size=2M"],
        &["extended_l2=on,cluster_size=128k"],
        &["compression_type=zstd"],
        &["lazy_refcounts=on"],
    ] {
        round_trip("qcow2", options, ImageFormat::Qcow2).await;
    }
}

#[tokio::test]
async fn qcow2_with_compressed_clusters() {
    let bench = Bench::new();
    let (raw, file) = (bench.raw_disk(), bench.file("packed.qcow2"));
    disks::qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap(), file.to_str().unwrap()]);
    let info = bench.import(&file).await.unwrap();
    assert!(guest_bytes(&bench.store.image_path(info.sha256)) == fs::read(raw).unwrap());
}

#[tokio::test]
async fn vmdk_monolithic_and_stream_optimized() {
    round_trip("vmdk", &["subformat=monolithicSparse"], ImageFormat::Vmdk).await;
    round_trip("vmdk", &["subformat=streamOptimized"], ImageFormat::Vmdk).await;
}

#[tokio::test]
async fn vhd_dynamic_and_fixed() {
    round_trip("vpc", &["subformat=dynamic"], ImageFormat::Vhd).await;
    round_trip("vpc", &["subformat=fixed"], ImageFormat::Vhd).await;
    round_trip("vpc", &["subformat=fixed,force_size=on"], ImageFormat::Vhd).await;
}

#[tokio::test]
async fn vhdx_dynamic_and_fixed() {
    round_trip("vhdx", &["subformat=dynamic"], ImageFormat::Vhdx).await;
    round_trip("vhdx", &["subformat=fixed"], ImageFormat::Vhdx).await;
}

#[tokio::test]
async fn vdi_dynamic_and_static() {
    round_trip("vdi", &[], ImageFormat::Vdi).await;
    round_trip("vdi", &["static=on"], ImageFormat::Vdi).await;
}

#[tokio::test]
async fn compressed_files_and_progress() {
    for (program, compression) in [("gzip", Compression::Gzip), ("xz", Compression::Xz), ("zstd", Compression::Zstd)] {
        let bench = Bench::new();
        let file = compress(program, &bench.disk_as("qcow2", &[]));
        let options = ImportOptions {
            expected_sha256: Some(Sha256Digest::of(&fs::read(&file).unwrap())),
            ..ImportOptions::default()
        };
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = seen.clone();
        let import = bench.store.import(&file, &options, move |progress| record.lock().unwrap().push(progress));
        let info = import.await.unwrap();
        assert_eq!((info.source_compression, info.source_format), (Some(compression), ImageFormat::Qcow2));
        let stored = bench.store.image_path(info.sha256);
        assert!(guest_bytes(&stored) == fs::read(bench.file("disk.raw")).unwrap());

        let seen = seen.lock().unwrap();
        for phase in [ImportPhase::Reading, ImportPhase::Checking, ImportPhase::Converting, ImportPhase::Publishing] {
            let last = seen.iter().rfind(|progress| progress.phase == phase);
            let finished = last.is_some_and(|last| phase == ImportPhase::Checking || last.percent >= 99.9);
            assert!(finished, "{phase:?} ended at {last:?}");
        }
    }
}

#[tokio::test]
async fn importing_again_gives_the_same_image() {
    let bench = Bench::new();
    let file = bench.disk_as("vmdk", &[]);
    let first = bench.import(&file).await.unwrap();
    let again = bench.import(&file).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(bench.store.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn raw_without_a_signature_only_when_declared() {
    let bench = Bench::new();
    let file = bench.file("filesystem.img");
    fs::write(&file, disks::noise(9, 100_001)).unwrap();
    let error = bench.import(&file).await.unwrap_err();
    assert!(matches!(error, StorageError::Refused { reason: Refusal::NotADisk { .. }, .. }), "{error:?}");
    assert_eq!(error.class(), ErrorClass::Invalid);
    bench.assert_empty();

    let options = ImportOptions { declared_format: Some(ImageFormat::Raw), ..ImportOptions::default() };
    let info = bench.import_with(&file, &options).await.unwrap();
    // A last partial sector is filled with zeros.
    assert_eq!(info.virtual_size_bytes, 100_001_u64.next_multiple_of(512));
    let found = guest_bytes(&bench.store.image_path(info.sha256));
    assert!(found[..100_001] == fs::read(&file).unwrap() && found[100_001..].iter().all(|byte| *byte == 0));
}

#[tokio::test]
async fn a_declaration_that_the_content_contradicts_is_refused() {
    let bench = Bench::new();
    let file = bench.disk_as("qcow2", &[]);
    let options = ImportOptions { declared_format: Some(ImageFormat::Raw), ..ImportOptions::default() };
    let error = bench.import_with(&file, &options).await.unwrap_err();
    assert!(matches!(error, StorageError::Refused { reason: Refusal::DeclaredOtherwise { .. }, .. }), "{error:?}");
    bench.assert_empty();
}

#[tokio::test]
async fn a_wrong_checksum_is_refused() {
    let bench = Bench::new();
    let options = ImportOptions { expected_sha256: Some(Sha256Digest::of(b"")), ..ImportOptions::default() };
    let error = bench.import_with(&bench.raw_disk(), &options).await.unwrap_err();
    assert!(matches!(error, StorageError::Checksum { .. }), "{error:?}");
    bench.assert_empty();
}

#[tokio::test]
async fn a_large_sparse_disk_costs_no_space() {
    let bench = Bench::new();
    let file = bench.file("sparse.raw");
    let disk = fs::File::create(&file).unwrap();
    disk.set_len(64 * MIB).unwrap();
    disk.write_all_at(&[0x55, 0xaa], 510).unwrap();
    let info = bench.import(&file).await.unwrap();
    assert_eq!(info.virtual_size_bytes, 64 * MIB);
    assert!(info.file_size_bytes < MIB, "{} bytes", info.file_size_bytes);
}
