//! `gantry user …`

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use gantry_types::{Name, Role};

use super::ListOptions;

#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Make a user; a password that is made up is shown once
    Create {
        /// What he logs in as
        name: Name,
        /// What he may do
        #[arg(long, value_enum)]
        role: UserRole,
        /// What people call him
        #[arg(long, value_name = "TEXT")]
        display_name: Option<String>,
        /// Whether he may open consoles; everyone but a viewer may if not given
        #[arg(long, value_name = "true|false")]
        consoles: Option<bool>,
        /// A file with the password, 10 to 256 bytes; `-` is standard input; one is made up if not given
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// All users, or those that a selector chooses
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Everything about one user, but his password
    Show {
        /// The user's name
        name: String,
    },
    /// Change what he may do or is called; takes effect at once
    Set {
        /// The user's name
        name: String,
        /// What it may do from now on
        #[arg(long, value_enum)]
        role: Option<UserRole>,
        /// What people call him
        #[arg(long, value_name = "TEXT")]
        display_name: Option<String>,
        /// Whether he may open consoles
        #[arg(long, value_name = "true|false")]
        consoles: Option<bool>,
        /// Whether he is kept from logging in
        #[arg(long, value_name = "true|false")]
        disabled: Option<bool>,
    },
    /// Set his password; what he has open ends
    Passwd {
        /// The user's name
        name: String,
        /// A file with the password, 10 to 256 bytes; `-` is standard input; one is made up and shown if not given
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Delete users who own no VMs
    #[command(visible_alias = "rm")]
    Delete {
        /// The users' names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UserRole {
    /// Everything
    Admin,
    /// Everything but users, tokens and the audit log
    Operator,
    /// Read everything, change nothing
    Viewer,
    /// See, restart and recover his own VMs
    User,
}

impl From<UserRole> for Role {
    fn from(role: UserRole) -> Self {
        match role {
            UserRole::Admin => Self::Admin,
            UserRole::Operator => Self::Operator,
            UserRole::Viewer => Self::Viewer,
            UserRole::User => Self::User,
        }
    }
}
