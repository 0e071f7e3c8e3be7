//! A CA with identities of every role, and a server on loopback, for the tests of transport.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::extract::ws::WebSocketUpgrade;
use axum::routing::{any, get};
use axum::{Extension, Router};
use gantry_trust::{
    CA_PATH, CertificateAuthority, ClientAuth, Identity, LEAF_LIFETIME, LeafNames, LiveIdentity, PeerIdentity,
    RemoteAddress, Role, Server, ServerLimits,
};
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Bounds every wait of these tests; nothing waits this long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Installation {
    pub authority: CertificateAuthority,
    pub directory: TempDir,
}

impl Installation {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::create(&directory.path().join("ca"), Timestamp::now()).unwrap();
        Self { authority, directory }
    }

    pub fn issue(&self, role: Role, name: &str, now: Timestamp) -> Identity {
        let identity = PeerIdentity::new(role, name.parse().unwrap());
        let names = LeafNames::new(identity, &[Ipv4Addr::LOCALHOST.into()]);
        self.authority.issue_identity(&names, LEAF_LIFETIME, now).unwrap()
    }

    pub fn live(&self, role: Role, name: &str) -> LiveIdentity {
        LiveIdentity::new(self.issue(role, name, Timestamp::now())).unwrap()
    }

    /// `/who` answers the caller's identity, `/echo` is a websocket, CA_PATH serves our CA.
    pub fn router(&self) -> Router {
        let ca_pem = self.authority.certificate_pem().to_owned();
        Router::new()
            .route(CA_PATH, get(move || async move { ca_pem }))
            .route("/who", get(who))
            .route("/echo", any(echo))
    }
}

async fn who(
    Extension(peer): Extension<Option<PeerIdentity>>,
    Extension(RemoteAddress(remote)): Extension<RemoteAddress>,
) -> String {
    let peer = peer.map_or("anonymous".to_owned(), |peer| peer.to_string());
    format!("{peer} from {}", remote.ip())
}

async fn echo(upgrade: WebSocketUpgrade) -> axum::response::Response {
    upgrade.on_upgrade(|mut socket| async move {
        while let Some(Ok(message)) = socket.recv().await {
            if socket.send(message).await.is_err() {
                break;
            }
        }
    })
}

pub struct RunningServer {
    pub address: SocketAddr,
    pub shutdown: CancellationToken,
    pub task: JoinHandle<()>,
}

impl RunningServer {
    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }
}

pub async fn serve(
    identity: &LiveIdentity,
    client_auth: ClientAuth,
    limits: ServerLimits,
    router: Router,
) -> RunningServer {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let server = Server::new(identity, client_auth, limits).unwrap();
    let task = tokio::spawn(server.serve(listener, router, shutdown.clone()));
    RunningServer { address, shutdown, task }
}

pub fn everyone() -> Vec<Role> {
    vec![Role::Host, Role::Controller]
}
