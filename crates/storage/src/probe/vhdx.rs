//! VHDX (Microsoft [MS-VHDX]), little-endian.
//!
//! Reads the first region table, as QEMU does. Checksums are left to `qemu-img`, which refuses a
//! structure whose checksum is wrong; nothing it accepts was skipped here.

use uuid::{Uuid, uuid};

use super::Refusal;
use super::reader::{Reader, guid, le16, le32, le64};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const HEADER_OFFSETS: [u64; 2] = [64 * KIB, 128 * KIB];
const REGION_TABLE_OFFSET: u64 = 192 * KIB;
const TABLE_BYTES: u64 = 64 * KIB;
const MAX_TABLE_ENTRIES: usize = 2047;
const REGION_BAT: Uuid = uuid!("2dc27766-f623-4200-9d64-115e9bfd4a08");
const REGION_METADATA: Uuid = uuid!("8b7ca206-4790-4b9a-b8fe-575f050f886e");
const ITEM_FILE_PARAMETERS: Uuid = uuid!("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
const ITEM_DISK_SIZE: Uuid = uuid!("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
const ITEM_SECTOR_SIZE: Uuid = uuid!("8141bf1d-a96f-4709-ba47-f233a8faab5f");
const ITEM_PARENT_LOCATOR: Uuid = uuid!("a8d35f2d-b30b-454d-abf7-d3d84834ab0c");
const HAS_PARENT: u32 = 1 << 1;
const BLOCK_FULLY_PRESENT: u64 = 6;
const BLOCK_PARTIALLY_PRESENT: u64 = 7;

struct Geometry {
    size_bytes: u64,
    block_bytes: u64,
    sector_bytes: u64,
}

pub(super) fn inspect(reader: &Reader<'_>, max_virtual_bytes: u64) -> Result<u64, Refusal> {
    refuse_pending_log(reader)?;
    let (bat_offset, bat_bytes, metadata_offset) = read_regions(reader)?;
    let geometry = read_metadata(reader, metadata_offset)?;
    reader.require_size(geometry.size_bytes, max_virtual_bytes)?;
    walk_block_table(reader, bat_offset, bat_bytes, &geometry)?;
    Ok(geometry.size_bytes)
}

/// Replaying a log rewrites tables after they were checked, so an unclean image is refused.
fn refuse_pending_log(reader: &Reader<'_>) -> Result<(), Refusal> {
    let mut current: Option<(u64, bool)> = None;
    for offset in HEADER_OFFSETS {
        let header = reader.bytes("the header", offset, 4 * KIB)?;
        let candidate = (le64(&header, 8), !guid(&header, 48).is_nil());
        if header.starts_with(b"head") && current.is_none_or(|found| candidate.0 >= found.0) {
            current = Some(candidate);
        }
    }
    match current {
        Some((_, false)) => Ok(()),
        Some((_, true)) => Err(reader.unsupported(
            "it was not closed cleanly, its log must be replayed: attach and detach it where it was used",
        )),
        None => Err(reader.corrupt("no header")),
    }
}

fn read_regions(reader: &Reader<'_>) -> Result<(u64, u64, u64), Refusal> {
    let table = reader.bytes("the region table", REGION_TABLE_OFFSET, TABLE_BYTES)?;
    if !table.starts_with(b"regi") {
        return Err(reader.corrupt("no region table"));
    }
    let entries = le32(&table, 8) as usize;
    if entries > MAX_TABLE_ENTRIES {
        return Err(reader.corrupt(format!("{entries} regions")));
    }
    let (mut bat, mut metadata) = (None, None);
    for entry in table[16..].chunks_exact(32).take(entries) {
        let region = (le64(entry, 16), u64::from(le32(entry, 24)));
        let slot = match guid(entry, 0) {
            REGION_BAT => &mut bat,
            REGION_METADATA => &mut metadata,
            _ => continue,
        };
        if slot.replace(region).is_some() {
            return Err(reader.corrupt("a region given twice"));
        }
    }
    match (bat, metadata) {
        (Some((bat_offset, bat_bytes)), Some((metadata_offset, _))) => Ok((bat_offset, bat_bytes, metadata_offset)),
        _ => Err(reader.corrupt("no block table or no metadata")),
    }
}

fn read_metadata(reader: &Reader<'_>, metadata_offset: u64) -> Result<Geometry, Refusal> {
    let table = reader.bytes("the metadata", metadata_offset, TABLE_BYTES)?;
    if !table.starts_with(b"metadata") {
        return Err(reader.corrupt("no metadata table"));
    }
    let entries = usize::from(le16(&table, 10));
    if entries > MAX_TABLE_ENTRIES {
        return Err(reader.corrupt(format!("{entries} metadata items")));
    }
    let (mut size_bytes, mut block_bytes, mut sector_bytes) = (None, None, None);
    for entry in table[32..].chunks_exact(32).take(entries) {
        let offset = metadata_offset.saturating_add(u64::from(le32(entry, 16)));
        match guid(entry, 0) {
            ITEM_PARENT_LOCATOR => return Err(reader.external("parent of a differencing disk")),
            ITEM_FILE_PARAMETERS => {
                let item = reader.bytes("the metadata", offset, 8)?;
                if le32(&item, 4) & HAS_PARENT != 0 {
                    return Err(reader.external("parent of a differencing disk"));
                }
                block_bytes = Some(u64::from(le32(&item, 0)));
            }
            ITEM_DISK_SIZE => size_bytes = Some(le64(&reader.bytes("the metadata", offset, 8)?, 0)),
            ITEM_SECTOR_SIZE => {
                sector_bytes = Some(u64::from(le32(&reader.bytes("the metadata", offset, 4)?, 0)));
            }
            _ => {}
        }
    }
    match (size_bytes, block_bytes, sector_bytes) {
        (Some(size_bytes), Some(block_bytes), Some(sector_bytes @ (512 | 4096)))
            if block_bytes.is_power_of_two() && (MIB..=256 * MIB).contains(&block_bytes) =>
        {
            Ok(Geometry { size_bytes, block_bytes, sector_bytes })
        }
        _ => Err(reader.corrupt("metadata without a valid size, block size and sector size")),
    }
}

fn walk_block_table(reader: &Reader<'_>, bat_offset: u64, bat_bytes: u64, geometry: &Geometry) -> Result<(), Refusal> {
    // After each run of this many payload blocks comes the entry of a sector bitmap block.
    let run = (1 << 23) * geometry.sector_bytes / geometry.block_bytes;
    let payload_blocks = geometry.size_bytes.div_ceil(geometry.block_bytes);
    let entries = payload_blocks + (payload_blocks - 1) / run;
    if entries * 8 > bat_bytes {
        return Err(reader.corrupt("a block table too small for the disk"));
    }
    reader.for_each_entry("the block table", bat_offset, entries, |index, entry| {
        let entry = u64::from_le_bytes(entry);
        if index % (run + 1) == run {
            return Ok(());
        }
        match entry & 0b111 {
            BLOCK_PARTIALLY_PRESENT => Err(reader.external("parent of a differencing disk")),
            BLOCK_FULLY_PRESENT => reader.require("a data block", (entry >> 20) * MIB, geometry.block_bytes),
            _ => Ok(()),
        }
    })
}
