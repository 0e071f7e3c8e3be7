//! Identities and encrypted transport: who is who in a Gantry installation, and how they talk.
//!
//! ```text
//!   CertificateAuthority ──issue──▶ Identity ──┬─▶ Server (axum over TLS) ──▶ PeerIdentity per request
//!        ▲   (one per installation)            ├─▶ Client (HTTP, websocket, expected role and name)
//!        │ CSR + the names we decide           └─▶ QEMU's tls-creds-x509 directory
//!   JoinToken (first contact), ApiToken (users)
//! ```
//!
//! Owned here: the CA's files, certificate contents, tokens, TLS settings. Not owned here: which
//! token was spent, who may do what (the controller decides by role and name), HTTP routes, sessions.
//!
//! On failure everything closes: a peer that can't be verified gets no connection, a key file
//! that others can read is not loaded.

mod authority;
mod credential_file;
mod error;
mod fetch_ca;
mod fingerprint;
mod http_client;
mod identity;
mod live_identity;
mod passwords;
mod peer_identity;
mod qemu_credentials;
mod server;
mod server_connection;
mod server_verifier;
mod strangers;
mod tokens;
mod websocket;

pub use authority::{CertificateAuthority, LEAF_LIFETIME, LeafNames};
pub use error::{TrustError, http_error_class};
pub use fetch_ca::{CA_PATH, fetch_ca};
pub use fingerprint::Fingerprint;
pub use http_client::{ClientConfig, ExpectedPeer};
pub use identity::{Identity, KeyRequest};
pub use live_identity::LiveIdentity;
pub use passwords::{PASSWORD_LENGTH, PasswordHash, generate_password};
pub use peer_identity::{PeerIdentity, PeerKey, Role};
pub use qemu_credentials::{CredentialReader, DH_PARAMETERS, write_qemu_credentials};
pub use server::{ClientAuth, Server, ServerLimits};
pub use server_connection::RemoteAddress;
pub use tokens::{ApiToken, JoinToken, RandomSecret, SecretHash, same_text};
pub use websocket::WebSocket;
