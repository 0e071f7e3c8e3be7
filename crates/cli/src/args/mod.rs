//! The command line as clap sees it. Nothing here acts; `commands` does.
//!
//! Two habits live side by side: kubectl's (`get vm web`, `apply -f`) and virsh's (`vm start web`). Both end in the same
//! functions.

mod alarms;
mod backup;
mod energy;
mod ha;
mod load_balancer;
mod local;
mod networking;
mod objects;
mod policies;
mod probe;
mod repository;
mod resources;
mod routing;
mod simulate;
mod snapshot;
mod storage;
mod user;
mod vm;
mod whole;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use gantry_types::Name;

use crate::{kind::Kind, wait::Condition};

pub use alarms::{AlarmCommand, AlarmList, AlarmSilence, ReceiverCommand};
pub use backup::{BackupCommand, BackupCreate, BackupRestore, BackupRestoreVolume, BackupScheduleArguments};
pub use energy::{EnergyCommand, EnergyReportOf};
pub use ha::HaCommand;
pub use load_balancer::{HealthOptions, LoadBalancerCommand, LoadBalancerCreate};
pub use local::{
    AgentCommand, AgentRun, ControllerCommand, ControllerInit, ControllerRun, HostJoin, LabCommand, LabUp,
};
pub use networking::{
    AddressSetCommand, Destination, Holders, PortCommand, RuleOptions, SecurityGroupCommand, SubnetCommand,
};
pub use objects::{
    EventCommand, HostCommand, HostSet, ImageCommand, ImageImport, NetworkCommand, NetworkCreate, OperationCommand,
    PowerChoice, TokenCommand, TokenRole,
};
pub use policies::{
    BalanceSet, ClusterCommand, ClusterSet, Days, Mode, PolicyCommand, PolicySet, PowerSet, ScheduleSet, StorageSet,
};
pub use repository::{RepositoryCommand, RepositoryCreate};
pub use resources::{OrNone, Part, ResourcePoolCommand, ResourcePoolSet};
pub use routing::{FloatingIpCommand, RouterCommand};
pub use simulate::{SimulateCommand, SimulateLive, SimulatePlanetlab, SimulateRules};
pub use snapshot::{KeptPeriods, SnapshotCommand, SnapshotCreate, SnapshotScheduleArguments};
pub use storage::{
    PoolCommand, PoolCreate, PoolLimits, VolumeClone, VolumeCommand, VolumeCreate, VolumeImport, VolumeSet,
    VolumeSettings,
};
pub use user::{UserCommand, UserRole};
pub use vm::{
    CloneVm as VmClone, Create as VmCreate, Migrate as VmMigrate, PostCopyChoice, Set as VmSet, VmCommand, WaitFor,
};
pub use whole::{AuditCommand, AuditList, OverviewOf, SearchFor};

/// Gantry: a datacenter operating system.
#[derive(Debug, Parser)]
#[command(name = "gantry", version, propagate_version = true, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    /// The controller to talk to, by its name in the configuration
    #[arg(long, global = true, value_name = "NAME", env = "GANTRY_CONTEXT")]
    pub context: Option<String>,
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 the operation failed (or a difference was found), 2 wrong usage, \
3 not found, 4 conflict, 5 denied, 6 unreachable, timed out or try again, 7 invalid, 130 interrupted.\n\
Configuration: $GANTRY_CONFIG or ~/.config/gantry/config.toml";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    /// A table with more columns
    Wide,
    Json,
    Yaml,
    /// `kind/name`, one a line
    Name,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List objects of a kind, or show one
    Get(Get),
    /// Show one object with its recent events and operations
    Describe {
        #[arg(help = KINDS)]
        kind: Kind,
        /// The object's name
        name: String,
    },
    /// Create or update the objects of a file
    Apply(Apply),
    /// Show what apply would change; exits with 1 if something would
    Diff {
        #[command(flatten)]
        files: Files,
    },
    /// Delete objects
    Delete(Delete),
    /// Wait until an object is in a state
    Wait(Wait),
    /// Virtual machines
    #[command(subcommand)]
    Vm(VmCommand),
    /// High availability
    #[command(subcommand)]
    Ha(HaCommand),
    /// Conditions that people are to hear of
    #[command(subcommand)]
    Alarm(AlarmCommand),
    /// Who is told of alarms, by HTTP or e-mail
    #[command(subcommand)]
    Receiver(ReceiverCommand),
    /// Disk images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Networks
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Ranges of addresses of networks
    #[command(subcommand)]
    Subnet(SubnetCommand),
    /// Places in networks: MAC, addresses, security groups
    #[command(subcommand)]
    Port(PortCommand),
    /// Who may talk to VMs, and whom they may talk to
    #[command(subcommand, visible_alias = "sg")]
    SecurityGroup(SecurityGroupCommand),
    /// Addresses by a name, for the rules of security groups
    #[command(subcommand)]
    AddressSet(AddressSetCommand),
    /// The way from one network to another, and out
    #[command(subcommand)]
    Router(RouterCommand),
    /// Addresses of external networks that lead to VMs
    #[command(subcommand, visible_alias = "fip")]
    FloatingIp(FloatingIpCommand),
    /// One address in front of many VMs
    #[command(subcommand, visible_alias = "lb")]
    LoadBalancer(LoadBalancerCommand),
    /// States of VMs that can be gone back to
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Contents of VMs' disks outside their pools
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Where backups are kept: directories and buckets, by a name, encrypted if wanted
    #[command(subcommand)]
    Repository(RepositoryCommand),
    /// Places for volumes
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Disks that belong to themselves
    #[command(subcommand, visible_alias = "vol")]
    Volume(VolumeCommand),
    /// Servers that run VMs
    #[command(subcommand)]
    Host(HostCommand),
    /// Hosts that share policies
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// What clusters do by themselves
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Parts of clusters that some VMs share: shares, reservations, limits
    #[command(subcommand, visible_alias = "rp")]
    ResourcePool(ResourcePoolCommand),
    /// Work that is under way or done
    #[command(subcommand)]
    Operation(OperationCommand),
    /// What happened
    #[command(subcommand)]
    Event(EventCommand),
    /// Credentials for the API, and for hosts that join
    #[command(subcommand)]
    Token(TokenCommand),
    /// People who log in to the web UI
    #[command(subcommand)]
    User(UserCommand),
    /// The datacenter at a glance: what is wrong, and sums by group of hosts
    Overview(OverviewOf),
    /// What hosts draw, and for whom
    #[command(subcommand)]
    Energy(EnergyCommand),
    /// Find objects of all kinds
    Search(SearchFor),
    /// Who did what
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Controllers this user knows
    #[command(subcommand)]
    Context(ContextCommand),
    /// What a policy or a change would do: over traces, or over the datacenter as it is
    #[command(subcommand)]
    Simulate(SimulateCommand),
    /// A whole datacenter on this machine
    #[command(subcommand)]
    Lab(LabCommand),
    /// Make and run a controller
    #[command(subcommand)]
    Controller(ControllerCommand),
    /// Run a host's agent
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Print the API's OpenAPI document
    Openapi,
    /// Print a completion script: `source <(gantry completion bash)`
    Completion {
        /// The shell it is for
        shell: clap_complete::Shell,
    },
    /// Versions of this program and of the controller
    Version,
}

const KINDS: &str = "vm, host, cluster, policy, resource-pool, image, network, subnet, port, security-group, address-set, router, floating-ip, \
snapshot, backup, pool, volume, operation, event, token or user; also their plurals, and rp, img, net, sg, fip, snap, vol, op, ev for short";

#[derive(Debug, Args)]
pub struct Get {
    #[arg(help = KINDS)]
    pub kind: Kind,
    /// The object's name; all objects of the kind if not given
    pub name: Option<String>,
    #[command(flatten)]
    pub list: ListOptions,
}

#[derive(Debug, Clone, Default, Args)]
pub struct ListOptions {
    /// Only objects with these labels: `app=web,tier!=db,env in (a,b),!old`
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Go on printing changes until interrupted
    #[arg(short, long)]
    pub watch: bool,
}

#[derive(Debug, Args)]
pub struct Files {
    /// YAML (many documents), JSON or TOML ([[objects]]); `-` is standard input
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Apply {
    #[command(flatten)]
    pub files: Files,
    /// Let the controller check everything, change nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub follow: FollowOptions,
}

#[derive(Debug, Args)]
pub struct Delete {
    #[arg(required_unless_present = "files", help = KINDS)]
    pub kind: Option<Kind>,
    /// The objects' names
    #[arg(required_unless_present = "files")]
    pub names: Vec<String>,
    /// Delete the objects that these files name
    #[arg(short, long = "file", value_name = "FILE", conflicts_with_all = ["kind", "names"])]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub follow: FollowOptions,
}

#[derive(Debug, Clone, Copy, Default, Args)]
pub struct FollowOptions {
    /// Return as soon as the operation is accepted
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Args)]
pub struct Wait {
    #[arg(help = KINDS)]
    pub kind: Kind,
    /// The object's name
    pub name: String,
    /// ready, running, stopped, deleted, finished or phase=PHASE; a PHASE that the kind does not have is refused
    #[arg(long = "for", value_name = "CONDITION")]
    pub condition: Condition,
    /// Give up after this long: 90s, 5m, 1h
    #[arg(long, default_value = "5m", value_parser = parse_duration)]
    pub timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// All controllers this user knows
    List,
    /// Choose the one that is used when none is named
    Use {
        /// The context's name: gantry context list
        name: String,
    },
    /// Write down how a controller made elsewhere is reached; the first one becomes the current one
    Add(ContextAdd),
    /// Forget how a controller is reached; the controller does not notice
    #[command(visible_alias = "rm")]
    Delete {
        /// The context's name: gantry context list
        name: String,
    },
    /// How the current one (or NAME) is reached, without its token
    Show {
        /// The context's name; the current one if not given
        name: Option<String>,
    },
}

#[derive(Debug, Args)]
pub struct ContextAdd {
    /// What it is to be called here
    pub name: Name,
    /// https://ADDRESS:PORT
    #[arg(long)]
    pub url: String,
    /// The CA's certificate, PEM: from `gantry context show`, or the controller's `ca` directory
    #[arg(long, value_name = "FILE")]
    pub ca: PathBuf,
    /// A file with the API token; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub token_file: PathBuf,
}

/// `90`, `90s`, `5m`, `2h`, `1d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds_each = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(format!("'{text}' is not a duration: write 90s, 5m, 2h or 1d")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("'{text}' is not a duration: write 90s, 5m, 2h or 1d"))?;
    let seconds = number.checked_mul(seconds_each).filter(|seconds| *seconds <= 100 * 365 * 86_400);
    seconds.map(Duration::from_secs).ok_or_else(|| format!("'{text}' is too long"))
}

#[cfg(test)]
mod tests;
