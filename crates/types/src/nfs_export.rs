//! What an NFS server offers, as `nfs://SERVER/PATH`.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::pool::is_plain_path;

/// A directory of a server; the path is the server's, as its clients mount it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NfsExport {
    /// A name, or an IPv4 address.
    pub server: String,
    /// Absolute.
    pub path: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "give nfs://SERVER/PATH, for example nfs://10.77.0.9/export: a name or an IPv4 address, and an absolute path of the \
     server without '..', '?' and '#'"
)]
pub struct InvalidNfsUrl;

const SCHEME: &str = "nfs://";
const SERVER_CHARS_MAX: usize = 253;

impl FromStr for NfsExport {
    type Err = InvalidNfsUrl;

    fn from_str(url: &str) -> Result<Self, InvalidNfsUrl> {
        let rest = url.strip_prefix(SCHEME).ok_or(InvalidNfsUrl)?;
        let (server, path) = rest.find('/').map(|at| rest.split_at(at)).ok_or(InvalidNfsUrl)?;
        // What would mean something else to a reader of URLs.
        if !is_server(server) || !is_plain_path(path) || path.contains(['?', '#', '%']) {
            return Err(InvalidNfsUrl);
        }
        Ok(Self { server: server.to_owned(), path: path.to_owned() })
    }
}

fn is_server(server: &str) -> bool {
    let looks_like_address = server.chars().all(|c| c.is_ascii_digit() || c == '.');
    let label = |label: &str| {
        let inside = label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        !label.is_empty() && inside && !label.starts_with('-') && !label.ends_with('-')
    };
    match looks_like_address {
        true => server.parse::<Ipv4Addr>().is_ok(),
        false => server.len() <= SERVER_CHARS_MAX && server.split('.').all(label),
    }
}

impl TryFrom<String> for NfsExport {
    type Error = InvalidNfsUrl;
    fn try_from(url: String) -> Result<Self, InvalidNfsUrl> {
        url.parse()
    }
}

impl From<NfsExport> for String {
    fn from(export: NfsExport) -> Self {
        export.to_string()
    }
}

impl fmt::Display for NfsExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.server, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_means_one_directory_of_one_server() {
        for good in ["nfs://10.77.0.9/export", "nfs://nas/srv/a b", "nfs://nas-1.example.org/x"] {
            assert_eq!(good.parse::<NfsExport>().unwrap().to_string(), good);
        }
        let bad = [
            "",
            "nfs://",
            "nfs://nas",
            "nfs://nas/",
            "nfs:///x",
            "http://nas/x",
            "/srv/x",
            "nas:/x",
            "nfs://nas//x",
            "nfs://nas/x/",
            "nfs://nas/../x",
            "nfs://nas:2049/x",
            "nfs://me@nas/x",
            "nfs://10.77.0/x",
            "nfs://300.1.1.1/x",
            "nfs://-nas/x",
            "nfs://nas/x?uid=0",
            "nfs://nas/x#y",
            "nfs://nas/%2e",
            "nfs://[::1]/x",
            "nfs://nas/a\nb",
        ];
        for bad in bad {
            assert_eq!(bad.parse::<NfsExport>(), Err(InvalidNfsUrl), "{bad}");
        }
    }
}
