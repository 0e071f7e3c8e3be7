//! `gantry overview`, `gantry search`, `gantry audit …`

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use gantry_api::audit::AuditOutcome;

use super::parse_duration;

#[derive(Debug, Args)]
pub struct OverviewOf {
    /// The label of hosts whose values are the groups
    #[arg(long, value_name = "LABEL", default_value = "rack")]
    pub by: String,
}

#[derive(Debug, Args)]
pub struct SearchFor {
    /// A part of a name, label or address, or the beginning of a uuid
    pub text: String,
    /// Only this kind
    #[arg(long)]
    pub kind: Option<crate::kind::Kind>,
    /// At most this many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub limit: u32,
}

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Who did what, the oldest of them first
    #[command(visible_alias = "ls")]
    List(AuditList),
}

#[derive(Debug, Args)]
pub struct AuditList {
    /// Only by this user or token: ann, user/ann, token/ci
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Only since so long ago: 30m, 12h, 90d
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub since: Option<Duration>,
    /// Only about this object, for example vm/web
    #[arg(long = "for", value_name = "KIND/NAME")]
    pub regarding: Option<String>,
    /// Only actions with this in them, for example login, migrate, DELETE
    #[arg(long, value_name = "TEXT")]
    pub action: Option<String>,
    /// Only with this outcome
    #[arg(long, value_enum)]
    pub outcome: Option<Outcome>,
    /// At most so many, the newest
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Outcome {
    Done,
    Refused,
    Failed,
}

impl From<Outcome> for AuditOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::Done,
            Outcome::Refused => Self::Refused,
            Outcome::Failed => Self::Failed,
        }
    }
}
