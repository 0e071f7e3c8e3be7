//! Roles and names inside certificates: `gantry:<role>/<name>` as a URI subject alternative name.
//!
//! Every leaf carries exactly one such URI. A certificate with none, with two, or with one that
//! doesn't parse belongs to nobody and is refused; the common name and DNS names are never
//! consulted to decide who a peer is.

use std::fmt;
use std::str::FromStr;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::TrustError;

const SCHEME: &str = "gantry:";
const NAME_LENGTH_MAX: usize = 63;

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
    name: String,
}

impl PeerIdentity {
    /// Checks `name`: 1 to 63 of `a-z 0-9 - .`, each dot-separated part starting and ending with
    /// a letter or digit (it also becomes a DNS name).
    pub fn new(role: Role, name: &str) -> Result<Self, TrustError> {
        check_name("name in a certificate", name)?;
        Ok(Self { role, name: name.to_owned() })
    }

    pub fn role(&self) -> Role {
        self.role
    }

    pub fn name(&self) -> &str {
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
        Self::new(role, name)
    }
}

/// The rule for anything that becomes a DNS name in a certificate.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), TrustError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let well_formed = name.split('.').all(|part| {
        let bytes = part.as_bytes();
        let ends = bytes.first().zip(bytes.last());
        ends.is_some_and(|(first, last)| allowed(*first) && allowed(*last))
            && bytes.iter().all(|byte| allowed(*byte) || *byte == b'-')
    });
    if well_formed && name.len() <= NAME_LENGTH_MAX {
        return Ok(());
    }
    Err(TrustError::Invalid {
        what,
        value: name.chars().take(80).collect(),
        reason: format!(
            "use 1 to {NAME_LENGTH_MAX} of a-z, 0-9, '-' and '.', with a letter or digit at \
             both ends of each part"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_round_trip() {
        let identity = PeerIdentity::new(Role::Host, "host-1.rack2").unwrap();
        assert_eq!(identity.to_string(), "gantry:host/host-1.rack2");
        assert_eq!(identity.to_string().parse::<PeerIdentity>().unwrap(), identity);
    }

    #[test]
    fn names_and_roles_that_could_confuse_are_refused() {
        let long = "a".repeat(64);
        for name in ["", ".", "a..b", "-a", "a-", "A", "a/b", "a b", "ä", "a\0", "a,b", &long] {
            assert!(PeerIdentity::new(Role::Host, name).is_err(), "{name:?}");
        }
        for uri in ["gantry:root/a", "gantry:host", "gantry:host/", "host/a", "gantry:host/a/b"] {
            assert!(uri.parse::<PeerIdentity>().is_err(), "{uri:?}");
        }
    }
}
