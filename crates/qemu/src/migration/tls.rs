//! TLS credentials for both streams. They are loaded into QEMU for each move, not at its start, so that a
//! machine that runs for months uses the certificates of today.

use std::path::{Path, PathBuf};

use crate::qmp::command::{ObjectAdd, ObjectDel, TlsEndpoint};
use crate::qmp::{Qmp, QmpError};

/// How the source proves itself and whom it expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerTls {
    /// `ca-cert.pem`, `client-cert.pem`, `client-key.pem`; readable by the QEMU process.
    pub creds_dir: PathBuf,
    /// The name the destination's certificate must bear.
    pub peer_name: String,
}

fn object_id(endpoint: TlsEndpoint) -> &'static str {
    match endpoint {
        TlsEndpoint::Client => "migration-tls-client",
        TlsEndpoint::Server => "migration-tls-server",
    }
}

/// Loads credentials, in place of those of an earlier move, and returns their object id.
pub(super) async fn load(qmp: &Qmp, creds_dir: &Path, endpoint: TlsEndpoint) -> Result<String, QmpError> {
    let id = object_id(endpoint).to_owned();
    match qmp.execute(ObjectDel { id: id.clone() }).await {
        // Refused: there was none.
        Ok(_) | Err(QmpError::Refused { .. }) => {}
        Err(error) => return Err(error),
    }
    qmp.execute(ObjectAdd::TlsCredsX509 {
        id: id.clone(),
        dir: creds_dir.display().to_string(),
        endpoint,
        verify_peer: true,
    })
    .await?;
    Ok(id)
}
