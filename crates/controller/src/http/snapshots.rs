//! Snapshots over HTTP: what changes them.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use gantry_api::rest::{Changed, RevertRequest, WriteQuery};
use gantry_hostlink::Refusal;
use gantry_types::Snapshot;

use super::{
    Shared,
    caller::User,
    request::{Answer, Body, OptionalBody, Path, QueryOf},
};
use crate::app::snapshot;

type Outcome = Result<Response, Refusal>;

pub async fn create(
    State(front): State<Shared>,
    User(caller): User,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(sent): Body<Snapshot>,
) -> Outcome {
    let changed = snapshot::create(&front.app, &caller, sent, &query).await?;
    Ok((StatusCode::CREATED, Json(changed)).into_response())
}

pub async fn put(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(sent): Body<Snapshot>,
) -> Answer<Changed<Snapshot>> {
    Ok(Json(snapshot::put(&front.app, &caller, &name, sent, &query).await?))
}

pub async fn delete(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
) -> Outcome {
    let changed = snapshot::delete(&front.app, &caller, &name, &query).await?;
    Ok((StatusCode::ACCEPTED, Json(changed)).into_response())
}

pub async fn revert(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    OptionalBody(request): OptionalBody<RevertRequest>,
) -> Outcome {
    let changed = snapshot::revert(&front.app, &caller, &name, request, &query).await?;
    Ok((StatusCode::ACCEPTED, Json(changed)).into_response())
}
