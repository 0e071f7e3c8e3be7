//! The connection to the copy's server.

use std::io;
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Mirror, MirrorError, Peer};
use crate::migration::host_port;
use crate::migration::tls::{load_as, remove};
use crate::qmp::Qmp;
use crate::qmp::command::{BlockdevAddNode, TlsEndpoint};

/// The monitor is blocked while QEMU connects: give up soon.
const CONNECT_LIMIT_S: u32 = 2;
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// What every NBD server says first.
const GREETING: &[u8; 8] = b"NBDMAGIC";

/// A server that is dead or silent is noticed here, in our time, and not by a QEMU that holds its lock while connecting.
pub(super) async fn check_answers(peer: &Peer) -> Result<(), MirrorError> {
    let address = host_port(&peer.host, peer.port);
    let greeted = timeout(ANSWER_LIMIT, greeting(&address)).await;
    let greeted = greeted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    greeted.map_err(|source| MirrorError::Unreachable { address, source })
}

async fn greeting(address: &str) -> io::Result<()> {
    let mut said = [0; GREETING.len()];
    TcpStream::connect(address).await?.read_exact(&mut said).await?;
    if said == *GREETING { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Opens the export, as a node that nothing uses yet.
pub(super) async fn connect(qmp: &Qmp, mirror: &Mirror, peer: &Peer) -> Result<(), MirrorError> {
    let mut node = json!({
        "driver": "nbd", "node-name": mirror.nodes().peer(), "export": peer.export, "open-timeout": CONNECT_LIMIT_S,
        "server": {"type": "inet", "host": peer.host, "port": peer.port.to_string()}, "discard": "unmap",
    });
    let credentials = mirror.credentials();
    if let Some(tls) = &peer.tls {
        load_as(qmp, &credentials, &tls.creds_dir, TlsEndpoint::Client).await?;
        (node["tls-creds"], node["tls-hostname"]) = (json!(credentials), json!(tls.peer_name));
    }
    let opened = qmp.execute(BlockdevAddNode(node)).await;
    if peer.tls.is_some() {
        // The node keeps what it needs of them, and never connects again.
        remove(qmp, &credentials).await?;
    }
    opened?;
    Ok(())
}
