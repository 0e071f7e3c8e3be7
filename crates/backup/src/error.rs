//! What can go wrong with a repository.

use uuid::Uuid;

use crate::chunk::ChunkId;

#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    #[error("cannot {doing} in the backup repository")]
    Store {
        doing: &'static str,
        #[source]
        source: object_store::Error,
    },
    #[error("cannot {doing} the backup repository {place}")]
    Place {
        doing: &'static str,
        place: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{place} is no backup repository: {why}")]
    NotARepository { place: String, why: String },
    #[error("{place} is encrypted, and no passphrase was given")]
    PassphraseMissing { place: String },
    #[error("the passphrase does not open {place}")]
    PassphraseWrong { place: String },
    #[error("{place} is not encrypted, but a passphrase was given")]
    NotEncrypted { place: String },
    #[error("the system gives no random numbers to encrypt with")]
    NotSealed,
    #[error("backup {backup} is not in the repository")]
    BackupMissing { backup: Uuid },
    #[error("the manifest of backup {backup} is damaged: {why}")]
    ManifestDamaged { backup: Uuid, why: String },
    #[error("chunk {chunk} is missing")]
    ChunkMissing { chunk: ChunkId },
    #[error("chunk {chunk} is damaged: {why}")]
    ChunkDamaged { chunk: ChunkId, why: String },
    #[error("backup {backup} has no disk '{disk}'")]
    DiskMissing { backup: Uuid, disk: String },
    #[error("the repository is in use by {holder}")]
    Locked { holder: String },
    #[error("the lock on the repository ran out before the work was done")]
    LockLost,
    #[error("a disk of {size_bytes} bytes can't be backed up: at most 64 TiB, in whole sectors of 512 bytes")]
    DiskSize { size_bytes: u64 },
    #[error(transparent)]
    GuestFiles(#[from] crate::guest_files::GuestFilesError),
}

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Invalid,
    NotFound,
    Permanent,
    Transient,
}

impl RepositoryError {
    pub fn class(&self) -> Class {
        match self {
            Self::BackupMissing { .. } | Self::DiskMissing { .. } => Class::NotFound,
            Self::NotARepository { .. }
            | Self::PassphraseMissing { .. }
            | Self::PassphraseWrong { .. }
            | Self::NotEncrypted { .. }
            | Self::DiskSize { .. } => Class::Invalid,
            Self::ManifestDamaged { .. } | Self::ChunkMissing { .. } | Self::ChunkDamaged { .. } => Class::Permanent,
            Self::NotSealed | Self::Locked { .. } | Self::LockLost | Self::Store { .. } | Self::Place { .. } => {
                Class::Transient
            }
            Self::GuestFiles(error) => error.class(),
        }
    }

    pub(crate) fn store(doing: &'static str) -> impl Fn(object_store::Error) -> Self {
        move |source| Self::Store { doing, source }
    }
}
