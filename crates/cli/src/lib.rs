//! The command line of Gantry, and the client that it, the tests and the benchmarks share.
//!
//! ```text
//!  args (clap) ──▶ commands/<family> ──▶ client ──▶ controller's API
//!                      │   │  └──▶ follow, wait, console
//!                      │   └─────▶ output (stdout), progress and notes (stderr)
//!                      └──▶ lab ──▶ gantry_lab (this machine's namespaces)
//! ```
//! Controller and agent are not known here: the binary passes in what starts them ([`Programs`]).

pub mod args;
pub mod client;
mod commands;
mod console;
pub mod context;
mod exit;
mod follow;
mod kind;
mod lab;
mod manifest;
mod output;
mod progress;
mod screen;
mod wait;

use std::future::Future;

use args::{AgentRun, Cli, ControllerInit, ControllerRun, HostJoin};
use context::Context;

pub use exit::Failure;
pub use kind::Kind;
pub use wait::{Condition, wait_for};

/// A controller that was just made. What is secret in it is known nowhere else.
pub struct MadeController {
    pub context: Context,
    /// The first user of the web UI.
    pub user: String,
    pub password: String,
}

/// The programs that share the binary with the command line.
pub trait Programs {
    /// Makes a controller and returns how its first administrator reaches it.
    fn controller_init(&self, arguments: &ControllerInit) -> impl Future<Output = anyhow::Result<MadeController>>;
    fn controller_run(&self, arguments: ControllerRun) -> impl Future<Output = anyhow::Result<()>>;
    fn agent_run(&self, arguments: AgentRun) -> impl Future<Output = anyhow::Result<()>>;
    /// Plain and synchronous: to be run without a runtime.
    fn agent_warden(&self, arguments: &AgentRun) -> anyhow::Result<()>;
    /// Returns the name under which the host joined.
    fn host_join(&self, arguments: HostJoin) -> impl Future<Output = anyhow::Result<String>>;
    /// The OpenAPI document, JSON.
    fn openapi(&self) -> anyhow::Result<String>;
}

/// Runs one command line. What is left to the caller is to report a failure and to exit with its code.
pub async fn run(cli: Cli, programs: &impl Programs) -> Result<(), Failure> {
    commands::dispatch(cli, programs).await
}
