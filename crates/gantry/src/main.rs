//! The binary: one executable is the controller, the host agent, the command line and the lab.
//!
//! It only parses the command line, sets up logging, and joins the crates that must not know each other.

mod programs;

use std::process::ExitCode;

use clap::Parser;
use gantry_cli::{
    Programs,
    args::{AgentCommand, AgentRun, Cli, Command},
};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Logs go to standard error: standard output belongs to what was asked for.
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    if let Command::Agent(AgentCommand::Warden(arguments)) = &cli.command {
        return warden(arguments);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime can't start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(gantry_cli::run(cli, &programs::BuiltIn));
    // A blocked read of standard input must not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("{}", failure.report());
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Without a runtime: nothing may stand between the clock and what it does.
fn warden(arguments: &AgentRun) -> ExitCode {
    match programs::BuiltIn.agent_warden(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
