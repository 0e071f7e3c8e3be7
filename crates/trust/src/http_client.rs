//! Clients that trust our CA and nobody else: HTTP here, websockets in `websocket.rs`.
//!
//! TLS 1.3 only. Neither proxies from the environment nor redirects are followed: a command to an
//! agent goes where it was sent or nowhere. Overall time limits belong to each request (streams
//! have none), connecting is bounded here.

use std::sync::Arc;
use std::time::Duration;

use gantry_types::Name;
use rustls::client::danger::ServerCertVerifier;

use crate::identity::one_certificate;
use crate::server_verifier::{RoleVerifier, roots_of};
use crate::{LiveIdentity, PeerIdentity, Role, TrustError};

pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Below the server's header timeout, so that a pooled connection is not closed under a request.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(15);
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Whom we expect to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedPeer {
    role: Role,
    name: Option<Name>,
}

impl ExpectedPeer {
    /// Any controller of the installation.
    pub fn any_controller() -> Self {
        Self { role: Role::Controller, name: None }
    }

    /// The agent of the host called `name`.
    pub fn host(name: Name) -> Self {
        Self { role: Role::Host, name: Some(name) }
    }

    pub(crate) fn check(&self, peer: &PeerIdentity) -> Result<(), TrustError> {
        let name_matches = self.name.as_ref().is_none_or(|name| name == peer.name());
        if self.role == peer.role() && name_matches {
            return Ok(());
        }
        let wanted = self.name.as_ref().map_or("(any)", Name::as_str);
        Err(TrustError::peer(format!("it is {peer}, but gantry:{}/{wanted} was expected", self.role)))
    }
}

/// How to reach one kind of peer: trust, expectation, and our own identity if we have one.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub(crate) tls: Arc<rustls::ClientConfig>,
}

impl ClientConfig {
    /// With mutual TLS: we show `identity`, and trust its CA.
    pub fn with_identity(identity: &LiveIdentity, expected: ExpectedPeer) -> Result<Self, TrustError> {
        let ca_pem = identity.current().ca_pem().to_owned();
        let verifier = role_verifier(&ca_pem, expected)?;
        let mut tls = tls_builder(verifier)?.with_client_cert_resolver(Arc::new(identity.clone()));
        // A resumed session would skip the check of the server and show our old certificate.
        tls.resumption = rustls::client::Resumption::disabled();
        Ok(Self { tls: Arc::new(tls) })
    }

    /// Without a certificate of our own (users authenticate by token): trusts `ca_pem` only.
    pub fn anonymous(ca_pem: &str, expected: ExpectedPeer) -> Result<Self, TrustError> {
        let verifier = role_verifier(ca_pem, expected)?;
        let mut tls = tls_builder(verifier)?.with_no_client_auth();
        tls.resumption = rustls::client::Resumption::disabled();
        Ok(Self { tls: Arc::new(tls) })
    }

    /// An HTTP client. One per expected peer: pooled connections are only as good as the
    /// verification they were made with.
    pub fn http(&self) -> Result<reqwest::Client, TrustError> {
        build_http(rustls::ClientConfig::clone(&self.tls), false)
    }
}

fn role_verifier(ca_pem: &str, expected: ExpectedPeer) -> Result<Arc<dyn ServerCertVerifier>, TrustError> {
    let ca = one_certificate(ca_pem).map_err(|reason| TrustError::Peer {
        reason: format!("the CA's certificate that we hold can't be used: {reason}"),
    })?;
    Ok(Arc::new(RoleVerifier::new(roots_of(ca)?, expected)))
}

/// Callers bring their own verifier, so rustls' default one (and its name check) is not used.
pub(crate) fn tls_builder(
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>, TrustError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|source| TrustError::Tls { action: "choose TLS 1.3", source })?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier))
}

pub(crate) fn build_http(tls: rustls::ClientConfig, report_certificate: bool) -> Result<reqwest::Client, TrustError> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .tls_info(report_certificate)
        .https_only(true)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .tcp_keepalive(KEEPALIVE)
        .tcp_keepalive_interval(KEEPALIVE)
        .tcp_keepalive_retries(3)
        .http1_only()
        .build()
        .map_err(|source| TrustError::Http { action: "prepare a client for", url: "https".into(), source })
}
