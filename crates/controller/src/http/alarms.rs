//! What people do about alarms, over HTTP.

use axum::{Json, extract::State};
use gantry_api::{
    alarms::{AcknowledgeRequest, SilenceRequest},
    rest::{Changed, WriteQuery},
};
use gantry_types::{Alarm, Notice};

use super::{
    Shared,
    caller::User,
    request::{Answer, Body, Path, QueryOf},
};
use crate::app::{alarm, receiver};

pub async fn acknowledge(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(request): Body<AcknowledgeRequest>,
) -> Answer<Changed<Alarm>> {
    Ok(Json(alarm::acknowledge(&front.app, &caller, &name, request, &query).await?))
}

pub async fn silence(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(request): Body<SilenceRequest>,
) -> Answer<Changed<Alarm>> {
    Ok(Json(alarm::silence(&front.app, &caller, &name, request, &query).await?))
}

pub async fn test(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
) -> Answer<Changed<Notice>> {
    Ok(Json(receiver::test(&front.app, &caller, &name, &query).await?))
}
