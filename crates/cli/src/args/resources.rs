//! `gantry resource-pool …`, and what a VM asks of its host.

use clap::{Args, Subcommand};
use gantry_types::{ByteSize, Name, ResourceWishes};

use super::ListOptions;

#[derive(Debug, Subcommand)]
pub enum ResourcePoolCommand {
    /// All resource pools, or those that a selector chooses
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Everything about one resource pool, with how it is divided among hosts
    Show {
        /// The pool's name
        name: String,
    },
    /// Change what a pool may have; make it if it is not there
    Set(Box<ResourcePoolSet>),
    /// Delete pools that no VM and no other pool is in
    #[command(visible_alias = "rm")]
    Delete {
        /// The pools' names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct ResourcePoolSet {
    /// The pool's name
    pub name: Name,
    /// The cluster it is a part of; only when it is made
    #[arg(long)]
    pub cluster: Option<Name>,
    /// The pool it is inside; only when it is made
    #[arg(long, value_name = "POOL")]
    pub parent: Option<Name>,
    /// Its weight against what is beside it when processors are short, 1 to 10000
    #[arg(long, value_name = "SHARES")]
    pub cpu_shares: Option<u32>,
    /// Promised to it, all hosts together, in percent of one processor
    #[arg(long, value_name = "PERCENT")]
    pub cpu_reservation: Option<u32>,
    /// Never more than this, all hosts together, in percent of one processor; none for no limit
    #[arg(long, value_name = "PERCENT", value_parser = or_none::<u32>)]
    pub cpu_limit: Option<OrNone<u32>>,
    /// Its weight against what is beside it when memory is short, 1 to 10000
    #[arg(long, value_name = "SHARES")]
    pub memory_shares: Option<u32>,
    /// Memory promised to it, all hosts together
    #[arg(long, value_name = "SIZE")]
    pub memory_reservation: Option<ByteSize>,
    /// The most that its VMs' memory is together; none for no limit
    #[arg(long, value_name = "SIZE", value_parser = or_none::<ByteSize>)]
    pub memory_limit: Option<OrNone<ByteSize>>,
}

/// A VM's part of its host; changed also while it runs.
#[derive(Debug, Args)]
pub struct Part {
    /// The resource pool it is in from now on; none for no pool
    #[arg(long, value_name = "POOL", group = "change", value_parser = or_none::<Name>)]
    pub resource_pool: Option<OrNone<Name>>,
    /// Its weight against its neighbours when processors are short, 1 to 10000
    #[arg(long, value_name = "SHARES", group = "change")]
    pub cpu_shares: Option<u32>,
    /// Promised to it, in percent of one processor
    #[arg(long, value_name = "PERCENT", group = "change")]
    pub cpu_reservation: Option<u32>,
    /// Never more than this, in percent of one processor; none for no limit
    #[arg(long, value_name = "PERCENT", group = "change", value_parser = or_none::<u32>)]
    pub cpu_limit: Option<OrNone<u32>>,
    /// Memory that is never lent to others
    #[arg(long, value_name = "SIZE", group = "change")]
    pub memory_reservation: Option<ByteSize>,
}

impl Part {
    pub fn lay_over(&self, wishes: &mut ResourceWishes) {
        if let Some(OrNone(pool)) = &self.resource_pool {
            wishes.resource_pool.clone_from(pool);
        }
        if let Some(OrNone(limit)) = self.cpu_limit {
            wishes.cpu_limit_percent = limit;
        }
        wishes.cpu_shares = self.cpu_shares.unwrap_or(wishes.cpu_shares);
        wishes.cpu_reservation_percent = self.cpu_reservation.unwrap_or(wishes.cpu_reservation_percent);
        wishes.memory_reservation = self.memory_reservation.unwrap_or(wishes.memory_reservation);
    }
}

/// A value, or the word `none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrNone<T>(pub Option<T>);

fn or_none<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<OrNone<T>, String> {
    match text {
        "none" => Ok(OrNone(None)),
        text => {
            text.parse().map(|value| OrNone(Some(value))).map_err(|error: T::Err| format!("{error}, or write none"))
        }
    }
}
