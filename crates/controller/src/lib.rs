//! The controller: what the datacenter should be, and the work that makes it so.
//!
//! ```text
//!   front end -> app/<resource> -> objects (one transaction: object, operation, event) -> store
//!                                                                                          |
//!   loops, operations <- read model <------------------------- watch ---------------------+
//!        |
//!        +--> links -> agents
//! ```
//! Two kinds of work, two retry rules: [`loops`] take no input, read everything anew and never retry inside a pass;
//! [`operations`] are durable, retry what is transient and undo what failed. Only this crate writes to the store. It
//! knows hosts through [`links`] only.

pub mod access;
mod address_supply;
pub mod addresses;
pub mod agent_links;
pub mod alarms;
pub mod app;
pub mod audit;
pub mod clock;
pub mod cluster_view;
pub mod config;
pub mod energy;
mod fetch;
pub mod history;
mod host_balancers;
mod host_networks;
mod host_routers;
pub mod http;
pub mod image_library;
pub mod init;
pub mod leases;
pub mod links;
pub mod loops;
pub mod model;
pub mod objects;
pub mod operations;
pub mod power;
mod reach;
pub mod run;
pub mod settings;
mod snapshot_tree;
pub mod subnets;
mod trace;

pub use app::{App, Caller};
pub use config::Config;
pub use http::openapi;
pub use init::{InitOptions, Initialized, init};
pub use run::run;
