//! The controller's front end: HTTP over TLS for users, hosts and hosts-to-be.
//!
//! Who is asking is settled here (bearer token, session, or the certificate of a host that still exists); what may be asked is
//! settled in `app`. Every route is declared once, with its documentation, in [`api`]; the OpenAPI document is made of
//! the same declarations. Every error, also of the HTTP layer itself, is a problem document (RFC 9457). What
//! is outside `/v1` is the web UI.

mod alarms;
mod api;
mod assets;
mod audit;
mod backups;
mod caller;
mod capture;
mod console;
mod csrf;
mod endpoint;
mod host_work;
mod hosts;
mod images;
mod managed;
mod objects;
mod overview;
mod policies;
mod request;
mod session;
mod snapshots;
mod storage;
mod upload_pieces;
mod users;
mod vms;
mod volume_content;
mod watch;
mod writes;

use std::sync::Arc;

use gantry_api::rest::Version;
use gantry_trust::{CertificateAuthority, ClientAuth, LiveIdentity, Role, Server, ServerLimits, TrustError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{agent_links::AgentLinks, app::App};

pub use api::{openapi, router};
pub use upload_pieces::Arriving;

/// What handlers share.
pub struct Front {
    pub app: Arc<App>,
    pub authority: CertificateAuthority,
    pub identity: LiveIdentity,
    pub agents: Arc<AgentLinks>,
    pub arriving: Arriving,
}

pub type Shared = Arc<Front>;

impl Front {
    fn version(&self) -> Version {
        Version { version: env!("CARGO_PKG_VERSION").into(), datacenter: self.app.config.datacenter.clone() }
    }
}

/// Serves until `shutdown`; requests that are under way are finished.
pub async fn serve(front: Shared, listener: TcpListener, shutdown: CancellationToken) -> Result<(), TrustError> {
    // Users have no certificate; hosts must show theirs where it matters (`caller.rs`).
    let server = Server::new(&front.identity, ClientAuth::Optional(vec![Role::Host]), ServerLimits::default())?;
    server.serve(listener, router(front), shutdown).await;
    Ok(())
}
