//! The identity in use, replaceable while servers and clients run: after a renewal the next
//! handshake shows the new certificate, connections that exist are left alone.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::{Identity, TrustError};

#[derive(Clone)]
struct Current {
    identity: Identity,
    key: Arc<CertifiedKey>,
}

/// A shared, replaceable [`Identity`]. Clones see the same one.
#[derive(Clone)]
pub struct LiveIdentity(Arc<RwLock<Current>>);

impl LiveIdentity {
    pub fn new(identity: Identity) -> Result<Self, TrustError> {
        let key = Arc::new(identity.certified_key()?);
        Ok(Self(Arc::new(RwLock::new(Current { identity, key }))))
    }

    /// Puts a renewed identity in place. Refused if it names somebody else or another CA: that
    /// is a new membership, not a renewal.
    pub fn replace(&self, identity: Identity) -> Result<(), TrustError> {
        let key = Arc::new(identity.certified_key()?);
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let same = current.identity.peer() == identity.peer()
            && current.identity.ca_fingerprint() == identity.ca_fingerprint();
        if !same {
            return Err(TrustError::Request {
                reason: format!("{} can't be renewed as {}", current.identity.peer(), identity.peer()),
            });
        }
        *current = Current { identity, key };
        Ok(())
    }

    /// A copy of the identity in use.
    pub fn current(&self) -> Identity {
        self.read().identity
    }

    fn read(&self) -> Current {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }
}

impl fmt::Debug for LiveIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read().identity.fmt(f)
    }
}

impl ResolvesServerCert for LiveIdentity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.read().key)
    }
}

impl ResolvesClientCert for LiveIdentity {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.read().key)
    }

    fn has_certs(&self) -> bool {
        true
    }
}
