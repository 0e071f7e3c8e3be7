//! The HTTP side of a host's agent.
//!
//! Who may call: a controller everything; another host only what a move from it to this one needs, and only for that
//! move; nobody else anything. The peer's certificate decides, so the router must be served by a [`gantry_trust::Server`] that requires
//! one.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{
    Extension, Json, Router,
    body::{Body, Bytes},
    extract::{
        DefaultBodyLimit, Path, Query, Request, State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    http::Method,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use futures::{StreamExt, stream::BoxStream};
use gantry_api::{
    AgentApi,
    access::ConsoleKind,
    agent::{
        AdoptVm, Assignment, ImageRef, MigrationReport, PowerRequest, ProtectVm, ReceiveMigration, RevertVm,
        SendMigration, TakeSnapshot,
    },
    paths::host as paths,
    rest::CaptureQuery,
    storage::ExportVolume,
};
use gantry_trust::{PeerIdentity, Role};
use gantry_types::{ErrorClass, Flow, HostNetworks, HostResources, Name, Problem, ResourcesReport};
use serde::Deserialize;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{backup_router, fencing, mirror_router, relocation_router, reply::Refusal, storage_router};

/// A VM's serial line or screen: what the guest prints or shows, and what is typed. Either end may close at any time.
pub struct Console {
    pub output: mpsc::Receiver<Bytes>,
    pub input: mpsc::Sender<Bytes>,
}

/// What comes in parts.
pub type Content = BoxStream<'static, std::io::Result<Bytes>>;

/// A volume as a file, and how large that is.
pub struct Exported {
    pub bytes: u64,
    pub content: Content,
}

/// What flows: consoles, captures of what passes a port, disks that arrive, volumes as files. Apart from [`AgentApi`], because these are no
/// calls.
#[async_trait::async_trait]
pub trait Streams: Send + Sync {
    async fn open(&self, vm: Uuid, kind: ConsoleKind) -> Result<Console, Problem>;
    /// The parts of a pcap file; it ends by its limits, or when the receiver is dropped.
    async fn capture(&self, port: Uuid, limits: CaptureQuery) -> Result<mpsc::Receiver<Vec<u8>>, Problem>;
    /// The disk of a VM that is expected from this host; it takes so many bytes there.
    async fn take_disk(&self, vm: Uuid, from: &Name, bytes: u64, content: Content) -> Result<(), Problem>;
    /// A volume that no running VM has.
    async fn export(&self, request: ExportVolume) -> Result<Exported, Problem>;
}

/// The connections of a VM that has very many.
const FLOWS_LIMIT_BYTES: usize = 32 << 20;

pub(crate) type Host = Arc<dyn AgentApi>;
pub(crate) type Answer<T> = Result<Json<T>, Refusal>;

/// All routes of an agent.
///
/// `lifted`: all fences of this host up to this one were lifted. A controller's command from before is refused: it may have
/// been under way since the host was shut out, and what it is about may be elsewhere by now.
pub fn router(host: Host, streams: Arc<dyn Streams>, lifted: Arc<AtomicU64>) -> Router {
    Router::new()
        .route(paths::OBSERVE, get(async |State(host): State<Host>| Answer::Ok(Json(host.observe().await?))))
        .route(paths::IMAGE, put(ensure_image).delete(remove_image))
        .route(paths::NETWORKS, put(apply_networks))
        .route(paths::RESOURCES, put(apply_resources))
        .route(paths::VM, put(define_vm).delete(remove_vm))
        .route(paths::VM_ADOPTION, post(adopt_vm))
        .route(paths::VM_POWER, post(power))
        .route(paths::VM_PROTECTION, put(protect))
        .route(paths::VM_LIVENESS, get(liveness))
        .route(paths::VM_REVERT, post(revert))
        .route(paths::SNAPSHOT, put(take_snapshot).delete(delete_snapshot))
        .route(paths::RECEIVE, post(receive))
        .route(paths::SEND, post(send))
        .route(paths::MIGRATION, get(report))
        .route(paths::MIGRATION_VERB, post(migration_verb).layer(DefaultBodyLimit::max(FLOWS_LIMIT_BYTES)))
        .merge(storage_router::routes())
        .merge(mirror_router::routes())
        .merge(backup_router::routes())
        .merge(fencing::routes())
        .merge(relocation_router::routes())
        .with_state(host)
        .merge(
            Router::new()
                .route(paths::VM_CONSOLE, get(serial))
                .route(paths::VM_VNC, get(screen))
                .route(paths::PORT_CAPTURE, get(capture))
                .merge(relocation_router::content_route())
                .merge(storage_router::content_route())
                .with_state(streams),
        )
        .layer(middleware::from_fn_with_state(lifted, refuse_old))
        .layer(middleware::from_fn(authorize))
}

/// Refuses whoever is neither a controller nor a host asking for what hosts may ask.
async fn authorize(request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Option<PeerIdentity>>().cloned().flatten();
    let allowed = match peer.as_ref().map(PeerIdentity::role) {
        Some(Role::Controller) => true,
        Some(Role::Host) => host_may(request.method(), request.uri().path()),
        Some(Role::Qemu) | None => false,
    };
    if allowed {
        return next.run(request).await;
    }
    let who = peer.map_or_else(|| "a caller without a certificate".to_owned(), |peer| peer.to_string());
    let what = format!("{who} may not {} {} on an agent", request.method(), request.uri().path());
    Refusal(Problem::denied("not-your-call", what)).into_response()
}

/// Refuses a command that a controller sent before a fence that was lifted since.
async fn refuse_old(State(lifted): State<Arc<AtomicU64>>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Option<PeerIdentity>>().and_then(Option::as_ref);
    let lifted = lifted.load(Ordering::Acquire);
    let known = request.headers().get(paths::FENCES_LIFTED_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
    let commands = request.method() != Method::GET && peer.is_some_and(|peer| peer.role() == Role::Controller);
    if commands && known.unwrap_or(0) < lifted {
        return Refusal(crate::fencing::stale(known.unwrap_or(0), lifted)).into_response();
    }
    next.run(request).await
}

fn host_may(method: &Method, path: &str) -> bool {
    let parts: Vec<_> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["v1", "fences", "question"] => method == Method::POST,
        ["v1", "vms", _, "disk", "content"] => method == Method::PUT,
        ["v1", "vms", _, "migrations", _] => method == Method::GET,
        ["v1", "vms", _, "migrations", _, verb] => {
            method == Method::POST && matches!(*verb, "flows" | "commit" | "abort")
        }
        _ => false,
    }
}

fn is_host(peer: Option<&PeerIdentity>) -> bool {
    peer.is_some_and(|peer| peer.role() == Role::Host)
}

/// Refuses a host that asks about another's migration.
fn only_its_source(peer: Option<&PeerIdentity>, report: &MigrationReport) -> Result<(), Refusal> {
    let (Some(peer), Some(source)) = (peer.filter(|peer| peer.role() == Role::Host), &report.source) else {
        return Ok(());
    };
    if peer.name() == source {
        return Ok(());
    }
    let detail = format!("{peer} is not the source of migration {}", report.migration);
    Err(Problem::denied("not-your-migration", detail).into())
}

async fn ensure_image(State(host): State<Host>, Path(digest): Path<String>, Json(image): Json<ImageRef>) -> Answer<()> {
    if image.digest != digest {
        let detail = format!("the path names image {digest}, the body {}", image.digest);
        return Err(Problem::invalid("digest-mismatch", detail).into());
    }
    Ok(Json(host.ensure_image(&image).await?))
}
async fn remove_image(State(host): State<Host>, Path(digest): Path<String>) -> Answer<()> {
    Ok(Json(host.remove_image(&digest).await?))
}
async fn apply_networks(State(host): State<Host>, Json(networks): Json<HostNetworks>) -> Answer<()> {
    Ok(Json(host.apply_networks(&networks).await?))
}
async fn apply_resources(State(host): State<Host>, Json(resources): Json<HostResources>) -> Answer<ResourcesReport> {
    Ok(Json(host.apply_resources(&resources).await?))
}

async fn define_vm(
    State(host): State<Host>,
    Path(vm): Path<Uuid>,
    Json(assignment): Json<Assignment>,
) -> Result<Response, Refusal> {
    same_vm(vm, assignment.uuid)?;
    Ok(Json(host.define_vm(&assignment).await?).into_response())
}

async fn adopt_vm(
    State(host): State<Host>,
    Path(vm): Path<Uuid>,
    Json(request): Json<AdoptVm>,
) -> Result<Response, Refusal> {
    same_vm(vm, request.assignment.uuid)?;
    Ok(Json(host.adopt_vm(vm, &request).await?).into_response())
}

#[derive(Deserialize)]
pub(crate) struct EpochQuery {
    pub(crate) epoch: u64,
}
async fn remove_vm(State(host): State<Host>, Path(vm): Path<Uuid>, Query(query): Query<EpochQuery>) -> Answer<()> {
    Ok(Json(host.remove_vm(vm, query.epoch).await?))
}
async fn power(
    State(host): State<Host>,
    Path(vm): Path<Uuid>,
    Json(request): Json<PowerRequest>,
) -> Result<Response, Refusal> {
    Ok(Json(host.power(vm, &request).await?).into_response())
}

async fn protect(State(host): State<Host>, Path(vm): Path<Uuid>, Json(request): Json<ProtectVm>) -> Answer<()> {
    Ok(Json(host.protect_vm(vm, &request).await?))
}
async fn take_snapshot(
    State(host): State<Host>,
    Path((vm, snapshot)): Path<(Uuid, Uuid)>,
    Json(request): Json<TakeSnapshot>,
) -> Result<Response, Refusal> {
    if request.snapshot != snapshot {
        let detail = format!("the path names snapshot {snapshot}, the body {}", request.snapshot);
        return Err(Problem::invalid("snapshot-mismatch", detail).into());
    }
    Ok(Json(host.take_snapshot(vm, &request).await?).into_response())
}
async fn delete_snapshot(
    State(host): State<Host>,
    Path((vm, snapshot)): Path<(Uuid, Uuid)>,
    Query(query): Query<EpochQuery>,
) -> Answer<()> {
    Ok(Json(host.delete_snapshot(vm, query.epoch, snapshot).await?))
}
async fn revert(
    State(host): State<Host>,
    Path(vm): Path<Uuid>,
    Json(request): Json<RevertVm>,
) -> Result<Response, Refusal> {
    Ok(Json(host.revert_vm(vm, &request).await?).into_response())
}

#[derive(Deserialize)]
struct LivenessQuery {
    expect_guest_agent: bool,
}
async fn liveness(
    State(host): State<Host>,
    Path(vm): Path<Uuid>,
    Query(query): Query<LivenessQuery>,
) -> Result<Response, Refusal> {
    Ok(Json(host.check_liveness(vm, query.expect_guest_agent).await?).into_response())
}

async fn receive(
    State(host): State<Host>,
    Path(vm): Path<Uuid>,
    Json(request): Json<ReceiveMigration>,
) -> Result<Response, Refusal> {
    same_vm(vm, request.assignment.uuid)?;
    Ok(Json(host.receive_migration(vm, &request).await?).into_response())
}
async fn send(State(host): State<Host>, Path(vm): Path<Uuid>, Json(request): Json<SendMigration>) -> Answer<()> {
    Ok(Json(host.send_migration(vm, &request).await?))
}
async fn report(
    State(host): State<Host>,
    Path((vm, migration)): Path<(Uuid, Uuid)>,
    Extension(peer): Extension<Option<PeerIdentity>>,
) -> Result<Response, Refusal> {
    let report = host.migration_report(vm, migration).await?;
    only_its_source(peer.as_ref(), &report)?;
    Ok(Json(report).into_response())
}
async fn migration_verb(
    State(host): State<Host>,
    Path((vm, migration, verb)): Path<(Uuid, Uuid, String)>,
    Extension(peer): Extension<Option<PeerIdentity>>,
    body: Bytes,
) -> Result<Response, Refusal> {
    if is_host(peer.as_ref()) {
        match host.migration_report(vm, migration).await {
            Ok(report) => only_its_source(peer.as_ref(), &report)?,
            // One that nobody knows here can only be given up, and its source must hear that it is.
            Err(problem) if problem.class == ErrorClass::NotFound => {}
            Err(problem) => return Err(problem.into()),
        }
    }
    Ok(match verb.as_str() {
        "flows" => {
            let flows: Vec<Flow> = serde_json::from_slice(&body).map_err(|error| {
                Problem::invalid("invalid-flows", format!("the connections of VM {vm} are not readable: {error}"))
            })?;
            Json(host.adopt_flows(vm, migration, &flows).await?).into_response()
        }
        "commit" => Json(host.commit_migration(vm, migration).await?).into_response(),
        "abort" => Json(host.abort_migration(vm, migration).await?).into_response(),
        "cancel" => Json(host.cancel_migration(vm, migration).await?).into_response(),
        "release" => Json(host.release_migration(vm, migration).await?).into_response(),
        _ => return Err(Problem::not_found("migration verb", &verb).into()),
    })
}

pub(crate) fn same_vm(path: Uuid, body: Uuid) -> Result<(), Refusal> {
    if path == body {
        return Ok(());
    }
    Err(Problem::invalid("vm-mismatch", format!("the path names VM {path}, the body {body}")).into())
}

type Peer = Extension<Option<PeerIdentity>>;

async fn serial(
    State(streams): State<Arc<dyn Streams>>,
    Path(vm): Path<Uuid>,
    upgrade: WebSocketUpgrade,
    peer: Peer,
) -> Result<Response, Refusal> {
    console(streams, vm, ConsoleKind::Serial, upgrade, peer).await
}
async fn screen(
    State(streams): State<Arc<dyn Streams>>,
    Path(vm): Path<Uuid>,
    upgrade: WebSocketUpgrade,
    peer: Peer,
) -> Result<Response, Refusal> {
    console(streams, vm, ConsoleKind::Vnc, upgrade, peer).await
}
async fn console(
    streams: Arc<dyn Streams>,
    vm: Uuid,
    kind: ConsoleKind,
    upgrade: WebSocketUpgrade,
    Extension(peer): Peer,
) -> Result<Response, Refusal> {
    let console = streams.open(vm, kind).await?;
    tracing::info!(%vm, peer = peer.map(|p| p.to_string()), "{} opened", kind.noun());
    Ok(upgrade.on_upgrade(move |socket| relay(socket, console)))
}

async fn capture(
    State(streams): State<Arc<dyn Streams>>,
    Path(port): Path<Uuid>,
    Query(limits): Query<CaptureQuery>,
    Extension(peer): Extension<Option<PeerIdentity>>,
) -> Result<Response, Refusal> {
    let mut records = streams.capture(port, limits).await?;
    tracing::info!(%port, peer = peer.map(|p| p.to_string()), "capture begins");
    let parts = futures::stream::poll_fn(move |context| records.poll_recv(context));
    Ok(Body::from_stream(parts.map(Ok::<_, std::convert::Infallible>)).into_response())
}

/// Copies both ways until either side is done.
async fn relay(mut socket: WebSocket, mut console: Console) {
    loop {
        tokio::select! {
            printed = console.output.recv() => match printed {
                Some(bytes) => if socket.send(Message::Binary(bytes)).await.is_err() { return },
                None => {
                    // The guest's end is gone; the peer notices by the close or by the lost connection.
                    drop(socket.send(Message::Close(None)).await);
                    return;
                }
            },
            typed = socket.recv() => match typed {
                Some(Ok(Message::Binary(bytes))) => if console.input.send(bytes).await.is_err() { return },
                Some(Ok(Message::Text(text))) => {
                    if console.input.send(Bytes::from(text)).await.is_err() { return }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_only_send_disks_and_settle_migrations() {
        let vm = Uuid::from_u128(1);
        let settle = paths::migration(vm, Uuid::from_u128(2));
        assert!(host_may(&Method::GET, &settle));
        assert!(host_may(&Method::POST, &format!("{settle}/commit")));
        assert!(host_may(&Method::POST, &format!("{settle}/abort")));
        assert!(host_may(&Method::PUT, &paths::vm_part(vm, "disk/content")));
        assert!(!host_may(&Method::PUT, &paths::vm_part(vm, "disk/expectation")));
        assert!(!host_may(&Method::POST, &paths::vm_part(vm, "disk/sending")));
        assert!(!host_may(&Method::GET, &paths::vm_part(vm, &format!("disk/copies/{vm}"))));
        assert!(!host_may(&Method::POST, &format!("{settle}/release")));
        assert!(!host_may(&Method::POST, &format!("{settle}/cancel")));
        assert!(!host_may(&Method::DELETE, &paths::vm(vm)));
        assert!(!host_may(&Method::POST, &paths::vm_part(vm, "power")));
        assert!(!host_may(&Method::GET, &paths::vm_part(vm, "console")));
        assert!(!host_may(&Method::GET, &paths::vm_part(vm, "vnc")));
        assert!(!host_may(&Method::GET, &paths::port_capture(vm)));
        assert!(!host_may(&Method::PUT, paths::NETWORKS));
        assert!(!host_may(&Method::PUT, paths::RESOURCES));
        assert!(!host_may(&Method::PUT, &paths::snapshot(vm, Uuid::from_u128(3))));
        assert!(!host_may(&Method::POST, &paths::vm_part(vm, "revert")));
        assert!(!host_may(&Method::PUT, &paths::vm_volume(vm, Uuid::from_u128(4))));
        assert!(!host_may(&Method::PUT, &paths::pool(vm)));
        assert!(host_may(&Method::POST, paths::FENCE_QUESTION));
        assert!(
            !host_may(&Method::PUT, &paths::fence("host-1")) && !host_may(&Method::DELETE, &paths::fence("host-1"))
        );
    }
}
