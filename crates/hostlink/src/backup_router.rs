//! The routes of an agent that are about backups. The repository is named in each body.

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::{post, put},
};
use gantry_api::{
    backup::{
        BackUp, BackedUp, BackupCheck, BackupContent, BackupPlace, FillDisk, ListBackups, ReadBackup, RepositoryAccess,
        RepositoryContent, RestoreVolume, StoredBackups, Work,
    },
    paths::host as paths,
};
use uuid::Uuid;

use crate::{
    router::{Answer, Host},
    storage_router::{same, same_volume},
};

pub(crate) fn routes() -> Router<Host> {
    Router::new()
        .route(paths::VM_BACKUP, put(back_up).delete(cancel_backup))
        .route(paths::DISK_FILLING, post(fill_disk))
        .route(paths::POOL_VOLUME_RESTORATION, post(restore_volume))
        .route(paths::REPOSITORY, post(open_repository))
        .route(paths::REPOSITORY_BACKUPS, post(list_backups))
        .route(paths::BACKUP_CHECK, post(check_backup))
        .route(paths::BACKUP_DELETION, post(delete_backup))
        .route(paths::BACKUP_CONTENT, post(read_backup))
}

async fn back_up(
    State(host): State<Host>,
    Path((vm, backup)): Path<(Uuid, Uuid)>,
    Json(request): Json<BackUp>,
) -> Answer<Work<BackedUp>> {
    same("backup", backup, request.place.backup)?;
    Ok(Json(host.back_up(vm, &request).await?))
}
async fn cancel_backup(State(host): State<Host>, Path((vm, backup)): Path<(Uuid, Uuid)>) -> Answer<()> {
    Ok(Json(host.cancel_backup(vm, backup).await?))
}
async fn fill_disk(State(host): State<Host>, Path(vm): Path<Uuid>, Json(request): Json<FillDisk>) -> Answer<Work<()>> {
    Ok(Json(host.fill_disk(vm, &request).await?))
}
async fn restore_volume(
    State(host): State<Host>,
    Path(ids): Path<(Uuid, Uuid)>,
    Json(request): Json<RestoreVolume>,
) -> Answer<Work<()>> {
    same_volume(ids, &request.volume)?;
    Ok(Json(host.restore_volume(&request).await?))
}
async fn open_repository(
    State(host): State<Host>,
    Json(repository): Json<RepositoryAccess>,
) -> Answer<RepositoryContent> {
    Ok(Json(host.open_repository(&repository).await?))
}
async fn list_backups(State(host): State<Host>, Json(request): Json<ListBackups>) -> Answer<StoredBackups> {
    Ok(Json(host.list_backups(&request).await?))
}
async fn check_backup(
    State(host): State<Host>,
    Path(backup): Path<Uuid>,
    Json(place): Json<BackupPlace>,
) -> Answer<Work<BackupCheck>> {
    same("backup", backup, place.backup)?;
    Ok(Json(host.check_backup(&place).await?))
}
async fn delete_backup(
    State(host): State<Host>,
    Path(backup): Path<Uuid>,
    Json(place): Json<BackupPlace>,
) -> Answer<Work<()>> {
    same("backup", backup, place.backup)?;
    Ok(Json(host.delete_backup(&place).await?))
}
async fn read_backup(
    State(host): State<Host>,
    Path(backup): Path<Uuid>,
    Json(request): Json<ReadBackup>,
) -> Answer<BackupContent> {
    same("backup", backup, request.place.backup)?;
    Ok(Json(host.read_backup(&request).await?))
}
