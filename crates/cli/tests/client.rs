//! The client against a real TLS server that answers as a controller might, good days and bad.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use gantry_api::rest::{ListQuery, Page};
use gantry_cli::{Condition, client::Client, wait_for};
use gantry_trust::{
    CertificateAuthority, ClientAuth, LEAF_LIFETIME, LeafNames, LiveIdentity, PeerIdentity, Role, Server, ServerLimits,
};
use gantry_types::{ErrorClass, Network, Problem, Resource, Timestamp, Vm, VmPhase};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const TOKEN: &str = "gat1.admin.secret";
/// Bounds every wait; nothing waits this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(30);

struct Controller {
    address: SocketAddr,
    ca: String,
    requests: Arc<AtomicU64>,
    shutdown: CancellationToken,
}

impl Controller {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let now = Timestamp::from(std::time::SystemTime::now()).0;
        let authority = CertificateAuthority::create(&directory.path().join("ca"), now).unwrap();
        let peer = PeerIdentity::new(Role::Controller, "main".parse().unwrap());
        let names = LeafNames::new(peer, &[Ipv4Addr::LOCALHOST.into()]);
        let identity = authority.issue_identity(&names, LEAF_LIFETIME, now).unwrap();
        let clients = ClientAuth::Optional(vec![Role::Host]);
        let server = Server::new(&LiveIdentity::new(identity).unwrap(), clients, ServerLimits::default()).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, shutdown) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        let router = Router::new()
            .route("/v1/vms/{name}", get(one_vm))
            .route("/v1/vms", get(watch_vms))
            .route("/v1/networks", get(pages_of_networks))
            .with_state(Arc::clone(&requests));
        tokio::spawn(server.serve(listener, router, shutdown.clone()));
        Self { address, ca: authority.certificate_pem().to_owned(), requests, shutdown }
    }

    fn client(&self, token: &str) -> Client {
        Client::new(&format!("https://{}/", self.address), &self.ca, token).unwrap()
    }
    fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn refused(problem: Problem) -> Response {
    (StatusCode::from_u16(problem.status).unwrap(), Json(problem)).into_response()
}

fn vm(name: &str, phase: VmPhase) -> Vm {
    let mut vm: Vm = serde_json::from_value(json!({
        "metadata": {"name": name, "revision": 5}, "spec": {"cpus": 1, "memory": "64MiB", "disk": "1GiB"},
    }))
    .unwrap();
    vm.status.phase = phase;
    vm
}

async fn one_vm(State(requests): State<Arc<AtomicU64>>, headers: HeaderMap, Path(name): Path<String>) -> Response {
    let count = requests.fetch_add(1, Ordering::SeqCst) + 1;
    if headers.get("authorization").is_none_or(|token| token != &format!("Bearer {TOKEN}")) {
        return refused(Problem::unauthenticated("this token is not known"));
    }
    match name.as_str() {
        "web" => Json(vm("web", VmPhase::Running)).into_response(),
        "busy" => refused(Problem::conflict("vm-busy", "VM 'busy' is busy").remedy("wait").field("spec.cpus", "is")),
        // A proxy in between, which knows nothing of problems.
        "proxied" => (StatusCode::BAD_GATEWAY, "<h1>bad gateway\u{1b}[31m</h1>").into_response(),
        "garbled" => "{\"metadata\":".into_response(),
        "broken" => {
            let mut vm = vm("broken", VmPhase::Failed);
            vm.status.reason = Some("QEMU died".into());
            Json(vm).into_response()
        }
        "never" => Json(vm("never", VmPhase::Starting)).into_response(),
        // The controller is away for two requests, then it takes two more looks.
        "slow" if (2..=3).contains(&count) => refused(Problem::transient("starting", "the controller starts")),
        "slow" if count < 6 => Json(vm("slow", VmPhase::Starting)).into_response(),
        "slow" => Json(vm("slow", VmPhase::Running)).into_response(),
        _ => refused(Problem::not_found("vm", &name)),
    }
}

/// Every watch breaks after one event.
async fn watch_vms() -> Response {
    let event = json!({"change": "modified", "revision": 6, "object": vm("slow", VmPhase::Starting)});
    Body::from(format!("event: modified\nid: 6\ndata: {event}\n\n")).into_response()
}

/// Five networks, two a page.
async fn pages_of_networks(Query(query): Query<ListQuery>) -> Response {
    let start: usize = query.next.as_deref().map_or(0, |next| next.parse().unwrap());
    let items: Vec<Network> = (start..5.min(start + 2))
        .map(|number| {
            let spec = json!({"subnet": {"cidr": "10.9.0.0/24"}});
            serde_json::from_value(json!({"metadata": {"name": format!("n{number}")}, "spec": spec})).unwrap()
        })
        .collect();
    let next = (start + 2 < 5).then(|| (start + 2).to_string());
    Json(Page { items, revision: 9, next, total: None }).into_response()
}

#[tokio::test]
async fn answers_become_objects_and_problems() {
    let controller = Controller::start().await;
    let client = controller.client(TOKEN);
    assert_eq!(client.get::<Vm>("web").await.unwrap().name(), "web");

    let missing = client.get::<Vm>("nope").await.unwrap_err();
    assert_eq!((missing.class, missing.code()), (ErrorClass::NotFound, "not-found"));
    let busy = client.get::<Vm>("busy").await.unwrap_err();
    assert_eq!((busy.class, busy.code(), busy.remedy.as_deref()), (ErrorClass::Conflict, "vm-busy", Some("wait")));
    assert_eq!(busy.fields[0].field, "spec.cpus");
    let proxied = client.get::<Vm>("proxied").await.unwrap_err();
    assert!(proxied.is_transient() && !proxied.detail.contains('\u{1b}'), "{proxied}");
    assert_eq!(client.get::<Vm>("garbled").await.unwrap_err().class, ErrorClass::Permanent);
    let stranger = controller.client("gat1.admin.guess").get::<Vm>("web").await.unwrap_err();
    assert_eq!(stranger.class, ErrorClass::Unauthenticated);
}

#[tokio::test]
async fn a_name_never_leaves_its_place_in_the_url() {
    let controller = Controller::start().await;
    let client = controller.client(TOKEN);
    for name in ["", "..", "../hosts/x", "a/b", "a?b", "a%2fb", "a#b", "a b", "ä", "a\u{1b}"] {
        let problem = client.get::<Vm>(name).await.unwrap_err();
        assert!(problem.class == ErrorClass::Invalid && !problem.detail.contains('\u{1b}'), "{name}: {problem}");
    }
    assert_eq!(controller.requests(), 0);
}

#[tokio::test]
async fn a_list_has_all_pages() {
    let controller = Controller::start().await;
    let networks: Vec<Network> = controller.client(TOKEN).list(None).await.unwrap();
    assert_eq!(networks.iter().map(Resource::name).collect::<Vec<_>>(), ["n0", "n1", "n2", "n3", "n4"]);
}

#[tokio::test]
async fn a_controller_that_is_away_is_transient_and_a_false_one_gets_nothing() {
    let controller = Controller::start().await;
    let other = Controller::start().await;
    let fooled = Client::new(&format!("https://{}", other.address), &controller.ca, TOKEN).unwrap();
    let problem = fooled.get::<Vm>("web").await.unwrap_err();
    assert!(problem.detail.contains("certificate"), "{problem}");
    assert_eq!(other.requests(), 0, "the token was not shown to it");

    // A port that was free a moment ago and is taken by nobody.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let away = Client::new(&format!("https://{address}"), &controller.ca, TOKEN).unwrap();
    assert!(away.get::<Vm>("web").await.unwrap_err().is_transient());
}

#[tokio::test]
async fn waiting_survives_broken_watches_and_an_absent_controller() {
    let controller = Controller::start().await;
    let client = controller.client(TOKEN);
    wait_for::<Vm>(&client, "slow", &Condition::Running, PATIENCE).await.unwrap();
    assert!(controller.requests() >= 6);
}

#[tokio::test]
async fn waiting_ends_when_it_is_hopeless_gone_or_over() {
    let controller = Controller::start().await;
    let client = controller.client(TOKEN);
    let broken = wait_for::<Vm>(&client, "broken", &Condition::Ready, PATIENCE).await.unwrap_err();
    assert!(broken.class == ErrorClass::Permanent && broken.detail.contains("QEMU died"), "{broken}");
    let gone = wait_for::<Vm>(&client, "nope", &Condition::Running, PATIENCE).await.unwrap_err();
    assert_eq!(gone.class, ErrorClass::NotFound);
    wait_for::<Vm>(&client, "nope", &Condition::Deleted, PATIENCE).await.unwrap();
    let over = wait_for::<Vm>(&client, "never", &Condition::Running, Duration::from_millis(300)).await.unwrap_err();
    assert_eq!((over.class, over.code()), (ErrorClass::Transient, "timeout"));
}
