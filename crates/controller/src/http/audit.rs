//! Every request that may change something, every login and every opened console goes into the audit log, with what came
//! of it. What changes nothing (reads, dry runs), hosts' own calls, and requests of strangers are not in it: a stranger
//! must not be able to push entries out.

use std::sync::{Arc, OnceLock};

use axum::{
    Json,
    body::{Body, to_bytes},
    extract::{MatchedPath, Request, State},
    http::{Method, StatusCode, request::Parts},
    middleware::Next,
    response::Response,
};
use gantry_api::{
    audit::{AuditEntry, AuditOutcome, AuditPage, AuditQuery},
    overview::Named,
};
use gantry_hostlink::RefusedAs;
use gantry_trust::RemoteAddress;
use gantry_types::Problem;
use serde_json::Value;

use super::{
    Shared,
    caller::User,
    request::{Answer, QueryOf},
};
use crate::audit;

/// Answers to creations are read for the name of what was made.
const ANSWER_BYTES: usize = 4 << 20;

/// Who a request turned out to be from; empty until that is settled.
#[derive(Clone, Default)]
pub struct Who(Arc<OnceLock<String>>);

impl Who {
    /// The request's own record of who it is from; one that nobody reads if it has none.
    pub fn of(parts: &Parts) -> Self {
        parts.extensions.get::<Self>().cloned().unwrap_or_default()
    }

    pub fn note(parts: &Parts, who: impl Into<String>) {
        Self::of(parts).note_as(who);
    }

    pub fn note_as(&self, who: impl Into<String>) {
        // Settled once; the same request is always from the same.
        let _known = self.0.set(who.into());
    }
}

pub async fn list(
    State(front): State<Shared>,
    User(caller): User,
    QueryOf(query): QueryOf<AuditQuery>,
) -> Answer<AuditPage> {
    caller.may_administer()?;
    let app = Arc::clone(&front.app);
    let read = tokio::task::spawn_blocking(move || audit::page(app.audit.directory(), &query)).await;
    let ended = |error| Problem::transient("audit-unreadable", format!("reading the audit log ended: {error}"));
    Ok(Json(read.map_err(ended)??))
}

/// Around every route.
pub async fn record(State(front): State<Shared>, mut request: Request, next: Next) -> Response {
    let Some(action) = action_of(&request) else { return next.run(request).await };
    let who = Who::default();
    request.extensions_mut().insert(who.clone());
    let address = request.extensions().get::<RemoteAddress>().map(|remote| remote.0.ip().to_canonical().to_string());
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    let status = response.status();
    let Some(who) = who.0.get().filter(|_| status != StatusCode::TOO_MANY_REQUESTS) else { return response };
    let (object, response) = object_of(&path, response).await;
    let entry = AuditEntry {
        id: 0,
        at: front.app.clock.now(),
        who: who.clone(),
        address: address.unwrap_or_default(),
        action,
        object,
        outcome: match status.as_u16() {
            0..400 => AuditOutcome::Done,
            400..500 => AuditOutcome::Refused,
            _ => AuditOutcome::Failed,
        },
        status: status.as_u16(),
        code: response.extensions().get::<RefusedAs>().map(|code| code.0.clone()),
    };
    // A write to a file of the page cache: short enough for this thread.
    if let Err(error) = front.app.audit.append(entry) {
        tracing::error!(%error, "the audit log could not be written; check the data directory");
    }
    response
}

/// `None` for what is not audited.
fn action_of(request: &Request) -> Option<String> {
    let matched = request.extensions().get::<MatchedPath>()?.as_str();
    let method = request.method();
    let is_dry = request.uri().query().is_some_and(|query| query.split('&').any(|part| part == "dry_run=true"));
    if is_dry || matched.starts_with("/v1/agent/") || matched.ends_with("/console-ticket") {
        return None;
    }
    match (method, matched) {
        (&Method::GET, "/v1/vms/{name}/console") => Some("console".to_owned()),
        (&Method::GET, "/v1/vms/{name}/vnc") => Some("vnc".to_owned()),
        (&Method::GET | &Method::HEAD, _) => None,
        (&Method::POST, "/v1/session") => Some("login".to_owned()),
        (&Method::DELETE, "/v1/session") => Some("logout".to_owned()),
        _ => Some(format!("{method} {matched}")),
    }
}

/// What a request was about: named by its path, or by the answer if it was made just now.
async fn object_of(path: &str, response: Response) -> (Option<Named>, Response) {
    let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
    match parts.as_slice() {
        ["v1", plural, name, ..] => (Some(named(plural, name)), response),
        ["v1", plural] if response.status() == StatusCode::CREATED => {
            let (head, body) = response.into_parts();
            let Ok(bytes) = to_bytes(body, ANSWER_BYTES).await else {
                // Larger than any object: the client would have got as little of it.
                return (None, Response::from_parts(head, Body::empty()));
            };
            let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let name = answer["object"]["metadata"]["name"].as_str().or(answer["name"].as_str());
            (name.map(|name| named(plural, name)), Response::from_parts(head, Body::from(bytes)))
        }
        _ => (None, response),
    }
}

fn named(plural: &str, name: &str) -> Named {
    let kind = match plural.strip_suffix("ies") {
        Some(stem) => format!("{stem}y"),
        None => plural.strip_suffix('s').unwrap_or(plural).to_owned(),
    };
    // A path may be of any length.
    Named { kind, name: name.chars().take(64).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_named_by_their_singular() {
        for (plural, kind) in [("vms", "vm"), ("policies", "policy"), ("security-groups", "security-group")] {
            assert_eq!(named(plural, "x").kind, kind);
        }
    }
}
