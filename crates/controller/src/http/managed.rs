//! Writing the kinds of object that all behave alike ([`Managed`]); tracing packets.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use gantry_api::rest::{Changed, Trace, TraceQuery, WriteQuery};
use gantry_hostlink::Refusal;

use super::{
    Shared,
    caller::User,
    request::{Answer, Body, Path, QueryOf},
};
use crate::app::{
    managed::{self, Managed},
    port,
};

pub async fn trace(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<TraceQuery>,
) -> Answer<Trace> {
    Ok(Json(port::trace(&front.app, &caller, &name, &query)?))
}

pub async fn create<T: Managed>(
    State(front): State<Shared>,
    User(caller): User,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(sent): Body<T>,
) -> Result<Response, Refusal> {
    let created = managed::create(&front.app, &caller, sent, &query).await?;
    Ok((StatusCode::CREATED, Json(created)).into_response())
}

pub async fn put<T: Managed>(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(sent): Body<T>,
) -> Answer<Changed<T>> {
    Ok(Json(managed::put(&front.app, &caller, &name, sent, &query).await?))
}

pub async fn delete<T: Managed>(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
) -> Answer<Changed<T>> {
    Ok(Json(managed::delete(&front.app, &caller, &name, &query).await?))
}
