//! Who is asking: a user by token or session, or a host by certificate.
//!
//! A token in the `Authorization` header decides alone; only without one the session's cookie is looked at. Because
//! browsers send cookies by themselves, a request by cookie that is not a `GET` must also prove that a page of this
//! controller sent it (`csrf.rs`).

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{header, request::Parts},
};
use gantry_api::access::SESSION_COOKIE;
use gantry_hostlink::Refusal;
use gantry_trust::{PeerIdentity, PeerKey, RemoteAddress, Role};
use gantry_types::{ApiToken, Host, Name, Problem, User as StoredUser};

use super::{Front, Shared, audit::Who, csrf};
use crate::{
    access::Session,
    app::{self, App, Caller, token, user},
};

/// A user who showed a valid API token, or has a session.
pub struct User(pub Caller);

/// What a user showed, for what stays open: it ends with that.
pub struct Shown(pub Credential);

#[derive(Clone)]
pub enum Credential {
    Token(Arc<ApiToken>),
    /// With the user as he was when the request came.
    Session(Arc<Session>, Arc<StoredUser>),
}

/// The address a request came from.
pub struct From(pub std::net::IpAddr);

/// A host that showed the certificate of a host that exists, for a key that belongs to it: the certificate of a deleted
/// host is not good again when its name is.
pub struct HostPeer(pub Name);

impl Credential {
    pub fn caller(&self) -> Caller {
        match self {
            Self::Token(token) => Caller::token(token.metadata.name.as_str(), token.spec.role),
            Self::Session(_, user) => Caller::user(user),
        }
    }

    /// Tells it from all others.
    pub fn fingerprint(&self) -> String {
        match self {
            Self::Token(token) => format!("token/{}", token.metadata.uuid),
            Self::Session(session, _) => format!("session/{}", session.hash()),
        }
    }

    /// Returns once it is not good any more, with the reason.
    pub async fn ended(&self, app: &App) -> &'static str {
        match self {
            Self::Token(token) => {
                token::ended(app, token).await;
                "the token was deleted or has expired"
            }
            Self::Session(session, user) => {
                user::session_ended(app, session, &user.spec).await;
                "the session is over"
            }
        }
    }
}

impl FromRequestParts<Shared> for User {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, front: &Shared) -> Result<Self, Refusal> {
        let caller = credential(front, parts)?.caller();
        Who::note(parts, caller.name.clone());
        Ok(Self(caller))
    }
}

impl FromRequestParts<Shared> for Shown {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, front: &Shared) -> Result<Self, Refusal> {
        Ok(Self(credential(front, parts)?))
    }
}

impl<S: Sync> FromRequestParts<S> for From {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Refusal> {
        let remote = parts.extensions.get::<RemoteAddress>();
        let missing = || Problem::permanent("no-address", "the server did not say where the request came from");
        Ok(Self(remote.ok_or_else(missing)?.0.ip()))
    }
}

fn credential(front: &Front, parts: &Parts) -> Result<Credential, Problem> {
    if let Some(authorization) = parts.headers.get(header::AUTHORIZATION) {
        return Ok(Credential::Token(token_of(front, authorization.to_str().unwrap_or_default())?));
    }
    let cookie = cookie(parts).ok_or_else(|| {
        Problem::unauthenticated("no API token was sent, and there is no session")
            .remedy("send an API token: Authorization: Bearer gat1.…; see: gantry context show. Or log in")
    })?;
    let over = || Problem::unauthenticated("the session is over").remedy("log in again");
    let session = front.app.access.sessions.take_up(cookie, &*front.app.clock).ok_or_else(over)?;
    let Some(user) = user::of_session(&front.app, &session) else {
        front.app.access.sessions.close(&session);
        return Err(over());
    };
    csrf::check(parts, &session)?;
    Ok(Credential::Session(session, user))
}

/// The session cookie's value. HTTP/2 may bring cookies in several headers.
fn cookie(parts: &Parts) -> Option<&str> {
    let headers = parts.headers.get_all(header::COOKIE).iter();
    let cookies = headers.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(';'));
    cookies
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find_map(|(name, value)| (name == SESSION_COOKIE).then_some(value))
}

fn token_of(front: &Front, authorization: &str) -> Result<Arc<ApiToken>, Problem> {
    let refused = |detail: &str| {
        Problem::unauthenticated(detail)
            .remedy("send an API token: Authorization: Bearer gat1.…; see: gantry context show")
    };
    let text = authorization.strip_prefix("Bearer ").ok_or_else(|| refused("no API token was sent"))?;
    let shown = gantry_trust::ApiToken::parse(text.trim()).map_err(|_| refused("the API token is malformed"))?;
    let stored = token::by_hash(&front.app, &shown.hash().to_string());
    // One that lets a host join is no API token.
    stored
        .filter(|token| token.spec.role != gantry_types::Role::Join)
        .ok_or_else(|| refused("the API token is unknown, deleted or expired"))
}

impl FromRequestParts<Shared> for HostPeer {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, front: &Shared) -> Result<Self, Refusal> {
        let peer = parts.extensions.get::<Option<PeerIdentity>>().cloned().flatten();
        let key = parts.extensions.get::<PeerKey>().copied();
        let (Some(peer), Some(key)) = (peer.filter(|peer| peer.role() == Role::Host), key) else {
            return Err(Problem::unauthenticated("this call is for hosts, by their certificates").into());
        };
        let Some(host) = front.app.model.get::<Host>(peer.name().as_str()) else {
            let detail = format!("host '{}' is not a part of this datacenter any more", peer.name());
            return Err(Problem::denied("unknown-host", detail)
                .remedy("join it again: gantry host join URL TOKEN")
                .into());
        };
        let key = key.to_string();
        if host.status.agent_keys.is_empty() {
            // From before keys were recorded. This waits for the store only once in a host's life.
            app::host::record_first_key(&front.app, peer.name(), &key).await?;
        } else if !host.status.agent_keys.contains(&key) {
            return Err(app::host::unknown_key(&host, &key).into());
        }
        Ok(Self(peer.name().clone()))
    }
}
