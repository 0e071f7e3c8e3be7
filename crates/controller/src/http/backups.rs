//! Backups over HTTP: what changes them, what is in them, and what their repositories are.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use gantry_api::{
    backup::{BackupContent, RepositoryContent},
    rest::{
        AdoptBackupsQuery, AdoptedBackups, BackupFilesQuery, Changed, DeleteBackupQuery, RepositoryCheckQuery,
        RestoreBackupRequest, WriteQuery,
    },
};
use gantry_hostlink::Refusal;
use gantry_types::Backup;

use super::{
    Shared,
    caller::User,
    request::{Answer, Body, OptionalBody, Path, QueryOf},
};
use crate::app::{backup, backup_adoption, repository};

type Outcome = Result<Response, Refusal>;

pub async fn create(
    State(front): State<Shared>,
    User(caller): User,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(sent): Body<Backup>,
) -> Outcome {
    let changed = backup::create(&front.app, &caller, sent, &query).await?;
    Ok((StatusCode::CREATED, Json(changed)).into_response())
}

pub async fn put(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(sent): Body<Backup>,
) -> Answer<Changed<Backup>> {
    Ok(Json(backup::put(&front.app, &caller, &name, sent, &query).await?))
}

pub async fn delete(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<DeleteBackupQuery>,
) -> Outcome {
    let changed = backup::delete(&front.app, &caller, &name, &query).await?;
    Ok((StatusCode::ACCEPTED, Json(changed)).into_response())
}

pub async fn verify(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
) -> Outcome {
    let changed = backup::verify(&front.app, &caller, &name, &query).await?;
    Ok((StatusCode::ACCEPTED, Json(changed)).into_response())
}

pub async fn restore(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    OptionalBody(request): OptionalBody<RestoreBackupRequest>,
) -> Outcome {
    let changed = backup::restore(&front.app, &caller, &name, &request, &query).await?;
    Ok((StatusCode::ACCEPTED, Json(changed)).into_response())
}

pub async fn files(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<BackupFilesQuery>,
) -> Answer<BackupContent> {
    Ok(Json(backup::files(&front.app, &caller, &name, &query).await?))
}

pub async fn check_repository(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<RepositoryCheckQuery>,
) -> Answer<RepositoryContent> {
    Ok(Json(repository::check(&front.app, &caller, &name, &query).await?))
}

pub async fn adopt(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<AdoptBackupsQuery>,
) -> Answer<AdoptedBackups> {
    Ok(Json(backup_adoption::adopt(&front.app, &caller, &name, &query).await?))
}
