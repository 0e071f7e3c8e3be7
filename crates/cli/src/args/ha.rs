//! `gantry ha …`

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum HaCommand {
    /// What protects a VM, and what would happen now if it or its host failed
    Explain {
        /// The VM's name
        name: String,
    },
}
