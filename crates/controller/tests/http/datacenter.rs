//! A whole controller behind real TLS, with fake hosts behind real TLS as well; everything is gone when it is dropped.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::body::Bytes;
use futures::StreamExt;
use gantry_api::{
    access::ConsoleKind,
    heartbeat::{Heartbeat, HeartbeatReply, HostTraffic},
    paths,
    rest::{CreateToken, CreatedToken, JoinRequest, JoinResponse},
    storage::ExportVolume,
};
use gantry_controller::{
    App, Config, InitOptions,
    agent_links::AgentLinks,
    clock::SystemClock,
    http::{Arriving, Front, Shared, serve},
    image_library::StoredImages,
    init::{authority_dir, identity_dir, init, store_path},
    loops,
};
use gantry_hostlink::{Console, Content, Exported, Streams, answer, fake::FakeWorld};
use gantry_store::SqliteStore;
use gantry_trust::{
    CertificateAuthority, ClientAuth, ClientConfig, ExpectedPeer, Identity, KeyRequest, LiveIdentity, Server,
    ServerLimits,
};
use gantry_types::{Name, Problem, Role, Timestamp};
use reqwest::{Method, RequestBuilder, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use uuid::Uuid;

/// For whatever the datacenter does by itself.
pub const LIMIT: Duration = Duration::from_secs(30);

pub fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

pub struct Datacenter {
    pub app: Arc<App>,
    pub front: Shared,
    pub hosts: Arc<FakeWorld>,
    pub url: String,
    pub admin: Api,
    /// Of the user `admin`.
    pub password: String,
    _directory: tempfile::TempDir,
    tasks: Vec<AbortOnDropHandle<()>>,
}

/// Someone who talks to the controller.
#[derive(Clone)]
pub struct Api {
    pub config: ClientConfig,
    http: reqwest::Client,
    pub url: String,
    pub token: Option<String>,
}

/// A host with a certificate.
pub struct Member {
    pub name: Name,
    pub identity: LiveIdentity,
    pub api: Api,
    pub agent_address: String,
    instance: Uuid,
}

impl Datacenter {
    pub async fn new() -> Self {
        Self::with(|_| ()).await
    }

    pub async fn with(configure: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let data_dir = directory.path().join("controller");
        let made = init(&InitOptions {
            data_dir: data_dir.clone(),
            datacenter: name("test"),
            listen: "127.0.0.1:0".parse().expect("an address"),
            addresses: vec!["127.0.0.1".parse().expect("an address")],
            dns_names: Vec::new(),
        })
        .await
        .expect("a controller");
        let identity = LiveIdentity::new(Identity::load(&identity_dir(&data_dir)).expect("there")).expect("fit");
        let authority = CertificateAuthority::load(&authority_dir(&data_dir)).expect("there");
        let mut config = Config::new(&data_dir, "127.0.0.1:0".parse().expect("an address"), "test");
        configure(&mut config);
        let store = Arc::new(SqliteStore::open(store_path(&data_dir)).await.expect("a store"));
        let agents = Arc::new(AgentLinks::new(identity.clone()));
        let images = Arc::new(StoredImages::open(&config).await.expect("a directory"));
        let clock = Arc::new(SystemClock::default());
        let power = Arc::new(gantry_controller::power::BuiltInDrivers::default());
        let (app, feed) = App::open(config, store, agents.clone(), images, power, clock).await.expect("a controller");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("bound"));
        let front = Arc::new(Front { app: app.clone(), authority, identity, agents, arriving: Arriving::default() });
        let serving = serve(front.clone(), listener, CancellationToken::new());
        let tasks = vec![
            AbortOnDropHandle::new(tokio::spawn(loops::run(app.clone(), feed))),
            AbortOnDropHandle::new(tokio::spawn(async { serving.await.expect("it serves") })),
        ];
        let config = ClientConfig::anonymous(&made.ca_pem, ExpectedPeer::any_controller()).expect("a client");
        let admin = Api::new(config, &url, Some(made.admin_token.clone()));
        Self {
            app,
            front,
            hosts: FakeWorld::new(),
            url,
            admin,
            password: made.admin_password,
            _directory: directory,
            tasks,
        }
    }

    /// The same client with another token, or with none.
    pub fn with_token(&self, token: Option<&str>) -> Api {
        Api { token: token.map(str::to_owned), ..self.admin.clone() }
    }

    pub async fn as_role(&self, role: Role) -> Api {
        let token = self.mint(&format!("of-{}", Uuid::new_v4().simple()), role, None).await;
        self.with_token(Some(&token))
    }

    pub async fn mint(&self, token: &str, role: Role, expires_at: Option<Timestamp>) -> String {
        let request = CreateToken { name: name(token), role, expires_at };
        let made: CreatedToken = self.admin.send(Method::POST, "/v1/tokens", &json!(request)).await.expect("made");
        made.token
    }

    pub async fn network(&self) {
        let network = json!({"metadata": {"name": "default"}, "spec": {"subnet": {"cidr": "10.9.0.0/24"}}});
        let _made: Value = self.admin.send(Method::POST, "/v1/networks", &network).await.expect("made");
    }

    /// Joins a host as a host does; its agent is a fake one behind the real router.
    pub async fn join(&mut self, host: &str) -> Member {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let agent_address = listener.local_addr().expect("bound").to_string();
        let token = self.mint(&format!("join-{host}"), Role::Join, None).await;
        let (key, request) = join_request(&token, host, &agent_address);
        let joined: JoinResponse =
            self.with_token(None).send(Method::POST, paths::JOIN, &json!(request)).await.expect("joined");
        let identity = key.into_identity(&joined.agent_certificate, &joined.ca).expect("its certificate");
        let identity = LiveIdentity::new(identity).expect("fit");
        let auth = ClientAuth::Required(vec![gantry_trust::Role::Controller, gantry_trust::Role::Host]);
        let server = Server::new(&identity, auth, ServerLimits::default()).expect("a server");
        let router = gantry_hostlink::router(Arc::new(self.hosts.host(&name(host))), Arc::new(Echo), Arc::default());
        let serving = server.serve(listener, router, CancellationToken::new());
        self.tasks.push(AbortOnDropHandle::new(tokio::spawn(serving)));
        let config = ClientConfig::with_identity(&identity, ExpectedPeer::any_controller()).expect("a client");
        let api = Api::new(config, &self.url, None);
        Member { name: name(host), identity, api, agent_address, instance: Uuid::now_v7() }
    }

    /// A host that has said what it is.
    pub async fn ready(&mut self, host: &str) -> Member {
        let member = self.join(host).await;
        member.heartbeat(1, Vec::new()).await.expect("taken in");
        member
    }

    pub async fn event(&self, reason: &str) -> Option<Value> {
        let page: Value = self.admin.get("/v1/events").await.expect("events");
        let events = page["items"].as_array().expect("a list").clone();
        events.into_iter().find(|event| event["spec"]["reason"] == reason)
    }
}

/// An address of its own for each host, as it has to be.
fn underlay_of(host: &str) -> String {
    let bytes = gantry_trust::Fingerprint::of_der(host.as_bytes()).to_string();
    format!("fd00::{}:{}", &bytes[..4], &bytes[4..8])
}

pub fn join_request(token: &str, host: &str, agent_address: &str) -> (KeyRequest, JoinRequest) {
    let (agent, qemu) = (KeyRequest::generate().expect("a key"), KeyRequest::generate().expect("a key"));
    let request = JoinRequest {
        token: token.to_owned(),
        name: name(host),
        agent_address: agent_address.to_owned(),
        underlay_address: underlay_of(host),
        agent_csr: agent.request_pem().to_owned(),
        qemu_csr: qemu.request_pem().to_owned(),
    };
    (agent, request)
}

impl Member {
    pub async fn heartbeat(
        &self,
        sequence: u64,
        vms: Vec<gantry_api::agent::VmObservation>,
    ) -> Result<HeartbeatReply, Problem> {
        self.beat(sequence, vms, None).await
    }

    /// Tells what it has counted.
    pub async fn counted(&self, sequence: u64, traffic: HostTraffic) -> Result<HeartbeatReply, Problem> {
        self.beat(sequence, Vec::new(), Some(traffic)).await
    }

    async fn beat(
        &self,
        sequence: u64,
        vms: Vec<gantry_api::agent::VmObservation>,
        traffic: Option<HostTraffic>,
    ) -> Result<HeartbeatReply, Problem> {
        let inventory = serde_json::from_value(json!({
            "arch": "x86_64", "cpu": {"count": 4, "model": "m", "flags": []}, "memory": "4GiB",
            "qemu_version": "7.2.17", "kvm": false, "guest_archs": ["x86_64"], "sandbox": true, "post_copy": true,
            "kernel": "6.1", "agent_version": "0.1.0",
            "pools": [{"name": "default", "capacity": "100GiB", "free": "50GiB"}]
        }));
        let beat = Heartbeat {
            agent_instance: self.instance,
            sequence,
            agent_address: self.agent_address.clone(),
            underlay_address: underlay_of(self.name.as_str()),
            inventory: inventory.expect("an inventory"),
            metrics: Default::default(),
            vms,
            networks_generation: 0,
            members: Vec::new(),
            idle_routers: Vec::new(),
            pools: Vec::new(),
            traffic,
            lease: None,
        };
        self.api.send(Method::POST, paths::HEARTBEAT, &json!(beat)).await
    }
}

impl Api {
    pub fn new(config: ClientConfig, url: &str, token: Option<String>) -> Self {
        Self { http: config.http().expect("a client"), config, url: url.to_owned(), token }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url)).timeout(LIMIT);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        answer("the controller", self.request(Method::GET, path)).await
    }

    pub async fn send<T: DeserializeOwned>(&self, method: Method, path: &str, body: &Value) -> Result<T, Problem> {
        answer("the controller", self.request(method, path).json(body)).await
    }

    pub async fn delete(&self, path: &str) -> Result<Value, Problem> {
        answer("the controller", self.request(Method::DELETE, path)).await
    }

    /// What is refused, checked to be a problem document that agrees with its status.
    pub async fn refused(&self, method: Method, path: &str, body: impl Into<reqwest::Body>) -> Problem {
        refused(self.request(method, path).header(header::CONTENT_TYPE, "application/json").body(body)).await
    }
}

pub async fn refused(request: RequestBuilder) -> Problem {
    let response = request.send().await.expect("an answer");
    let (status, url) = (response.status(), response.url().clone());
    let kind = response.headers().get(header::CONTENT_TYPE).cloned();
    let body = response.text().await.expect("a body");
    assert!(!status.is_success(), "{url} was not refused: {body}");
    assert_eq!(kind.as_ref().map(|kind| kind.as_bytes()), Some(&b"application/problem+json"[..]), "{url}: {body}");
    let problem: Problem = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{url}: {error}: {body}"));
    assert_eq!(StatusCode::from_u16(problem.status).ok(), Some(status), "{url}: {body}");
    problem
}

/// A serial line that says back what is typed.
struct Echo;

#[async_trait]
impl Streams for Echo {
    async fn open(&self, _vm: Uuid, kind: ConsoleKind) -> Result<Console, Problem> {
        let (printed, output) = mpsc::channel::<Bytes>(8);
        let (input, mut typed) = mpsc::channel::<Bytes>(8);
        tokio::spawn(async move {
            // A screen speaks first, as VNC does.
            if kind == ConsoleKind::Vnc && printed.send(Bytes::from_static(b"RFB 003.008\n")).await.is_err() {
                return;
            }
            while let Some(bytes) = typed.recv().await {
                // "exit" ends the session from the guest's side.
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

    async fn take_disk(&self, vm: Uuid, from: &Name, _bytes: u64, _content: Content) -> Result<(), Problem> {
        Err(Problem::transient("disk-not-expected", format!("no disk of VM {vm} is expected from '{from}'")))
    }

    /// As many bytes as its slot says.
    async fn export(&self, request: ExportVolume) -> Result<Exported, Problem> {
        let bytes = u64::from(request.volume.slot);
        let content = Bytes::from(vec![7; bytes as usize]);
        Ok(Exported { bytes, content: futures::stream::iter([Ok(content)]).boxed() })
    }
}

/// Server-sent events, one by one.
pub struct Watch {
    body: futures::stream::BoxStream<'static, reqwest::Result<Bytes>>,
    buffer: Vec<u8>,
}

/// One of them.
#[derive(Debug)]
pub struct Sent {
    pub change: String,
    /// Absent where a watch can't be resumed.
    pub id: Option<u64>,
    pub data: Value,
}

impl Sent {
    pub fn object_name(&self) -> &str {
        self.data["object"]["metadata"]["name"].as_str().unwrap_or_default()
    }
    pub fn short(&self) -> (&str, &str) {
        (&self.change, self.object_name())
    }
}

impl Watch {
    pub async fn open(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        Self { body: response.bytes_stream().boxed(), buffer: Vec::new() }
    }

    /// `None` if the server ended the watch.
    pub async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let text = String::from_utf8(block).expect("text");
                let field = |name: &str| {
                    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
                };
                let (Some(change), Some(data)) = (field("event"), field("data")) else { continue };
                let id = field("id").map(|id| id.parse().expect("a revision"));
                return Some(Sent { change, id, data: serde_json::from_str(&data).expect("JSON") });
            }
            let chunk = tokio::time::timeout(LIMIT, self.body.next()).await.expect("an event")?;
            self.buffer.extend_from_slice(&chunk.ok()?);
        }
    }

    pub async fn expect(&mut self, change: &str, object: &str) -> Sent {
        let sent = self.next().await.expect("the watch goes on");
        assert_eq!(sent.short(), (change, object));
        sent
    }
}

/// Looks until there is something, for a bounded time.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, found).await.unwrap_or_else(|_| panic!("never: {what}"))
}
