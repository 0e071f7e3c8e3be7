//! Bodies and queries of requests, with rejections that say which field is wrong.

use axum::{
    Json,
    body::Bytes,
    extract::{self, FromRequest, FromRequestParts, Query, Request, rejection::BytesRejection},
    http::request::Parts,
};
use gantry_hostlink::Refusal;
use gantry_types::{ErrorClass, Problem};
use serde::de::DeserializeOwned;

use super::Shared;

/// Largest JSON body that is read.
pub const MAX_BODY_BYTES: usize = 1 << 20;

/// A JSON body.
pub struct Body<T>(pub T);

/// A JSON body that may be left out; then it is the default.
pub struct OptionalBody<T>(pub T);

/// A query.
pub struct QueryOf<T>(pub T);

/// What a path names.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Shared> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &Shared) -> Result<Self, Refusal> {
        let bytes = bytes_of(request, state).await?;
        Ok(Self(parse(&bytes)?))
    }
}

impl<T: DeserializeOwned + Default> FromRequest<Shared> for OptionalBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &Shared) -> Result<Self, Refusal> {
        let bytes = bytes_of(request, state).await?;
        let absent = bytes.is_empty() || bytes.as_ref() == b"null";
        Ok(Self(if absent { T::default() } else { parse(&bytes)? }))
    }
}

/// A peer that sends slowly must not hold its connection for ever.
async fn bytes_of(request: Request, front: &Shared) -> Result<Bytes, Problem> {
    let limit = front.app.config.body_timeout;
    let read = tokio::time::timeout(limit, Bytes::from_request(request, front)).await.map_err(|_| {
        let detail = format!("the body did not come within {limit:?}");
        Problem { status: 408, ..Problem::transient("body-timeout", detail) }.remedy("send it at once")
    })?;
    read.map_err(|rejection| match rejection {
        BytesRejection::FailedToBufferBody(failure) if failure.status().as_u16() == 413 => {
            let mut problem =
                Problem::invalid("body-too-large", format!("the body is larger than {MAX_BODY_BYTES} bytes"));
            problem.status = 413;
            problem
        }
        other => Problem::transient("incomplete-body", format!("the body could not be read: {other}")),
    })
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut json);
    let value = parsed.map_err(|error| {
        let path = error.path().to_string();
        refused(&path, error.inner())
    })?;
    json.end().map_err(|error| refused(".", &error))?;
    Ok(value)
}

fn refused(path: &str, error: &serde_json::Error) -> Problem {
    let problem = Problem::invalid("invalid-body", format!("the body is not what is expected here: {error}"))
        .remedy("compare it with the API's document: gantry openapi");
    if error.is_syntax() || error.is_eof() {
        // The request's own fault, not the object's.
        return Problem { status: 400, ..problem };
    }
    // "." is the whole body.
    if path == "." { problem } else { problem.field(path, error.to_string()) }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryOf<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let query = Query::<T>::from_request_parts(parts, state).await.map_err(|error| {
            Problem::invalid("invalid-query", format!("the query is not valid: {}", error.body_text()))
                .remedy("see which parameters there are: gantry openapi")
        })?;
        Ok(Self(query.0))
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = extract::Path::<T>::from_request_parts(parts, state).await.map_err(|error| {
            Problem::invalid("invalid-path", format!("the path is not valid: {}", error.body_text()))
                .remedy("write names as they are: lower-case letters, digits and hyphens")
        })?;
        Ok(Self(path.0))
    }
}

/// The answer to a path that does not exist.
pub async fn no_such_path(request: Request) -> Refusal {
    let detail = format!("there is no {}", request.uri().path());
    Refusal(Problem::new(ErrorClass::NotFound, "no-such-path", detail).remedy("see what there is: gantry openapi"))
}

/// The answer to a method that a path does not have.
pub async fn no_such_method(request: Request) -> Refusal {
    let detail = format!("{} does not know {}", request.uri().path(), request.method());
    let problem = Problem::invalid("no-such-method", detail).remedy("see what there is: gantry openapi");
    Refusal(Problem { status: 405, ..problem })
}

/// What handlers answer with.
pub type Answer<T> = Result<Json<T>, Refusal>;
