//! What a hostile image file is, and whether it may be handed to `qemu-img`.
//!
//! The format is decided by content alone, never by name. Headers and allocation tables are then
//! read here, before any other program sees the file, to refuse whatever could make a reader open
//! another file (backing files, data files, extents, parents), whatever is encrypted, larger than
//! allowed, or shorter than its own tables say. Nothing is trusted: every read is bounded by the
//! file's length and every loop by the file's or the limit's size.
//!
//! A file without a known header is taken as raw only if it shows a boot signature (0x55 0xAA at
//! byte 510, as MBR and GPT disks have) or the person importing it says it is raw.
//!
//! This is not a consistency check: overlaps and reference counts are `qemu-img check`'s work.

mod qcow2;
mod raw;
mod reader;
mod refusal;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;

use gantry_types::ImageFormat;

pub(crate) use qcow2::Header as Qcow2Header;
pub use qcow2::InternalSnapshot;
pub use reader::ReadAt;
use reader::Reader;
pub use refusal::Refusal;

/// The name `qemu-img -f` knows a format by.
pub(crate) fn qemu_name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Qcow2 => "qcow2",
        ImageFormat::Raw => "raw",
        ImageFormat::Vmdk => "vmdk",
        ImageFormat::Vhd => "vpc",
        ImageFormat::Vhdx => "vhdx",
        ImageFormat::Vdi => "vdi",
    }
}

/// A compression wrapped around a whole image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    Xz,
    Zstd,
}

impl Compression {
    /// Recognises a compressed file by its first bytes.
    pub fn detect(start: &[u8]) -> Option<Self> {
        if start.starts_with(&[0x1f, 0x8b, 0x08]) {
            Some(Self::Gzip)
        } else if start.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
            Some(Self::Xz)
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Some(Self::Zstd)
        } else {
            None
        }
    }
}

/// What [`inspect`] found in a file it lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspection {
    pub format: ImageFormat,
    /// As the header states it; QEMU's reading of a VHD may differ by its geometry rules.
    pub virtual_size_bytes: u64,
}

/// Decides a file's format and refuses it if it is unsafe, damaged or too large.
///
/// `declared` is what the person importing says the file is: content that says otherwise is
/// refused, content that says nothing is then accepted as raw.
pub fn inspect(
    source: &dyn ReadAt,
    declared: Option<ImageFormat>,
    max_virtual_bytes: u64,
) -> Result<Inspection, Refusal> {
    let format = match (detect(source)?, declared) {
        (Some(found), Some(declared)) if found != declared => {
            return Err(Refusal::DeclaredOtherwise { declared, found });
        }
        (Some(found), _) => found,
        (None, Some(ImageFormat::Raw)) => ImageFormat::Raw,
        (None, Some(declared)) => return Err(Refusal::NotTheDeclared { declared }),
        (None, None) => return Err(Refusal::NotADisk { looks_like: raw::looks_like(source)? }),
    };
    let reader = Reader::new(source, format)?;
    let virtual_size_bytes = match format {
        ImageFormat::Qcow2 => qcow2::inspect(&reader, max_virtual_bytes)?,
        ImageFormat::Raw => raw::inspect(&reader)?,
        ImageFormat::Vmdk => vmdk::inspect(&reader, max_virtual_bytes)?,
        ImageFormat::Vhd => vhd::inspect(&reader, max_virtual_bytes)?,
        ImageFormat::Vhdx => vhdx::inspect(&reader, max_virtual_bytes)?,
        ImageFormat::Vdi => vdi::inspect(&reader, max_virtual_bytes)?,
    };
    reader.require_size(virtual_size_bytes, max_virtual_bytes)?;
    Ok(Inspection { format, virtual_size_bytes })
}

/// Reads the header of a qcow2 file of our own making, which may have a backing file.
pub(crate) fn qcow2_header(source: &dyn ReadAt) -> Result<Qcow2Header, Refusal> {
    Qcow2Header::read(&Reader::new(source, ImageFormat::Qcow2)?)
}

/// The snapshots inside such a file.
pub(crate) fn qcow2_snapshots(source: &dyn ReadAt) -> Result<Vec<InternalSnapshot>, Refusal> {
    let reader = Reader::new(source, ImageFormat::Qcow2)?;
    Qcow2Header::read(&reader)?.snapshots(&reader)
}

/// How a VMDK starts that is a text naming other files.
const DESCRIPTOR_START: &[u8] = b"# Disk DescriptorFile";

fn detect(source: &dyn ReadAt) -> Result<Option<ImageFormat>, Refusal> {
    let start = reader::start_of(source, 512)?;
    let at = |offset: usize, magic: &[u8]| start.get(offset..offset + magic.len()).is_some_and(|found| found == magic);
    let text = start.trim_ascii_start();
    let is_descriptor = text.get(..DESCRIPTOR_START.len()).is_some_and(|t| t.eq_ignore_ascii_case(DESCRIPTOR_START));
    if at(0, b"QFI\xfb") {
        Ok(Some(ImageFormat::Qcow2))
    } else if at(0, b"KDMV") || at(0, b"COWD") || is_descriptor {
        Ok(Some(ImageFormat::Vmdk))
    } else if at(0, b"vhdxfile") {
        Ok(Some(ImageFormat::Vhdx))
    } else if at(0, b"conectix") || vhd::has_fixed_footer(source)? {
        Ok(Some(ImageFormat::Vhd))
    } else if at(0x40, &0xbeda_107f_u32.to_le_bytes()) {
        Ok(Some(ImageFormat::Vdi))
    } else if at(510, &[0x55, 0xaa]) {
        Ok(Some(ImageFormat::Raw))
    } else {
        Ok(None)
    }
}
