//! Commands that act on this machine instead of asking a controller: `controller`, `agent`, `host join`, `lab`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Subcommand};
use gantry_types::Name;

#[derive(Debug, Subcommand)]
pub enum ControllerCommand {
    /// Make a new controller: its CA, its certificate, its store and an admin token
    Init(ControllerInit),
    /// Run it
    Run(ControllerRun),
}

#[derive(Debug, Args)]
pub struct ControllerInit {
    /// Where it keeps everything
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// The datacenter's name, and the context's
    #[arg(long, default_value = "main")]
    pub name: Name,
    /// An address it is reached at, for its certificate; the first goes into the context. May be given several times;
    /// 127.0.0.1 if there is no --dns-name either
    #[arg(long = "address", value_name = "IP")]
    pub addresses: Vec<IpAddr>,
    /// A name it is reached at, for its certificate; the first goes into the context if no address is given. May be
    /// given several times
    #[arg(long = "dns-name", value_name = "NAME")]
    pub dns_names: Vec<String>,
    /// Where it will listen; its port goes into the context
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:7443")]
    pub listen: SocketAddr,
}

#[derive(Debug, Args)]
pub struct ControllerRun {
    /// Where 'controller init' put it
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Instead of where init was told that it listens (controller.toml)
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// The socket of a lab's power strip, for hosts with the power driver 'lab'
    #[arg(long, value_name = "SOCKET")]
    pub power_strip: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Run the agent of a host that has joined
    Run(AgentRun),
    /// Guard the host's protected VMs: stop them when its lease is over. The agent starts it
    #[command(hide = true)]
    Warden(AgentRun),
}

#[derive(Debug, Args)]
pub struct AgentRun {
    /// Where 'host join' put its identity, and where the host's VMs are
    #[arg(long, value_name = "DIR", default_value = "/var/lib/gantry/agent")]
    pub state: PathBuf,
}

#[derive(Debug, Args)]
pub struct HostJoin {
    /// https://ADDRESS:PORT of the controller
    pub url: String,
    /// From: gantry token create NAME --role join. Better not here, where other users of the machine see it: in a file
    /// (--token-file) or in the environment
    #[arg(env = "GANTRY_JOIN_TOKEN", hide_env_values = true, required_unless_present = "token_file")]
    pub token: Option<String>,
    /// Where the token is; - for standard input
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The host's name; this machine's if not given
    #[arg(long)]
    pub name: Option<Name>,
    /// Where its agent listens; by default the address towards the controller, port 7444
    #[arg(long, value_name = "IP:PORT")]
    pub agent_address: Option<SocketAddr>,
    /// The address for VXLAN and migrations; by default the agent's
    #[arg(long, value_name = "IP")]
    pub underlay_address: Option<IpAddr>,
    /// Where it keeps its identity and its VMs
    #[arg(long, value_name = "DIR", default_value = "/var/lib/gantry/agent")]
    pub state: PathBuf,
}

#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Build a datacenter of network namespaces on this machine, or bring an existing one up again
    Up(LabUp),
    /// What runs and what is cut
    Status {
        /// The lab; the only one, or the current context's, if not given
        #[arg(long)]
        name: Option<Name>,
    },
    /// All labs of this machine
    List,
    /// Power loss: its cable goes dead and everything on it is killed at once
    Unplug {
        /// The host's name: host-1, host-2, …
        host: String,
        /// The lab; the only one, or the current context's, if not given
        #[arg(long)]
        name: Option<Name>,
    },
    /// Power back
    Plug {
        /// The host's name: host-1, host-2, …
        host: String,
        /// The lab; the only one, or the current context's, if not given
        #[arg(long)]
        name: Option<Name>,
    },
    /// Cut its cable; what runs there goes on
    Cut {
        /// The host's name: host-1, host-2, …
        host: String,
        /// The lab; the only one, or the current context's, if not given
        #[arg(long)]
        name: Option<Name>,
    },
    /// Mend its cable
    Mend {
        /// The host's name: host-1, host-2, …
        host: String,
        /// The lab; the only one, or the current context's, if not given
        #[arg(long)]
        name: Option<Name>,
    },
    /// Run a command on a host: gantry lab exec host-1 -- ip link
    Exec {
        /// The host's name: host-1, host-2, …
        host: String,
        /// The lab; the only one, or the current context's, if not given
        #[arg(long)]
        name: Option<Name>,
        /// The command and its arguments
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
    /// Serve as the lab's power strip: the controller switches hosts by it. `lab up` starts it
    #[command(hide = true)]
    PowerStrip {
        /// The lab
        #[arg(long)]
        name: Name,
    },
    /// End everything and remove it
    Down {
        /// The lab; must be given if there are several
        #[arg(long)]
        name: Option<Name>,
    },
}

#[derive(Debug, Args)]
pub struct LabUp {
    /// What it is to be called
    #[arg(long, default_value = "lab")]
    pub name: Name,
    /// How many; 3 for a new lab
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=200))]
    pub hosts: Option<u8>,
    /// `lab down` leaves the state, and `lab up` takes it up again
    #[arg(long)]
    pub keep: bool,
    /// Import this image as 'guest' and run the VM 'hello' from it
    #[arg(long, value_name = "IMAGE_FILE")]
    pub sample: Option<PathBuf>,
}
