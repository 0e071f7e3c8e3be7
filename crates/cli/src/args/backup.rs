//! `gantry backup …`

use clap::{Args, Subcommand};
use gantry_types::Name;

use super::{FollowOptions, KeptPeriods, ListOptions};

#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Write what a VM's disks are now into a repository, while it runs
    Create(BackupCreate),
    /// A VM's backups, or all
    #[command(visible_alias = "ls")]
    List {
        /// The VM's name
        vm: Option<String>,
        #[command(flatten)]
        list: ListOptions,
    },
    /// Everything about one backup
    Show {
        /// The VM's name, also of one that is no more
        vm: String,
        /// The backup's name; the newest if not given
        name: Option<String>,
    },
    /// Have backups of a VM made by themselves while it runs, and say how many stay; what is not named is kept no more
    Schedule(BackupScheduleArguments),
    /// Make a VM whose disk has a backup's content
    Restore(BackupRestore),
    /// Make a volume with what a disk was in a backup
    RestoreVolume(BackupRestoreVolume),
    /// Read all of a backup, and say what of it is lost
    Verify {
        /// The VM's name, also of one that is no more
        vm: String,
        /// The backup's name; the newest if not given
        name: Option<String>,
        #[command(flatten)]
        follow: FollowOptions,
    },
    /// Show a file or a directory in a backup, without restoring it (ext2, ext3 and ext4 only)
    Files {
        /// The VM's name, also of one that is no more
        vm: String,
        /// Absolute, as the guest has it in the file system on its disk
        path: String,
        /// The backup's name; the newest if not given
        #[arg(long, value_name = "NAME")]
        backup: Option<String>,
    },
    /// Delete backups, with what they alone needed in their repository
    #[command(visible_alias = "rm")]
    Delete {
        /// The VM's name, also of one that is no more
        vm: String,
        /// The backups' names
        #[arg(required = true)]
        names: Vec<String>,
        /// Forget them without asking their repository, which may be gone; what is there stays
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        follow: FollowOptions,
    },
}

#[derive(Debug, Args)]
pub struct BackupCreate {
    /// The VM's name
    pub vm: String,
    /// What it is to be called beside its VM; the moment in UTC if not given: 20270131-021500
    pub name: Option<String>,
    /// Where: a repository's name, or a directory on the VM's host, made if only its last part is missing
    #[arg(long, value_name = "REPOSITORY")]
    pub to: String,
    /// Do not have the guest's agent freeze its file systems for the instant
    #[arg(long)]
    pub no_quiesce: bool,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// KEY=VALUE; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = super::vm::parse_label)]
    pub labels: Vec<(String, String)>,
    /// Check everything, write nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub follow: FollowOptions,
}

#[derive(Debug, Args)]
#[group(id = "counts", required = true, multiple = true, args = ["hourly", "daily", "weekly", "monthly", "none"])]
pub struct BackupScheduleArguments {
    /// The VM's name
    pub vm: Name,
    /// Where: a repository's name, or a directory; each host on which the VM may run has to reach it
    #[arg(long, value_name = "REPOSITORY", required_unless_present = "none")]
    pub to: Option<String>,
    #[command(flatten)]
    pub kept: KeptPeriods,
    /// Do not have the guest's agent freeze its file systems for the instant
    #[arg(long)]
    pub no_quiesce: bool,
    /// Make none any more; those that there are stay
    #[arg(long, conflicts_with_all = ["to", "hourly", "daily", "weekly", "monthly", "no_quiesce"])]
    pub none: bool,
}

#[derive(Debug, Args)]
pub struct BackupRestore {
    /// The name of the VM that was backed up, also of one that is no more
    pub vm: String,
    /// The backup's name; the newest if not given
    pub name: Option<String>,
    /// What the VM is to be called, with new addresses; as it was if not given, with the addresses that it had
    #[arg(long = "as", value_name = "NAME")]
    pub new_name: Option<Name>,
    /// Make it on this host; on the one that made the backup if not given
    #[arg(long)]
    pub host: Option<Name>,
    /// Do not start it
    #[arg(long)]
    pub no_start: bool,
    #[command(flatten)]
    pub follow: FollowOptions,
}

#[derive(Debug, Args)]
pub struct BackupRestoreVolume {
    /// The name of the VM that was backed up, also of one that is no more
    pub vm: String,
    /// What the volume was called then; 'disk' is the VM's own disk: gantry backup show VM
    pub disk: String,
    /// The backup's name; the newest if not given
    pub name: Option<String>,
    /// What the new volume is to be called; as it was if not given
    #[arg(long = "as", value_name = "NAME")]
    pub new_name: Option<Name>,
    /// Where it is to lie: gantry pool list
    #[arg(long)]
    pub pool: Name,
    #[command(flatten)]
    pub follow: FollowOptions,
}
