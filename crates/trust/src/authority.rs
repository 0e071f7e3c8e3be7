//! The certificate authority: one per installation, an ECDSA P-256 key in a directory.
//!
//! It decides every name in a certificate. A signing request proves possession of a key and
//! contributes nothing else: its own subject, names and usages are dropped.
//!
//! Files: `ca-key.pem` (0600) and `ca-cert.pem`. The certificate is written last and is the
//! commit point: a key without a certificate is an interrupted `create` that issued nothing, so
//! the next `create` replaces it; a certificate is never overwritten. Revocation lists are not
//! kept: leaves are short-lived, and whoever holds the API decides by name who may act.

use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use gantry_types::Name;
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
    SerialNumber, date_time_ymd,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::credential_file::{self, PUBLIC_MODE, SECRET_MODE};
use crate::{Fingerprint, Identity, KeyRequest, PeerIdentity, Role, TrustError};

const KEY_FILE: &str = "ca-key.pem";
const CERTIFICATE_FILE: &str = "ca-cert.pem";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// A peer whose clock is behind by less than this accepts a certificate issued just now.
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
const REQUEST_SIZE_MAX_BYTES: usize = 16 * 1024;
const DNS_NAME_LENGTH_MAX: usize = 253;
const RESTORE: &str = "restore the CA's directory from a backup";

/// How long a leaf lives unless the caller says otherwise: 90 days.
pub const LEAF_LIFETIME: Duration = DAY.saturating_mul(90);

/// The names the CA puts into a leaf. The identity's own name becomes a DNS name too.
#[derive(Clone, Debug)]
pub struct LeafNames {
    pub identity: PeerIdentity,
    pub addresses: Vec<IpAddr>,
    pub dns_names: Vec<String>,
}

impl LeafNames {
    pub fn new(identity: PeerIdentity, addresses: &[IpAddr]) -> Self {
        Self { identity, addresses: addresses.to_vec(), dns_names: Vec::new() }
    }

    /// The subject of the leaf as GnuTLS prints it, for whoever can't read the identity's URI (QEMU), for
    /// example `CN=host-1,OU=qemu`. Names are plain: nothing needs escaping.
    pub fn subject(&self) -> String {
        format!("CN={},OU={}", self.identity.name(), self.identity.role().as_str())
    }
}

/// Signs leaf certificates.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    fingerprint: Fingerprint,
    expires: Timestamp,
}

impl CertificateAuthority {
    /// Makes a new CA in `directory`. Refused where one exists.
    pub fn create(directory: &Path, now: Timestamp) -> Result<Self, TrustError> {
        credential_file::make_directory(directory)?;
        // Two concurrent creators must not mix one's key with the other's certificate.
        let lock = File::open(directory).map_err(TrustError::file("open", directory))?;
        lock.lock().map_err(TrustError::file("lock", directory))?;
        let certificate_path = directory.join(CERTIFICATE_FILE);
        let exists = certificate_path.try_exists().map_err(TrustError::file("inspect", &certificate_path))?;
        if exists {
            return Err(TrustError::AuthorityExists { path: directory.to_path_buf() });
        }
        let failed = |source| TrustError::Certificate { action: "make the CA's key and certificate", source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let certificate = authority_params(now).self_signed(&key).map_err(failed)?;
        let key_path = directory.join(KEY_FILE);
        credential_file::write(&key_path, key.serialize_pem().as_bytes(), SECRET_MODE)?;
        credential_file::write(&certificate_path, certificate.pem().as_bytes(), PUBLIC_MODE)?;
        Self::load(directory)
    }

    /// Loads a CA made by [`Self::create`]; refuses an exposed, cut or mismatched key.
    pub fn load(directory: &Path) -> Result<Self, TrustError> {
        let certificate_path = directory.join(CERTIFICATE_FILE);
        let key_path = directory.join(KEY_FILE);
        let broken =
            |path: &Path, reason: String| TrustError::BrokenFile { path: path.to_path_buf(), reason, remedy: RESTORE };
        let certificate_pem = credential_file::read(&certificate_path)?;
        let der =
            crate::identity::one_certificate(&certificate_pem).map_err(|reason| broken(&certificate_path, reason))?;
        let key_pem = credential_file::read_secret(&key_path)?;
        let key = KeyPair::from_pem(&key_pem)
            .map_err(|error| broken(&key_path, format!("it holds no complete private key ({error})")))?;
        let (_, parsed) =
            X509Certificate::from_der(&der).map_err(|error| broken(&certificate_path, error.to_string()))?;
        if !parsed.is_ca() {
            return Err(broken(&certificate_path, "it is not a CA's certificate".into()));
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            let reason = format!("it doesn't belong to {}", certificate_path.display());
            return Err(broken(&key_path, reason));
        }
        let expires = Timestamp::from_second(parsed.validity().not_after.timestamp())
            .map_err(|error| broken(&certificate_path, error.to_string()))?;
        let issuer =
            Issuer::from_ca_cert_der(&der, key).map_err(|error| broken(&certificate_path, error.to_string()))?;
        Ok(Self { issuer, fingerprint: Fingerprint::of_der(&der), certificate_pem, expires })
    }

    /// The CA's certificate, to be handed to anyone.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Signs the key in `request_pem` (a PKCS#10 request) for `names`; returns the leaf as PEM.
    /// It starts five minutes before `now` and never outlives the CA.
    pub fn issue(
        &self,
        request_pem: &str,
        names: &LeafNames,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<String, TrustError> {
        let refused = |reason: String| TrustError::Request { reason };
        if request_pem.len() > REQUEST_SIZE_MAX_BYTES {
            return Err(refused(format!("it is larger than {REQUEST_SIZE_MAX_BYTES} bytes")));
        }
        let request =
            CertificateSigningRequestParams::from_pem(request_pem).map_err(|error| refused(error.to_string()))?;
        // The algorithm is read off the signature, so the key's own length is checked as well:
        // 65 bytes is an uncompressed P-256 point.
        let key = request.public_key;
        if key.algorithm() != &PKCS_ECDSA_P256_SHA256 || key.der_bytes().len() != 65 {
            return Err(refused("its key must be ECDSA P-256".into()));
        }
        let params = self.leaf_params(names, lifetime, now)?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(|source| TrustError::Certificate { action: "sign a certificate", source })?;
        Ok(certificate.pem())
    }

    /// Makes a key and its certificate in one go, for a holder on the CA's own machine.
    pub fn issue_identity(
        &self,
        names: &LeafNames,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Identity, TrustError> {
        let request = KeyRequest::generate()?;
        let certificate_pem = self.issue(request.request_pem(), names, lifetime, now)?;
        request.into_identity(&certificate_pem, &self.certificate_pem)
    }

    fn leaf_params(
        &self,
        names: &LeafNames,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<CertificateParams, TrustError> {
        let epoch = date_time_ymd(1970, 1, 1);
        if now >= self.expires {
            return Err(TrustError::Request {
                reason: format!("the CA itself expired at {}; create a new one and join the hosts again", self.expires),
            });
        }
        // A lifetime beyond the calendar is as good as the CA's own end.
        let ends = now.checked_add(lifetime).unwrap_or(self.expires);
        let mut params = CertificateParams::default();
        params.not_before = epoch + since_epoch(now - CLOCK_SKEW);
        params.not_after = epoch + since_epoch(ends.min(self.expires));
        params.serial_number = Some(random_serial());
        params.use_authority_key_identifier_extension = true;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if names.identity.role() == Role::Qemu {
            // QEMU before 8 insists on it, though ECDSA has no use for it.
            params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let name = names.identity.name().as_str();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationalUnitName, names.identity.role().as_str());
        let ascii = |text: &str| {
            text.try_into()
                .map_err(|source| TrustError::Certificate { action: "write a name into a certificate", source })
        };
        params.subject_alt_names =
            vec![SanType::URI(ascii(&names.identity.to_string())?), SanType::DnsName(ascii(name)?)];
        for dns_name in &names.dns_names {
            check_dns_name(dns_name)?;
            params.subject_alt_names.push(SanType::DnsName(ascii(dns_name)?));
        }
        let addresses = names.addresses.iter().copied().map(SanType::IpAddress);
        params.subject_alt_names.extend(addresses);
        Ok(params)
    }
}

fn authority_params(now: Timestamp) -> CertificateParams {
    let label: u32 = rand::random();
    let epoch = date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.not_before = epoch + since_epoch(now - CLOCK_SKEW);
    params.not_after = epoch + since_epoch(now + AUTHORITY_LIFETIME);
    params.serial_number = Some(random_serial());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = DistinguishedName::new();
    // Distinct subjects keep two installations' CAs apart in error messages and trust stores.
    params.distinguished_name.push(DnType::CommonName, format!("Gantry CA {label:08x}"));
    params
}

/// Whole seconds since 1970; a clock before that counts as 1970.
fn since_epoch(time: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0))
}

fn check_dns_name(name: &str) -> Result<(), TrustError> {
    let well_formed = name.len() <= DNS_NAME_LENGTH_MAX && name.split('.').all(|label| label.parse::<Name>().is_ok());
    if well_formed {
        return Ok(());
    }
    Err(TrustError::Invalid {
        what: "DNS name",
        value: name.chars().filter(|shown| !shown.is_control()).take(80).collect(),
        reason: "use labels of a-z, 0-9 and '-', joined by dots, 253 characters at most".into(),
    })
}

/// 128 random bits, the top one clear so that the DER integer is positive.
fn random_serial() -> SerialNumber {
    let mut serial: [u8; 16] = rand::random();
    serial[0] &= 0x7f;
    SerialNumber::from_slice(&serial)
}
