//! `gantry load-balancer …`

use std::net::IpAddr;

use clap::{Args, Subcommand};
use gantry_types::{HealthCheck, Listener, Name, Selector};

use super::ListOptions;

#[derive(Debug, Subcommand)]
pub enum LoadBalancerCommand {
    /// Spread connections to one address over VMs
    Create(LoadBalancerCreate),
    /// All load balancers, or those that a selector chooses
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Everything about one load balancer, with the health of its members
    Show {
        /// The load balancer's name
        name: String,
    },
    /// The VMs behind it, who of them gets new connections, and why others don't
    Members {
        /// The load balancer's name
        name: Name,
    },
    /// Listen on one more port
    Listen {
        /// The load balancer's name
        name: Name,
        /// tcp:80, or tcp:80:8080 for port 8080 of the members; may be given several times
        #[arg(required = true, value_name = "LISTENER")]
        listeners: Vec<Listener>,
    },
    /// Stop listening on a port; connections that there are go on
    Unlisten {
        /// The load balancer's name
        name: Name,
        /// tcp:80; may be given several times
        #[arg(required = true, value_name = "LISTENER")]
        listeners: Vec<Listener>,
    },
    /// Delete load balancers that no floating address leads to
    #[command(visible_alias = "rm")]
    Delete {
        /// The load balancers' names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct LoadBalancerCreate {
    /// What it is to be called
    pub name: Name,
    /// The network that it has its address in; a router leads to it
    #[arg(long)]
    pub network: Name,
    /// The lowest free one if not given
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<IpAddr>,
    /// tcp:80, or tcp:80:8080 for port 8080 of the members; may be given several times
    #[arg(long, required = true, value_name = "LISTENER")]
    pub listen: Vec<Listener>,
    /// The VMs behind it, by their labels: tier=web
    #[arg(long, value_name = "SELECTOR")]
    pub members: Selector,
    #[command(flatten)]
    pub health: HealthOptions,
}

#[derive(Debug, Args)]
pub struct HealthOptions {
    /// Members serve if they answer this path by HTTP with 200 to 399; otherwise if they accept a connection
    #[arg(long, value_name = "PATH")]
    pub check_http: Option<String>,
    /// The members' port that is checked; that of the first tcp listener if not given
    #[arg(long, value_name = "PORT")]
    pub check_port: Option<u16>,
    /// Seconds from one check to the next
    #[arg(long, value_name = "SECONDS", default_value_t = HealthCheck::default().interval_s)]
    pub check_interval: u32,
    /// Seconds that an answer may take
    #[arg(long, value_name = "SECONDS", default_value_t = HealthCheck::default().timeout_s)]
    pub check_timeout: u32,
    /// Good answers in a row that make a member healthy
    #[arg(long, value_name = "NUMBER", default_value_t = HealthCheck::default().healthy_after)]
    pub healthy_after: u32,
    /// Bad ones that make it unhealthy
    #[arg(long, value_name = "NUMBER", default_value_t = HealthCheck::default().unhealthy_after)]
    pub unhealthy_after: u32,
}
