//! Repositories of backups: disks in chunks that are kept once, and manifests that say what a backup is made of.
//!
//! ```text
//!  gantry-backup.json          the mark: format and id of the repository
//!  chunks/ab/abcd…             256 KiB of a disk, or of a map: compressed, named by the BLAKE3 of its content
//!  backups/UUID                a manifest: the VM's disks, each with the ids of its map's pieces
//!  locks/UUID                  who writes or removes just now, and until when that counts
//!
//!  manifest ──▶ piece of a map (8192 ids: 2 GiB of a disk) ──▶ chunk
//! ```
//! Chunks are cut at fixed offsets: guests write in place, and a dirty bitmap names offsets. What is all zeros has no chunk.
//! A manifest is written last, when all that it names is durable: a backup is whole or not there. Garbage is what no
//! manifest names; it is collected under a lock that no writer shares.
//!
//! With a passphrase all but the mark is encrypted, and chunks are named with a key (`seal.rs`).
//!
//! Everything read from a repository is hostile input: sizes are bounded before anything is allocated, and no chunk is
//! believed before its content has the name that it was asked for by.
//!
//! What a VM is, and how its disks are read and written, is others' affair.

mod access;
mod chunk;
mod collect;
mod error;
pub mod guest_files;
mod lock;
mod manifest;
mod map;
mod reader;
mod repository;
mod seal;
mod tree;
mod verify;
mod writer;

pub use chunk::{CHUNK_BYTES, ChunkId};
pub use collect::Collected;
pub use error::{Class, RepositoryError};
pub use manifest::{DiskManifest, Manifest};
pub use reader::DiskReader;
pub use repository::{Clock, Repository};
pub use verify::{Lost, Verification};
pub use writer::{BackupWriter, DiskWriter, Figures};
