//! A datacenter in memory: fake hosts, a store that can crash the controller, virtual time.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::future::BoxFuture;
use gantry_api::{AgentApi, heartbeat::Heartbeat, rest::WriteQuery};
use gantry_controller::{
    App, Caller, Config,
    app::{image, network, pool, vm},
    clock::Clock,
    image_library::{ImageLibrary, ImportProgress, ImportRequest, ImportedImage},
    links::HostLinks,
    loops::{intake::heartbeat, mirror_keeper, stray_vms},
    objects::{Change, Objects},
    operations::executor,
    power::{PowerDriver, PowerDrivers},
};
use gantry_hostlink::fake::FakeWorld;
use gantry_store::{MemoryStore, SharedStore};
use gantry_types::{
    Backup, Host, HostSpec, HostState, Image, ImageFormat, Inventory, Name, Network, Operation, OperationPhase, Pool,
    PoolHealth, PoolSpec, PoolType, PowerStatus, Problem, Snapshot, Timestamp, Vm, VmPhase, Volume, VolumePhase,
};
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

pub const HOSTS: [&str; 3] = ["host-1", "host-2", "host-3"];

/// Where backups go.
pub const REPOSITORY: &str = "/srv/backup";

pub fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// Time passes only by sleeping, and then at once.
#[derive(Default)]
pub struct TestClock {
    elapsed_ms: Arc<AtomicU64>,
    step_ms: AtomicI64,
}

impl TestClock {
    pub fn advance(&self, by: Duration) {
        self.elapsed_ms.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }

    /// Puts the clock on the wall on or back.
    pub fn step(&self, by_ms: i64) {
        self.step_ms.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let elapsed_ms = self.elapsed_ms.load(Ordering::SeqCst) as i64;
        Timestamp::from_unix_ms(1_800_000_000_000 + elapsed_ms + self.step_ms.load(Ordering::SeqCst))
    }
    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.elapsed_ms.load(Ordering::SeqCst))
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let elapsed_ms = Arc::clone(&self.elapsed_ms);
        Box::pin(async move {
            elapsed_ms.fetch_add(duration.as_millis().max(1) as u64, Ordering::SeqCst);
            tokio::task::yield_now().await;
        })
    }
    fn new_uuid(&self) -> Uuid {
        Uuid::now_v7()
    }
}

struct FakeLinks(Arc<FakeWorld>);

impl HostLinks for FakeLinks {
    fn agent(&self, host: &Host) -> Arc<dyn AgentApi> {
        Arc::new(self.0.host(&host.metadata.name).knowing_lifted(host.status.fences_lifted))
    }
}

/// Remembers which digests there are.
#[derive(Default)]
pub struct FakeImages {
    pub kept: Mutex<Vec<String>>,
    pub refuse: Mutex<Option<Problem>>,
}

#[async_trait]
impl ImageLibrary for FakeImages {
    async fn fetch(&self, _url: &str, _to: &Path, progress: ImportProgress) -> Result<(), Problem> {
        progress("fetching", 1, 1);
        Ok(())
    }
    async fn import(&self, request: &ImportRequest, progress: ImportProgress) -> Result<ImportedImage, Problem> {
        if let Some(problem) = self.refuse.lock().expect("unpoisoned").clone() {
            let detail = problem.detail.replace("PATH", &request.source.display().to_string());
            return Err(Problem { detail, ..problem });
        }
        progress("converting", 1, 1);
        let digest = "ab".repeat(32);
        let mut kept = self.kept.lock().expect("unpoisoned");
        if !kept.contains(&digest) {
            kept.push(digest.clone());
        }
        Ok(ImportedImage {
            digest,
            virtual_size_bytes: 1 << 30,
            file_size_bytes: 1 << 20,
            source_format: ImageFormat::Qcow2,
        })
    }
    async fn remove(&self, digest: &str) -> Result<(), Problem> {
        self.kept.lock().expect("unpoisoned").retain(|kept| kept != digest);
        Ok(())
    }
    fn path(&self, digest: &str) -> PathBuf {
        PathBuf::from(digest)
    }
}

/// Outlets in memory. A host that gets power back has a new agent.
pub struct FakePower {
    hosts: Arc<FakeWorld>,
    off: Mutex<BTreeSet<Name>>,
    agents: Mutex<BTreeMap<Name, Uuid>>,
    pub refuse: Mutex<Option<Problem>>,
    /// No host has an outlet.
    pub absent: Mutex<bool>,
}

impl FakePower {
    fn agent(&self, host: &Name) -> Uuid {
        *self.agents.lock().expect("unpoisoned").entry(host.clone()).or_insert_with(Uuid::now_v7)
    }
    pub fn is_off(&self, host: &Name) -> bool {
        self.off.lock().expect("unpoisoned").contains(host)
    }
    pub fn restart_agent(&self, host: &Name) {
        self.agents.lock().expect("unpoisoned").insert(host.clone(), Uuid::now_v7());
    }
    pub fn switch_off(&self, host: &Name) {
        self.off.lock().expect("unpoisoned").insert(host.clone());
        self.hosts.unplug(host);
    }
}

struct FakeOutlet(Arc<FakePower>, Name);

#[async_trait]
impl PowerDriver for FakeOutlet {
    async fn on(&self) -> Result<(), Problem> {
        let Self(power, host) = self;
        if let Some(problem) = power.refuse.lock().expect("unpoisoned").clone() {
            return Err(problem);
        }
        if power.off.lock().expect("unpoisoned").remove(host) {
            power.restart_agent(host);
            power.hosts.mend(host);
        }
        Ok(())
    }
    async fn off(&self) -> Result<(), Problem> {
        if let Some(problem) = self.0.refuse.lock().expect("unpoisoned").clone() {
            return Err(problem);
        }
        self.0.switch_off(&self.1);
        Ok(())
    }
    async fn status(&self) -> Result<PowerStatus, Problem> {
        Ok(if self.0.is_off(&self.1) { PowerStatus::Off } else { PowerStatus::On })
    }
}

/// The driver of every host.
pub struct FakeOutlets(pub Arc<FakePower>);

impl PowerDrivers for FakeOutlets {
    fn of(&self, host: &Host) -> Result<Arc<dyn PowerDriver>, Problem> {
        if *self.0.absent.lock().expect("unpoisoned") {
            return Err(Problem::conflict("no-power-driver", format!("host '{}' has no outlet", host.metadata.name)));
        }
        Ok(Arc::new(FakeOutlet(Arc::clone(&self.0), host.metadata.name.clone())))
    }
}

pub struct World {
    pub power: Arc<FakePower>,
    pub store: SharedStore,
    pub hosts: Arc<FakeWorld>,
    pub clock: Arc<TestClock>,
    pub images: Arc<FakeImages>,
    pub directory: tempfile::TempDir,
    beats: AtomicU64,
}

/// A running controller; dropping it is `kill -9`.
pub struct Controller {
    pub app: Arc<App>,
    _feed: AbortOnDropHandle<()>,
}

impl World {
    /// Three hosts, one network, nothing else.
    pub async fn new() -> Self {
        let hosts = FakeWorld::new();
        let world = Self {
            power: Arc::new(FakePower {
                hosts: Arc::clone(&hosts),
                off: Mutex::default(),
                agents: Mutex::default(),
                refuse: Mutex::default(),
                absent: Mutex::default(),
            }),
            store: Arc::new(MemoryStore::default()),
            hosts,
            clock: Arc::default(),
            images: Arc::default(),
            directory: tempfile::tempdir().expect("a directory"),
            beats: AtomicU64::new(0),
        };
        let mut change = Change::new();
        for (index, host) in HOSTS.iter().enumerate() {
            world.hosts.host(&name(host));
            let mut host = Host::new(name(host), HostSpec::default());
            host.metadata.uuid = Uuid::now_v7();
            host.status.state = HostState::Ready;
            host.status.agent_address = format!("10.0.0.{}:7443", index + 1);
            host.status.underlay_address = format!("10.0.0.{}", index + 1);
            host.status.inventory = Some(inventory());
            change.create(&host).expect("writable");
        }
        Objects::new(Arc::clone(&world.store)).commit(change).await.expect("a store");
        let controller = world.controller().await;
        let spec = serde_json::from_value(json!({"subnet": {"cidr": "10.9.0.0/24", "gateway": "10.9.0.1"}}));
        let network = Network::new(name("default"), spec.expect("a spec"));
        network::create(&controller.app, &Caller::controller(), network, &WriteQuery::default()).await.expect("made");
        world
    }

    pub async fn controller(&self) -> Controller {
        self.controller_on(Arc::clone(&self.store)).await
    }

    pub async fn controller_on(&self, store: SharedStore) -> Controller {
        let config = Config::new(self.directory.path(), "127.0.0.1:0".parse().expect("an address"), "test");
        self.controller_of(config, store).await
    }

    /// A controller with other limits.
    pub async fn controller_with(&self, config: Config) -> Controller {
        self.controller_of(config, Arc::clone(&self.store)).await
    }

    async fn controller_of(&self, config: Config, store: SharedStore) -> Controller {
        let links = Arc::new(FakeLinks(Arc::clone(&self.hosts)));
        let power = Arc::new(FakeOutlets(Arc::clone(&self.power)));
        let (app, feed) = App::open(config, store, links, self.images.clone(), power, self.clock.clone())
            .await
            .expect("a controller");
        Controller { app, _feed: AbortOnDropHandle::new(tokio::spawn(feed.run())) }
    }

    pub async fn vm(&self, vm: &str) -> Option<Vm> {
        Objects::new(Arc::clone(&self.store)).find(vm).await.expect("a store")
    }

    pub async fn snapshots(&self) -> Vec<Snapshot> {
        Objects::new(Arc::clone(&self.store)).list().await.expect("a store")
    }

    pub async fn backups(&self) -> Vec<Backup> {
        Objects::new(Arc::clone(&self.store)).list().await.expect("a store")
    }

    pub async fn pools(&self) -> Vec<Pool> {
        Objects::new(Arc::clone(&self.store)).list().await.expect("a store")
    }

    pub async fn volume(&self, volume: &str) -> Option<Volume> {
        Objects::new(Arc::clone(&self.store)).find(volume).await.expect("a store")
    }

    /// Operations that are still to be run.
    pub async fn unfinished(&self) -> Vec<Name> {
        let all: Vec<Operation> = Objects::new(Arc::clone(&self.store)).list().await.expect("a store");
        let unfinished = all.into_iter().filter(|operation| !operation.status.phase.is_finished());
        unfinished.map(|operation| operation.metadata.name).collect()
    }

    pub async fn operation(&self, operation: &str) -> Operation {
        Objects::new(Arc::clone(&self.store)).get(operation).await.expect("an operation")
    }

    /// Every reachable host reports what it has.
    pub async fn heartbeats(&self, controller: &Controller) {
        for (host, beat) in self.beats(controller).await {
            let reply = heartbeat(&controller.app, &host, beat).await.expect("taken in");
            if let Some(grant) = &reply.lease {
                self.hosts.heard(&host, grant);
            }
            self.hosts.may_leave(&host, &reply.may_leave);
        }
    }

    /// What every reachable host would report now.
    pub async fn beats(&self, controller: &Controller) -> Vec<(Name, Heartbeat)> {
        let mut beats = Vec::new();
        let sequence = self.beats.fetch_add(1, Ordering::SeqCst) + 1;
        for host in HOSTS.map(name) {
            let Ok(vms) = self.hosts.host(&host).observe().await else { continue };
            let stored = controller.app.model.get::<Host>(host.as_str()).expect("a host");
            let pools = self.hosts.pool_reports(&host);
            let lost = pools.iter().filter(|report| report.health >= PoolHealth::Missing);
            let lost_pools = lost.map(|report| report.pool).collect();
            let beat = Heartbeat {
                agent_instance: self.power.agent(&host),
                sequence,
                agent_address: stored.status.agent_address.clone(),
                underlay_address: stored.status.underlay_address.clone(),
                inventory: Inventory { lost_pools, ..inventory() },
                metrics: Default::default(),
                vms,
                networks_generation: self.hosts.networks_on(&host).generation,
                members: Vec::new(),
                idle_routers: Vec::new(),
                pools,
                traffic: None,
                lease: self.hosts.lease_report(&host),
            };
            beats.push((host, beat));
        }
        beats
    }

    /// Runs an operation to its end while hosts report and what it starts is run too.
    pub async fn drive(&self, controller: &Controller, operation: &Name) {
        tokio::select! {
            () = controller.execute(operation) => {}
            () = self.meanwhile(controller, operation) => {}
        }
    }

    /// Hosts report for ever, and every operation but this one is run.
    pub async fn meanwhile(&self, controller: &Controller, but: &Name) {
        let mut tasks = tokio::task::JoinSet::new();
        let mut begun = BTreeSet::from([but.to_string()]);
        loop {
            self.heartbeats(controller).await;
            stray_vms::pass(&controller.app).await;
            let unfinished = |operation: &Arc<Operation>| !operation.status.phase.is_finished();
            for operation in controller.app.model.list::<Operation>().into_iter().filter(unfinished) {
                let operation = operation.metadata.name.to_string();
                if begun.insert(operation.clone()) {
                    let app = Arc::clone(&controller.app);
                    tasks.spawn(async move { executor::execute(&app, &operation).await });
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// A host loses its power, and the controller has noticed.
    pub async fn lose(&self, controller: &Controller, host: &str) {
        self.hosts.unplug(&name(host));
        let mut lost = self.host(host).await;
        lost.status.state = HostState::Lost;
        let mut change = Change::new();
        change.update(&lost).expect("writable");
        controller.write(change).await;
    }

    pub async fn host(&self, host: &str) -> Host {
        Objects::new(Arc::clone(&self.store)).get(host).await.expect("a host")
    }

    /// The disk of a VM in a mirrored pool gets its second copy.
    pub async fn copied(&self, controller: &Controller, vm: &str) {
        let mut memory = mirror_keeper::Memory::default();
        for _ in 0..10 {
            self.reports(controller).await;
            mirror_keeper::pass(&controller.app, &mut memory).await;
            let copies = self.vm(vm).await.and_then(|vm| vm.status.copies);
            if copies.is_some_and(|copies| copies.current.len() == 2) {
                return;
            }
        }
        panic!("no second copy is made of VM '{vm}'");
    }

    /// As many heartbeats as it takes until they are sure to be newer than every operation.
    pub async fn reports(&self, controller: &Controller) {
        for _ in 0..3 {
            self.heartbeats(controller).await;
        }
    }

    /// What must hold whenever no operation is at work.
    pub async fn check(&self) {
        assert_eq!(self.hosts.violations(), Vec::<String>::new());
        let objects = Objects::new(Arc::clone(&self.store));
        let vms: Vec<Vm> = objects.list().await.expect("a store");
        let pools: Vec<Pool> = objects.list().await.expect("a store");
        for vm in &vms {
            let executing = self.hosts.executing(vm.metadata.uuid);
            let status = &vm.status;
            assert_eq!(status.operation, None, "{vm:?}");
            assert_eq!(status.moving_to, None, "{vm:?}");
            match status.phase {
                VmPhase::Running => assert_eq!(executing, Vec::from_iter(status.host.clone()), "{vm:?}"),
                VmPhase::Unknown | VmPhase::Deleting => {}
                _ => assert_eq!(executing, Vec::<Name>::new(), "{vm:?}"),
            }
            let Some(host) = &status.host else { continue };
            if self.hosts.vms_on(host).iter().any(|seen| seen.uuid == vm.metadata.uuid) {
                let named = pools.iter().find(|pool| Some(&pool.metadata.name) == vm.spec.pool.as_ref());
                let used = self.hosts.disk_place(host, vm.metadata.uuid);
                assert_eq!(used, named.map(|pool| pool.metadata.uuid), "its host uses another disk: {vm:?}");
            }
        }
        for volume in objects.list::<Volume>().await.expect("a store") {
            let status = &volume.status;
            assert_eq!(status.operation, None, "{volume:?}");
            let vm = vms.iter().find(|vm| status.vm.as_ref() == Some(&vm.metadata.name));
            let host = vm.and_then(|vm| Some((vm.status.host.as_ref()?, vm.metadata.uuid)));
            let attached = host.map(|(host, vm)| self.hosts.attached_on(host, vm)).unwrap_or_default();
            let is_attached = attached.iter().any(|one| one.uuid == volume.metadata.uuid);
            match status.phase {
                VolumePhase::Ready => assert!(vm.is_none() && !is_attached, "{volume:?}"),
                VolumePhase::Attached => assert!(is_attached, "{volume:?}"),
                VolumePhase::Detaching | VolumePhase::Deleting => {}
                _ => panic!("nothing is at work on it: {volume:?}"),
            }
        }
        for network in objects.list::<Network>().await.expect("a store") {
            for lease in network.status.leases.values() {
                assert!(
                    vms.iter().any(|vm| lease.vm.as_ref() == Some(&vm.metadata.name)),
                    "a lease of nobody: {lease:?}"
                );
            }
        }
    }

    /// Everything of VMs that is on any host, except for what a repeated attempt may change.
    pub fn on_hosts(&self) -> Vec<String> {
        let mut found = Vec::new();
        for host in HOSTS.map(name) {
            for vm in self.hosts.vms_on(&host) {
                let (content, kept) = self.hosts.disk_on(&host, vm.uuid).expect("a disk");
                let disk = format!("content {content}, {} states kept", kept.len());
                found.push(format!("{host}: {} {:?} at epoch {}, {disk}", vm.name, vm.state, vm.epoch));
            }
        }
        found
    }

    /// The same, with pools and their volumes, and the backups; sizes are left out, because what has grown stays so.
    pub fn everything(&self) -> Vec<String> {
        let mut found = self.on_hosts();
        found.push(format!("backups {:?}", self.hosts.backups_in(REPOSITORY)));
        for host in HOSTS.map(name) {
            for report in self.hosts.pool_reports(&host) {
                let volumes: Vec<_> = report.volumes.iter().map(|volume| volume.volume).collect();
                found.push(format!("{host}: pool {} with {volumes:?}", report.pool));
            }
            for vm in self.hosts.vms_on(&host) {
                let volumes = self.hosts.attached_on(&host, vm.uuid);
                let volumes: Vec<_> = volumes.iter().map(|volume| (volume.uuid, volume.slot)).collect();
                let disks = self.hosts.disks_of(&host, vm.uuid);
                found.push(format!("{host}: {} has {volumes:?}, and disks in {disks:?}", vm.name));
            }
        }
        found
    }
}

fn inventory() -> Inventory {
    serde_json::from_value(json!({
        "arch": "x86_64", "cpu": {"count": 4, "model": "m", "flags": []}, "memory": "4GiB",
        "qemu_version": "7.2.17", "kvm": false, "guest_archs": ["x86_64"], "sandbox": true, "post_copy": true,
        "kernel": "6.1", "agent_version": "0.1.0",
        "pools": [{"name": "default", "capacity": "100GiB", "free": "50GiB"}]
    }))
    .expect("an inventory")
}

impl Controller {
    /// Runs an operation to its end.
    pub async fn execute(&self, operation: &Name) {
        let limit = Duration::from_secs(20);
        let ended = tokio::time::timeout(limit, executor::execute(&self.app, operation.as_str())).await;
        ended.unwrap_or_else(|_| panic!("operation {operation} does not end")).expect("a store that works");
    }

    /// Writes past everything that would refuse it.
    pub async fn write(&self, change: Change) {
        let revision = self.app.objects.commit(change).await.expect("a store");
        self.app.model.wait_for(revision).await;
    }

    /// Makes an image that is ready.
    pub async fn import(&self) {
        let caller = Caller::controller();
        let sent = Image::new(name("tiny"), Default::default());
        image::create(&self.app, &caller, sent, &WriteQuery::default()).await.expect("made");
        let changed = image::content_uploaded(&self.app, &caller, "tiny").await.expect("uploaded");
        self.execute(&changed.operation.expect("an operation").metadata.name).await;
    }

    /// Makes a pool that all hosts reach.
    pub async fn shared_pool(&self, pool: &str) {
        let spec = PoolSpec { hosts: HOSTS.map(name).to_vec(), ..PoolSpec::dir("/srv/shared", name(HOSTS[0])) };
        let sent = Pool::new(name(pool), spec);
        let made =
            pool::create(&self.app, &Caller::controller(), sent, &WriteQuery::default()).await.expect("accepted");
        self.execute(&made.operation.expect("an operation").metadata.name).await;
    }

    /// Makes a pool in which each host has a directory of its own.
    pub async fn mirrored_pool(&self, pool: &str) {
        let spec =
            PoolSpec { kind: PoolType::Mirrored, hosts: Vec::new(), ..PoolSpec::dir("/srv/pair", name(HOSTS[0])) };
        let sent = Pool::new(name(pool), spec);
        let made =
            pool::create(&self.app, &Caller::controller(), sent, &WriteQuery::default()).await.expect("accepted");
        self.execute(&made.operation.expect("an operation").metadata.name).await;
    }

    /// Makes a VM; its start is not run yet.
    pub async fn create(&self, vm: &str) -> Name {
        self.create_in(vm, None).await
    }

    /// The same, with its disk in this pool.
    pub async fn create_in(&self, vm: &str, pool: Option<&str>) -> Name {
        let spec = serde_json::from_value(json!({
            "cpus": 1, "memory": "256MiB", "image": "tiny", "pool": pool, "nics": [{"network": "default"}]
        }));
        let sent = Vm::new(name(vm), spec.expect("a spec"));
        let changed = vm::create(&self.app, &Caller::controller(), sent, &WriteQuery::default()).await.expect("made");
        changed.operation.expect("an operation").metadata.name
    }

    /// Makes a VM that runs.
    pub async fn running(&self, vm: &str) {
        let operation = self.create(vm).await;
        self.execute(&operation).await;
    }
}

pub fn succeeded(operation: &Operation) {
    assert_eq!(operation.status.phase, OperationPhase::Succeeded, "{operation:#?}");
}
