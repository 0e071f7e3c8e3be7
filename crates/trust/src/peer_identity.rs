//! Roles and names inside certificates: `gantry:<role>/<name>` as a URI subject alternative name.
//!
//! Every leaf carries exactly one such URI. A certificate with none, with two, or with one that
//! doesn't parse belongs to nobody and is refused; the common name and DNS names are never
//! consulted to decide who a peer is.

use std::fmt;
use std::str::FromStr;

use gantry_types::Name;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::{Fingerprint, TrustError, identity::one_certificate};

const SCHEME: &str = "gantry:";

/// What a certificate's holder may act as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// An agent on a host.
    Host,
    /// A controller; the only role that may command agents.
    Controller,
    /// A QEMU process on a host: migration and NBD streams only, never the HTTP API. A guest that
    /// breaks out into its QEMU finds this key and nothing better.
    Qemu,
}

impl Role {
    /// The word used in the URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Controller => "controller",
            Self::Qemu => "qemu",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who a certificate says its holder is. Only made from a certificate that was verified, or by
/// the CA that is about to issue one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    role: Role,
    name: Name,
}

impl PeerIdentity {
    pub fn new(role: Role, name: Name) -> Self {
        Self { role, name }
    }

    pub fn role(&self) -> Role {
        self.role
    }

    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Reads the identity out of a leaf certificate. The caller has verified its chain.
    pub fn from_certificate(der: &[u8]) -> Result<Self, TrustError> {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|error| TrustError::peer(format!("its certificate doesn't parse ({error})")))?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|error| TrustError::peer(format!("its names don't parse ({error})")))?
            .ok_or_else(|| TrustError::peer("its certificate carries no names"))?;
        let mut uris = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
            _ => None,
        });
        match (uris.next(), uris.next()) {
            (Some(uri), None) => uri.parse(),
            (None, _) => Err(TrustError::peer("its certificate carries no Gantry role")),
            (Some(_), Some(_)) => Err(TrustError::peer("its certificate carries several roles")),
        }
    }
}

/// Which key a certificate was issued for: SHA-256 of its public key (the DER of SubjectPublicKeyInfo), as 64 hex
/// digits. A name can be given again after its holder was removed; a key can't. As a request extension it is there if the
/// peer showed a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerKey(Fingerprint);

impl PeerKey {
    /// The key of a leaf certificate. The caller has verified its chain.
    pub fn from_certificate(der: &CertificateDer<'_>) -> Result<Self, TrustError> {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|error| TrustError::peer(format!("its certificate doesn't parse ({error})")))?;
        Ok(Self(Fingerprint::of_der(certificate.public_key().raw)))
    }

    /// The same of a certificate in PEM, as the CA issues it.
    pub fn from_pem(pem: &str) -> Result<Self, TrustError> {
        Self::from_certificate(&one_certificate(pem).map_err(TrustError::peer)?)
    }
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The URI form, `gantry:host/host-1`.
impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.role, self.name)
    }
}

impl FromStr for PeerIdentity {
    type Err = TrustError;

    fn from_str(uri: &str) -> Result<Self, TrustError> {
        let invalid = |reason: &str| TrustError::Invalid {
            what: "identity",
            value: uri.chars().take(120).collect(),
            reason: reason.to_owned(),
        };
        let (role, name) = uri
            .strip_prefix(SCHEME)
            .and_then(|rest| rest.split_once('/'))
            .ok_or_else(|| invalid("'gantry:<role>/<name>' is expected"))?;
        let role = [Role::Host, Role::Controller, Role::Qemu]
            .into_iter()
            .find(|known| known.as_str() == role)
            .ok_or_else(|| invalid("the role is none of host, controller, qemu"))?;
        let name = name.parse::<Name>().map_err(|error| invalid(&error.to_string()))?;
        Ok(Self::new(role, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_round_trip() {
        let identity = PeerIdentity::new(Role::Host, "host-1".parse().unwrap());
        assert_eq!(identity.to_string(), "gantry:host/host-1");
        assert_eq!(identity.to_string().parse::<PeerIdentity>().unwrap(), identity);
    }

    #[test]
    fn uris_that_could_confuse_are_refused() {
        for uri in [
            "gantry:root/a",
            "gantry:host",
            "gantry:host/",
            "host/a",
            "gantry:host/a/b",
            "gantry:host/A",
            "gantry:host/a.b",
            "gantry:host/a\0b",
            "GANTRY:host/a",
            "gantry: host/a",
            "gantry:host/a,",
        ] {
            assert!(uri.parse::<PeerIdentity>().is_err(), "{uri:?}");
        }
    }
}
