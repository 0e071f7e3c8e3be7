//! Who is asking: a user by token, or a host by certificate.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{header, request::Parts},
};
use gantry_hostlink::Refusal;
use gantry_trust::{PeerIdentity, PeerKey, Role};
use gantry_types::{ApiToken, Host, Name, Problem};

use super::{Front, Shared};
use crate::app::{self, Caller, token};

/// A user who showed a valid API token.
pub struct User(pub Caller);

/// The token that a user showed, for what stays open: it ends with the token (`token::ended`).
pub struct ShownToken(pub Arc<ApiToken>);

/// A host that showed the certificate of a host that exists, for a key that belongs to it: the certificate of a deleted
/// host is not good again when its name is.
pub struct HostPeer(pub Name);

impl FromRequestParts<Shared> for User {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, front: &Shared) -> Result<Self, Refusal> {
        let bearer = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let stored = token_of(front, bearer)?;
        Ok(Self(Caller::token(stored.metadata.name.as_str(), stored.spec.role)))
    }
}

impl FromRequestParts<Shared> for ShownToken {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, front: &Shared) -> Result<Self, Refusal> {
        let bearer = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        Ok(Self(token_of(front, bearer)?))
    }
}

fn token_of(front: &Front, authorization: Option<&str>) -> Result<Arc<ApiToken>, Problem> {
    let refused = |detail: &str| {
        Problem::unauthenticated(detail)
            .remedy("send an API token: Authorization: Bearer gat1.…; see: gantry context show")
    };
    let text = authorization
        .and_then(|value| value.strip_prefix("Bearer "))
        .ok_or_else(|| refused("no API token was sent"))?;
    let shown = gantry_trust::ApiToken::parse(text.trim()).map_err(|_| refused("the API token is malformed"))?;
    token::by_hash(&front.app, &shown.hash().to_string())
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
