//! No bytes make the inspection panic or run away, and nothing it lets through names another file.

mod disks;

use std::fs;
use std::sync::LazyLock;

use disks::Bench;
use gantry_storage::probe::{self, Refusal};
use gantry_types::ImageFormat;
use proptest::prelude::*;

const MAX_VIRTUAL_BYTES: u64 = 16 << 40;

/// One small valid image of each format, cut to the part where its headers and tables are.
static VALID: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let bench = Bench::new();
    let kinds: [(&str, &[&str]); 7] = [
        ("qcow2", &["cluster_size=4k"]),
        ("qcow2", &["compat=0.10"]),
        ("vmdk", &["subformat=monolithicSparse"]),
        ("vmdk", &["subformat=streamOptimized"]),
        ("vpc", &["subformat=dynamic"]),
        ("vhdx", &["block_size=1M"]),
        ("vdi", &[]),
    ];
    kinds.iter().map(|(format, options)| fs::read(bench.disk_as(format, options)).unwrap()).collect()
});

/// Values that break arithmetic more often than random ones do.
fn nasty_value() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        Just(u64::MAX >> 1),
        Just(u64::from(u32::MAX)),
        Just(1 << 63),
        any::<u64>(),
        (0_u32..64).prop_map(|bit| 1 << bit),
    ]
}

#[derive(Debug, Clone)]
struct Change {
    /// In parts of 2^16 of the first KiB, or of the whole file.
    position: u16,
    in_header: bool,
    value: u64,
    width: usize,
    big_endian: bool,
}

fn change() -> impl Strategy<Value = Change> {
    (
        any::<u16>(),
        prop::bool::weighted(0.8),
        nasty_value(),
        prop_oneof![Just(1), Just(2), Just(4), Just(8)],
        any::<bool>(),
    )
        .prop_map(|(position, in_header, value, width, big_endian)| Change {
            position,
            in_header,
            value,
            width,
            big_endian,
        })
}

fn apply(image: &mut [u8], change: &Change) {
    let range = if change.in_header { image.len().min(1024) } else { image.len() };
    let offset = (range.saturating_sub(8)) * usize::from(change.position) / 65536;
    let bytes = if change.big_endian { change.value.to_be_bytes() } else { change.value.to_le_bytes() };
    let bytes = if change.big_endian { &bytes[8 - change.width..] } else { &bytes[..change.width] };
    if let Some(target) = image.get_mut(offset..offset + change.width) {
        target.copy_from_slice(bytes);
    }
}

/// What an outsider can say about a file that passed, without the inspection's own parsers.
fn assert_standalone(image: &[u8], format: ImageFormat) {
    match format {
        ImageFormat::Qcow2 => {
            assert_eq!(image[8..16], [0; 8], "a backing file name passed");
            assert_eq!(image[32..36], [0; 4], "encryption passed");
            let version = u32::from_be_bytes(image[4..8].try_into().unwrap());
            assert!(version == 2 || image[79] & 0b110 == 0, "an external data file or a corrupt image passed");
        }
        ImageFormat::Vmdk => {
            assert_eq!(&image[..4], b"KDMV");
            assert_ne!(image[12..20], [0; 8], "a capacity of zero passed");
        }
        ImageFormat::Vdi => {
            assert!(matches!(image[0x4c], 1 | 2), "a differencing VDI passed");
            assert_eq!(image[0x1b8..0x1c8], [0; 16], "a VDI with a parent passed");
        }
        ImageFormat::Vhd => assert!(matches!(image[image.len() - 512 + 63], 2 | 3), "a differencing VHD passed"),
        ImageFormat::Vhdx | ImageFormat::Raw => {}
    }
}

fn inspect(image: &[u8], declared: Option<ImageFormat>) -> Result<probe::Inspection, Refusal> {
    let result = probe::inspect(&image, declared, MAX_VIRTUAL_BYTES);
    if let Ok(found) = &result {
        assert!(found.virtual_size_bytes <= MAX_VIRTUAL_BYTES && found.virtual_size_bytes > 0);
        assert_standalone(image, found.format);
    }
    assert!(!matches!(result, Err(Refusal::Read(_))), "read outside of the file");
    result
}

#[test]
fn the_images_that_are_changed_below_pass_unchanged() {
    for image in VALID.iter() {
        inspect(image, None).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes(
        mut image in proptest::collection::vec(any::<u8>(), 0..3000),
        magic in prop::sample::select(vec![&b""[..], b"QFI\xfb\0\0\0\x03", b"KDMV\x01\0\0\0", b"vhdxfile", b"conectix", b"COWD"]),
        declared in prop::option::of(Just(ImageFormat::Raw)),
    ) {
        if let Some(start) = image.get_mut(..magic.len()) {
            start.copy_from_slice(magic);
        }
        inspect(&image, declared).ok();
    }

    #[test]
    fn changed_images(
        which in 0..7_usize,
        changes in proptest::collection::vec(change(), 1..4),
        cut in prop::option::weighted(0.2, any::<u16>()),
    ) {
        let mut image = VALID[which].clone();
        for change in &changes {
            apply(&mut image, change);
        }
        if let Some(cut) = cut {
            image.truncate(image.len() * usize::from(cut) / 65536);
        }
        inspect(&image, None).ok();
    }
}
