//! Clusters and policies over HTTP.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use gantry_api::rest::{Changed, UpdateClusterRequest, WriteQuery};
use gantry_hostlink::Refusal;
use gantry_types::{Cluster, Policy};

use super::{
    Shared,
    caller::User,
    objects::changed,
    request::{Answer, Body, Path, QueryOf},
};
use crate::{
    app::{self, cluster, policy},
    loops::policies,
};

pub async fn create_cluster(
    State(front): State<Shared>,
    User(caller): User,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(sent): Body<Cluster>,
) -> Result<Response, Refusal> {
    let created = cluster::create(&front.app, &caller, sent, &query).await?;
    Ok((StatusCode::CREATED, Json(created)).into_response())
}

pub async fn put_cluster(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(sent): Body<Cluster>,
) -> Answer<Changed<Cluster>> {
    Ok(Json(cluster::put(&front.app, &caller, &name, sent, &query).await?))
}

pub async fn delete_cluster(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
) -> Answer<Changed<Cluster>> {
    caller.may_change()?;
    let gone: Cluster = app::get(&front.app, &caller, &name)?;
    cluster::delete(&front.app, &caller, &name, &query).await?;
    Ok(Json(changed(gone)))
}

pub async fn update_cluster(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(request): Body<UpdateClusterRequest>,
) -> Result<Response, Refusal> {
    let changed = cluster::update(&front.app, &caller, &name, request.method, &query).await?;
    Ok((StatusCode::ACCEPTED, Json(changed)).into_response())
}

/// Carries one of its recommendations out.
pub async fn apply_recommendation(
    State(front): State<Shared>,
    User(caller): User,
    Path((name, id)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let operation = policies::apply(&front.app, &caller, &name, &id).await?;
    Ok((StatusCode::ACCEPTED, Json(operation)).into_response())
}

pub async fn create_policy(
    State(front): State<Shared>,
    User(caller): User,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(sent): Body<Policy>,
) -> Result<Response, Refusal> {
    let created = policy::create(&front.app, &caller, sent, &query).await?;
    Ok((StatusCode::CREATED, Json(created)).into_response())
}

pub async fn put_policy(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(sent): Body<Policy>,
) -> Answer<Changed<Policy>> {
    Ok(Json(policy::put(&front.app, &caller, &name, sent, &query).await?))
}

pub async fn delete_policy(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
) -> Answer<Changed<Policy>> {
    caller.may_change()?;
    let gone: Policy = app::get(&front.app, &caller, &name)?;
    policy::delete(&front.app, &caller, &name, &query).await?;
    Ok(Json(changed(gone)))
}
