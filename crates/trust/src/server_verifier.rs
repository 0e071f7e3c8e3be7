//! Client-side verification: the server's chain must end at our CA, and its leaf must carry the
//! expected role (and name, if one is expected).
//!
//! The DNS name or address that was dialled is not compared: hosts are dialled by addresses that
//! change, and the role and name say more than an address does. No revocation lists.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, SignatureScheme};

use crate::{ExpectedPeer, PeerIdentity, TrustError};

/// Verifies a server by CA, role and name.
#[derive(Debug)]
pub(crate) struct RoleVerifier {
    roots: Arc<RootCertStore>,
    expected: ExpectedPeer,
    algorithms: WebPkiSupportedAlgorithms,
}

impl RoleVerifier {
    pub(crate) fn new(roots: Arc<RootCertStore>, expected: ExpectedPeer) -> Self {
        Self { roots, expected, algorithms: supported_algorithms() }
    }
}

pub(crate) fn supported_algorithms() -> WebPkiSupportedAlgorithms {
    rustls::crypto::ring::default_provider().signature_verification_algorithms
}

/// The trust store that holds our CA and nothing else.
pub(crate) fn roots_of(ca: CertificateDer<'static>) -> Result<Arc<RootCertStore>, TrustError> {
    let mut roots = RootCertStore::empty();
    roots.add(ca).map_err(|source| TrustError::Tls { action: "use the CA's certificate", source })?;
    Ok(Arc::new(roots))
}

/// Checks a leaf's chain, validity and role.
pub(crate) fn verify_leaf(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    expected: &ExpectedPeer,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let parsed = ParsedCertificate::try_from(leaf)?;
    let algorithms = supported_algorithms();
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms.all)?;
    PeerIdentity::from_certificate(leaf)
        .and_then(|peer| expected.check(&peer))
        .map_err(|error| CertificateError::Other(OtherError(Arc::new(error))).into())
}

impl ServerCertVerifier for RoleVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_leaf(end_entity, intermediates, &self.roots, &self.expected, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
