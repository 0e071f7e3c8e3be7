//! Pools and volumes over HTTP: what changes them.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use gantry_api::rest::{AttachRequest, Changed, MigrateVolumeRequest, WriteQuery};
use gantry_hostlink::Refusal;
use gantry_types::{Pool, Volume};

use super::{
    Shared,
    caller::User,
    request::{Answer, Body, Path, QueryOf},
};
use crate::app::{pool, volume};

type Outcome = Result<Response, Refusal>;

pub async fn create_pool(
    State(front): State<Shared>,
    User(caller): User,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(sent): Body<Pool>,
) -> Outcome {
    let changed = pool::create(&front.app, &caller, sent, &query).await?;
    Ok((StatusCode::CREATED, Json(changed)).into_response())
}

pub async fn put_pool(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(sent): Body<Pool>,
) -> Answer<Changed<Pool>> {
    Ok(Json(pool::put(&front.app, &caller, &name, sent, &query).await?))
}

pub async fn delete_pool(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
) -> Outcome {
    let changed = pool::delete(&front.app, &caller, &name, &query).await?;
    Ok((StatusCode::ACCEPTED, Json(changed)).into_response())
}

pub async fn create_volume(
    State(front): State<Shared>,
    User(caller): User,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(sent): Body<Volume>,
) -> Outcome {
    let changed = volume::create(&front.app, &caller, sent, &query).await?;
    Ok((StatusCode::CREATED, Json(changed)).into_response())
}

pub async fn put_volume(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(sent): Body<Volume>,
) -> Answer<Changed<Volume>> {
    Ok(Json(volume::put(&front.app, &caller, &name, sent, &query).await?))
}

pub async fn delete_volume(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
) -> Outcome {
    let changed = volume::delete(&front.app, &caller, &name, &query).await?;
    Ok((StatusCode::ACCEPTED, Json(changed)).into_response())
}

pub async fn attach(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(request): Body<AttachRequest>,
) -> Outcome {
    let changed = volume::attach(&front.app, &caller, &name, &request, &query).await?;
    Ok((StatusCode::ACCEPTED, Json(changed)).into_response())
}

pub async fn migrate(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(request): Body<MigrateVolumeRequest>,
) -> Outcome {
    let changed = volume::migrate(&front.app, &caller, &name, &request, &query).await?;
    Ok((StatusCode::ACCEPTED, Json(changed)).into_response())
}

pub async fn detach(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
) -> Outcome {
    let changed = volume::detach(&front.app, &caller, &name, &query).await?;
    Ok((StatusCode::ACCEPTED, Json(changed)).into_response())
}
