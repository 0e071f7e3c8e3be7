//! What can go wrong in storage, with the object, the attempt and the next step in the message.

use std::io;
use std::path::{Path, PathBuf};

use gantry_types::{ErrorClass, Name, PoolHealth};
use uuid::Uuid;

use crate::digest::Sha256Digest;
use crate::probe::Refusal;

#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("image file {} was refused", path.display())]
    Refused {
        path: PathBuf,
        #[source]
        reason: Refusal,
    },
    #[error(
        "image file {} has SHA-256 {found}, but {expected} was expected: it is damaged or another file, fetch it again",
        path.display()
    )]
    Checksum { path: PathBuf, expected: Sha256Digest, found: Sha256Digest },
    #[error("image {image} arrived with SHA-256 {found}: the transfer was damaged, it will be fetched again")]
    ArrivedDamaged { image: Sha256Digest, found: Sha256Digest },
    #[error("image {image} arrived as {found_bytes} bytes or more, {limit_bytes} are allowed")]
    ArrivedTooLarge { image: Sha256Digest, found_bytes: u64, limit_bytes: u64 },
    #[error("receiving image {image} failed")]
    Receive {
        image: Sha256Digest,
        #[source]
        source: io::Error,
    },
    #[error("image {image} is not in this pool: fetch it first")]
    ImageMissing { image: Sha256Digest },
    #[error("image {image} can't be removed: disk {disk} is laid over it, delete the disk first")]
    ImageInUse { image: Sha256Digest, disk: Uuid },
    #[error("disk {disk} can't have {size_bytes} bytes: {reason}")]
    DiskSize { disk: Uuid, size_bytes: u64, reason: String },
    #[error("disk {disk} exists with {found}, but {wanted} was asked for: delete it or use another id")]
    DiskConflict { disk: Uuid, found: String, wanted: String },
    #[error("disk {disk} does not exist in this pool")]
    DiskMissing { disk: Uuid },
    #[error("disk {disk} is in use by another process, wait for its end")]
    DiskBusy { disk: Uuid },
    #[error("disk {disk} is host '{host}''s since epoch {epoch}")]
    DiskElsewhere { disk: Uuid, host: Name, epoch: u64 },
    #[error(
        "disk {disk} is in use{at}: wait for its end",
        at = holder.as_ref().map(|host| format!(" at host '{host}'")).unwrap_or_default()
    )]
    DiskInUse { disk: Uuid, holder: Option<Name> },
    #[error(
        "the lease of disk {disk}, {}, can't be read ({reason}): make sure that no host uses the disk, then remove the file",
        path.display()
    )]
    LeaseDamaged { disk: Uuid, path: PathBuf, reason: String },
    #[error("the copy of disk {disk} on this host is stale: it is {has}, and what is wanted is {wants}")]
    CopyStale { disk: Uuid, has: String, wants: String },
    #[error("what is known of the copy of disk {disk}, {}, can't be read ({reason}): drop the copy and make it anew", path.display())]
    CopyMarkDamaged { disk: Uuid, path: PathBuf, reason: String },
    #[error("no free port between {first} and {last} on {address}: widen the migration port range")]
    NoFreePort { address: std::net::IpAddr, first: u16, last: u16 },
    #[error("disk {disk} has no snapshot {snapshot}")]
    SnapshotMissing { disk: Uuid, snapshot: String },
    #[error("disk {disk} is damaged")]
    DiskDamaged {
        disk: Uuid,
        #[source]
        reason: Refusal,
    },
    #[error("pool {} is {health}: {reason}", path.display())]
    PoolFault { path: PathBuf, health: PoolHealth, reason: String },
    #[error("pool {} does not answer", path.display())]
    Unreachable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("pool {} has {count} volumes or disks: delete them first", path.display())]
    PoolNotEmpty { path: PathBuf, count: usize },
    #[error("no space left while {doing} {}: free space on that filesystem or use another pool", path.display())]
    NoSpace { doing: &'static str, path: PathBuf },
    #[error("{doing} {} failed", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not a regular file: give the path of an image file", path.display())]
    NotAFile { path: PathBuf },
    #[error("{path} can't be a pool or image store: {reason}", path = path.display())]
    BadDirectory { path: PathBuf, reason: &'static str },
    #[error("qemu-img can't be started: install the package qemu-utils")]
    ToolMissing {
        #[source]
        source: io::Error,
    },
    #[error("qemu-img failed while {doing} {}: {message}", path.display())]
    Tool { doing: &'static str, path: PathBuf, message: String },
    #[error("qemu-img was stopped while {doing} {}: it reached its limit of {limit}", path.display())]
    ToolLimit { doing: &'static str, path: PathBuf, limit: String },
}

impl StorageError {
    /// Wraps an I/O error; a full filesystem or quota becomes [`StorageError::NoSpace`].
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { doing, path },
            _ => Self::Io { doing, path, source },
        }
    }

    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Refused { reason: Refusal::Read(_), .. } => ErrorClass::Transient,
            Self::Refused { .. }
            | Self::Checksum { .. }
            | Self::DiskSize { .. }
            | Self::ArrivedTooLarge { .. }
            | Self::NotAFile { .. }
            | Self::BadDirectory { .. } => ErrorClass::Invalid,
            Self::ArrivedDamaged { .. }
            | Self::Receive { .. }
            | Self::DiskBusy { .. }
            | Self::DiskInUse { .. }
            | Self::NoFreePort { .. }
            | Self::Unreachable { .. } => ErrorClass::Transient,
            Self::ImageMissing { .. } | Self::DiskMissing { .. } | Self::SnapshotMissing { .. } => ErrorClass::NotFound,
            Self::ImageInUse { .. }
            | Self::DiskConflict { .. }
            | Self::DiskElsewhere { .. }
            | Self::CopyStale { .. }
            | Self::PoolNotEmpty { .. } => ErrorClass::Conflict,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => ErrorClass::Denied,
                io::ErrorKind::NotFound => ErrorClass::NotFound,
                io::ErrorKind::ReadOnlyFilesystem => ErrorClass::Permanent,
                _ => ErrorClass::Transient,
            },
            Self::NoSpace { .. }
            | Self::PoolFault { .. }
            | Self::DiskDamaged { .. }
            | Self::LeaseDamaged { .. }
            | Self::CopyMarkDamaged { .. }
            | Self::ToolMissing { .. }
            | Self::Tool { .. }
            | Self::ToolLimit { .. } => ErrorClass::Permanent,
        }
    }
}

/// An error with all its causes on one line.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
