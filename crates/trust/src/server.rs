//! An axum router over TLS: accepts, bounds, identifies, and stops gracefully.
//!
//! ```text
//!  accept ──▶ handshake (bounded) ──▶ role check ──▶ HTTP/2, or HTTP/1.1 + upgrades ──▶ closed
//!    │              │ refused: closed, logged       │
//!    └─ an error is logged, the loop goes on        └─ shutdown: finish the request in flight
//! ```
//!
//! TLS 1.3 only. Every request carries `Option<PeerIdentity>` and `RemoteAddress` as
//! extensions, and `PeerKey` if the peer showed a certificate. Authorization is the router's; only the set of roles that may connect at all is
//! checked here. A connection keeps the identity it began with: whoever removes
//! a host checks its name and key on every request. Sockets that were upgraded count against the connection limit until they
//! close; at shutdown the router closes them itself (give it the same token).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::identity::one_certificate;
use crate::server_connection::{Connection, Slotted, serve_connection};
use crate::server_verifier::roots_of;
use crate::strangers::Strangers;
use crate::{LiveIdentity, Role, TrustError};

/// How long to wait after `accept` failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often it is logged at most that every slot is taken.
const FULL_WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Which certificates may connect.
#[derive(Clone, Debug)]
pub enum ClientAuth {
    /// Only holders of a certificate with one of these roles.
    Required(Vec<Role>),
    /// As before, but also clients without a certificate (users with tokens, browsers). A
    /// certificate that is shown must be good.
    Optional(Vec<Role>),
}

impl ClientAuth {
    pub(crate) fn roles(&self) -> &[Role] {
        match self {
            Self::Required(roles) | Self::Optional(roles) => roles,
        }
    }
}

/// Bounds that keep a slow or hostile peer from holding the server.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// Open connections, upgraded ones included; further ones wait in the kernel's backlog.
    pub connections: usize,
    /// Open connections from one address (IPv6: one /64) that have shown no certificate; further ones are closed at
    /// once, so that a stranger can't take all of the above.
    pub connections_per_stranger: usize,
    /// From accept to a finished TLS handshake.
    pub handshake_timeout: Duration,
    /// For a request's headers, and for how long a connection may idle between requests.
    pub header_timeout: Duration,
    /// After shutdown was asked for: how long requests in flight may go on.
    pub shutdown_timeout: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_stranger: 64,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(10),
        }
    }
}

/// TLS settings and limits; serves any number of listeners.
#[derive(Clone)]
pub struct Server {
    acceptor: TlsAcceptor,
    client_auth: Arc<ClientAuth>,
    limits: ServerLimits,
}

impl Server {
    pub fn new(identity: &LiveIdentity, client_auth: ClientAuth, limits: ServerLimits) -> Result<Self, TrustError> {
        let failed = |action, source| TrustError::Tls { action, source };
        let ca = one_certificate(identity.current().ca_pem()).map_err(TrustError::peer)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots_of(ca)?, Arc::clone(&provider));
        let verifier = match client_auth {
            ClientAuth::Required(_) => verifier,
            ClientAuth::Optional(_) => verifier.allow_unauthenticated(),
        };
        let verifier = verifier.build().map_err(|error| {
            failed("prepare the check of client certificates", rustls::Error::General(error.to_string()))
        })?;
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|source| failed("choose TLS 1.3", source))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(identity.clone()));
        // A resumed session would skip the check of the client's certificate and its expiry.
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        tls.send_tls13_tickets = 0;
        // Browsers open only six HTTP/1.1 connections to a server, and each watch holds one.
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(tls)), client_auth: Arc::new(client_auth), limits })
    }

    /// Serves until `shutdown`, then lets requests in flight finish within the limit. Returns
    /// when every connection is closed or the limit has passed.
    pub async fn serve(self, listener: TcpListener, router: Router, shutdown: CancellationToken) {
        let slots = Arc::new(Semaphore::new(self.limits.connections));
        let strangers = Strangers::new(self.limits.connections_per_stranger);
        let mut full = FullWarning::default();
        let tasks = TaskTracker::new();
        // Cancelled when the grace time is over; dropping the connections closes them.
        let abort = CancellationToken::new();
        while let Some((stream, remote)) = next_connection(&listener, &slots, &mut full, &shutdown).await {
            let Some(stranger) = strangers.enter(remote.ip()) else {
                tracing::debug!(%remote, "too many connections without a certificate; closed");
                continue;
            };
            let stream = stream.of_stranger(stranger);
            let connection = Connection {
                router: router.clone(),
                acceptor: self.acceptor.clone(),
                client_auth: Arc::clone(&self.client_auth),
                limits: self.limits.clone(),
                remote,
                shutdown: shutdown.clone(),
            };
            let abort = abort.clone();
            tasks.spawn(async move {
                tokio::select! {
                    () = serve_connection(connection, stream) => {}
                    () = abort.cancelled() => {}
                }
            });
        }
        drop(listener);
        tasks.close();
        if tokio::time::timeout(self.limits.shutdown_timeout, tasks.wait()).await.is_err() {
            tracing::warn!(open = tasks.len(), "closing connections that outlived the shutdown");
            abort.cancel();
            tasks.wait().await;
        }
    }
}

/// Tells that there is no room, but not for each connection that waits: who causes it must not fill the log as well.
#[derive(Default)]
struct FullWarning {
    told_at: Option<Instant>,
}

impl FullWarning {
    fn tell(&mut self) {
        if self.told_at.is_none_or(|at| at.elapsed() >= FULL_WARNING_INTERVAL) {
            self.told_at = Some(Instant::now());
            tracing::warn!("every connection slot is taken; new connections wait");
        }
    }
}

/// A connection with its slot, or nothing once shutdown was asked for.
async fn next_connection(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    full: &mut FullWarning,
    shutdown: &CancellationToken,
) -> Option<(Slotted<TcpStream>, SocketAddr)> {
    let accepted = async {
        // The semaphore is never closed, so this only waits.
        if slots.available_permits() == 0 {
            full.tell();
        }
        let slot = Arc::clone(slots).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, remote)) => {
                    let stream = Slotted::new(stream, slot);
                    return Some((stream, remote));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed; going on");
                    if !is_peer_fault(&error) {
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => None,
        accepted = accepted => accepted,
    }
}

/// The peer went away between SYN and accept: nothing to wait for.
fn is_peer_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
