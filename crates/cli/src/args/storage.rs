//! `gantry pool|volume …`

use clap::{Args, Subcommand, ValueEnum};
use gantry_types::{ByteSize, CacheMode, ImageFormat, Name, PoolType};

use super::{FollowOptions, ListOptions};

#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Make a place for volumes of a directory of a host, of one that several hosts share, or of an NFS export
    Create(PoolCreate),
    /// All pools, or those that a selector chooses: how they are, and how full
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Everything about one pool
    Show {
        /// The pool's name
        name: String,
    },
    /// Change what a pool may promise, and when it warns
    Set {
        /// The pool's name
        name: Name,
        #[command(flatten)]
        limits: PoolLimits,
    },
    /// Delete pools that have no volumes; their directories stay
    #[command(visible_alias = "rm")]
    Delete {
        /// The pools' names
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        follow: FollowOptions,
    },
}

#[derive(Debug, Args)]
pub struct PoolCreate {
    /// What it is to be called
    pub name: Name,
    /// How it keeps volumes
    #[arg(long = "type", value_enum, default_value = "dir", value_name = "TYPE")]
    pub kind: PoolKind,
    /// The directory of a pool of type dir or mirrored; made if only its last part is missing. For type mirrored it is one of
    /// each host's own, and {host} in it stands for the host's name
    #[arg(long, value_name = "DIRECTORY", required_unless_present = "url", conflicts_with = "url")]
    pub path: Option<String>,
    /// The export of a pool of type nfs, which no host needs to mount: nfs://SERVER/PATH
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// The host that has it; several if they have the same directory, on a file system that they share, or for type
    /// mirrored: HOST,HOST or repeated. May be left out for types nfs and mirrored: all hosts
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    pub host: Vec<Name>,
    #[command(flatten)]
    pub limits: PoolLimits,
    /// KEY=VALUE; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = super::vm::parse_label)]
    pub labels: Vec<(String, String)>,
    #[command(flatten)]
    pub follow: FollowOptions,
}

#[derive(Debug, Clone, Copy, Args)]
pub struct PoolLimits {
    /// How much of its capacity volumes may be promised together: 100 is no more than there is [default: 200]
    #[arg(long, value_name = "PERCENT")]
    pub overcommit: Option<u32>,
    /// From which use on there is an alarm [default: 85]
    #[arg(long, value_name = "PERCENT")]
    pub alarm: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PoolKind {
    /// qcow2 files in a directory
    Dir,
    /// qcow2 files in an NFS export
    Nfs,
    /// VMs' own disks in a directory of each host's own, each with a copy on a second host that gets every write
    Mirrored,
}

impl From<PoolKind> for PoolType {
    fn from(kind: PoolKind) -> Self {
        match kind {
            PoolKind::Dir => Self::Dir,
            PoolKind::Nfs => Self::Nfs,
            PoolKind::Mirrored => Self::Mirrored,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Make an empty disk that belongs to itself
    Create(VolumeCreate),
    /// Make a volume of a disk file: qcow2, raw, vmdk, vhd, vhdx or vdi, also compressed with gzip, xz or zstd
    Import(VolumeImport),
    /// Write all of a volume that no running VM has to a file, of any of these formats
    Export {
        /// The volume's name
        name: String,
        /// Where it is written; a file that is there is replaced
        file: std::path::PathBuf,
        /// What it is to be; by the end of its name if not given, else qcow2
        #[arg(long, value_parser = super::objects::parse_format)]
        format: Option<ImageFormat>,
    },
    /// All volumes, or those that a selector chooses
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Everything about one volume
    Show {
        /// The volume's name
        name: String,
    },
    /// Give a volume to a VM, also while that runs: the guest finds it as /dev/disk/by-id/virtio-NAME
    Attach {
        /// The volume's name
        name: String,
        /// The VM's name
        vm: Name,
        #[command(flatten)]
        follow: FollowOptions,
    },
    /// Take a volume from its VM; unmount it in the guest first
    Detach {
        /// The volume's name
        name: String,
        #[command(flatten)]
        follow: FollowOptions,
    },
    /// Move a volume, or a VM's own disk, to another pool that its VM's host reaches, while the guest writes
    Migrate {
        /// The volume's name; a VM's own disk is VM-root
        name: String,
        /// The pool it goes to: gantry pool list
        #[arg(long, value_name = "POOL")]
        to: Name,
        #[command(flatten)]
        follow: FollowOptions,
    },
    /// Make a volume that begins as another one, which no VM has; without moving data where the pool can share it
    Clone(VolumeClone),
    /// Grow a volume or change its limits, also while it is in use
    Set(VolumeSet),
    /// Delete volumes that no VM has
    #[command(visible_alias = "rm")]
    Delete {
        /// The volumes' names
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        follow: FollowOptions,
    },
}

#[derive(Debug, Args)]
pub struct VolumeCreate {
    /// What it is to be called
    pub name: Name,
    /// For example 1GiB; it can be grown later. Its image's if that is given
    #[arg(long, required_unless_present = "image")]
    pub size: Option<ByteSize>,
    /// The image whose content it begins with; empty if not given: gantry image list
    #[arg(long)]
    pub image: Option<Name>,
    /// Where it is to lie: gantry pool list
    #[arg(long)]
    pub pool: Name,
    #[command(flatten)]
    pub settings: VolumeSettings,
    /// KEY=VALUE; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = super::vm::parse_label)]
    pub labels: Vec<(String, String)>,
    /// Check everything, make nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub follow: FollowOptions,
}

#[derive(Debug, Args)]
pub struct VolumeImport {
    /// What it is to be called
    pub name: Name,
    /// A disk file on this machine
    pub file: String,
    /// Where it is to lie: gantry pool list
    #[arg(long)]
    pub pool: Name,
    /// How large it is to be, if larger than what is in the file
    #[arg(long)]
    pub size: Option<ByteSize>,
    /// What the file is; found out if not given. Raw files must be called so
    #[arg(long, value_parser = super::objects::parse_format)]
    pub format: Option<ImageFormat>,
    #[command(flatten)]
    pub settings: VolumeSettings,
}

#[derive(Debug, Args)]
pub struct VolumeClone {
    /// The volume that it begins as
    pub source: String,
    /// What it is to be called
    pub name: Name,
    /// Where it is to lie; beside the other if not given
    #[arg(long)]
    pub pool: Option<Name>,
    /// How large it is to be, if larger
    #[arg(long)]
    pub size: Option<ByteSize>,
    #[command(flatten)]
    pub settings: VolumeSettings,
    #[command(flatten)]
    pub follow: FollowOptions,
}

#[derive(Debug, Args)]
pub struct VolumeSet {
    /// The volume's name
    pub name: Name,
    /// How large it is to be; it never shrinks
    #[arg(long)]
    pub size: Option<ByteSize>,
    #[command(flatten)]
    pub settings: VolumeSettings,
    #[command(flatten)]
    pub follow: FollowOptions,
}

#[derive(Debug, Clone, Copy, Args)]
pub struct VolumeSettings {
    /// Requests a second at most; 0 is no limit
    #[arg(long, value_name = "NUMBER")]
    pub iops: Option<u32>,
    /// Bytes a second at most, for example 20MiB; 0 is no limit
    #[arg(long, value_name = "SIZE")]
    pub bytes_per_s: Option<ByteSize>,
    /// What the host's memory does for it; takes effect when it is next attached
    #[arg(long, value_enum, value_name = "MODE")]
    pub cache: Option<Cache>,
    /// Give back to the pool what the guest discards; takes effect when it is next attached
    #[arg(long, value_name = "true|false")]
    pub discard: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Cache {
    None,
    Writeback,
}

impl From<Cache> for CacheMode {
    fn from(cache: Cache) -> Self {
        match cache {
            Cache::None => Self::None,
            Cache::Writeback => Self::Writeback,
        }
    }
}
