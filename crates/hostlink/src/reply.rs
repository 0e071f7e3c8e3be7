//! Problems on the wire: as a server sends them and as a client reads them.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use gantry_types::{ErrorClass, Problem};
use serde::de::DeserializeOwned;

/// An error answer of a handler: problem details (RFC 9457) with the class's status.
#[derive(Debug)]
pub struct Refusal(pub Problem);

/// The code of the problem that a response carries, as one of its extensions: for whoever keeps a record of it.
#[derive(Debug, Clone)]
pub struct RefusedAs(pub String);

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let code = RefusedAs(self.0.code().to_owned());
        let mut response = (status, Json(self.0)).into_response();
        response.extensions_mut().insert(code);
        let content_type = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response
    }
}

/// The answer of `peer` to `request`: its JSON, or the problem it sent, or a problem that says why there is no answer.
pub async fn answer<T: DeserializeOwned>(peer: &str, request: reqwest::RequestBuilder) -> Result<T, Problem> {
    let response = checked(peer, request).await?;
    response.json().await.map_err(|error| unreadable(peer, &error))
}

/// Like [`answer`], for calls that return nothing.
pub async fn done(peer: &str, request: reqwest::RequestBuilder) -> Result<(), Problem> {
    checked(peer, request).await.map(drop)
}

/// Sends `request` and returns the response if its status is a success.
pub async fn checked(peer: &str, request: reqwest::RequestBuilder) -> Result<reqwest::Response, Problem> {
    let response = request.send().await.map_err(|error| unreachable(peer, &error))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response.bytes().await.map_err(|error| unreachable(peer, &error))?;
    Err(serde_json::from_slice(&body).unwrap_or_else(|_| {
        let class = ErrorClass::from_http_status(status.as_u16());
        let text: String = String::from_utf8_lossy(&body).chars().filter(|c| !c.is_control()).take(200).collect();
        Problem::new(class, "unexpected-answer", format!("{peer} answered {status}: {text}"))
    }))
}

fn unreachable(peer: &str, error: &reqwest::Error) -> Problem {
    Problem::transient("peer-unreachable", format!("{peer} did not answer: {}", causes(error)))
        .remedy("check that it is up and that its address and port can be reached")
}

fn unreadable(peer: &str, error: &reqwest::Error) -> Problem {
    if error.is_timeout() || error.is_body() {
        return unreachable(peer, error);
    }
    Problem::permanent("unreadable-answer", format!("{peer} sent an answer that can't be read: {}", causes(error)))
        .remedy("compare the versions of both sides: gantry version")
}

/// An error with all its causes on one line; each cause is said once.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
