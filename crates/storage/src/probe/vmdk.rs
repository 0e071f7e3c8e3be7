//! VMDK sparse extents: monolithic and stream-optimized (VMware "Virtual Disk Format" 5.0),
//! little-endian.
//!
//! A VMDK can also be a text that names other files to read. Such texts appear as the whole file,
//! or inside a sparse header whose capacity is zero, and the parent's name may stand in any of
//! them: all of these are refused. Stream-optimized files may carry a second header at their end
//! which replaces the first, so both are checked.

use super::Refusal;
use super::reader::{Reader, le16, le32, le64};

const SECTOR_BYTES: u64 = 512;
const FLAG_ZERO_GRAIN: u32 = 1 << 2;
const FLAG_MARKERS: u32 = 1 << 17;
const TABLES_AT_END: u64 = u64::MAX;
/// The footer is followed by an end marker and preceded by its own marker.
const FOOTER_FROM_END_BYTES: u64 = 1024;
/// What QEMU reads of a descriptor whatever size the header gives.
const DESCRIPTOR_READ_BYTES: u64 = 20 * SECTOR_BYTES;
const MAX_DESCRIPTOR_BYTES: u64 = 1 << 20;
/// 16 TiB in 64 KiB grains need 2^19; QEMU takes up to 2^25.
const MAX_DIRECTORY_ENTRIES: u64 = 1 << 22;
/// In front of each compressed grain: its sector and its size.
const MARKER_BYTES: u64 = 12;
const NO_PARENT: &str = "ffffffff";

struct Header {
    flags: u32,
    size_bytes: u64,
    grain_bytes: u64,
    table_entries: u64,
    directory_offset: u64,
    first_grain_offset: u64,
}

pub(super) fn inspect(reader: &Reader<'_>, max_virtual_bytes: u64) -> Result<u64, Refusal> {
    let magic = reader.bytes("the header", 0, 4)?;
    match magic.as_slice() {
        b"KDMV" => {}
        b"COWD" => return Err(reader.unsupported("an ESX sparse extent")),
        _ => return Err(reader.external("the extents that this descriptor text names")),
    }
    let mut header = read_header(reader, 0, max_virtual_bytes)?;
    if header.directory_offset == TABLES_AT_END {
        let file_bytes = reader.file_bytes();
        let offset = file_bytes.saturating_sub(FOOTER_FROM_END_BYTES);
        let footer = reader.bytes_up_to(offset, 4)?;
        if !file_bytes.is_multiple_of(SECTOR_BYTES) || footer != b"KDMV" {
            return Err(Refusal::Truncated {
                format: gantry_types::ImageFormat::Vmdk,
                what: "the footer at the end",
                needed_bytes: file_bytes.saturating_add(SECTOR_BYTES),
                found_bytes: file_bytes,
            });
        }
        header = read_header(reader, offset, max_virtual_bytes)?;
        if header.directory_offset == TABLES_AT_END {
            return Err(reader.corrupt("a footer without tables"));
        }
    }
    reader.require("the metadata", header.first_grain_offset, 0)?;
    walk_tables(reader, &header)?;
    Ok(header.size_bytes)
}

fn read_header(reader: &Reader<'_>, offset: u64, max_virtual_bytes: u64) -> Result<Header, Refusal> {
    let bytes = reader.bytes("the header", offset, SECTOR_BYTES)?;
    let version = le32(&bytes, 4);
    if !(1..=3).contains(&version) {
        return Err(reader.unsupported(format!("version {version}")));
    }
    let in_bytes = |what, sectors: u64| {
        sectors.checked_mul(SECTOR_BYTES).ok_or_else(|| reader.corrupt(format!("{what} of impossible value")))
    };
    let capacity = le64(&bytes, 12);
    if capacity == 0 {
        return Err(reader.external("the extents that its embedded descriptor names"));
    }
    let size_bytes = capacity.saturating_mul(SECTOR_BYTES);
    reader.require_size(size_bytes, max_virtual_bytes)?;
    let descriptor_offset = in_bytes("a descriptor offset", le64(&bytes, 28))?;
    let descriptor_bytes = in_bytes("a descriptor size", le64(&bytes, 36))?;
    if descriptor_bytes > MAX_DESCRIPTOR_BYTES {
        return Err(reader.corrupt("a descriptor of over 1 MiB"));
    }
    // Some readers take the descriptor from where it always is, whatever the header says.
    for (start, count) in [(SECTOR_BYTES, DESCRIPTOR_READ_BYTES), (descriptor_offset, descriptor_bytes)] {
        if start != 0 {
            let text = reader.bytes_up_to(start, count.max(DESCRIPTOR_READ_BYTES))?;
            refuse_descriptor(reader, &text)?;
        }
    }
    let grain_bytes = in_bytes("a grain size", le64(&bytes, 20))?;
    let table_entries = u64::from(le32(&bytes, 44));
    if !grain_bytes.is_power_of_two() || grain_bytes > 128 << 20 {
        return Err(reader.corrupt(format!("grains of {grain_bytes} bytes")));
    }
    if !(1..=512).contains(&table_entries) {
        return Err(reader.corrupt(format!("grain tables of {table_entries} entries")));
    }
    if le16(&bytes, 77) > 1 {
        return Err(reader.unsupported("an unknown compression"));
    }
    let directory_sector = le64(&bytes, 56);
    let directory_offset = match directory_sector {
        TABLES_AT_END => TABLES_AT_END,
        sector => in_bytes("a grain directory offset", sector)?,
    };
    Ok(Header {
        flags: le32(&bytes, 8),
        size_bytes,
        grain_bytes,
        table_entries,
        directory_offset,
        first_grain_offset: in_bytes("an overhead", le64(&bytes, 64))?,
    })
}

/// A standalone sparse extent's descriptor names itself as the only extent, and no parent.
fn refuse_descriptor(reader: &Reader<'_>, text: &[u8]) -> Result<(), Refusal> {
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    if text.contains("parentfilenamehint") {
        return Err(reader.external("a parent disk"));
    }
    let text = text.split('\0').next().unwrap_or_default();
    let mut extents = 0;
    for line in text.lines().map(str::trim) {
        if let Some(parent) = line.strip_prefix("parentcid")
            && parent.trim_start().trim_start_matches('=').trim() != NO_PARENT
        {
            return Err(reader.external("a parent disk"));
        }
        let mut words = line.split_whitespace();
        if !matches!(words.next(), Some("rw" | "rdonly" | "noaccess")) {
            continue;
        }
        extents += 1;
        let kind = words.nth(1).unwrap_or_default();
        if kind != "sparse" || extents > 1 {
            return Err(reader.external(format!("{kind} extent")));
        }
    }
    Ok(())
}

fn walk_tables(reader: &Reader<'_>, header: &Header) -> Result<(), Refusal> {
    let covers_bytes = header.table_entries * header.grain_bytes;
    let directory_entries = header.size_bytes.div_ceil(covers_bytes);
    if directory_entries > MAX_DIRECTORY_ENTRIES {
        return Err(reader.corrupt("a grain directory of impossible size"));
    }
    let (mut tables, mut grains) = (0, 0);
    let in_file = |sector: [u8; 4]| u64::from(u32::from_le_bytes(sector)) * SECTOR_BYTES;
    reader.for_each_entry("the grain directory", header.directory_offset, directory_entries, |index, entry| {
        let table_offset = in_file(entry);
        if table_offset == 0 {
            return Ok(());
        }
        tables += 1;
        reader.require_distinct("grain tables", tables, header.table_entries * 4)?;
        let table_start = index * covers_bytes;
        reader.for_each_entry("a grain table", table_offset, header.table_entries, |index, entry| {
            let guest_offset = table_start + index * header.grain_bytes;
            check_grain(reader, header, guest_offset, in_file(entry), &mut grains)
        })
    })
}

fn check_grain(
    reader: &Reader<'_>,
    header: &Header,
    guest_offset: u64,
    offset: u64,
    grains: &mut u64,
) -> Result<(), Refusal> {
    let zero_grain = header.flags & FLAG_ZERO_GRAIN != 0 && offset == SECTOR_BYTES;
    if offset == 0 || zero_grain || guest_offset >= header.size_bytes {
        return Ok(());
    }
    if header.flags & FLAG_MARKERS != 0 {
        *grains += 1;
        reader.require_distinct("grains", *grains, MARKER_BYTES)?;
        let marker = reader.bytes("a grain's marker", offset, MARKER_BYTES)?;
        return reader.require("a compressed grain", offset + MARKER_BYTES, u64::from(le32(&marker, 8)));
    }
    let needed = header.grain_bytes.min(header.size_bytes - guest_offset);
    reader.require("a grain", offset, needed)
}
