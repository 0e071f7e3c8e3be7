//! VHD, also called VPC (Microsoft "Virtual Hard Disk Image Format Specification" 1.0), big-endian.

use super::Refusal;
use super::reader::{ReadAt, Reader, be32, be64};

const FOOTER_BYTES: u64 = 512;
const COOKIE: &[u8] = b"conectix";
const TYPE_FIXED: u32 = 2;
const TYPE_DYNAMIC: u32 = 3;
const TYPE_DIFFERENCING: u32 = 4;
const UNALLOCATED: u32 = u32::MAX;

/// A fixed disk has nothing in front, only a footer behind its data. The checksum is required,
/// so that the eight bytes of the cookie in some disk's last sector don't make it a VHD.
pub(super) fn has_fixed_footer(source: &dyn ReadAt) -> Result<bool, Refusal> {
    let file_bytes = source.size_bytes().map_err(Refusal::Read)?;
    let Some(offset) = file_bytes.checked_sub(FOOTER_BYTES) else {
        return Ok(false);
    };
    let mut footer = [0; FOOTER_BYTES as usize];
    source.read_exact_at(offset, &mut footer).map_err(Refusal::Read)?;
    Ok(footer.starts_with(COOKIE) && has_checksum(&footer))
}

fn has_checksum(footer: &[u8]) -> bool {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    be32(footer, 64) == !(sum(&footer[..64]) + sum(&footer[68..]))
}

pub(super) fn inspect(reader: &Reader<'_>, max_virtual_bytes: u64) -> Result<u64, Refusal> {
    let file_bytes = reader.file_bytes();
    reader.require("the footer", 0, FOOTER_BYTES)?;
    let footer = reader.bytes("the footer", file_bytes - FOOTER_BYTES, FOOTER_BYTES)?;
    if !footer.starts_with(COOKIE) {
        return Err(Refusal::Truncated {
            format: gantry_types::ImageFormat::Vhd,
            what: "the footer at the end",
            needed_bytes: file_bytes + FOOTER_BYTES,
            found_bytes: file_bytes,
        });
    }
    let front = reader.bytes("the header", 0, FOOTER_BYTES)?;
    // A reader takes the copy in front for a dynamic disk: both must pass, and agree.
    let headers: &[&[u8]] = if front.starts_with(COOKIE) { &[&front, &footer] } else { &[&footer] };
    for header in headers {
        if !has_checksum(header) {
            return Err(reader.corrupt("a footer with a wrong checksum"));
        }
        match be32(header, 60) {
            TYPE_FIXED | TYPE_DYNAMIC => {}
            TYPE_DIFFERENCING => return Err(reader.external("parent of a differencing disk")),
            other => return Err(reader.unsupported(format!("disk type {other}"))),
        }
        reader.require_size(be64(header, 48), max_virtual_bytes)?;
    }
    let (size_bytes, kind) = (be64(headers[0], 48), be32(headers[0], 60));
    if (size_bytes, kind) != (be64(&footer, 48), be32(&footer, 60)) {
        return Err(reader.corrupt("a footer that differs from its copy in front"));
    }
    if kind == TYPE_FIXED {
        reader.require("the disk's data", size_bytes, FOOTER_BYTES)?;
    } else {
        walk_block_table(reader, headers[0], size_bytes)?;
    }
    Ok(size_bytes)
}

fn walk_block_table(reader: &Reader<'_>, disk: &[u8], size_bytes: u64) -> Result<(), Refusal> {
    let header = reader.bytes("the dynamic header", be64(disk, 16), 1024)?;
    if !header.starts_with(b"cxsparse") {
        return Err(reader.corrupt("no dynamic header"));
    }
    let table_offset = be64(&header, 16);
    let blocks = u64::from(be32(&header, 28));
    let block_bytes = u64::from(be32(&header, 32));
    if !block_bytes.is_power_of_two() || block_bytes < 512 {
        return Err(reader.corrupt(format!("blocks of {block_bytes} bytes")));
    }
    if blocks < size_bytes.div_ceil(block_bytes) {
        return Err(reader.corrupt("a block table too small for the disk"));
    }
    let bitmap_bytes = (block_bytes / 512 / 8).max(1).next_multiple_of(512);
    reader.for_each_entry("the block table", table_offset, blocks, |_, entry| match u32::from_be_bytes(entry) {
        UNALLOCATED => Ok(()),
        sector => {
            let needed = bitmap_bytes + block_bytes + FOOTER_BYTES;
            reader.require("a data block", u64::from(sector) * 512, needed)
        }
    })
}
