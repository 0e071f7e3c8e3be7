//! Client and router over real mutual TLS, with a host in memory behind them.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::body::Bytes;
use futures::{SinkExt, StreamExt, TryStreamExt};
use gantry_api::{
    AgentApi,
    access::ConsoleKind,
    agent::{Assignment, ImageRef, PowerAction, PowerRequest, ReceiveMigration, Verdict, VmRunState},
    storage::ExportVolume,
};
use gantry_hostlink::{
    AgentClient, Console, Content, Exported, Streams, conformance,
    fake::{FakeWorld, Fault, When},
    router,
};
use gantry_trust::{
    CertificateAuthority, ClientAuth, ClientConfig, ExpectedPeer, LEAF_LIFETIME, LeafNames, LiveIdentity, PeerIdentity,
    Role, Server, ServerLimits,
};
use gantry_types::{ErrorClass, HostNetworks, Name, Problem, Timestamp};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(30);

/// One host, `host-1`, and a CA that makes callers of all roles.
struct Link {
    world: Arc<FakeWorld>,
    authority: CertificateAuthority,
    address: String,
    _server: AbortOnDropHandle<()>,
    _directory: tempfile::TempDir,
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

impl Link {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = CertificateAuthority::create(&directory.path().join("ca"), now().0).expect("a CA");
        let world = FakeWorld::new();
        let identity = identity(&authority, Role::Host, "host-1");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let auth = ClientAuth::Required(vec![Role::Controller, Role::Host]);
        let server = Server::new(&identity, auth, ServerLimits::default()).expect("a server");
        let routes = router(Arc::new(world.host(&name("host-1"))), Arc::new(Echo), Arc::default());
        let server = AbortOnDropHandle::new(tokio::spawn(server.serve(listener, routes, CancellationToken::new())));
        Self { world, authority, address, _server: server, _directory: directory }
    }

    fn client(&self, role: Role, who: &str) -> AgentClient {
        AgentClient::new(&identity(&self.authority, role, who), &name("host-1"), &self.address).expect("a client")
    }

    fn controller(&self) -> AgentClient {
        self.client(Role::Controller, "controller")
    }
}

fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}

fn identity(authority: &CertificateAuthority, role: Role, who: &str) -> LiveIdentity {
    let names = LeafNames::new(PeerIdentity::new(role, name(who)), &[]);
    LiveIdentity::new(authority.issue_identity(&names, LEAF_LIFETIME, now().0).expect("issued")).expect("fit")
}

/// Says back what is typed; a VM that is `Uuid::nil()` has no console.
struct Echo;

#[async_trait]
impl Streams for Echo {
    async fn open(&self, vm: Uuid, _kind: ConsoleKind) -> Result<Console, Problem> {
        if vm.is_nil() {
            return Err(Problem::conflict("vm-not-running", "VM 'web' does not run").remedy("gantry vm start web"));
        }
        let (printed, output) = mpsc::channel::<Bytes>(8);
        let (input, mut typed) = mpsc::channel::<Bytes>(8);
        tokio::spawn(async move {
            while let Some(bytes) = typed.recv().await {
                if bytes.as_ref() == b"exit" || printed.send(bytes).await.is_err() {
                    return;
                }
            }
        });
        Ok(Console { output, input })
    }

    async fn capture(
        &self,
        port: Uuid,
        _limits: gantry_api::rest::CaptureQuery,
    ) -> Result<tokio::sync::mpsc::Receiver<Vec<u8>>, Problem> {
        let (records, receiver) = tokio::sync::mpsc::channel(1);
        records.send(port.to_string().into_bytes()).await.expect("a receiver");
        Ok(receiver)
    }

    /// Of a disk that is full of zeros.
    async fn take_disk(&self, vm: Uuid, from: &Name, bytes: u64, content: Content) -> Result<(), Problem> {
        let came: Vec<Bytes> = content.try_collect().await.map_err(|error| {
            Problem::transient("disk-not-received", format!("the disk of VM {vm} from '{from}' broke off: {error}"))
        })?;
        let zeros: u64 = came.iter().flatten().map(|byte| u64::from(*byte == 0)).sum();
        if zeros == bytes { Ok(()) } else { Err(Problem::conflict("other-content", format!("{zeros} of {bytes}"))) }
    }

    /// As many bytes as its slot says.
    async fn export(&self, request: ExportVolume) -> Result<Exported, Problem> {
        let bytes = u64::from(request.volume.slot);
        let content = Bytes::from(vec![7; bytes as usize]);
        Ok(Exported { bytes, content: futures::stream::iter([Ok(content)]).boxed() })
    }
}

fn template() -> Assignment {
    serde_json::from_value(serde_json::json!({
        "uuid": Uuid::new_v4(), "name": "web", "epoch": 3, "arch": "x86_64", "cpus": 1, "memory": "64MiB",
        "firmware": "bios", "disk": {"size": "1MiB"}, "nics": [], "power": "running"
    }))
    .expect("an assignment")
}

#[tokio::test]
async fn a_host_behind_http_conforms() {
    let link = Link::new().await;
    let pool = serde_json::from_value(serde_json::json!({
        "uuid": Uuid::new_v4(), "name": "fast", "type": "dir", "path": "/srv/fast"
    }));
    assert_eq!(conformance::run(&link.controller(), &template(), &pool.expect("a pool"), "/srv/backup").await, Ok(()));
    assert!(link.world.vms_on(&name("host-1")).is_empty());
}

#[tokio::test]
async fn every_call_arrives_as_it_was_made() {
    let link = Link::new().await;
    let client = link.controller();
    let vm = template();
    let image = ImageRef { digest: "ab".repeat(32), file_size: 1, virtual_size: 2 };
    client.ensure_image(&image).await.expect("fetched");
    assert!(link.world.images_on(&name("host-1")).contains(&image.digest));
    client.remove_image(&image.digest).await.expect("removed");
    assert!(link.world.images_on(&name("host-1")).is_empty());
    let networks = HostNetworks { generation: 7, ..HostNetworks::default() };
    client.apply_networks(&networks).await.expect("applied");
    assert_eq!(link.world.networks_on(&name("host-1")), networks);

    let defined = client.define_vm(&vm).await.expect("defined");
    assert_eq!(client.observe().await.expect("observed"), [defined]);
    let start = PowerRequest { epoch: vm.epoch, command: 0, action: PowerAction::Start };
    assert_eq!(client.power(vm.uuid, &start).await.expect("started").state, VmRunState::Running);
    assert!(client.check_liveness(vm.uuid, true).await.expect("looked").alive);
    client.remove_vm(vm.uuid, vm.epoch).await.expect("removed");
    let made: Vec<_> = link.world.calls().into_iter().map(|call| call.name).collect();
    for call in ["ensure_image", "remove_image", "apply_networks", "define_vm", "observe", "power", "remove_vm"] {
        assert!(made.contains(&call), "{call} is not among {made:?}");
    }
}

#[tokio::test]
async fn problems_survive_the_trip() {
    let link = Link::new().await;
    let client = link.controller();
    let vm = template();
    let object = serde_json::from_value(serde_json::json!({"kind": "vm", "name": "web"})).expect("a reference");
    for problem in [
        Problem::conflict("vm-busy", "it is busy").remedy("wait"),
        Problem::transient("disk-slow", "the disk is slow"),
        Problem::permanent("disk-broken", "the disk \"sda\" is broken\n(twice)").remedy("replace it"),
        Problem::invalid("invalid-vm", "no").field("spec.cpus", "is 0").field("spec.memory", "is 0"),
        Problem::denied("denied", "no").object(object),
        Problem::not_found("vm", "web"),
    ] {
        link.world.inject(Fault::once("define_vm", When::Before, problem.clone()));
        assert_eq!(client.define_vm(&vm).await.expect_err("refused"), problem);
    }
    // The host's own words, too.
    client.define_vm(&vm).await.expect("defined");
    let stale = client.remove_vm(vm.uuid, vm.epoch - 1).await.expect_err("refused");
    assert_eq!((stale.class, stale.code()), (ErrorClass::Conflict, "stale-epoch"));
}

fn code<T: std::fmt::Debug>(result: Result<T, Problem>) -> (ErrorClass, String) {
    let problem = result.expect_err("must be refused");
    (problem.class, problem.code().to_owned())
}

#[tokio::test]
async fn a_host_may_settle_a_migration_and_nothing_else() {
    let link = Link::new().await;
    let vm = template();
    link.controller().define_vm(&vm).await.expect("defined");
    let host = link.client(Role::Host, "host-2");
    let denied = (ErrorClass::Denied, "not-your-call".to_owned());
    let before = link.world.calls().len();
    let start = PowerRequest { epoch: vm.epoch, command: 0, action: PowerAction::Start };
    assert_eq!(code(host.observe().await), denied);
    assert_eq!(code(host.define_vm(&vm).await), denied);
    assert_eq!(code(host.power(vm.uuid, &start).await), denied);
    assert_eq!(code(host.remove_vm(vm.uuid, 99).await), denied);
    assert_eq!(code(host.apply_networks(&HostNetworks::default()).await), denied);
    assert_eq!(code(host.remove_image("ab").await), denied);
    assert_eq!(code(host.cancel_migration(vm.uuid, Uuid::new_v4()).await), denied);
    assert_eq!(code(host.release_migration(vm.uuid, Uuid::new_v4()).await), denied);
    assert_eq!(code(host.console(vm.uuid, ConsoleKind::Serial).await), denied);
    assert_eq!(link.world.calls().len(), before);
    assert!(host.abort_migration(vm.uuid, Uuid::new_v4()).await.is_ok());
}

#[tokio::test]
async fn a_host_sends_a_disk_in_parts_and_hears_what_became_of_it() {
    let link = Link::new().await;
    let (host, vm) = (link.client(Role::Host, "host-2"), Uuid::new_v4());
    let parts = |parts: Vec<std::io::Result<Bytes>>| reqwest::Body::wrap_stream(futures::stream::iter(parts));
    let zeros = || Ok(Bytes::from(vec![0; 1 << 20]));
    assert_eq!(host.send_disk_content(vm, 3 << 20, parts(vec![zeros(), zeros(), zeros()])).await, Ok(()));
    let short = host.send_disk_content(vm, 3 << 20, parts(vec![zeros()])).await;
    assert_eq!(code(short).1, "other-content");
    let broken = parts(vec![zeros(), Err(std::io::Error::other("the disk can't be read"))]);
    assert_eq!(code(host.send_disk_content(vm, 1 << 20, broken).await).0, ErrorClass::Transient);
    // A controller has no disks.
    let controller = link.controller().send_disk_content(vm, 1 << 20, parts(vec![zeros()])).await;
    assert_eq!(code(controller), (ErrorClass::Denied, "not-your-call".to_owned()));
}

#[tokio::test]
async fn a_volume_is_sent_as_a_file_to_a_controller_and_to_nobody_else() {
    let link = Link::new().await;
    let pool = serde_json::json!({"uuid": Uuid::new_v4(), "name": "fast", "type": "dir", "path": "/srv/fast"});
    let volume = serde_json::json!({
        "uuid": Uuid::new_v4(), "name": "data", "pool": pool, "size": "1MiB", "discard": true, "slot": 5
    });
    let request: ExportVolume =
        serde_json::from_value(serde_json::json!({"volume": volume, "format": "raw"})).expect("a request");
    let sent = link.controller().export(&request).await.expect("sent");
    assert_eq!(sent.content_length(), Some(5), "whoever gets less knows that it broke off");
    assert_eq!(sent.bytes().await.expect("bytes").as_ref(), [7; 5]);
    let refused = link.client(Role::Host, "host-2").export(&request).await;
    assert_eq!(code(refused), (ErrorClass::Denied, "not-your-call".to_owned()));
}

#[tokio::test]
async fn only_the_host_that_sends_may_settle_its_migration() {
    let link = Link::new().await;
    let vm = template();
    let migration = Uuid::new_v4();
    let source = name("host-2");
    let request = ReceiveMigration {
        migration,
        source,
        assignment: vm.clone(),
        paused: false,
        post_copy: false,
        probes: Vec::new(),
        recovery_points: Vec::new(),
    };
    link.controller().receive_migration(vm.uuid, &request).await.expect("received");
    let (sender, stranger) = (link.client(Role::Host, "host-2"), link.client(Role::Host, "host-3"));
    let denied = (ErrorClass::Denied, "not-your-migration".to_owned());
    for _ in 0..2 {
        assert_eq!(code(stranger.migration_report(vm.uuid, migration).await), denied);
        assert_eq!(code(stranger.adopt_flows(vm.uuid, migration, &[]).await), denied);
        assert_eq!(code(stranger.commit_migration(vm.uuid, migration).await), denied);
        assert_eq!(code(stranger.abort_migration(vm.uuid, migration).await), denied);
        // Nor once it is settled.
        assert_eq!(sender.commit_migration(vm.uuid, migration).await, Ok(Verdict::Committed));
    }
    assert_eq!(link.controller().abort_migration(vm.uuid, migration).await, Ok(Verdict::Committed));
    assert!(sender.migration_report(vm.uuid, migration).await.is_ok());
}

#[tokio::test]
async fn whoever_is_neither_controller_nor_host_does_not_even_connect() {
    let link = Link::new().await;
    // QEMU's own certificate, a stranger's CA, and none at all.
    let (class, _) = code(link.client(Role::Qemu, "host-2").observe().await);
    assert_eq!(class, ErrorClass::Transient);
    let other = Link::new().await;
    let stranger = identity(&other.authority, Role::Controller, "controller");
    let client = AgentClient::new(&stranger, &name("host-1"), &link.address).expect("a client");
    assert_eq!(code(client.observe().await).1, "peer-unreachable");
    let peer = ExpectedPeer::host(name("host-1"));
    let anonymous = ClientConfig::anonymous(link.authority.certificate_pem(), peer).expect("a client");
    let asked = anonymous.http().expect("a client").get(format!("https://{}/v1/observation", link.address)).send();
    assert!(asked.await.is_err());
    assert!(link.world.calls().is_empty());
}

#[tokio::test]
async fn another_host_at_the_address_is_not_talked_to() {
    let link = Link::new().await;
    let controller = identity(&link.authority, Role::Controller, "controller");
    let client = AgentClient::new(&controller, &name("host-2"), &link.address).expect("a client");
    let problem = client.observe().await.expect_err("it is host-1");
    assert_eq!((problem.class, problem.code()), (ErrorClass::Transient, "peer-unreachable"));
    assert!(problem.detail.contains("host-2"), "{problem}");
    assert!(link.world.calls().is_empty());
}

#[tokio::test]
async fn silence_is_transient_and_says_who_was_silent() {
    let link = Link::new().await;
    let controller = identity(&link.authority, Role::Controller, "controller");
    let to = |address: &str| AgentClient::new(&controller, &name("host-1"), address).expect("a client");
    // One accepts and says nothing; one does all there is to do before it answers, and never answers.
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mute_client = to(&mute.local_addr().expect("bound").to_string());
    let slow = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let slow_client = to(&slow.local_addr().expect("bound").to_string());
    let never = axum::Router::new().fallback(async || std::future::pending::<()>().await);
    let auth = ClientAuth::Required(vec![Role::Controller]);
    let server = Server::new(&identity(&link.authority, Role::Host, "host-1"), auth, ServerLimits::default());
    let serving = server.expect("a server").serve(slow, never, CancellationToken::new());
    let _serving = AbortOnDropHandle::new(tokio::spawn(serving));

    let migration = (Uuid::new_v4(), Uuid::new_v4());
    let (observed, console, committed) = tokio::join!(
        mute_client.observe(),
        mute_client.console(migration.0, ConsoleKind::Serial),
        slow_client.commit_migration(migration.0, migration.1),
    );
    drop(mute);
    let refused = mute_client.observe().await;
    for problem in [observed.err(), console.err(), committed.err(), refused.err()] {
        let problem = problem.expect("silence");
        assert_eq!((problem.class, problem.code()), (ErrorClass::Transient, "peer-unreachable"));
        assert!(problem.detail.contains("host 'host-1'"), "{problem}");
    }
}

#[tokio::test]
async fn a_console_carries_bytes_both_ways_and_ends() {
    let link = Link::new().await;
    let client = link.controller();
    let mut socket = client.console(Uuid::new_v4(), ConsoleKind::Serial).await.expect("open");
    for typed in [&b"login: "[..], &[0, 255, 13], &[7; 65536]] {
        socket.send(Message::Binary(typed.to_vec().into())).await.expect("open");
        let printed = tokio::time::timeout(LIMIT, socket.next()).await.expect("in time").expect("open").expect("bytes");
        assert_eq!(printed, Message::Binary(typed.to_vec().into()));
    }
    socket.send(Message::Binary(b"exit".to_vec().into())).await.expect("open");
    let end = tokio::time::timeout(LIMIT, socket.next()).await.expect("in time");
    assert!(matches!(end, Some(Ok(Message::Close(_)) | Err(_)) | None), "{end:?}");

    let problem = client.console(Uuid::nil(), ConsoleKind::Serial).await.expect_err("refused");
    assert_eq!((problem.class, problem.code()), (ErrorClass::Conflict, "vm-not-running"));
    assert_eq!(problem.remedy.as_deref(), Some("gantry vm start web"));
}
