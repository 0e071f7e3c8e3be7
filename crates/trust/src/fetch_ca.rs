//! First contact: a host that knows only the CA's fingerprint gets the CA's certificate.
//!
//! The connection is made without trust, and nothing secret is sent over it. The answer counts
//! only if the certificate in it has the expected fingerprint *and* the very server that gave it
//! holds a controller's certificate signed by it; the TLS handshake proved that it has the key.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

use crate::http_client::{build_http, tls_builder};
use crate::identity::one_certificate;
use crate::server_verifier::{roots_of, supported_algorithms, verify_leaf};
use crate::{ExpectedPeer, Fingerprint, TrustError};

/// Where a controller serves its CA's certificate as PEM, to anyone.
pub const CA_PATH: &str = "/v1/ca";

const ANSWER_SIZE_MAX_BYTES: usize = 64 * 1024;
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Fetches the CA's certificate (PEM) from the controller at `base_url` (`https://address:port`).
pub async fn fetch_ca(base_url: &str, expected: Fingerprint) -> Result<String, TrustError> {
    let url = format!("{}{CA_PATH}", base_url.trim_end_matches('/'));
    let failed = |source| TrustError::Http { action: "fetch the CA's certificate from", url: url.clone(), source };
    let tls = tls_builder(Arc::new(AcceptUntrusted))?.with_no_client_auth();
    let client = build_http(tls, true)?;
    let request = client.get(&url).timeout(FETCH_TIMEOUT);
    let mut response = request.send().await.map_err(failed)?;
    if !response.status().is_success() {
        let status = response.status();
        return Err(TrustError::peer(format!("{url} answered {status}; check that the address is a controller's")));
    }
    let leaf = response
        .extensions()
        .get::<reqwest::tls::TlsInfo>()
        .and_then(|info| info.peer_certificate())
        .map(|der| CertificateDer::from(der.to_vec()))
        .ok_or_else(|| TrustError::peer("it showed no certificate"))?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_SIZE_MAX_BYTES {
            return Err(TrustError::peer(format!("{url} answered with too much data")));
        }
    }
    let ca_pem = String::from_utf8(body).map_err(|_| TrustError::peer("its answer is not PEM"))?;
    check_answer(&ca_pem, &leaf, expected)?;
    Ok(ca_pem)
}

fn check_answer(ca_pem: &str, leaf: &CertificateDer<'_>, expected: Fingerprint) -> Result<(), TrustError> {
    let ca = one_certificate(ca_pem)
        .map_err(|reason| TrustError::peer(format!("its CA certificate can't be used: {reason}")))?;
    let found = Fingerprint::of_der(&ca);
    if found != expected {
        return Err(TrustError::peer(format!(
            "its CA has the fingerprint {found}, but the token names {expected}; the token is for \
             another installation, or somebody is in between: ask for a new token over a safe way"
        )));
    }
    let roots = roots_of(ca)?;
    let controller = ExpectedPeer::any_controller();
    verify_leaf(leaf, &[], &roots, &controller, UnixTime::now())
        .map_err(|source| TrustError::Tls { action: "accept the server as a controller of the CA it shows", source })
}

/// Accepts any certificate, but still has the peer prove that it owns the certificate's key.
/// What it let in is judged by `check_answer`.
#[derive(Debug)]
struct AcceptUntrusted;

impl ServerCertVerifier for AcceptUntrusted {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &supported_algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &supported_algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        supported_algorithms().supported_schemes()
    }
}
