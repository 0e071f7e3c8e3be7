//! qcow2, versions 2 and 3 (QEMU docs/interop/qcow2.txt). All integers are big-endian.

use super::Refusal;
use super::reader::{Reader, be16, be32, be64};

const HEADER_V2_BYTES: u64 = 72;
const HEADER_V3_BYTES: u64 = 104;
/// Bounds the extension area; QEMU's own headers stay within one cluster.
const MAX_HEADER_BYTES: u64 = 64 * 1024;

const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;
/// Dirty, corrupt, data file, compression type, extended L2.
const INCOMPATIBLE_KNOWN: u64 = 0b11111;

const EXTENSION_END: u32 = 0;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;

const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
/// QEMU's own limits (QCOW_MAX_L1_SIZE, QCOW_MAX_REFTABLE_SIZE).
const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;

/// A disk of ours has far fewer; QEMU's own limit is 65536.
const MAX_SNAPSHOTS: u32 = 1024;
/// An entry of the snapshot table without its extra data, id and name.
const SNAPSHOT_ENTRY_BYTES: u64 = 40;
/// QEMU's own limit (QCOW_MAX_SNAPSHOT_EXTRA_DATA).
const MAX_SNAPSHOT_EXTRA_BYTES: u64 = 1024;

/// A snapshot inside a qcow2 file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InternalSnapshot {
    pub name: String,
    /// What the machine's state in it takes; 0 if it is of the disk alone.
    pub memory_bytes: u64,
}

/// The part of a header that decides what a reader would do with the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) virtual_size_bytes: u64,
    /// As written in the header, which may not be UTF-8.
    pub(crate) backing_file: Option<Vec<u8>>,
    version: u32,
    cluster_bits: u32,
    encrypted: bool,
    snapshot_count: u32,
    snapshots_offset: u64,
    l1_entries: u64,
    l1_offset: u64,
    refcount_table_offset: u64,
    refcount_table_bytes: u64,
    incompatible: u64,
    extensions_offset: u64,
}

impl Header {
    pub(super) fn read(reader: &Reader<'_>) -> Result<Self, Refusal> {
        let bytes = reader.bytes("the header", 0, HEADER_V2_BYTES)?;
        if !bytes.starts_with(b"QFI\xfb") {
            return Err(reader.corrupt("no qcow2 signature"));
        }
        let version = be32(&bytes, 4);
        let (incompatible, extensions_offset) = match version {
            2 => (0, HEADER_V2_BYTES),
            3 => {
                let bytes = reader.bytes("the header", 0, HEADER_V3_BYTES)?;
                (be64(&bytes, 72), u64::from(be32(&bytes, 100)))
            }
            other => return Err(reader.unsupported(format!("version {other}"))),
        };
        if version == 3 && !(HEADER_V3_BYTES..=MAX_HEADER_BYTES).contains(&extensions_offset) {
            return Err(reader.corrupt(format!("a header of {extensions_offset} bytes")));
        }
        let cluster_bits = be32(&bytes, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(reader.corrupt(format!("clusters of 2^{cluster_bits} bytes")));
        }
        let (backing_offset, backing_bytes) = (be64(&bytes, 8), be32(&bytes, 16));
        let backing_file = match (backing_offset, backing_bytes) {
            (0, _) => None,
            (_, 0..=1023) => Some(reader.bytes("the backing file's name", backing_offset, u64::from(backing_bytes))?),
            _ => return Err(reader.corrupt("a backing file name of over 1023 bytes")),
        };
        Ok(Self {
            virtual_size_bytes: be64(&bytes, 24),
            backing_file,
            version,
            cluster_bits,
            encrypted: be32(&bytes, 32) != 0,
            l1_entries: u64::from(be32(&bytes, 36)),
            l1_offset: be64(&bytes, 40),
            refcount_table_offset: be64(&bytes, 48),
            refcount_table_bytes: u64::from(be32(&bytes, 56)) << cluster_bits,
            incompatible,
            extensions_offset,
            snapshot_count: be32(&bytes, 60),
            snapshots_offset: be64(&bytes, 64),
        })
    }

    /// Whether its content is in another file.
    pub(crate) fn has_data_file(&self) -> bool {
        self.incompatible & INCOMPATIBLE_DATA_FILE != 0
    }

    /// The table of internal snapshots. `reader` is the file this header is of.
    pub(super) fn snapshots(&self, reader: &Reader<'_>) -> Result<Vec<InternalSnapshot>, Refusal> {
        if self.snapshot_count > MAX_SNAPSHOTS {
            return Err(reader.corrupt(format!("{} snapshots", self.snapshot_count)));
        }
        let mut snapshots = Vec::new();
        let mut offset = self.snapshots_offset;
        for _ in 0..self.snapshot_count {
            let entry = reader.bytes("the snapshot table", offset, SNAPSHOT_ENTRY_BYTES)?;
            let (id_bytes, name_bytes) = (u64::from(be16(&entry, 12)), u64::from(be16(&entry, 14)));
            let extra_bytes = u64::from(be32(&entry, 36));
            if extra_bytes > MAX_SNAPSHOT_EXTRA_BYTES {
                return Err(reader.corrupt("a snapshot with too much extra data"));
            }
            // The size of its memory is in the extra data, where there is any, because it may not fit in 32 bits.
            let extra = reader.bytes("a snapshot's extra data", offset + SNAPSHOT_ENTRY_BYTES, extra_bytes)?;
            let memory_bytes = if extra_bytes >= 8 { be64(&extra, 0) } else { u64::from(be32(&entry, 32)) };
            let name_offset = offset + SNAPSHOT_ENTRY_BYTES + extra_bytes + id_bytes;
            let name = reader.bytes("a snapshot's name", name_offset, name_bytes)?;
            snapshots.push(InternalSnapshot { name: String::from_utf8_lossy(&name).into_owned(), memory_bytes });
            // Entries begin at multiples of 8 from the table's start, which is a cluster's.
            offset = (name_offset + name_bytes).next_multiple_of(8);
        }
        Ok(snapshots)
    }

    fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }
}

pub(super) fn inspect(reader: &Reader<'_>, max_virtual_bytes: u64) -> Result<u64, Refusal> {
    let header = Header::read(reader)?;
    if let Some(name) = &header.backing_file {
        return Err(reader.external(format!("backing file {:?}", String::from_utf8_lossy(name))));
    }
    if header.incompatible & INCOMPATIBLE_DATA_FILE != 0 {
        return Err(reader.external("external data file"));
    }
    if header.encrypted {
        return Err(Refusal::Encrypted { format: gantry_types::ImageFormat::Qcow2 });
    }
    if header.incompatible & INCOMPATIBLE_CORRUPT != 0 {
        return Err(reader.corrupt("marked as corrupt"));
    }
    if header.incompatible & !INCOMPATIBLE_KNOWN != 0 {
        return Err(reader.unsupported(format!("unknown features {:#x}", header.incompatible)));
    }
    refuse_extensions(reader, &header)?;
    reader.require_size(header.virtual_size_bytes, max_virtual_bytes)?;
    if header.refcount_table_bytes == 0 || header.refcount_table_bytes > MAX_REFCOUNT_TABLE_BYTES {
        return Err(reader.corrupt("a refcount table of impossible size"));
    }
    reader.require("the refcount table", header.refcount_table_offset, header.refcount_table_bytes)?;
    walk_tables(reader, &header)?;
    Ok(header.virtual_size_bytes)
}

fn refuse_extensions(reader: &Reader<'_>, header: &Header) -> Result<(), Refusal> {
    let mut offset = header.extensions_offset;
    let end = header.cluster_bytes().min(MAX_HEADER_BYTES);
    while offset + 8 <= end {
        let bytes = reader.bytes("a header extension", offset, 8)?;
        let (kind, length) = (be32(&bytes, 0), u64::from(be32(&bytes, 4)));
        match kind {
            EXTENSION_END => return Ok(()),
            EXTENSION_DATA_FILE => return Err(reader.external("external data file")),
            EXTENSION_ENCRYPTION => {
                return Err(Refusal::Encrypted { format: gantry_types::ImageFormat::Qcow2 });
            }
            _ => offset += 8 + length.next_multiple_of(8),
        }
    }
    if offset > end {
        return Err(reader.corrupt("a header extension that leaves the header"));
    }
    Ok(())
}

fn walk_tables(reader: &Reader<'_>, header: &Header) -> Result<(), Refusal> {
    let cluster_bytes = header.cluster_bytes();
    let extended = header.incompatible & INCOMPATIBLE_EXTENDED_L2 != 0 && header.version == 3;
    let l2_entry_bytes = if extended { 16 } else { 8 };
    let l2_entries = cluster_bytes / l2_entry_bytes;
    let l2_covers_bytes = l2_entries * cluster_bytes;
    let needed_entries = header.virtual_size_bytes.div_ceil(l2_covers_bytes);
    if header.l1_entries < needed_entries {
        return Err(reader.corrupt("an L1 table too small for the disk"));
    }
    if header.l1_entries * 8 > MAX_L1_BYTES {
        return Err(reader.corrupt("an L1 table of impossible size"));
    }
    reader.require("the L1 table", header.l1_offset, header.l1_entries * 8)?;
    let mut tables = 0;
    reader.for_each_entry("the L1 table", header.l1_offset, needed_entries, |l1_index, entry| {
        let l2_offset = u64::from_be_bytes(entry) & OFFSET_MASK;
        if l2_offset == 0 {
            return Ok(());
        }
        if !l2_offset.is_multiple_of(cluster_bytes) {
            return Err(reader.corrupt(format!("L1 entry {l1_index} is not aligned to a cluster")));
        }
        let guest_start = l1_index * l2_covers_bytes;
        tables += 1;
        reader.require_distinct("L2 tables", tables, cluster_bytes)?;
        let check = |index: u64, entry: u64| {
            let guest_offset = guest_start + index * cluster_bytes;
            check_cluster(reader, header, guest_offset, entry)
        };
        if extended {
            reader.for_each_entry::<16>("an L2 table", l2_offset, l2_entries, |index, entry| {
                check(index, be64(&entry, 0))
            })
        } else {
            reader.for_each_entry("an L2 table", l2_offset, l2_entries, |index, entry| {
                check(index, u64::from_be_bytes(entry))
            })
        }
    })
}

/// A cluster's data must be in the file as far as the disk reaches into the cluster.
fn check_cluster(reader: &Reader<'_>, header: &Header, guest_offset: u64, entry: u64) -> Result<(), Refusal> {
    if guest_offset >= header.virtual_size_bytes {
        return Ok(());
    }
    if entry & COMPRESSED != 0 {
        let offset_bits = 62 - (header.cluster_bits - 8);
        let offset = entry & ((1 << offset_bits) - 1);
        let more_sectors = (entry & (COMPRESSED - 1)) >> offset_bits;
        // The last sector may be cut short where the file ends; the one before it may not.
        return reader.require("a compressed cluster", (offset & !511) + more_sectors * 512, 1);
    }
    let offset = entry & OFFSET_MASK;
    if offset == 0 {
        return Ok(());
    }
    if !offset.is_multiple_of(header.cluster_bytes()) {
        return Err(reader.corrupt(format!("the cluster at {guest_offset} is not aligned")));
    }
    let needed = header.cluster_bytes().min(header.virtual_size_bytes - guest_offset);
    reader.require("a data cluster", offset, needed)
}
