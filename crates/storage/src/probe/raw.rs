//! Raw disks: bytes without a header, and names for what is not a disk.

use super::reader::{Reader, start_of};
use super::{ReadAt, Refusal};

/// A raw disk is as large as its file, in whole sectors: a last partial sector is padded with
/// zeros on import, as `qemu-img` does, because disk dumps of odd length are common and harmless.
pub(super) fn inspect(reader: &Reader<'_>) -> Result<u64, Refusal> {
    match reader.file_bytes() {
        0 => Err(Refusal::Empty),
        size_bytes => Ok(size_bytes.next_multiple_of(512)),
    }
}

/// What a file without a disk's signature seems to be, for the message.
pub(super) fn looks_like(source: &dyn ReadAt) -> Result<&'static str, Refusal> {
    let start = start_of(source, 0x8006)?;
    let at = |offset: usize, magic: &[u8]| start.get(offset..offset + magic.len()).is_some_and(|found| found == magic);
    Ok(if start.is_empty() {
        return Err(Refusal::Empty);
    } else if at(0, b"BZh") {
        "it looks like bzip2: unpack it first"
    } else if at(0, b"PK\x03\x04") {
        "it looks like a zip archive: unpack it first"
    } else if at(257, b"ustar") {
        "it looks like a tar archive or an OVA: unpack it first"
    } else if at(0, b"\x7fELF") {
        "it looks like a program"
    } else if at(0, b"LUKS") {
        "it looks like a LUKS container"
    } else if at(0x8001, b"CD001") {
        "it looks like a CD without a boot sector"
    } else if at(0, b"QED\0") {
        "it looks like a QED image"
    } else if start.iter().all(|byte| *byte == 0) {
        "it starts with zeros only"
    } else {
        "no known signature"
    })
}
