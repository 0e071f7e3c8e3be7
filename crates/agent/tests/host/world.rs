//! A datacenter of two hosts for one test; everything in it is gone when it is dropped.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::{
    Extension, Json, Router,
    extract::Path as UrlPath,
    http::StatusCode,
    routing::{get, post},
};
use gantry_api::agent::*;
use gantry_api::fencing::LeaseGrant;
use gantry_api::heartbeat::{Heartbeat, HeartbeatReply};
use gantry_api::rest::{JoinRequest, JoinResponse, RenewRequest};
use gantry_api::storage::PoolAssignment;
use gantry_api::{AgentApi, paths};
use gantry_hostlink::AgentClient;
use gantry_storage::{ImageStore, ImportLimits, ImportOptions};
use gantry_trust::*;
use gantry_types::{Arch, ByteSize, Display, Firmware, MacAddress, Name, PowerState, Problem};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub const AGENT_STATE_DIR: &str = "GANTRY_TEST_AGENT_STATE_DIR";
/// Translated guests on a busy machine are slow.
const LIMIT: Duration = Duration::from_secs(180);

pub struct World {
    pub hosts: Vec<TestHost>,
    pub image: ImageRef,
    pub heartbeats: Arc<Mutex<Vec<Heartbeat>>>,
    pub controller: Arc<Mutex<Answers>>,
    pub authority: Arc<CertificateAuthority>,
    identity: LiveIdentity,
    shutdown: CancellationToken,
    // Last: its content is in use until all else is gone.
    _directory: tempfile::TempDir,
}

/// How the controller answers heartbeats.
#[derive(Default)]
pub struct Answers {
    /// Not at all.
    pub silent: bool,
    pub lease: Option<LeaseGrant>,
    pub pools: Vec<PoolAssignment>,
    pub may_leave: Vec<Uuid>,
}

pub struct TestHost {
    pub name: Name,
    pub state_dir: PathBuf,
    namespace: String,
    address: IpAddr,
    process: Option<Child>,
}

/// Runs a test in a datacenter of its own, in a network namespace of its own.
pub fn in_world<F: Future<Output = ()>>(hosts: usize, test: impl FnOnce(World) -> F) {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root is needed");
    ip("link set lo up");
    ip("link add under type bridge");
    ip("addr add 10.77.0.254/24 dev under");
    ip("link set under up");
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async { test(World::new(hosts).await).await });
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("ip");
    assert!(status.success(), "ip {arguments}");
}

impl World {
    async fn new(count: usize) -> Self {
        let directory = tempfile::Builder::new().prefix("gta").tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        let authority = Arc::new(CertificateAuthority::create(&directory.path().join("ca"), now()).unwrap());
        let peer = PeerIdentity::new(Role::Controller, "controller".parse().unwrap());
        let names = LeafNames::new(peer, &[]);
        let identity = authority.issue_identity(&names, LEAF_LIFETIME, now()).unwrap();
        let identity = LiveIdentity::new(identity).unwrap();

        let store = ImageStore::open(&directory.path().join("images")).unwrap();
        let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest/guest.qcow2");
        let options = ImportOptions { expected_sha256: None, declared_format: None, limits: ImportLimits::default() };
        let imported = store.import(&guest, &options, |_| {}).await.expect("run: cargo xtask guest");
        let stored = store.get(imported.sha256).await.unwrap().unwrap();
        let image = ImageRef {
            digest: stored.sha256.to_string(),
            file_size: stored.file_size_bytes,
            virtual_size: stored.virtual_size_bytes,
        };

        let heartbeats = Arc::new(Mutex::new(Vec::new()));
        let shutdown = CancellationToken::new();
        let answers = Arc::<Mutex<Answers>>::default();
        let router = controller(authority.clone(), stored.path, heartbeats.clone(), answers.clone());
        let listener = tokio::net::TcpListener::bind("10.77.0.254:7440").await.unwrap();
        let server = Server::new(&identity, ClientAuth::Optional(vec![Role::Host]), ServerLimits::default()).unwrap();
        tokio::spawn(server.serve(listener, router, shutdown.clone()));

        let token = JoinToken::create(authority.fingerprint()).to_text();
        let mut hosts = Vec::new();
        for number in 1..=count {
            let host = TestHost::wire(number, directory.path());
            let agent = SocketAddr::new(host.address, 7443);
            let url = "https://10.77.0.254:7440";
            gantry_agent::join(url, &token, host.name.clone(), agent, host.address, &host.state_dir).await.unwrap();
            hosts.push(host);
        }
        let mut world = Self {
            hosts,
            image,
            heartbeats,
            controller: answers,
            authority,
            identity,
            shutdown,
            _directory: directory,
        };
        for number in 0..count {
            world.start_agent(number).await;
        }
        world
    }

    pub fn agent(&self, host: usize) -> AgentClient {
        let host = &self.hosts[host];
        AgentClient::new(&self.identity, &host.name, &format!("{}:7443", host.address)).unwrap()
    }

    /// A client that shows a host's certificate.
    pub fn as_host(&self, from: usize, to: usize) -> AgentClient {
        let identity = Identity::load(&self.hosts[from].state_dir.join("identity")).unwrap();
        let to = &self.hosts[to];
        AgentClient::new(&LiveIdentity::new(identity).unwrap(), &to.name, &format!("{}:7443", to.address)).unwrap()
    }

    pub async fn start_agent(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        let log = std::fs::File::options().create(true).append(true).open(host.state_dir.join("agent.log")).unwrap();
        let process = Command::new("ip")
            .args(["netns", "exec", &host.namespace])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "agent_process", "--nocapture"])
            .env(AGENT_STATE_DIR, &host.state_dir)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        host.process = Some(process);
        let agent = self.agent(number);
        eventually("the agent answers", async || agent.observe().await.ok()).await;
    }

    /// As a power cut of the agent alone: no handler runs.
    pub fn kill_agent(&mut self, number: usize) {
        let mut process = self.hosts[number].process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub fn assignment(&self, name: &str) -> Assignment {
        let uuid = Uuid::new_v4();
        let [.., a, b, c] = *uuid.as_bytes();
        Assignment {
            uuid,
            name: name.parse().unwrap(),
            epoch: 1,
            arch: Arch::X86_64,
            cpus: 1,
            memory: ByteSize::mib(128),
            cpu_model: None,
            firmware: Firmware::Bios,
            display: Display::None,
            disk: DiskAssignment {
                image: Some(self.image.clone()),
                size: ByteSize(self.image.virtual_size),
                pool: None,
            },
            volumes: Vec::new(),
            nics: vec![NicAssignment {
                port: Uuid::new_v4(),
                network: "lan".parse().unwrap(),
                vni: 4242,
                mtu: 1400,
                mac: MacAddress::qemu([a, b, c]),
                address: "192.168.7.10".parse().unwrap(),
                prefix_length: 24,
                gateway: None,
                dns: Vec::new(),
                more_addresses: Vec::new(),
                dhcp: false,
                interface: None,
            }],
            user_data: None,
            power: PowerState::Running,
            ha: Default::default(),
            probes: Vec::new(),
            recovery: Default::default(),
            resources: Default::default(),
        }
    }

    pub async fn boot(&self, host: usize, assignment: &Assignment) {
        let agent = self.agent(host);
        agent.define_vm(assignment).await.unwrap();
        agent.power(assignment.uuid, &request(assignment, PowerAction::Start)).await.unwrap();
        self.until(host, assignment.uuid, "the guest's agent answers", |vm| vm.guest_agent).await;
    }

    pub async fn look(&self, host: usize, vm: Uuid) -> Option<VmObservation> {
        let all = self.agent(host).observe().await.unwrap();
        all.into_iter().find(|seen| seen.uuid == vm)
    }

    pub async fn until(
        &self,
        host: usize,
        vm: Uuid,
        what: &str,
        condition: impl Fn(&VmObservation) -> bool,
    ) -> VmObservation {
        eventually(what, async || self.look(host, vm).await.filter(&condition)).await
    }

    /// Takes the cable between the hosts out, or puts it in again. The controller reaches them all the same.
    pub fn part_hosts(&self, parted: bool) {
        for number in 1..=self.hosts.len() {
            ip(&format!("link set u{number} type bridge_slave isolated {}", if parted { "on" } else { "off" }));
        }
    }

    /// A command on a host, which sees its own interfaces and mounts.
    pub fn on_host(&self, host: usize, command: &str) {
        let pid = self.agent_pid(host).to_string();
        let words = command.split(' ');
        let status = Command::new("nsenter").args(["-t", &pid, "-n", "-m", "--"]).args(words).status().unwrap();
        assert!(status.success(), "{command}");
    }

    /// What a host said last.
    pub fn last_heartbeat(&self, host: usize) -> Option<Heartbeat> {
        let address = format!("{}:7443", self.hosts[host].address);
        self.heartbeats.lock().unwrap().iter().rev().find(|beat| beat.agent_address == address).cloned()
    }

    pub fn agent_pid(&self, host: usize) -> u32 {
        self.hosts[host].process.as_ref().unwrap().id()
    }

    /// The process that guards a host's VMs.
    pub fn warden(&self, host: usize) -> Option<u32> {
        let is_warden = |pid: &u32| {
            std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("warden_process"))
        };
        self.hosts[host].pids().into_iter().find(is_warden)
    }

    /// QEMU processes on a host.
    pub fn qemus(&self, host: usize) -> Vec<u32> {
        self.hosts[host].pids().into_iter().filter(|pid| is_qemu(*pid)).collect()
    }

    /// Network devices of a host.
    pub fn links(&self, host: usize) -> String {
        let output = Command::new("ip").args(["-n", &self.hosts[host].namespace, "-br", "link"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn log(&self, host: usize) -> String {
        std::fs::read_to_string(self.hosts[host].state_dir.join("agent.log")).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
        for number in 0..self.hosts.len() {
            if std::thread::panicking() {
                eprintln!("--- {}\n{}", self.hosts[number].name, self.log(number));
            }
            let host = &mut self.hosts[number];
            for pid in host.pids() {
                kill(Pid::from_raw(pid as i32), Signal::SIGKILL).ok();
            }
            if let Some(mut process) = host.process.take() {
                drop(process.wait());
            }
            drop(Command::new("ip").args(["netns", "del", &host.namespace]).status());
        }
    }
}

impl TestHost {
    fn wire(number: usize, directory: &Path) -> Self {
        let namespace = format!("gta{}h{number}", std::process::id());
        let address = format!("10.77.0.{number}");
        ip(&format!("netns add {namespace}"));
        ip(&format!("link add u{number} type veth peer name under netns {namespace}"));
        ip(&format!("link set u{number} master under up"));
        ip(&format!("-n {namespace} addr add {address}/24 dev under"));
        ip(&format!("-n {namespace} link set under up"));
        ip(&format!("-n {namespace} link set lo up"));
        Self {
            name: format!("host-{number}").parse().unwrap(),
            state_dir: directory.join(format!("h{number}")),
            namespace,
            address: address.parse().unwrap(),
            process: None,
        }
    }

    fn pids(&self) -> Vec<u32> {
        let output = Command::new("ip").args(["netns", "pids", &self.namespace]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.trim().parse().ok()).collect()
    }
}

fn is_qemu(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("qemu-system-"))
}

fn controller(
    authority: Arc<CertificateAuthority>,
    image: PathBuf,
    heartbeats: Arc<Mutex<Vec<Heartbeat>>>,
    answers: Arc<Mutex<Answers>>,
) -> Router {
    let ca = authority.certificate_pem().to_owned();
    let issue = move |name: &Name, agent_csr: &str, qemu_csr: &str| {
        let leaf = |role, csr: &str| {
            let names = LeafNames::new(PeerIdentity::new(role, name.clone()), &[]);
            authority.issue(csr, &names, LEAF_LIFETIME, now()).unwrap()
        };
        Json(JoinResponse {
            ca: authority.certificate_pem().to_owned(),
            agent_certificate: leaf(Role::Host, agent_csr),
            qemu_certificate: leaf(Role::Qemu, qemu_csr),
            controller: "controller".to_owned(),
        })
    };
    let issue_again = issue.clone();
    let join =
        async move |Json(request): Json<JoinRequest>| issue(&request.name, &request.agent_csr, &request.qemu_csr);
    let renew = async move |Extension(peer): Extension<Option<PeerIdentity>>, Json(request): Json<RenewRequest>| {
        issue_again(peer.unwrap().name(), &request.agent_csr, &request.qemu_csr)
    };
    let heartbeat = async move |Json(heartbeat): Json<Heartbeat>| {
        heartbeats.lock().unwrap().push(heartbeat);
        let answers = answers.lock().unwrap();
        let Answers { lease, pools, may_leave, .. } = &*answers;
        let (lease, pools, may_leave) = (lease.clone(), pools.clone(), may_leave.clone());
        let reply = HeartbeatReply { interval_ms: 200, pools, lease, may_leave };
        if answers.silent { Err(StatusCode::SERVICE_UNAVAILABLE) } else { Ok(Json(reply)) }
    };
    let content = async move |UrlPath(_): UrlPath<String>| std::fs::read(&image).unwrap();
    Router::new()
        .route(paths::CA, get(async move || ca.clone()))
        .route(paths::JOIN, post(join))
        .route(paths::RENEW, post(renew))
        .route(paths::HEARTBEAT, post(heartbeat))
        .route(paths::AGENT_IMAGE, get(content))
        .layer(axum::extract::DefaultBodyLimit::disable())
}

pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

pub fn request(assignment: &Assignment, action: PowerAction) -> PowerRequest {
    PowerRequest { epoch: assignment.epoch, command: 0, action }
}

pub fn code<T: std::fmt::Debug>(result: Result<T, Problem>) -> String {
    result.expect_err("this must be refused").code().to_owned()
}

/// Looks until there is something, for a bounded time.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < LIMIT, "not within {} s: {what}", LIMIT.as_secs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
