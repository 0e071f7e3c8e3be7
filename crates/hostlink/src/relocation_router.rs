//! The routes of an agent that are about stopped VMs on their way.

use std::io;
use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Path, Query, State},
    routing::{get, post, put},
};
use futures::{StreamExt, TryStreamExt};
use gantry_api::{
    paths::host as paths,
    relocation::{DiskArrival, DiskCopied, ExpectDisk, SendDisk},
};
use gantry_trust::{PeerIdentity, Role};
use gantry_types::Problem;
use serde::Deserialize;
use uuid::Uuid;

use crate::{
    reply::Refusal,
    router::{Answer, Host, Streams, same_vm},
};

pub(crate) fn routes() -> Router<Host> {
    Router::new()
        .route(paths::DISK_EXPECTATION, put(expect))
        .route(paths::DISK_SENDING, post(send))
        .route(paths::DISK_COPY, get(copied))
}

pub(crate) fn content_route() -> Router<Arc<dyn Streams>> {
    Router::new().route(paths::DISK_CONTENT, put(content))
}

async fn expect(
    State(host): State<Host>,
    Path(vm): Path<Uuid>,
    Json(request): Json<ExpectDisk>,
) -> Answer<DiskArrival> {
    same_vm(vm, request.assignment.uuid)?;
    Ok(Json(host.expect_disk(vm, &request).await?))
}

async fn send(State(host): State<Host>, Path(vm): Path<Uuid>, Json(request): Json<SendDisk>) -> Answer<()> {
    Ok(Json(host.send_disk(vm, &request).await?))
}

async fn copied(State(host): State<Host>, Path((vm, clone)): Path<(Uuid, Uuid)>) -> Answer<Option<DiskCopied>> {
    Ok(Json(host.disk_copied(vm, clone).await?))
}

#[derive(Deserialize)]
struct ContentQuery {
    bytes: u64,
}

/// From the host that sends; who that has to be is known to whoever expects it.
async fn content(
    State(streams): State<Arc<dyn Streams>>,
    Path(vm): Path<Uuid>,
    Query(query): Query<ContentQuery>,
    Extension(peer): Extension<Option<PeerIdentity>>,
    body: Body,
) -> Answer<()> {
    let Some(host) = peer.filter(|peer| peer.role() == Role::Host) else {
        return Err(Refusal(Problem::denied("not-your-call", "only a host sends disks")));
    };
    let content = body.into_data_stream().map_err(io::Error::other).boxed();
    Ok(Json(streams.take_disk(vm, host.name(), query.bytes, content).await?))
}
