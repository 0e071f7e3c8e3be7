//! The storage adapter: directory pools, the image import pipeline, VM disks and cloud-init seeds.
//!
//! - [`ImageStore`] holds content-addressed, standalone qcow2 images; [`ImageStore::import`] turns
//!   a hostile file of any known disk format into one of them.
//! - [`DirPool`] is a host's pool: a cache of images, the VM disks laid over them, and the snapshots inside those.
//! - [`PoolDriver`] is what every kind of pool can do with volumes; [`MarkedDir`] does it in a directory, [`NfsPool`] in an
//!   NFS export that nobody has mounted.
//! - [`VmDisks`] is what every kind of pool that takes VMs' own disks can do with them; [`DirDisks`] does it in a
//!   directory, [`NfsDisks`] in an export.
//! - [`DirPool::fill_disk`] makes a disk of an image, [`DirPool::export_disk`] a file for others of a disk.
//! - [`DirPool::claim_disk`] keeps two hosts that reach one pool from using one disk.
//! - [`Seed`] builds the NoCloud disk a guest reads its identity and addresses from.
//! - [`DirPool::serve_disk`] serves a disk that no VM has open, [`NbdClient`] reads and writes what is served.
//!
//! Only this crate runs `qemu-img` and `qemu-nbd`, and only this crate knows how a pool is laid out on disk.
//! It does not know about VMs, hosts or the network between hosts: callers bring ids, bytes and
//! the uid that a disk belongs to.
//!
//! Every file appears under its final name complete, synced and with its final owner, or not at
//! all: work happens in a locked staging directory which a crash leaves behind and
//! [`ImageStore::sweep`] or [`DirPool::sweep`] removes.

mod blocking;
mod bound_process;
mod copies;
mod decompress;
mod digest;
mod disk;
mod disk_copy;
mod disk_server;
mod disk_snapshot;
mod disk_transfer;
mod driver;
mod error;
mod exchange;
mod image_store;
mod import;
mod lease;
mod mark;
mod marked_dir;
mod mirrored;
mod nbd;
mod network_config;
mod nfs;
mod pool;
pub mod probe;
mod qemu_img;
mod seed;
mod staging;
mod vm_disks;

pub use copies::{Copies, CopyMark, CopyServer, CopyState, CopyTls, ServeCopy};
pub use digest::{DigestError, Sha256Digest};
pub use disk::{DiskInfo, DiskSpec, DiskUsers};
pub use disk_server::{DiskServer, EXPORT as SERVED_EXPORT, ServeMode, loose_socket_dir};
pub use disk_transfer::{AlongFiles, DiskFile, StagedDisk};
pub use driver::{Admission, PoolDriver, PoolFinding};
pub use error::StorageError;
pub use exchange::ExportedDisk;
pub use image_store::{ImageStore, StoredImage};
pub use import::{ImageInfo, ImportLimits, ImportOptions, ImportPhase, ImportProgress};
pub use lease::{Claim, DiskHold, Lease};
pub use marked_dir::MarkedDir;
pub use mirrored::{container_bytes, mirror_id};
pub use nbd::{Extent, NbdClient};
pub use network_config::SeedNic;
pub use nfs::{NfsDisks, NfsPool};
pub use pool::{DirPool, PoolCapacity};
pub use probe::{Compression, InternalSnapshot, Refusal};
pub use seed::{Seed, SeedError, SeedTexts};
pub use vm_disks::{Claiming, DirDisks, VmDisks};
