//! Proof that a request by cookie was sent by a page of this controller and not by another site in the same browser.
//!
//! Two proofs are asked for besides the cookie's `SameSite=Strict`: the token that only a page which could read
//! `GET /v1/session` knows, and an `Origin` (RFC 6454) that is the address the request was sent to.

use axum::http::{Method, header, request::Parts};
use gantry_api::access::CSRF_HEADER;
use gantry_trust::same_text;
use gantry_types::Problem;

use crate::access::Session;

/// # Errors
/// `csrf` (denied) for a request that may change something and lacks a proof.
pub fn check(parts: &Parts, session: &Session) -> Result<(), Problem> {
    if matches!(parts.method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    same_origin(parts)?;
    let shown = parts.headers.get(CSRF_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if same_text(shown, &session.csrf_token) {
        return Ok(());
    }
    Err(refused(format!("the request does not carry the session's token in {CSRF_HEADER}")))
}

/// # Errors
/// `csrf` (denied) unless the request names the origin that it was sent to.
pub fn same_origin(parts: &Parts) -> Result<(), Problem> {
    let sent_to = parts.uri.authority().map(|authority| authority.as_str()).or_else(|| text(parts, header::HOST));
    let origin = text(parts, header::ORIGIN);
    let is_same = match (origin.and_then(|origin| origin.strip_prefix("https://")), sent_to) {
        (Some(origin), Some(sent_to)) => origin.eq_ignore_ascii_case(sent_to),
        _ => false,
    };
    if is_same {
        return Ok(());
    }
    Err(refused("the request was not sent by a page of this controller (Origin)".to_owned()))
}

/// Whether the request says where it comes from at all; what is no browser does not.
pub fn has_origin(parts: &Parts) -> bool {
    parts.headers.contains_key(header::ORIGIN)
}

fn text(parts: &Parts, name: header::HeaderName) -> Option<&str> {
    parts.headers.get(name).and_then(|value| value.to_str().ok())
}

fn refused(detail: String) -> Problem {
    Problem::denied("csrf", detail)
        .remedy("use the web UI at the controller's own address; programs: send an API token")
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method("POST").uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_the_origin_that_was_asked_is_the_same() {
        let host = ("host", "10.0.0.1:7443");
        assert!(same_origin(&parts("/v1/vms", &[host, ("origin", "https://10.0.0.1:7443")])).is_ok());
        assert!(same_origin(&parts("https://gantry:7443/v1/vms", &[("origin", "https://GANTRY:7443")])).is_ok());
        for wrong in ["http://10.0.0.1:7443", "https://10.0.0.1", "https://10.0.0.1:7443.evil.example", "null", ""] {
            assert!(same_origin(&parts("/v1/vms", &[host, ("origin", wrong)])).is_err(), "{wrong}");
        }
        assert!(same_origin(&parts("/v1/vms", &[host])).is_err());
        assert!(same_origin(&parts("/v1/vms", &[("origin", "https://10.0.0.1:7443")])).is_err());
    }
}
