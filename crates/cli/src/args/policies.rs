//! `gantry cluster|policy …`

use clap::{Args, Subcommand, ValueEnum};
use gantry_types::{Name, PolicyMode, Weekday};

use super::{FollowOptions, ListOptions};

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// All clusters, or those that a selector chooses
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Everything about one cluster
    Show {
        /// The cluster's name
        name: String,
    },
    /// Change what holds for a cluster; make it if it is not there
    Set(ClusterSet),
    /// Update all its hosts, one after the other: empty it, update it, put it back to work
    Update {
        /// The cluster's name
        name: String,
        /// Switch each host off and on; without this each waits, empty, until somebody has started its agent anew
        #[arg(long)]
        reboot: bool,
        #[command(flatten)]
        follow: FollowOptions,
    },
    /// Delete clusters that have no hosts and no policies
    #[command(visible_alias = "rm")]
    Delete {
        /// The clusters' names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct ClusterSet {
    /// The cluster's name
    pub name: Name,
    /// Virtual processors given out for each logical processor, 1 to 64
    #[arg(long, value_name = "RATIO")]
    pub cpu_overcommit: Option<f64>,
    /// Guest memory given out for each byte of a host's, 1 to 4
    #[arg(long, value_name = "RATIO")]
    pub memory_overcommit: Option<f64>,
    /// How many hosts may fail: room for their VMs is kept free, 0 to 16
    #[arg(long, value_name = "HOSTS")]
    pub tolerate_hosts: Option<u32>,
    /// How much a term of placement's score counts, 0 to 100; TERM- forgets it. May be given several times
    #[arg(long = "weight", value_name = "TERM=WEIGHT", value_parser = parse_weight)]
    pub weights: Vec<(String, Option<f64>)>,
}

fn parse_weight(text: &str) -> Result<(String, Option<f64>), String> {
    if let Some(term) = text.strip_suffix('-') {
        return Ok((term.to_owned(), None));
    }
    let wrong = || format!("'{text}' is not a weight: write TERM=WEIGHT, or TERM- to forget it");
    let (term, weight) = text.split_once('=').ok_or_else(wrong)?;
    Ok((term.to_owned(), Some(weight.parse().map_err(|_| wrong())?)))
}

#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// All policies, or those that a selector chooses
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Everything about one policy, with what it recommends
    Show {
        /// The policy's name
        name: String,
    },
    /// Change a cluster's policy for balance, storage or power, or a schedule; make it if it is not there
    #[command(subcommand)]
    Set(PolicySet),
    /// Carry out one thing that a policy recommends
    Apply {
        /// The policy's name
        name: String,
        /// The recommendation: gantry policy show NAME
        id: String,
        #[command(flatten)]
        follow: FollowOptions,
    },
    /// Delete policies; what they have begun goes on
    #[command(visible_alias = "rm")]
    Delete {
        /// The policies' names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum PolicySet {
    /// Move VMs from hosts that are busy to hosts that are not
    Balance(BalanceSet),
    /// Move volumes out of pools that are full or busy, to others with the same label 'class'
    Storage(StorageSet),
    /// Put hosts to sleep that nobody needs, and wake them
    Power(PowerSet),
    /// Have VMs on certain hosts at certain times; list them with gantry policy list, remove with gantry policy delete
    Schedule(ScheduleSet),
}

#[derive(Debug, Args)]
pub struct PolicyPlace {
    /// What it may do: nothing, advise, or act
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// The cluster it is for
    #[arg(long, default_value = "main")]
    pub cluster: Name,
    /// How often it looks, 1 to 3600 s
    #[arg(long, value_name = "SECONDS")]
    pub interval: Option<u32>,
}

#[derive(Debug, Args)]
pub struct BalanceSet {
    #[command(flatten)]
    pub place: PolicyPlace,
    /// A host is under pressure above this share of its processors, 1 to 100 %
    #[arg(long, value_name = "PERCENT")]
    pub comfortable: Option<u32>,
    /// How many of its moves may be under way at once, 1 to 32
    #[arg(long, value_name = "MOVES")]
    pub max_moves: Option<u32>,
    /// A VM that has moved stays at least this long, 0 to 86400 s
    #[arg(long, value_name = "SECONDS")]
    pub hold_down: Option<u32>,
}

#[derive(Debug, Args)]
pub struct StorageSet {
    #[command(flatten)]
    pub place: PolicyPlace,
    /// Volumes leave a pool that is fuller, or whose device is busier, than this, 10 to 100 %
    #[arg(long, value_name = "PERCENT")]
    pub limit: Option<u32>,
    /// How many of its moves may be under way at once, 1 to 32
    #[arg(long, value_name = "MOVES")]
    pub max_moves: Option<u32>,
    /// A volume that has moved stays at least this long, 0 to 86400 s
    #[arg(long, value_name = "SECONDS")]
    pub hold_down: Option<u32>,
}

#[derive(Debug, Args)]
pub struct PowerSet {
    #[command(flatten)]
    pub place: PolicyPlace,
    /// Hosts that stay awake beyond what is needed, 0 to 64
    #[arg(long, value_name = "HOSTS")]
    pub spare: Option<u32>,
    /// A host that woke, and a VM that moved, are left alone this long, 0 to 86400 s
    #[arg(long, value_name = "SECONDS")]
    pub hold_down: Option<u32>,
}

/// What is not given stays as it is; a new one needs --vms, --hosts, --from and --until.
#[derive(Debug, Args)]
pub struct ScheduleSet {
    /// The schedule's name
    pub name: Name,
    /// The cluster it is for; only when it is made
    #[arg(long)]
    pub cluster: Option<Name>,
    /// Which VMs: app=mail
    #[arg(long, value_name = "SELECTOR")]
    pub vms: Option<String>,
    /// On which hosts they are to be meanwhile: rack=a
    #[arg(long, value_name = "SELECTOR")]
    pub hosts: Option<String>,
    /// When it begins to hold, UTC
    #[arg(long, value_name = "HH:MM")]
    pub from: Option<String>,
    /// When it ceases to, UTC; the same as --from is a whole day
    #[arg(long, value_name = "HH:MM")]
    pub until: Option<String>,
    /// On which days it begins: mon,tue,wed,thu,fri,sat,sun, or all
    #[arg(long, value_name = "DAYS", value_parser = parse_days)]
    pub days: Option<Days>,
    /// How many of its moves may be under way at once, 1 to 32
    #[arg(long, value_name = "MOVES")]
    pub max_moves: Option<u32>,
}

/// Empty: every day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Days(pub Vec<Weekday>);

fn parse_days(text: &str) -> Result<Days, String> {
    if text == "all" {
        return Ok(Days(Vec::new()));
    }
    let day = |day: &str| {
        serde_json::from_value(day.trim().to_ascii_lowercase().into())
            .map_err(|_| format!("'{day}' is not a day: write mon,tue,wed,thu,fri,sat,sun, or all"))
    };
    text.split(',').map(day).collect::<Result<_, _>>().map(Days)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    Off,
    Advise,
    Automatic,
}

impl From<Mode> for PolicyMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Off => Self::Off,
            Mode::Advise => Self::Advise,
            Mode::Automatic => Self::Automatic,
        }
    }
}
