//! `gantry router|floating-ip …`

use std::net::IpAddr;

use clap::{Args, Subcommand};
use gantry_types::Name;

use super::ListOptions;

#[derive(Debug, Subcommand)]
pub enum RouterCommand {
    /// Let networks reach each other, and the outside
    Create(RouterCreate),
    /// All routers, or those that a selector chooses
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Everything about one router
    Show {
        /// The router's name
        name: String,
    },
    /// Delete routers that no floating address leads through
    #[command(visible_alias = "rm")]
    Delete {
        /// The routers' names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct RouterCreate {
    /// What it is to be called
    pub name: Name,
    /// A network that reaches the others; its subnet needs a gateway, which the router then is; may be given several times
    #[arg(long, required = true)]
    pub network: Vec<Name>,
    /// The network that leads out
    #[arg(long, value_name = "NETWORK")]
    pub external: Option<Name>,
    /// Let what leaves keep its own address
    #[arg(long)]
    pub no_snat: bool,
}

#[derive(Debug, Subcommand)]
pub enum FloatingIpCommand {
    /// Take an address of an external network
    Create {
        /// What it is to be called
        name: Name,
        /// The external network
        #[arg(long)]
        network: Name,
        /// The lowest free one if not given
        #[arg(long, value_name = "ADDRESS")]
        address: Option<IpAddr>,
    },
    /// Let an address lead to a VM or a load balancer: one that leads nowhere yet, or a new one named as its target
    Attach {
        /// The VM
        #[arg(required_unless_present = "load_balancer", conflicts_with = "load_balancer")]
        vm: Option<Name>,
        /// The load balancer, instead of a VM
        #[arg(long, value_name = "NAME")]
        load_balancer: Option<Name>,
        /// This floating address
        #[arg(long, value_name = "NAME")]
        ip: Option<Name>,
        /// An address of this external network; needed if several lead there
        #[arg(long, value_name = "NAME")]
        network: Option<Name>,
    },
    /// Let an address lead nowhere; it stays taken
    Detach {
        /// The floating address
        name: Name,
    },
    /// All floating addresses, or those that a selector chooses
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Everything about one floating address
    Show {
        /// The floating address
        name: String,
    },
    /// Give addresses back
    #[command(visible_alias = "rm")]
    Delete {
        /// The floating addresses
        #[arg(required = true)]
        names: Vec<String>,
    },
}
