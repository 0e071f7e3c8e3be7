//! The routes of an agent that are about pools and volumes. The pool is named as a whole in each body.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, State},
    http::header::CONTENT_LENGTH,
    response::{IntoResponse, Response},
    routing::{post, put},
};
use gantry_api::{
    paths::host as paths,
    storage::{
        AttachVolume, CopyVolume, ExportVolume, FillVolume, LeftDisk, MoveDisk, MoveVolume, PoolAssignment,
        VolumeAssignment, VolumeMoveReport,
    },
};
use gantry_types::Problem;
use uuid::Uuid;

use crate::{
    reply::Refusal,
    router::{Answer, EpochQuery, Host, Streams},
};

pub(crate) fn routes() -> Router<Host> {
    Router::new()
        .route(paths::POOL, put(open_pool))
        .route(paths::POOL_MEMBERSHIP, post(join_pool))
        .route(paths::POOL_CLOSURE, post(close_pool))
        .route(paths::POOL_VOLUME, put(create_volume))
        .route(paths::POOL_VOLUME_SIZE, put(grow_volume))
        .route(paths::POOL_VOLUME_DELETION, post(delete_volume))
        .route(paths::POOL_VOLUME_COPY, post(copy_volume))
        .route(paths::POOL_VOLUME_IMAGE, post(fill_volume))
        .route(paths::VM_VOLUME_MOVE, post(move_volume))
        .route(paths::VM_VOLUME_MOVE_CANCEL, post(cancel_volume_move))
        .route(paths::VM_DISK_MOVE, post(move_disk))
        .route(paths::VM_DISK_MOVE_CANCEL, post(cancel_disk_move))
        .route(paths::VM_DISK_LEFT, post(clear_left_disk))
        .route(paths::VM_VOLUME, put(attach_volume).delete(detach_volume))
}

pub(crate) fn content_route() -> Router<Arc<dyn Streams>> {
    Router::new().route(paths::POOL_VOLUME_CONTENT, post(export))
}

async fn export(
    State(streams): State<Arc<dyn Streams>>,
    Path(ids): Path<(Uuid, Uuid)>,
    Json(request): Json<ExportVolume>,
) -> Result<Response, Refusal> {
    same_volume(ids, &request.volume)?;
    let exported = streams.export(request).await?;
    let headers = [(CONTENT_LENGTH, exported.bytes.to_string())];
    Ok((headers, Body::from_stream(exported.content)).into_response())
}

pub(crate) fn same(what: &str, path: Uuid, body: Uuid) -> Result<(), Refusal> {
    if path == body {
        return Ok(());
    }
    let detail = format!("the path names {what} {path}, the body {body}");
    Err(Problem::invalid(&format!("{what}-mismatch"), detail).into())
}

async fn open_pool(State(host): State<Host>, Path(id): Path<Uuid>, Json(pool): Json<PoolAssignment>) -> Answer<()> {
    same("pool", id, pool.uuid)?;
    Ok(Json(host.open_pool(&pool).await?))
}
async fn join_pool(State(host): State<Host>, Path(id): Path<Uuid>, Json(pool): Json<PoolAssignment>) -> Answer<()> {
    same("pool", id, pool.uuid)?;
    Ok(Json(host.join_pool(&pool).await?))
}
async fn close_pool(State(host): State<Host>, Path(id): Path<Uuid>, Json(pool): Json<PoolAssignment>) -> Answer<()> {
    same("pool", id, pool.uuid)?;
    Ok(Json(host.close_pool(&pool).await?))
}

pub(crate) fn same_volume((pool, id): (Uuid, Uuid), volume: &VolumeAssignment) -> Result<(), Refusal> {
    same("pool", pool, volume.pool.uuid)?;
    same("volume", id, volume.uuid)
}
async fn create_volume(
    State(host): State<Host>,
    Path(ids): Path<(Uuid, Uuid)>,
    Json(volume): Json<VolumeAssignment>,
) -> Answer<()> {
    same_volume(ids, &volume)?;
    Ok(Json(host.create_volume(&volume).await?))
}
async fn grow_volume(
    State(host): State<Host>,
    Path(ids): Path<(Uuid, Uuid)>,
    Json(volume): Json<VolumeAssignment>,
) -> Answer<()> {
    same_volume(ids, &volume)?;
    Ok(Json(host.grow_volume(&volume).await?))
}
async fn delete_volume(
    State(host): State<Host>,
    Path((id, volume)): Path<(Uuid, Uuid)>,
    Json(pool): Json<PoolAssignment>,
) -> Answer<()> {
    same("pool", id, pool.uuid)?;
    Ok(Json(host.delete_volume(&pool, volume).await?))
}
async fn attach_volume(
    State(host): State<Host>,
    Path((vm, volume)): Path<(Uuid, Uuid)>,
    Json(request): Json<AttachVolume>,
) -> Answer<()> {
    same("volume", volume, request.volume.uuid)?;
    Ok(Json(host.attach_volume(vm, &request).await?))
}
async fn detach_volume(
    State(host): State<Host>,
    Path((vm, volume)): Path<(Uuid, Uuid)>,
    Query(query): Query<EpochQuery>,
) -> Answer<()> {
    Ok(Json(host.detach_volume(vm, query.epoch, volume).await?))
}
async fn move_volume(
    State(host): State<Host>,
    Path((vm, volume)): Path<(Uuid, Uuid)>,
    Json(request): Json<MoveVolume>,
) -> Answer<VolumeMoveReport> {
    same("volume", volume, request.volume)?;
    Ok(Json(host.move_volume(vm, &request).await?))
}
async fn cancel_volume_move(
    State(host): State<Host>,
    Path((vm, volume)): Path<(Uuid, Uuid)>,
    Json(request): Json<MoveVolume>,
) -> Answer<VolumeMoveReport> {
    same("volume", volume, request.volume)?;
    Ok(Json(host.cancel_volume_move(vm, &request).await?))
}
async fn fill_volume(
    State(host): State<Host>,
    Path(ids): Path<(Uuid, Uuid)>,
    Json(request): Json<FillVolume>,
) -> Answer<()> {
    same_volume(ids, &request.volume)?;
    Ok(Json(host.fill_volume(&request).await?))
}
async fn move_disk(
    State(host): State<Host>,
    Path(vm): Path<Uuid>,
    Json(request): Json<MoveDisk>,
) -> Answer<VolumeMoveReport> {
    Ok(Json(host.move_disk(vm, &request).await?))
}
async fn cancel_disk_move(
    State(host): State<Host>,
    Path(vm): Path<Uuid>,
    Json(request): Json<MoveDisk>,
) -> Answer<VolumeMoveReport> {
    Ok(Json(host.cancel_disk_move(vm, &request).await?))
}
async fn clear_left_disk(State(host): State<Host>, Path(vm): Path<Uuid>, Json(request): Json<LeftDisk>) -> Answer<()> {
    Ok(Json(host.clear_left_disk(vm, &request).await?))
}
async fn copy_volume(
    State(host): State<Host>,
    Path(ids): Path<(Uuid, Uuid)>,
    Json(request): Json<CopyVolume>,
) -> Answer<()> {
    same_volume(ids, &request.from)?;
    Ok(Json(host.copy_volume(&request).await?))
}
