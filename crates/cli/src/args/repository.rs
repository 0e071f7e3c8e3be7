//! `gantry repository …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use gantry_types::Name;

use super::ListOptions;

#[derive(Debug, Subcommand)]
pub enum RepositoryCommand {
    /// Give a place where backups are kept a name, keys and a passphrase
    Create(RepositoryCreate),
    /// All repositories, or those that a selector chooses
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Everything about one repository, without its secrets
    Show {
        /// The repository's name
        name: String,
    },
    /// Have a host open it, which makes it where nothing is yet, and count the backups there
    Check {
        /// The repository's name
        name: String,
        /// The host that opens it; any if not given
        #[arg(long)]
        host: Option<String>,
    },
    /// Take in backups that it has and this datacenter does not know: after the controller was lost, or from another datacenter
    Adopt {
        /// The repository's name
        name: String,
        /// The host that opens it; any if not given
        #[arg(long)]
        host: Option<String>,
    },
    /// Forget repositories that no backup names; what is kept there stays
    #[command(visible_alias = "rm")]
    Delete {
        /// The repositories' names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct RepositoryCreate {
    /// The repository's name: gantry backup create VM --to NAME
    pub name: Name,
    /// A directory on each host that makes backups there, outside the pools
    #[arg(long, value_name = "DIRECTORY", required_unless_present = "bucket", conflicts_with = "bucket")]
    pub path: Option<String>,
    /// A bucket of Amazon S3, or of a server that speaks it
    #[arg(long, requires = "access_key_id", requires = "secret_access_key_file")]
    pub bucket: Option<String>,
    /// What the names of all objects in the bucket begin with
    #[arg(long, requires = "bucket", default_value = "")]
    pub prefix: String,
    /// The server, http:// or https://; Amazon's if not given
    #[arg(long, requires = "bucket", value_name = "URL")]
    pub endpoint: Option<String>,
    /// The bucket's region
    #[arg(long, requires = "bucket", default_value = "us-east-1")]
    pub region: String,
    /// The id of the key to the bucket
    #[arg(long, requires = "bucket", value_name = "ID")]
    pub access_key_id: Option<String>,
    /// A file with the key to the bucket; `-` is standard input
    #[arg(long, requires = "bucket", value_name = "FILE")]
    pub secret_access_key_file: Option<PathBuf>,
    /// Encrypt what is kept there. A file with the passphrase, 12 to 1024 bytes; `-` is standard input. Without it the backups are
    /// lost: keep it elsewhere, too
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}
