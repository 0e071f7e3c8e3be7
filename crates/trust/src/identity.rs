//! A holder's own identity: private key, leaf certificate and the CA it trusts.
//!
//! On disk: `identity.pem` (0600; key and leaf in one file, so that a renewal replaces both or
//! neither) and `ca.pem`. The key is made where it is used and never travels; only the request
//! does. Not here: asking for a renewal, which is the holder's own loop.

use std::fmt;
use std::path::Path;

use jiff::Timestamp;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::credential_file::{self, PUBLIC_MODE, SECRET_MODE};
use crate::{Fingerprint, PeerIdentity, TrustError};

const IDENTITY_FILE: &str = "identity.pem";
const CA_FILE: &str = "ca.pem";
const REJOIN: &str = "restore it from a backup, or remove it and join again with a new token";

/// A fresh private key and the request to have it certified.
pub struct KeyRequest {
    key: KeyPair,
    request_pem: String,
}

impl KeyRequest {
    pub fn generate() -> Result<Self, TrustError> {
        let failed = |source| TrustError::Certificate { action: "make a key and its certificate request", source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let request = CertificateParams::default().serialize_request(&key).map_err(failed)?;
        let request_pem = request.pem().map_err(failed)?;
        Ok(Self { key, request_pem })
    }

    /// The PKCS#10 request to send to the CA's holder.
    pub fn request_pem(&self) -> &str {
        &self.request_pem
    }

    /// Joins the key with the certificate that came back. Refused if the certificate is for
    /// another key or carries no role.
    pub fn into_identity(self, certificate_pem: &str, ca_pem: &str) -> Result<Identity, TrustError> {
        let key_pem = self.key.serialize_pem();
        Identity::from_pem(ca_pem, certificate_pem, &key_pem).map_err(|reason| TrustError::Request {
            reason: format!("the certificate that came back can't be used: {reason}"),
        })
    }
}

/// Who we are, provably.
#[derive(Clone)]
pub struct Identity {
    ca_pem: String,
    certificate_pem: String,
    key_pem: String,
    ca: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    peer: PeerIdentity,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl Identity {
    /// The reason of a refusal is plain text because callers differ in what they were doing.
    fn from_pem(ca_pem: &str, certificate_pem: &str, key_pem: &str) -> Result<Self, String> {
        let ca = one_certificate(ca_pem).map_err(|reason| format!("the CA: {reason}"))?;
        let certificate = one_certificate(certificate_pem)?;
        let key = KeyPair::from_pem(key_pem).map_err(|error| format!("it holds no complete private key ({error})"))?;
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|e| e.to_string())?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err("the private key and the certificate don't belong together".into());
        }
        let peer = PeerIdentity::from_certificate(&certificate).map_err(|e| e.to_string())?;
        let time = |seconds| Timestamp::from_second(seconds).map_err(|e| e.to_string());
        let not_before = time(parsed.validity().not_before.timestamp())?;
        let not_after = time(parsed.validity().not_after.timestamp())?;
        Ok(Self {
            ca_pem: ca_pem.to_owned(),
            certificate_pem: certificate_pem.to_owned(),
            key_pem: key_pem.to_owned(),
            ca,
            certificate,
            peer,
            not_before,
            not_after,
        })
    }

    /// Reads an identity saved by [`Self::save`].
    pub fn load(directory: &Path) -> Result<Self, TrustError> {
        let path = directory.join(IDENTITY_FILE);
        let text = credential_file::read_secret(&path)?;
        let ca_pem = credential_file::read(&directory.join(CA_FILE))?;
        let broken = |reason| TrustError::BrokenFile { path: path.clone(), reason, remedy: REJOIN };
        let certificate_at =
            text.find("-----BEGIN CERTIFICATE-----").ok_or_else(|| broken("it holds no certificate".into()))?;
        let (key_pem, certificate_pem) = text.split_at(certificate_at);
        Self::from_pem(&ca_pem, certificate_pem, key_pem).map_err(broken)
    }

    /// Writes the identity; a crash leaves the old one or the new one.
    pub fn save(&self, directory: &Path) -> Result<(), TrustError> {
        credential_file::make_directory(directory)?;
        let ca_path = directory.join(CA_FILE);
        credential_file::write(&ca_path, self.ca_pem.as_bytes(), PUBLIC_MODE)?;
        let text = format!("{}{}", self.key_pem, self.certificate_pem);
        let path = directory.join(IDENTITY_FILE);
        credential_file::write(&path, text.as_bytes(), SECRET_MODE)
    }

    pub fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    pub fn ca_fingerprint(&self) -> Fingerprint {
        Fingerprint::of_der(&self.ca)
    }

    /// When the certificate stops being accepted.
    pub fn expires(&self) -> Timestamp {
        self.not_after
    }

    /// True in the last third of the certificate's life: time to send a new request over mutual
    /// TLS, with weeks left for retries.
    pub fn needs_renewal(&self, now: Timestamp) -> bool {
        let lifetime_s = self.not_after.as_second() - self.not_before.as_second();
        self.not_after.as_second() - now.as_second() < lifetime_s / 3
    }

    pub(crate) fn key_pem(&self) -> &str {
        &self.key_pem
    }

    pub(crate) fn certified_key(&self) -> Result<CertifiedKey, TrustError> {
        let failed = |source| TrustError::Tls { action: "use our own private key", source };
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())
            .map_err(|error| failed(rustls::Error::General(error.to_string())))?;
        let provider = rustls::crypto::ring::default_provider();
        CertifiedKey::from_der(vec![self.certificate.clone()], key, &provider).map_err(failed)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({}, until {})", self.peer, self.not_after)
    }
}

/// The single certificate in a PEM text.
pub(crate) fn one_certificate(pem: &str) -> Result<CertificateDer<'static>, String> {
    let mut certificates = CertificateDer::pem_slice_iter(pem.as_bytes());
    match (certificates.next(), certificates.next()) {
        (Some(Ok(certificate)), None) => Ok(certificate),
        (None, _) => Err("it holds no certificate".into()),
        (Some(Err(error)), _) => Err(format!("its certificate doesn't parse ({error})")),
        (Some(Ok(_)), Some(_)) => Err("it holds more than one certificate".into()),
    }
}
