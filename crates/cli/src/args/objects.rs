//! `gantry image|network|host|operation|event|token …`

use std::{net::IpAddr, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use gantry_types::{ImageFormat, Name, NetworkType, Role};

use super::{FollowOptions, HostJoin, ListOptions, parse_duration, vm::parse_label_change};

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Bring in a disk image: qcow2, raw, VMDK, VHD, VHDX or VDI, also compressed
    Import(ImageImport),
    /// All images, or those that a selector chooses
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Everything about one image
    Show {
        /// The image's name
        name: String,
    },
    /// Delete images that no VM uses
    #[command(visible_alias = "rm")]
    Delete {
        /// The images' names
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        follow: FollowOptions,
    },
}

#[derive(Debug, Args)]
pub struct ImageImport {
    /// What it is to be called
    pub name: Name,
    /// A file on this machine, or an http(s) URL that the controller fetches
    #[arg(value_name = "FILE|URL")]
    pub source: String,
    /// SHA-256 of the file as supplied, hex
    #[arg(long, value_name = "HEX")]
    pub sha256: Option<String>,
    /// The format, where content does not tell: qcow2, raw, vmdk, vhd, vhdx, vdi
    #[arg(long, value_parser = parse_format)]
    pub format: Option<ImageFormat>,
    #[command(flatten)]
    pub follow: FollowOptions,
}

pub(super) fn parse_format(text: &str) -> Result<ImageFormat, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Make a network
    Create(NetworkCreate),
    /// All networks, or those that a selector chooses
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Everything about one network
    Show {
        /// The network's name
        name: String,
    },
    /// Delete networks that no VM uses
    #[command(visible_alias = "rm")]
    Delete {
        /// The networks' names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct NetworkCreate {
    /// What it is to be called
    pub name: Name,
    /// Addresses for its VMs, for example 10.9.0.0/24
    #[arg(long, value_name = "CIDR", value_parser = parse_cidr)]
    pub subnet: String,
    /// routed: routers may lead out of it; isolated: nothing does; bridged: the LAN of an interface of every host
    #[arg(long = "type", value_name = "TYPE", default_value_t)]
    pub network_type: NetworkType,
    /// The hosts' interface that a bridged network continues on
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// The default gateway told to guests
    #[arg(long, value_name = "ADDRESS")]
    pub gateway: Option<IpAddr>,
    /// A name server told to guests; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<IpAddr>,
    /// An address never handed out; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    pub reserve: Vec<IpAddr>,
    /// VXLAN identifier; chosen by the controller if not given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=16_777_215))]
    pub vni: Option<u32>,
    /// The largest packet of its VMs, bytes; VXLAN adds 50 to it on the way between hosts
    #[arg(long, default_value_t = 1450, value_parser = clap::value_parser!(u32).range(576..=8950))]
    pub mtu: u32,
    /// A VTEP that is not a Gantry host, such as a top-of-rack switch; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    pub external_vtep: Vec<IpAddr>,
}

/// Only the shape; what the parts may be is the type's business.
fn parse_cidr(text: &str) -> Result<String, String> {
    let valid = text.split_once('/').is_some_and(|(address, bits)| {
        address.parse::<IpAddr>().is_ok() && bits.parse::<u8>().is_ok_and(|bits| bits <= 128)
    });
    if valid { Ok(text.to_owned()) } else { Err(format!("'{text}' is not a subnet: write it as 10.9.0.0/24")) }
}

#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// Make this machine a host of the controller at URL
    Join(HostJoin),
    /// All hosts, or those that a selector chooses
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Everything about one host
    Show {
        /// The host's name
        name: String,
    },
    /// Shut it out: once nothing protected runs there for certain, its protected VMs start elsewhere. It is switched off if it
    /// can be, and let in again by itself when it is back and clean
    Fence {
        /// The host's name
        name: String,
        /// Why, for whoever reads the events
        #[arg(long, value_name = "TEXT")]
        why: String,
        /// Do not wait for the proof
        #[arg(long)]
        no_wait: bool,
    },
    /// Place no new VMs on it
    Cordon {
        /// The host's name
        name: String,
    },
    /// Place VMs on it again
    Uncordon {
        /// The host's name
        name: String,
    },
    /// Move all its VMs to other hosts while they run, then the stopped ones, and keep it empty
    Drain {
        /// The host's name
        name: String,
        #[command(flatten)]
        follow: FollowOptions,
    },
    /// Place VMs on it again
    Undrain {
        /// The host's name
        name: String,
    },
    /// Empty it and switch it off; that it can be woken must have been proved before (reboot)
    Sleep {
        /// The host's name
        name: String,
        #[command(flatten)]
        follow: FollowOptions,
    },
    /// Switch it on and wait for its agent
    Wake {
        /// The host's name
        name: String,
        #[command(flatten)]
        follow: FollowOptions,
    },
    /// Empty it, switch it off and on, and wait for its agent: proves that it can be woken
    Reboot {
        /// The host's name
        name: String,
        #[command(flatten)]
        follow: FollowOptions,
    },
    /// Change a host's cluster, labels and power driver
    Set(HostSet),
    /// Forget a host that runs nothing any more; its certificate is worthless from then on
    #[command(visible_alias = "rm")]
    Delete {
        /// The hosts' names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct HostSet {
    /// The host's name
    pub name: String,
    /// The cluster whose policies hold for it
    #[arg(long)]
    pub cluster: Option<Name>,
    /// How its power is switched
    #[arg(long, value_enum, value_name = "DRIVER")]
    pub power: Option<PowerChoice>,
    /// What the driver knows it by; its name if not given
    #[arg(long, value_name = "NAME", requires = "power")]
    pub outlet: Option<String>,
    /// Watts it draws at 0, 10, … 100 % of its processors, as SPECpower has them: eleven figures with commas
    #[arg(long, value_name = "WATTS", value_delimiter = ',')]
    pub watts: Option<Vec<u32>>,
    /// A label to set (KEY=VALUE) or to remove (KEY-); may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label_change)]
    pub labels: Vec<(String, Option<String>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PowerChoice {
    /// By hand
    None,
    /// The power strip of a lab
    Lab,
}

#[derive(Debug, Subcommand)]
pub enum OperationCommand {
    /// All operations, or those that a selector chooses
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Everything about one operation
    Show {
        /// The operation's name: gantry operation list
        name: String,
    },
    /// Stop it at the next safe point and undo what it did
    Cancel {
        /// The operation's name: gantry operation list
        name: String,
    },
    /// Follow it to its end
    Wait {
        /// The operation's name: gantry operation list
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum EventCommand {
    /// All events, or those that a selector chooses
    #[command(visible_alias = "ls")]
    List {
        /// Only events about this object, for example vm/web
        #[arg(long = "for", value_name = "KIND/NAME")]
        regarding: Option<String>,
        #[command(flatten)]
        list: ListOptions,
    },
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token; its secret is shown once
    Create {
        /// What it is to be called
        name: Name,
        /// What its bearer may do: everything, read, or let a host join
        #[arg(long, value_enum)]
        role: TokenRole,
        /// Refused after this long: 30m, 12h, 90d
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        expires: Option<Duration>,
    },
    /// All tokens, or those that a selector chooses
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Delete tokens; who uses one is refused from then on
    #[command(visible_alias = "rm")]
    Delete {
        /// The tokens' names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TokenRole {
    Admin,
    /// Everything but users, tokens and the audit log
    Operator,
    Viewer,
    Join,
}

impl From<TokenRole> for Role {
    fn from(role: TokenRole) -> Self {
        match role {
            TokenRole::Admin => Self::Admin,
            TokenRole::Operator => Self::Operator,
            TokenRole::Viewer => Self::Viewer,
            TokenRole::Join => Self::Join,
        }
    }
}
