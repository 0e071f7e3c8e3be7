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

/// How the destination proves itself and whom it lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenTls {
    /// `ca-cert.pem`, `dh-params.pem`, `server-cert.pem`, `server-key.pem`; read only while `listen` runs.
    pub creds_dir: PathBuf,
    /// The distinguished name of the source's certificate, its parts in the certificate's order, for example
    /// `CN=host-1,OU=qemu`. Another certificate of the same CA is refused on both streams.
    pub source_dn: String,
}

const AUTHORIZATION_ID: &str = "migration-tls-source";

fn object_id(endpoint: TlsEndpoint) -> &'static str {
    match endpoint {
        TlsEndpoint::Client => "migration-tls-client",
        TlsEndpoint::Server => "migration-tls-server",
    }
}

/// Loads credentials, in place of those of an earlier move, and returns their object id.
pub(super) async fn load(qmp: &Qmp, creds_dir: &Path, endpoint: TlsEndpoint) -> Result<String, QmpError> {
    let id = object_id(endpoint).to_owned();
    load_as(qmp, &id, creds_dir, endpoint).await?;
    Ok(id)
}

/// Loads credentials in place of those that this object was.
pub(crate) async fn load_as(qmp: &Qmp, id: &str, creds_dir: &Path, endpoint: TlsEndpoint) -> Result<(), QmpError> {
    remove(qmp, id).await?;
    let (id, dir) = (id.to_owned(), creds_dir.display().to_string());
    qmp.execute(ObjectAdd::TlsCredsX509 { id, dir, endpoint, verify_peer: true }).await?;
    Ok(())
}

/// Lets in only the holder of this name, in place of that of an earlier move, and returns the object's id.
pub(super) async fn authorize(qmp: &Qmp, identity: &str) -> Result<String, QmpError> {
    let id = AUTHORIZATION_ID.to_owned();
    remove(qmp, &id).await?;
    qmp.execute(ObjectAdd::AuthzSimple { id: id.clone(), identity: identity.to_owned() }).await?;
    Ok(id)
}

/// Nothing there is fine.
pub(crate) async fn remove(qmp: &Qmp, id: &str) -> Result<(), QmpError> {
    match qmp.execute(ObjectDel { id: id.to_owned() }).await {
        // Refused: there was none.
        Ok(_) | Err(QmpError::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
