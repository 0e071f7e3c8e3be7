//! VirtualBox VDI, version 1.1, little-endian (QEMU block/vdi.c documents the header).

use super::Refusal;
use super::reader::{Reader, guid, le32, le64};

const HEADER_BYTES: u64 = 512;
const TYPE_DYNAMIC: u32 = 1;
const TYPE_STATIC: u32 = 2;
const TYPE_DIFFERENCING: u32 = 4;
/// Entries from here on mean "not allocated" and "reads as zeros".
const FIRST_UNALLOCATED: u32 = 0xffff_fffe;

pub(super) fn inspect(reader: &Reader<'_>, max_virtual_bytes: u64) -> Result<u64, Refusal> {
    let header = reader.bytes("the header", 0, HEADER_BYTES)?;
    let version = le32(&header, 0x44);
    if version != 0x0001_0001 {
        return Err(reader.unsupported(format!("version {:#x}", version)));
    }
    match le32(&header, 0x4c) {
        TYPE_DYNAMIC | TYPE_STATIC => {}
        TYPE_DIFFERENCING => return Err(reader.external("parent of a differencing disk")),
        other => return Err(reader.unsupported(format!("image type {other}"))),
    }
    if !guid(&header, 0x1a8).is_nil() || !guid(&header, 0x1b8).is_nil() {
        return Err(reader.external("a linked parent disk"));
    }
    let size_bytes = le64(&header, 0x170);
    reader.require_size(size_bytes, max_virtual_bytes)?;
    let block_bytes = u64::from(le32(&header, 0x178));
    if block_bytes != 1 << 20 || le32(&header, 0x17c) != 0 {
        return Err(reader.unsupported(format!("blocks of {block_bytes} bytes")));
    }
    let blocks = u64::from(le32(&header, 0x180));
    if blocks < size_bytes.div_ceil(block_bytes) {
        return Err(reader.corrupt("a block map too small for the disk"));
    }
    let map_offset = u64::from(le32(&header, 0x154));
    let data_offset = u64::from(le32(&header, 0x158));
    reader.for_each_entry("the block map", map_offset, blocks, |index, entry| {
        let entry = u32::from_le_bytes(entry);
        let guest_offset = index * block_bytes;
        if entry >= FIRST_UNALLOCATED || guest_offset >= size_bytes {
            return Ok(());
        }
        let needed = block_bytes.min(size_bytes - guest_offset);
        reader.require("a data block", data_offset + u64::from(entry) * block_bytes, needed)
    })?;
    Ok(size_bytes)
}
