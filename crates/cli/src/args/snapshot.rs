//! `gantry snapshot …`

use clap::{Args, Subcommand};
use gantry_types::Name;

use super::{FollowOptions, ListOptions};

#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Keep a VM's state as it is now
    Create(SnapshotCreate),
    /// A VM's snapshots, or all; each below the one it grew from
    #[command(visible_alias = "ls")]
    List {
        /// The VM's name
        vm: Option<String>,
        #[command(flatten)]
        list: ListOptions,
    },
    /// Everything about one snapshot
    Show {
        /// The VM's name
        vm: String,
        /// The snapshot's name
        name: String,
    },
    /// Make a VM what it was; what is replaced is kept for a day (gantry vm recover VM --undo)
    Revert {
        /// The VM's name
        vm: String,
        /// The snapshot's name
        name: String,
        /// Leave its memory out: the VM starts from the disk
        #[arg(long)]
        disk_only: bool,
        #[command(flatten)]
        follow: FollowOptions,
    },
    /// Have a VM's snapshots taken by themselves while it runs, and say how many stay; what is not named is kept no more
    Schedule(SnapshotScheduleArguments),
    /// Give the space of snapshots back, also while the VM runs
    #[command(visible_alias = "rm")]
    Delete {
        /// The VM's name
        vm: String,
        /// The snapshots' names
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        follow: FollowOptions,
    },
}

/// How many stay of what is made by itself.
#[derive(Debug, Clone, Copy, Args)]
pub struct KeptPeriods {
    /// For each of so many of the last hours that have some, the last one
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub hourly: u32,
    /// The same for days (UTC)
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub daily: u32,
    /// The same for weeks, from Mondays
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub weekly: u32,
    /// The same for months
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub monthly: u32,
}

#[derive(Debug, Args)]
#[group(id = "counts", required = true, multiple = true, args = ["hourly", "daily", "weekly", "monthly", "none"])]
pub struct SnapshotScheduleArguments {
    /// The VM's name
    pub vm: Name,
    #[command(flatten)]
    pub kept: KeptPeriods,
    /// Have the guest's agent freeze its file systems for the instant, whenever it answers
    #[arg(long)]
    pub quiesce: bool,
    /// Take none any more; those that there are stay
    #[arg(long, conflicts_with_all = ["hourly", "daily", "weekly", "monthly", "quiesce"])]
    pub none: bool,
}

#[derive(Debug, Args)]
pub struct SnapshotCreate {
    /// The VM's name
    pub vm: String,
    /// What it is to be called beside its VM: lower-case letters, digits and '-'
    pub name: String,
    /// With memory: going back to it, the guest goes on from this instant
    #[arg(long, conflicts_with = "quiesce")]
    pub memory: bool,
    /// Have the guest's agent freeze its file systems for the instant, at most 10 s
    #[arg(long)]
    pub quiesce: bool,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// KEY=VALUE; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = super::vm::parse_label)]
    pub labels: Vec<(String, String)>,
    /// Check everything, take nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub follow: FollowOptions,
}
