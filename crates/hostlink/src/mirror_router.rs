//! The routes of an agent that are about copies of disks.

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::{post, put},
};
use gantry_api::{
    mirror::{
        CopyEndpoint, CopyProgress, DropCopy, DropLeftVolume, GoAlone, JoinCopy, ServeCopy, SettleCopy, TakeCopy,
    },
    paths::host as paths,
    storage::PoolAssignment,
};
use uuid::Uuid;

use crate::{
    reply::Refusal,
    router::{Answer, Host},
    storage_router::same,
};

pub(crate) fn routes() -> Router<Host> {
    Router::new()
        .route(paths::POOL_COPY, put(serve))
        .route(paths::POOL_COPY_SETTLED, post(settle))
        .route(paths::POOL_COPY_TAKEN, post(take))
        .route(paths::POOL_COPY_DELETION, post(drop_copy))
        .route(paths::POOL_VOLUME_LEFT, post(drop_left_volume))
        .route(paths::VM_DISK_PEER, post(join))
        .route(paths::VM_DISK_ALONE, post(alone))
}

fn same_copy(path: (Uuid, Uuid), pool: &PoolAssignment, disk: Uuid) -> Result<(), Refusal> {
    same("pool", path.0, pool.uuid)?;
    same("disk", path.1, disk)
}

async fn serve(
    State(host): State<Host>,
    Path(ids): Path<(Uuid, Uuid)>,
    Json(request): Json<ServeCopy>,
) -> Answer<CopyEndpoint> {
    same_copy(ids, &request.pool, request.disk)?;
    Ok(Json(host.serve_copy(&request).await?))
}

async fn settle(
    State(host): State<Host>,
    Path(ids): Path<(Uuid, Uuid)>,
    Json(request): Json<SettleCopy>,
) -> Answer<()> {
    same_copy(ids, &request.pool, request.disk)?;
    Ok(Json(host.settle_copy(&request).await?))
}

async fn take(State(host): State<Host>, Path(ids): Path<(Uuid, Uuid)>, Json(request): Json<TakeCopy>) -> Answer<()> {
    same_copy(ids, &request.pool, request.disk)?;
    Ok(Json(host.take_copy(&request).await?))
}

async fn drop_copy(
    State(host): State<Host>,
    Path(ids): Path<(Uuid, Uuid)>,
    Json(request): Json<DropCopy>,
) -> Answer<()> {
    same_copy(ids, &request.pool, request.disk)?;
    Ok(Json(host.drop_copy(&request).await?))
}

async fn drop_left_volume(
    State(host): State<Host>,
    Path(ids): Path<(Uuid, Uuid)>,
    Json(request): Json<DropLeftVolume>,
) -> Answer<()> {
    same_copy(ids, &request.pool, request.volume)?;
    Ok(Json(host.drop_left_volume(&request).await?))
}

async fn join(State(host): State<Host>, Path(vm): Path<Uuid>, Json(request): Json<JoinCopy>) -> Answer<CopyProgress> {
    Ok(Json(host.join_copy(vm, &request).await?))
}

async fn alone(State(host): State<Host>, Path(vm): Path<Uuid>, Json(request): Json<GoAlone>) -> Answer<()> {
    Ok(Json(host.go_alone(vm, &request).await?))
}
