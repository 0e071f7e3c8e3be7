//! `gantry vm …`

use std::{path::PathBuf, time::Duration};

use clap::{
    Args, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use gantry_types::{
    Arch, ByteSize, Display, FailureReaction, Firmware, HaPolicy, LossReaction, MacAddress, Name, NicSpec, PostCopy,
    Priority,
};

use super::{FollowOptions, ListOptions, Part, parse_duration, probe::ProbeOptions};

const ARCHS: [&str; 4] = ["x86_64", "aarch64", "ppc64", "sparc64"];
const FIRMWARE: [&str; 2] = ["bios", "uefi"];
const DISPLAYS: [&str; 2] = ["none", "vga"];

#[derive(Debug, Subcommand)]
pub enum VmCommand {
    /// Make a VM and start it
    Create(Box<Create>),
    /// All VMs, or those that a selector chooses
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Everything about one VM
    Show {
        /// The VM's name
        name: String,
    },
    /// Why it is where it is, and why it is not elsewhere
    Explain {
        /// The VM's name
        name: String,
    },
    /// Start VMs that are stopped, or whose start failed
    Start {
        /// The VMs' names
        #[arg(required = true)]
        names: Vec<String>,
        /// Wait until it runs (the default) or its guest answers
        #[arg(long, value_enum, default_value_t, conflicts_with = "no_wait")]
        wait: WaitFor,
        /// Give up waiting for the guest after this long
        #[arg(long, default_value = "5m", value_parser = parse_duration)]
        timeout: Duration,
        #[command(flatten)]
        follow: FollowOptions,
    },
    /// Ask the guest to shut down; cut it off after the grace time
    Stop {
        /// The VMs' names
        #[arg(required = true)]
        names: Vec<String>,
        /// Do not ask the guest
        #[arg(long)]
        force: bool,
        /// How long the guest may take
        #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(0..=3600))]
        grace: u32,
        #[command(flatten)]
        follow: FollowOptions,
    },
    /// Let the guest start anew
    Reboot {
        /// The VMs' names
        #[arg(required = true)]
        names: Vec<String>,
        /// Reset at once instead of asking the guest
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        follow: FollowOptions,
    },
    /// Stop its processors, keep its memory
    Pause {
        /// The VMs' names
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        follow: FollowOptions,
    },
    /// Let a paused VM go on
    Resume {
        /// The VMs' names
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        follow: FollowOptions,
    },
    /// End VMs and delete their disks
    #[command(visible_alias = "rm")]
    Delete {
        /// The VMs' names
        #[arg(required = true)]
        names: Vec<String>,
        /// Do not wait for a host that is lost; what it still has is removed when it comes back
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        follow: FollowOptions,
    },
    /// The serial console; Ctrl-] ends it
    Console {
        /// The VM's name
        name: String,
    },
    /// Its screen: a VNC server on this machine, for any viewer; Ctrl-C ends it
    Vnc {
        /// The VM's name
        name: String,
        /// Where the viewer connects; a free port if not given
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
        listen: std::net::SocketAddr,
    },
    /// Change processors, memory and display (while it is stopped), owner, labels, high availability or probes
    Set(Box<Set>),
    /// Move a VM to another host, while it runs, or stopped with its disk; or its disk to another pool
    Migrate(Migrate),
    /// Make a VM as a copy of another one, which may run on meanwhile
    Clone(CloneVm),
    /// Bring a VM's disk back to its last known good state, and start it
    Recover(Recover),
}

#[derive(Debug, Args)]
pub struct Create {
    /// What it is to be called: lower-case letters, digits and '-'
    pub name: Name,
    /// The image its disk starts from; an empty disk if not given
    #[arg(long)]
    pub image: Option<Name>,
    /// Virtual processors, 1 to 256
    #[arg(long, default_value_t = 1)]
    pub cpus: u32,
    /// Its memory, 32MiB to 4TiB in whole MiB: a number with MiB, GiB or TiB, bytes without a unit
    #[arg(long, value_name = "SIZE", default_value = "512MiB")]
    pub memory: ByteSize,
    /// Size of its disk; the image's if not given
    #[arg(long, value_name = "SIZE")]
    pub disk: Option<ByteSize>,
    /// The pool its disk is in; its host's own if not given. In one that several hosts reach, the VM moves without its
    /// disk and starts on any of them: gantry pool list
    #[arg(long, value_name = "POOL")]
    pub pool: Option<Name>,
    /// A network card: NETWORK[,ip=ADDRESS][,mac=MAC][,group=SECURITY-GROUP][,dhcp] or NETWORK,port=PORT[,dhcp]; may be given several times
    #[arg(long = "network", value_name = "NETWORK", value_parser = parse_nic)]
    pub networks: Vec<NicSpec>,
    /// cloud-init user-data
    #[arg(long, value_name = "FILE")]
    pub user_data: Option<PathBuf>,
    /// KEY=VALUE; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// Run on this host and no other
    #[arg(long)]
    pub host: Option<Name>,
    /// What it has for a screen
    #[arg(long, default_value = "none", value_parser = PossibleValuesParser::new(DISPLAYS).try_map(|text| parse_by_api_name::<Display>(&text)))]
    pub display: Display,
    /// The user whose it is: he may see, restart and recover it
    #[arg(long, value_name = "USER")]
    pub owner: Option<Name>,
    /// The guest's architecture
    #[arg(long, default_value = "x86_64", value_parser = PossibleValuesParser::new(ARCHS).try_map(|text| parse_by_api_name::<Arch>(&text)))]
    pub arch: Arch,
    /// QEMU's name of the CPU model
    #[arg(long)]
    pub cpu_model: Option<String>,
    /// What the guest is booted by
    #[arg(long, default_value = "bios", value_parser = PossibleValuesParser::new(FIRMWARE).try_map(|text| parse_by_api_name::<Firmware>(&text)))]
    pub firmware: Firmware,
    /// Do not start it
    #[arg(long, conflicts_with = "wait")]
    pub stopped: bool,
    /// Wait until it runs (the default) or its guest answers
    #[arg(long, value_enum, default_value_t, conflicts_with = "no_wait")]
    pub wait: WaitFor,
    /// Give up waiting for the guest after this long
    #[arg(long, default_value = "5m", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Check everything, make nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub follow: FollowOptions,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum WaitFor {
    #[default]
    Running,
    Ready,
}

impl WaitFor {
    /// How long to wait for the guest, if at all.
    pub fn guest(self, limit: Duration) -> Option<Duration> {
        (self == Self::Ready).then_some(limit)
    }
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub struct Set {
    /// The VM's name
    pub name: String,
    /// Virtual processors, 1 to 256
    #[arg(long, group = "change")]
    pub cpus: Option<u32>,
    /// Its memory, 32MiB to 4TiB in whole MiB
    #[arg(long, value_name = "SIZE", group = "change")]
    pub memory: Option<ByteSize>,
    /// What it has for a screen; while it is stopped
    #[arg(long, group = "change", value_parser = PossibleValuesParser::new(DISPLAYS).try_map(|text| parse_by_api_name::<Display>(&text)))]
    pub display: Option<Display>,
    /// The user whose it is from now on
    #[arg(long, value_name = "USER", group = "change")]
    pub owner: Option<Name>,
    /// It is nobody's from now on
    #[arg(long, group = "change", conflicts_with = "owner")]
    pub no_owner: bool,
    /// KEY=VALUE sets a label, KEY- removes it
    #[arg(long = "label", value_name = "LABEL", group = "change", value_parser = parse_label_change)]
    pub labels: Vec<(String, Option<String>)>,
    /// What its host does when it fails: start it again, or nothing; also while it runs
    #[arg(long, value_enum, value_name = "POLICY", group = "change")]
    pub ha: Option<HaChoice>,
    /// With --ha restart: what is done when its guest panics, hangs or does not feed its watchdog; also while it runs
    #[arg(long, value_name = "REACTION", group = "change", value_parser = PossibleValuesParser::new(REACTIONS).try_map(|text| reaction(&text)))]
    pub on_guest_failure: Option<FailureReaction>,
    /// With --ha restart: what is done when its application fails a liveness probe; also while it runs
    #[arg(long, value_name = "REACTION", group = "change", value_parser = PossibleValuesParser::new(REACTIONS).try_map(|text| reaction(&text)))]
    pub on_app_failure: Option<FailureReaction>,
    /// With --ha restart: what is done when its host has lost a pool that a disk of it is in; also while it runs
    #[arg(long, value_name = "REACTION", group = "change", value_parser = PossibleValuesParser::new(LOSS_REACTIONS).try_map(|text| loss_reaction(&text)))]
    pub on_pool_loss: Option<LossReaction>,
    /// With --ha restart: what is done when the interface that its network needs has no link on its host; also while it runs
    #[arg(long, value_name = "REACTION", group = "change", value_parser = PossibleValuesParser::new(LOSS_REACTIONS).try_map(|text| loss_reaction(&text)))]
    pub on_network_loss: Option<LossReaction>,
    /// After how long a pool or a link that is gone counts as lost
    #[arg(long, value_name = "SECONDS", group = "change", value_parser = clap::value_parser!(u32).range(10..=3600))]
    pub ha_loss: Option<u32>,
    /// With --ha restart: bring its disk back to its last known good state after this many failures of guest or application
    /// without having been good in between; 'never' takes it back
    #[arg(long, value_name = "N|never", group = "change", value_parser = parse_roll_back)]
    pub roll_back_after: Option<RollBackAfter>,
    /// With --ha restart: how often within an hour something is done
    #[arg(long, value_name = "N", group = "change", value_parser = clap::value_parser!(u32).range(1..=60))]
    pub ha_restarts: Option<u32>,
    /// Among VMs that are to be started again, those of a higher priority come first; also while it runs
    #[arg(long, value_enum, group = "change")]
    pub priority: Option<PriorityChoice>,
    /// A VM that has to be ready before this one is started again after its host has failed; may be given several times,
    /// replaces all; also while it runs
    #[arg(long, value_name = "VM", group = "change", conflicts_with = "no_dependencies")]
    pub depends_on: Vec<Name>,
    /// It depends on no other VM
    #[arg(long, group = "change")]
    pub no_dependencies: bool,
    /// With --ha restart: after how much silence it counts as failed
    #[arg(long, value_name = "SECONDS", group = "change", value_parser = clap::value_parser!(u32).range(10..=3600))]
    pub ha_hang: Option<u32>,
    /// Whether its machine has a watchdog (i6300esb), which counts as failure once its guest feeds it no more; while it is
    /// stopped
    #[arg(long, value_name = "true|false", group = "change")]
    pub watchdog: Option<bool>,
    #[command(flatten)]
    pub probes: ProbeOptions,
    #[command(flatten)]
    pub part: Part,
    #[command(flatten)]
    pub follow: FollowOptions,
}

const REACTIONS: [&str; 4] = ["restart", "reset", "restart-elsewhere", "alarm"];

const LOSS_REACTIONS: [&str; 2] = ["alarm", "restart-elsewhere"];

fn loss_reaction(text: &str) -> Result<LossReaction, String> {
    parse_by_api_name(&text.replace('-', "_"))
}

fn reaction(text: &str) -> Result<FailureReaction, String> {
    parse_by_api_name(&text.replace('-', "_"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RollBackAfter(pub Option<u32>);

fn parse_roll_back(text: &str) -> Result<RollBackAfter, String> {
    match text.parse::<u32>() {
        Ok(failures) if (1..=20).contains(&failures) => Ok(RollBackAfter(Some(failures))),
        _ if text == "never" => Ok(RollBackAfter(None)),
        _ => Err("use 1 to 20, or never".to_owned()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HaChoice {
    None,
    Restart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PriorityChoice {
    Low,
    Medium,
    High,
}

impl From<PriorityChoice> for Priority {
    fn from(choice: PriorityChoice) -> Self {
        match choice {
            PriorityChoice::Low => Self::Low,
            PriorityChoice::Medium => Self::Medium,
            PriorityChoice::High => Self::High,
        }
    }
}

impl From<HaChoice> for HaPolicy {
    fn from(choice: HaChoice) -> Self {
        match choice {
            HaChoice::None => Self::None,
            HaChoice::Restart => Self::Restart,
        }
    }
}

#[derive(Debug, Args)]
pub struct Migrate {
    /// The VM's name
    pub name: String,
    /// The destination; chosen by placement if not given
    #[arg(long, value_name = "HOST")]
    pub to: Option<Name>,
    /// Instead of the VM, its own disk: to this pool that its host reaches, while the guest writes. With --to both, one after
    /// the other
    #[arg(long, value_name = "POOL")]
    pub pool: Option<Name>,
    /// Whether the guest may go on at the destination before all its memory is there
    #[arg(long, value_enum)]
    pub post_copy: Option<PostCopyChoice>,
    /// How long the guest may be stopped
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_downtime_ms: Option<u32>,
    /// Limit for the memory stream
    #[arg(long, value_name = "MIB_PER_S")]
    pub bandwidth: Option<u32>,
    #[command(flatten)]
    pub follow: FollowOptions,
}

#[derive(Debug, Args)]
pub struct CloneVm {
    /// The VM that is copied: its spec, its labels, and what its disk holds at this instant
    pub source: String,
    /// What the new one is to be called; it has a uuid, MACs and addresses of its own
    pub name: Name,
    /// Bind it to this host, instead of to what its source is bound to
    #[arg(long)]
    pub host: Option<Name>,
    /// Begin with this snapshot of the source, instead of with what its disk holds now
    #[arg(long)]
    pub snapshot: Option<String>,
    /// Make it and leave it stopped
    #[arg(long, conflicts_with = "wait")]
    pub stopped: bool,
    /// Wait until it runs (the default) or its guest answers
    #[arg(long, value_enum, default_value_t, conflicts_with = "no_wait")]
    pub wait: WaitFor,
    /// Give up waiting for the guest after this long
    #[arg(long, default_value = "5m", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Check everything, make nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub follow: FollowOptions,
}

#[derive(Debug, Args)]
pub struct Recover {
    /// The VM's name
    pub name: String,
    /// The recovery point to go back to (gantry describe vm NAME); the newest good one if not given
    #[arg(long, value_name = "POINT")]
    pub to: Option<Name>,
    /// Go back to what the last recovery or revert replaced; it is kept for a day
    #[arg(long, conflicts_with = "to")]
    pub undo: bool,
    #[command(flatten)]
    pub follow: FollowOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PostCopyChoice {
    Auto,
    Never,
    Always,
}

impl From<PostCopyChoice> for PostCopy {
    fn from(choice: PostCopyChoice) -> Self {
        match choice {
            PostCopyChoice::Auto => Self::Auto,
            PostCopyChoice::Never => Self::Never,
            PostCopyChoice::Always => Self::Always,
        }
    }
}

/// `NETWORK[,ip=ADDRESS][,mac=MAC][,group=SECURITY-GROUP]…[,dhcp]` or `NETWORK,port=PORT[,dhcp]`
fn parse_nic(text: &str) -> Result<NicSpec, String> {
    let mut parts = text.split(',');
    let network = parts.next().unwrap_or_default().parse::<Name>().map_err(|error| error.to_string())?;
    let mut nic = NicSpec::new(network);
    for part in parts {
        match part.split_once('=') {
            None if part == "dhcp" && !nic.dhcp => nic.dhcp = true,
            Some(("ip", value)) if nic.address.is_none() => {
                nic.address = Some(value.parse().map_err(|_| format!("'{value}' is not an IP address"))?);
            }
            Some(("mac", value)) if nic.mac.is_none() => {
                nic.mac = Some(value.parse::<MacAddress>().map_err(|error| error.to_string())?);
            }
            Some(("port", value)) if nic.port.is_none() => {
                nic.port = Some(value.parse::<Name>().map_err(|error| error.to_string())?);
            }
            Some(("group", value)) => {
                nic.security_groups.push(value.parse::<Name>().map_err(|error| error.to_string())?);
            }
            _ => {
                let form = "NETWORK[,ip=ADDRESS][,mac=MAC][,group=SECURITY-GROUP]…[,dhcp] or NETWORK,port=PORT[,dhcp]";
                return Err(format!("'{part}' is not known here: write {form}"));
            }
        }
    }
    Ok(nic)
}

pub(super) fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("'{text}' is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

pub fn parse_label_change(text: &str) -> Result<(String, Option<String>), String> {
    match text.strip_suffix('-') {
        Some(key) if !key.contains('=') => Ok((key.to_owned(), None)),
        _ => parse_label(text).map(|(key, value)| (key, Some(value))),
    }
}

/// By the names the API uses.
pub(super) fn parse_by_api_name<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}
