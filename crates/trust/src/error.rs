//! The crate's error: every variant names the object, what failed, and what to do next.

use std::io;
use std::path::{Path, PathBuf};

use gantry_types::ErrorClass;

/// Why a credential, a token or a connection was refused or could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The filesystem said no.
    #[error("could not {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A private key that others could have read is treated as lost.
    #[error(
        "{} holds a private key and must be readable by its owner only, but {found}; \
         make sure nobody copied it, then run: chown {expected_uid} '{0}' && chmod 600 '{0}'",
        path.display()
    )]
    ExposedKey { path: PathBuf, found: String, expected_uid: u32 },
    /// A file exists but doesn't hold what it should.
    #[error("{} is not usable: {reason}; {remedy}", path.display())]
    BrokenFile { path: PathBuf, reason: String, remedy: &'static str },
    /// Creating a CA over an existing one would orphan every certificate issued so far.
    #[error(
        "{} already holds a certificate authority; load it, or choose another directory",
        path.display()
    )]
    AuthorityExists { path: PathBuf },
    /// A value given by a caller is malformed.
    #[error("{what} '{value}' is not valid: {reason}")]
    Invalid { what: &'static str, value: String, reason: String },
    /// A certificate signing request the CA doesn't sign.
    #[error("certificate request refused: {reason}")]
    Request { reason: String },
    /// A token that was mistyped, cut, or is of another kind. Its text is never repeated.
    #[error("this is not a valid {kind}: {reason}; copy the whole token, it starts with '{prefix}'")]
    Token { kind: &'static str, prefix: &'static str, reason: &'static str },
    /// The peer is not who it must be.
    #[error("peer refused: {reason}")]
    Peer { reason: String },
    /// Making a key or a certificate failed.
    #[error("could not {action}")]
    Certificate {
        action: &'static str,
        #[source]
        source: rcgen::Error,
    },
    /// rustls refused a key, a certificate or a setting.
    #[error("could not {action}")]
    Tls {
        action: &'static str,
        #[source]
        source: rustls::Error,
    },
    /// An HTTP exchange failed before an answer was understood.
    #[error("could not {action} {url}")]
    Http {
        action: &'static str,
        url: String,
        #[source]
        source: reqwest::Error,
    },
    /// A TCP or TLS connection failed.
    #[error("could not connect to {address}")]
    Connect {
        address: String,
        #[source]
        source: io::Error,
    },
    /// The server's answer to a websocket request was not an upgrade.
    #[error("{url} answered the websocket request with status {status}: {body}")]
    UpgradeRefused { url: String, status: u16, body: String },
    /// The websocket handshake broke.
    #[error("could not open a websocket to {url}")]
    WebSocket {
        url: String,
        #[source]
        source: Box<tokio_tungstenite::tungstenite::Error>,
    },
    /// A bounded wait ran out.
    #[error("{what} took longer than {limit_ms} ms; the peer is unreachable or overloaded")]
    Timeout { what: String, limit_ms: u64 },
}

impl TrustError {
    /// What the caller can do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Invalid { .. } | Self::Request { .. } => ErrorClass::Invalid,
            Self::Token { .. } => ErrorClass::Unauthenticated,
            Self::AuthorityExists { .. } => ErrorClass::Conflict,
            Self::Peer { .. } => ErrorClass::Denied,
            Self::UpgradeRefused { status, .. } => ErrorClass::from_http_status(*status),
            Self::Http { source, .. } => http_error_class(source),
            Self::Connect { source, .. } if is_tls_refusal(source) => ErrorClass::Denied,
            Self::Connect { .. } | Self::Timeout { .. } => ErrorClass::Transient,
            Self::WebSocket { .. } => ErrorClass::Transient,
            Self::Tls { .. } => ErrorClass::Denied,
            _ => ErrorClass::Permanent,
        }
    }

    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { action, path: path.to_path_buf(), source }
    }

    pub(crate) fn peer(reason: impl Into<String>) -> Self {
        Self::Peer { reason: reason.into() }
    }
}

/// True for a verification that failed on either side; an unverifiable peer stays unverifiable.
/// The connectors wrap I/O errors in one another, and `source()` skips what an I/O error wraps.
fn is_tls_refusal(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| {
        inner.is::<rustls::Error>() || inner.downcast_ref::<io::Error>().is_some_and(is_tls_refusal)
    })
}

/// The class of a failed exchange of a client made here. `Denied`: we refused the server's
/// certificate. `Transient`: no answer came, and whether the request took effect is unknown; a
/// server that refuses *our* certificate may look like this too, as TLS 1.3 lets a client speak
/// before it learns of it.
pub fn http_error_class(error: &reqwest::Error) -> ErrorClass {
    if tls_refused(error) {
        return ErrorClass::Denied;
    }
    match error.status() {
        Some(status) => ErrorClass::from_http_status(status.as_u16()),
        None if error.is_builder() => ErrorClass::Invalid,
        None if error.is_decode() => ErrorClass::Permanent,
        None => ErrorClass::Transient,
    }
}

fn tls_refused(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(current) = cause {
        let tls = current.is::<rustls::Error>() || current.downcast_ref::<io::Error>().is_some_and(is_tls_refusal);
        if tls {
            return true;
        }
        cause = current.source();
    }
    false
}
