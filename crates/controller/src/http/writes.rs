//! Tokens, networks, hosts and operations over HTTP: what changes them.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use gantry_api::rest::{Changed, CreateToken, CreatedToken, WriteQuery};
use gantry_hostlink::Refusal;
use gantry_trust::{ApiToken as ApiSecret, JoinToken};
use gantry_types::{ApiToken, Host, Network, Operation, Role};

use super::{
    Shared,
    caller::User,
    objects::changed,
    request::{Answer, Body, Path, QueryOf},
};
use crate::app::{self, host, network, operation, token};

/// Makes a token; its secret is in this answer and nowhere else.
pub async fn create_token(
    State(front): State<Shared>,
    User(caller): User,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(request): Body<CreateToken>,
) -> Result<Response, Refusal> {
    let (text, hash) = match request.role {
        Role::Join => {
            let secret = JoinToken::create(front.authority.fingerprint());
            (secret.to_text(), secret.hash())
        }
        // Whether the role can be a token's is `token::create`'s to say.
        Role::Admin | Role::Operator | Role::Viewer | Role::User => {
            let secret = ApiSecret::create(request.name.clone());
            (secret.to_text(), secret.hash())
        }
    };
    let stored = token::create(&front.app, &caller, &request, hash.to_string(), &query).await?;
    // A secret that nothing knows is of no use.
    let token = if query.dry_run { String::new() } else { text };
    let created = CreatedToken { name: stored.metadata.name, role: stored.spec.role, token };
    Ok((StatusCode::CREATED, Json(created)).into_response())
}

pub async fn delete_token(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
) -> Answer<Changed<ApiToken>> {
    caller.may_administer()?;
    let gone: ApiToken = app::get(&front.app, &caller, &name)?;
    token::delete(&front.app, &caller, &name, &query).await?;
    Ok(Json(changed(gone)))
}

pub async fn create_network(
    State(front): State<Shared>,
    User(caller): User,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(sent): Body<Network>,
) -> Result<Response, Refusal> {
    let created = network::create(&front.app, &caller, sent, &query).await?;
    Ok((StatusCode::CREATED, Json(created)).into_response())
}

pub async fn put_network(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(sent): Body<Network>,
) -> Answer<Changed<Network>> {
    Ok(Json(network::put(&front.app, &caller, &name, sent, &query).await?))
}

pub async fn delete_network(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
) -> Answer<Changed<Network>> {
    caller.may_change()?;
    let gone: Network = app::get(&front.app, &caller, &name)?;
    network::delete(&front.app, &caller, &name, &query).await?;
    Ok(Json(changed(gone)))
}

pub async fn put_host(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(sent): Body<Host>,
) -> Answer<Changed<Host>> {
    Ok(Json(host::put(&front.app, &caller, &name, sent, &query).await?))
}

pub async fn delete_host(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
) -> Answer<Changed<Host>> {
    caller.may_change()?;
    let gone: Host = app::get(&front.app, &caller, &name)?;
    host::delete(&front.app, &caller, &name, &query).await?;
    Ok(Json(changed(gone)))
}

pub async fn cancel_operation(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
) -> Answer<Operation> {
    Ok(Json(operation::cancel(&front.app, &caller, &name, &query).await?))
}
