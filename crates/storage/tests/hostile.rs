//! Files made to do harm, or damaged, are refused for the right reason and leave nothing behind.

mod disks;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use disks::{Bench, MIB, chain, cut, patch, qemu_img};
use gantry_storage::{ImportLimits, ImportOptions, Refusal, StorageError};
use gantry_types::{ErrorClass, ImageFormat};

/// Imports and returns why the file was refused.
async fn refusal(bench: &Bench, file: &Path) -> Refusal {
    refusal_with(bench, file, &ImportOptions::default()).await
}

async fn refusal_with(bench: &Bench, file: &Path, options: &ImportOptions) -> Refusal {
    let error = bench.import_with(file, options).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Invalid, "{}", chain(&error));
    bench.assert_empty();
    match error {
        StorageError::Refused { reason, .. } => reason,
        other => panic!("failed, but was not refused: {}", chain(&other)),
    }
}

fn is_external(refusal: &Refusal, format: ImageFormat) -> bool {
    matches!(refusal, Refusal::ExternalReference { format: found, .. } if *found == format)
}

fn u64_at(path: &Path, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    File::open(path).unwrap().read_exact_at(&mut bytes, offset).unwrap();
    u64::from_be_bytes(bytes)
}

#[tokio::test]
async fn qcow2_with_a_backing_file() {
    let bench = Bench::new();
    let file = bench.file("steals.qcow2");
    qemu_img(&["create", "-q", "-u", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", file.to_str().unwrap(), "1M"]);
    let refusal = refusal(&bench, &file).await;
    assert!(is_external(&refusal, ImageFormat::Qcow2) && refusal.to_string().contains("/etc/passwd"), "{refusal}");
}

#[tokio::test]
async fn qcow2_with_an_external_data_file() {
    let bench = Bench::new();
    let (file, data) = (bench.file("split.qcow2"), bench.file("data"));
    let option = format!("data_file={}", data.display());
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &option, file.to_str().unwrap(), "1M"]);
    assert!(is_external(&refusal(&bench, &file).await, ImageFormat::Qcow2));
    // The feature bit alone, or the name alone, is as bad.
    patch(&file, 72, &0_u64.to_be_bytes());
    assert!(is_external(&refusal(&bench, &file).await, ImageFormat::Qcow2));
}

#[tokio::test]
async fn encrypted_qcow2() {
    let bench = Bench::new();
    let file = bench.disk_as("qcow2", &[]);
    patch(&file, 32, &2_u32.to_be_bytes());
    assert!(matches!(refusal(&bench, &file).await, Refusal::Encrypted { .. }));
}

#[tokio::test]
async fn a_pebibyte() {
    let bench = Bench::new();
    let pebibyte = 1_u64 << 50;
    let qcow2 = bench.disk_as("qcow2", &[]);
    patch(&qcow2, 24, &pebibyte.to_be_bytes());
    let vmdk = bench.disk_as("vmdk", &[]);
    patch(&vmdk, 12, &(pebibyte / 512).to_le_bytes());
    let vdi = bench.disk_as("vdi", &[]);
    patch(&vdi, 0x170, &pebibyte.to_le_bytes());
    for file in [qcow2, vmdk, vdi] {
        let refusal = refusal(&bench, &file).await;
        assert!(matches!(refusal, Refusal::TooLarge { size_bytes, .. } if size_bytes == pebibyte), "{refusal}");
    }
    let raw = bench.raw_disk();
    let limits = ImportLimits { max_virtual_bytes: 8 * MIB - 1, ..ImportLimits::default() };
    let refusal = refusal_with(&bench, &raw, &ImportOptions { limits, ..ImportOptions::default() }).await;
    assert!(matches!(refusal, Refusal::TooLarge { .. }), "{refusal}");
}

#[tokio::test]
async fn qcow2_with_a_corrupt_l1_table() {
    let bench = Bench::new();
    for (entry, wanted) in [
        (0x8000_0000_0000_0000 | (1 << 40), "truncated"),
        (0x8000_0000_0000_0000 | 0x1200, "not aligned"),
        // The header as an L2 table.
        (0x8000_0000_0001_0000, "damaged"),
    ] {
        let file = bench.disk_as("qcow2", &[]);
        patch(&file, u64_at(&file, 40), &u64::to_be_bytes(entry));
        let refusal = refusal(&bench, &file).await;
        assert!(refusal.to_string().contains(wanted), "{refusal}");
    }
}

#[tokio::test]
async fn qcow2_with_a_corrupt_l2_table() {
    let bench = Bench::new();
    let file = bench.disk_as("qcow2", &[]);
    let l2 = u64_at(&file, u64_at(&file, 40)) & 0x00ff_ffff_ffff_fe00;
    patch(&file, l2, &(0x8000_0000_0000_0000 | 1_u64 << 41).to_be_bytes());
    let refusal = refusal(&bench, &file).await;
    assert!(matches!(refusal, Refusal::Truncated { .. }), "{refusal}");
}

#[tokio::test]
async fn qcow2_with_two_clusters_in_one_place() {
    let bench = Bench::new();
    let file = bench.disk_as("qcow2", &[]);
    let l2 = u64_at(&file, u64_at(&file, 40)) & 0x00ff_ffff_ffff_fe00;
    let first = u64_at(&file, l2);
    patch(&file, l2 + 8, &first.to_be_bytes());
    let refusal = refusal(&bench, &file).await;
    assert!(matches!(refusal, Refusal::CheckFailed { .. }), "{refusal}");
}

#[tokio::test]
async fn qcow2_with_a_corrupt_refcount_table() {
    let bench = Bench::new();
    let file = bench.disk_as("qcow2", &[]);
    patch(&file, u64_at(&file, 48), &(1_u64 << 42).to_be_bytes());
    let refusal = refusal(&bench, &file).await;
    assert!(matches!(refusal, Refusal::CheckFailed { .. }), "{refusal}");
}

#[tokio::test]
async fn qcow2_headers_that_lie() {
    let bench = Bench::new();
    for (what, offset, bytes) in [
        ("cluster bits", 20, 63_u32.to_be_bytes().to_vec()),
        ("version", 4, 4_u32.to_be_bytes().to_vec()),
        ("L1 entries", 36, u32::MAX.to_be_bytes().to_vec()),
        ("no L1 entries", 36, vec![0; 4]),
        ("L1 offset", 40, (u64::MAX - 8).to_be_bytes().to_vec()),
        ("refcount table offset", 48, (1_u64 << 60).to_be_bytes().to_vec()),
        ("refcount table clusters", 56, u32::MAX.to_be_bytes().to_vec()),
        ("unknown feature", 72, (1_u64 << 50).to_be_bytes().to_vec()),
        ("corrupt bit", 72, 2_u64.to_be_bytes().to_vec()),
        ("header length", 100, u32::MAX.to_be_bytes().to_vec()),
        ("a disk larger than its tables", 24, (1_u64 << 43).to_be_bytes().to_vec()),
        ("an empty disk", 24, vec![0; 8]),
        ("extension length", 116, u32::MAX.to_be_bytes().to_vec()),
    ] {
        let file = bench.disk_as("qcow2", &[]);
        patch(&file, offset, &bytes);
        let refusal = refusal(&bench, &file).await;
        let expected =
            matches!(refusal, Refusal::Corrupt { .. } | Refusal::Truncated { .. } | Refusal::Unsupported { .. });
        assert!(expected, "{what}: {refusal}");
    }
}

#[tokio::test]
async fn vmdk_descriptor_with_a_flat_extent() {
    let bench = Bench::new();
    let descriptor = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
        createType=\"monolithicFlat\"\n\nRW 8 FLAT \"/etc/passwd\" 0\n";
    let text = bench.file("text.vmdk");
    fs::write(&text, descriptor).unwrap();
    assert!(is_external(&refusal(&bench, &text).await, ImageFormat::Vmdk));

    // The same text inside a sparse header, with the capacity zero that makes a reader follow it.
    let embedded = bench.disk_as("vmdk", &[]);
    let mut padded = descriptor.as_bytes().to_vec();
    padded.resize(20 * 512, 0);
    patch(&embedded, 512, &padded);
    assert!(is_external(&refusal(&bench, &embedded).await, ImageFormat::Vmdk));
    patch(&embedded, 12, &[0; 8]);
    assert!(is_external(&refusal(&bench, &embedded).await, ImageFormat::Vmdk));
}

#[tokio::test]
async fn vmdk_kinds_that_need_other_files() {
    let bench = Bench::new();
    for kind in ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let file = bench.disk_as("vmdk", &[&format!("subformat={kind}")]);
        assert!(is_external(&refusal(&bench, &file).await, ImageFormat::Vmdk), "{kind}");
    }
}

#[tokio::test]
async fn vmdk_with_a_parent() {
    let bench = Bench::new();
    let parent = bench.disk_as("vmdk", &[]);
    let child = bench.file("child.vmdk");
    qemu_img(&["create", "-q", "-f", "vmdk", "-b", parent.to_str().unwrap(), "-F", "vmdk", child.to_str().unwrap()]);
    assert!(is_external(&refusal(&bench, &child).await, ImageFormat::Vmdk));
}

#[tokio::test]
async fn vmdk_with_a_parent_where_the_header_points_elsewhere() {
    let bench = Bench::new();
    let file = bench.disk_as("vmdk", &[]);
    patch(&file, 512, b"# Disk DescriptorFile\nparentCID=12345678\nparentFileNameHint=\"/etc/passwd\"\n\0");
    patch(&file, 28, &[0; 16]);
    assert!(is_external(&refusal(&bench, &file).await, ImageFormat::Vmdk));
}

/// Stream-optimized files of other programs end with the header that counts.
#[tokio::test]
async fn vmdk_with_a_footer() {
    let bench = Bench::new();
    let file = bench.disk_as("vmdk", &["subformat=streamOptimized"]);
    let mut content = fs::read(&file).unwrap();
    let mut footer = content[..512].to_vec();
    content[56..64].fill(0xff);
    content.resize(content.len().next_multiple_of(512), 0);
    let mut marker = [0; 512];
    marker[0] = 1;
    marker[12] = 3;
    let with_footer = |footer: &[u8]| [&content, &marker[..], footer, &[0; 512]].concat();

    fs::write(&file, with_footer(&footer)).unwrap();
    let info = bench.import(&file).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let stored = bench.store.image_path(info.sha256);
    assert!(disks::guest_bytes(&stored) == fs::read(bench.file("disk.raw")).unwrap());
    bench.store.remove(info.sha256).await.unwrap();

    footer[12..20].fill(0);
    fs::write(&file, with_footer(&footer)).unwrap();
    assert!(is_external(&refusal(&bench, &file).await, ImageFormat::Vmdk));
}

#[tokio::test]
async fn vhd_vhdx_and_vdi_differencing() {
    let bench = Bench::new();
    // A fixed VHD has its only header at the end.
    for kind in ["dynamic", "fixed"] {
        let vhd = bench.disk_as("vpc", &[&format!("subformat={kind}")]);
        let end = fs::metadata(&vhd).unwrap().len() - 512;
        let mut footer = [0; 512];
        File::open(&vhd).unwrap().read_exact_at(&mut footer, end).unwrap();
        footer[60..64].copy_from_slice(&4_u32.to_be_bytes());
        footer[64..68].fill(0);
        let sum = !footer.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        footer[64..68].copy_from_slice(&sum.to_be_bytes());
        patch(&vhd, end, &footer);
        if kind == "dynamic" {
            patch(&vhd, 0, &footer);
        }
        assert!(is_external(&refusal(&bench, &vhd).await, ImageFormat::Vhd), "{kind}");
    }

    let vhdx = bench.disk_as("vhdx", &[]);
    let content = fs::read(&vhdx).unwrap();
    let metadata = find(&content, b"metadata") as u64;
    let item =
        metadata + u64::from(u32::from_le_bytes(content[metadata as usize + 32 + 16..][..4].try_into().unwrap()));
    patch(&vhdx, item + 4, &2_u32.to_le_bytes());
    assert!(is_external(&refusal(&bench, &vhdx).await, ImageFormat::Vhdx));

    let vdi = bench.disk_as("vdi", &[]);
    patch(&vdi, 0x4c, &4_u32.to_le_bytes());
    assert!(is_external(&refusal(&bench, &vdi).await, ImageFormat::Vdi));
    patch(&vdi, 0x4c, &1_u32.to_le_bytes());
    patch(&vdi, 0x1b8, &[7; 16]);
    assert!(is_external(&refusal(&bench, &vdi).await, ImageFormat::Vdi));
}

fn find(content: &[u8], pattern: &[u8]) -> usize {
    content.windows(pattern.len()).position(|window| window == pattern).unwrap()
}

#[tokio::test]
async fn truncated_files() {
    let bench = Bench::new();
    for (format, options) in [
        ("qcow2", vec![]),
        ("vmdk", vec!["subformat=monolithicSparse"]),
        ("vmdk", vec!["subformat=streamOptimized"]),
        ("vpc", vec!["subformat=dynamic"]),
        ("vhdx", vec![]),
        ("vdi", vec![]),
    ] {
        for cut_bytes in [512, 4096, 100_000] {
            let file = bench.disk_as(format, &options);
            let length = fs::metadata(&file).unwrap().len();
            // QEMU pads a stream-optimized file's end: cut into its data instead.
            let padding = trailing_zeros(&file);
            cut(&file, length - padding - cut_bytes);
            let refusal = refusal(&bench, &file).await;
            assert!(matches!(refusal, Refusal::Truncated { .. }), "{format} {options:?} {cut_bytes}: {refusal}");
        }
    }
    for length in [1, 3, 40, 511, 513, 1024, 70_000] {
        for format in ["qcow2", "vmdk", "vhdx", "vdi"] {
            let file = bench.disk_as(format, &[]);
            cut(&file, length);
            refusal(&bench, &file).await;
        }
    }
}

fn trailing_zeros(path: &Path) -> u64 {
    fs::read(path).unwrap().iter().rev().take_while(|byte| **byte == 0).count() as u64
}

#[tokio::test]
async fn a_truncated_fixed_vhd_has_lost_what_made_it_one() {
    let bench = Bench::new();
    let file = bench.disk_as("vpc", &["subformat=fixed"]);
    patch(&file, 510, &[0, 0]);
    cut(&file, fs::metadata(&file).unwrap().len() - 4096);
    assert!(matches!(refusal(&bench, &file).await, Refusal::NotADisk { .. }));
}

#[tokio::test]
async fn compressed_files_cut_off_or_damaged() {
    let bench = Bench::new();
    for program in ["gzip", "xz", "zstd"] {
        let packed = disks::compress(program, &bench.raw_disk());
        cut(&packed, fs::metadata(&packed).unwrap().len() - 1000);
        let reason = refusal(&bench, &packed).await;
        assert!(matches!(reason, Refusal::BadCompression { .. }), "{program}: {reason}");
        let packed = disks::compress(program, &bench.raw_disk());
        let middle = fs::metadata(&packed).unwrap().len() / 2;
        patch(&packed, middle, &disks::noise(77, 64));
        let reason = refusal(&bench, &packed).await;
        assert!(matches!(reason, Refusal::BadCompression { .. }), "{program}: {reason}");
    }
}

#[tokio::test]
async fn decompression_bombs() {
    let bench = Bench::new();
    let bomb = bench.file("bomb");
    let mut file = File::create(&bomb).unwrap();
    let line = [b'A'; 1 << 16];
    for _ in 0..((80 * MIB) >> 16) {
        file.write_all(&line).unwrap();
    }
    let packed = disks::compress("zstd", &bomb);
    assert!(matches!(refusal(&bench, &packed).await, Refusal::Bomb { .. }));

    let zeros = bench.file("zeros");
    File::create(&zeros).unwrap().set_len(20 * MIB).unwrap();
    let packed = disks::compress("gzip", &zeros);
    let limits = ImportLimits { max_unpacked_bytes: 10 * MIB, ..ImportLimits::default() };
    let refusal = refusal_with(&bench, &packed, &ImportOptions { limits, ..ImportOptions::default() }).await;
    assert!(matches!(refusal, Refusal::ExpandsTooFar { .. }), "{refusal}");
}

#[tokio::test]
async fn what_is_no_disk() {
    let bench = Bench::new();
    let file = bench.file("thing");
    for (content, wanted) in [
        (&b""[..], "empty"),
        (b"hello", "no known signature"),
        (b"BZh91AY&SY", "bzip2"),
        (b"PK\x03\x04rest", "zip"),
        (b"\x7fELF", "program"),
        (&[0; 4096], "zeros"),
    ] {
        fs::write(&file, content).unwrap();
        let refusal = refusal(&bench, &file).await;
        assert!(refusal.to_string().contains(wanted), "{refusal}");
    }
}

#[tokio::test]
async fn what_is_no_file() {
    let bench = Bench::new();
    let pipe = bench.file("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    for path in [pipe.as_path(), Path::new("/dev/zero"), bench.directory.path()] {
        let error = bench.import(path).await.unwrap_err();
        assert!(matches!(error, StorageError::NotAFile { .. }), "{}", chain(&error));
    }
    let error = bench.import(&bench.file("absent")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound);
    bench.assert_empty();
}

#[tokio::test]
async fn limits_on_qemu_img_hold() {
    let bench = Bench::new();
    let file = bench.disk_as("qcow2", &[]);
    let defaults = ImportLimits::default;
    for limits in [
        ImportLimits { max_duration: Duration::ZERO, ..defaults() },
        ImportLimits { max_output_bytes: 200_000, ..defaults() },
    ] {
        let options = ImportOptions { limits, ..ImportOptions::default() };
        let error = bench.import_with(&file, &options).await.unwrap_err();
        assert!(matches!(error, StorageError::ToolLimit { .. }), "{}", chain(&error));
        assert_eq!(error.class(), ErrorClass::Permanent);
        bench.assert_empty();
    }
    let limits = ImportLimits { max_address_space_bytes: 16 * MIB, ..defaults() };
    let options = ImportOptions { limits, ..ImportOptions::default() };
    bench.import_with(&file, &options).await.unwrap_err();
    bench.assert_empty();
}
