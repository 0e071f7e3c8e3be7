//! Where a disk lies, as QEMU and its tools open it.

use std::fmt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::{MirrorNodes, NfsExport};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskLocation {
    File(PathBuf),
    /// A file of an export that nobody has mounted: QEMU is its own NFS client.
    Nfs {
        export: NfsExport,
        /// Beside others at the top of the export, which is what QEMU's client mounts.
        file: String,
        /// Whom the server takes QEMU for; who its process is, without.
        user: Option<u32>,
    },
    /// A file of this host with a copy that another host may keep. QEMU opens the file alone; the copy joins while it runs.
    Mirrored {
        file: PathBuf,
        /// Of the file, which never grows, in bytes: file and copy are of the same length.
        size: u64,
        /// Tells the mirrored disks of a machine apart: letters and digits, at most 12.
        id: String,
    },
}

impl From<PathBuf> for DiskLocation {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<&str> for DiskLocation {
    fn from(path: &str) -> Self {
        Self::File(path.into())
    }
}

impl DiskLocation {
    /// The node that opens it (QEMU, qapi/block-core.json), without options; `None` if its path is not UTF-8, which JSON
    /// can't say.
    pub fn node(&self) -> Option<Value> {
        Some(match self {
            Self::File(path) => json!({"driver": "file", "filename": path.to_str()?}),
            Self::Nfs { export, file, user } => {
                let mut node = json!({
                    "driver": "nfs",
                    "server": {"type": "inet", "host": export.server},
                    "path": format!("{}/{file}", export.path),
                });
                if let Some(user) = user {
                    (node["user"], node["group"]) = (json!(user), json!(user));
                }
                node
            }
            Self::Mirrored { file, size, id } => MirrorNodes::of(id).alone(file.to_str()?, *size),
        })
    }

    /// Whether what QEMU calls a node, by a file name or by its options, lies here.
    pub fn is_in(&self, name: &str) -> bool {
        match self {
            Self::File(path) | Self::Mirrored { file: path, .. } => {
                !name.contains("\"nfs\"") && name.contains(&*path.to_string_lossy())
            }
            Self::Nfs { export, file, .. } => {
                let (host, path) = (format!("\"{}\"", export.server), format!("\"{}/{file}\"", export.path));
                name.contains(&self.to_string()) || (name.contains(&host) && name.contains(&path))
            }
        }
    }
}

impl fmt::Display for DiskLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) | Self::Mirrored { file: path, .. } => path.display().fmt(f),
            Self::Nfs { export, file, .. } => write!(f, "{export}/{file}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_known_by_what_qemu_calls_it() {
        let nfs =
            |url: &str| DiskLocation::Nfs { export: url.parse().unwrap(), file: "a.qcow2".to_owned(), user: None };
        let here = nfs("nfs://nas/srv/x");
        // As QEMU 7.2 tells them.
        let options = r#"json:{"driver": "throttle", "file": {"driver": "qcow2", "file": {"server.host": "nas",
            "driver": "nfs", "path": "/srv/x/a.qcow2", "server.type": "inet"}}}"#;
        assert!(here.is_in(options) && here.is_in("nfs://nas/srv/x/a.qcow2"));
        let file = DiskLocation::File("/srv/x/a.qcow2".into());
        for elsewhere in [nfs("nfs://nas2/srv/x"), nfs("nfs://nas/srv"), file.clone()] {
            assert!(!elsewhere.is_in(options), "{elsewhere}");
        }
        let plain = r#"json:{"driver": "throttle", "file": {"driver": "file", "filename": "/srv/x/a.qcow2"}}"#;
        assert!(file.is_in(plain) && file.is_in("/srv/x/a.qcow2") && !here.is_in(plain));
    }
}
