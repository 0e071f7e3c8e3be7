//! Users over HTTP.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use gantry_api::{
    access::{CreateUser, PasswordSet, SetPassword},
    rest::{Changed, WriteQuery},
};
use gantry_hostlink::Refusal;
use gantry_types::User as StoredUser;

use super::{
    Shared,
    caller::{From, User},
    objects::changed,
    request::{Answer, Body, OptionalBody, Path, QueryOf},
};
use crate::app::{self, user};

/// Makes a user; a password that was made up is in this answer and nowhere else.
pub async fn create(
    State(front): State<Shared>,
    User(caller): User,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(request): Body<CreateUser>,
) -> Result<Response, Refusal> {
    let created = user::create(&front.app, &caller, &request, &query).await?;
    Ok((StatusCode::CREATED, Json(created)).into_response())
}

pub async fn put(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(sent): Body<StoredUser>,
) -> Answer<Changed<StoredUser>> {
    Ok(Json(user::put(&front.app, &caller, &name, sent, &query).await?))
}

pub async fn delete(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
) -> Answer<Changed<StoredUser>> {
    caller.may_administer()?;
    let gone: StoredUser = app::get(&front.app, &caller, &name)?;
    user::delete(&front.app, &caller, &name, &query).await?;
    Ok(Json(changed(gone)))
}

pub async fn set_password(
    State(front): State<Shared>,
    User(caller): User,
    From(address): From,
    Path(name): Path<String>,
    OptionalBody(request): OptionalBody<SetPassword>,
) -> Answer<PasswordSet> {
    Ok(Json(user::set_password(&front.app, &caller, &name, &request, address).await?))
}
