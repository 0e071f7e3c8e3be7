//! The 100 protected VMs of one dead host: until each was decided about and given to another host.
//!
//! The controller, its loops, its operations and its store on disk are the real ones; the hosts are in memory and start a
//! guest at once, because this machine can't boot a hundred. So the figures are the controller's own part.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use gantry_api::AgentApi;
use gantry_api::agent::VmObservation;
use gantry_api::heartbeat::Heartbeat;
use gantry_api::rest::WriteQuery;
use gantry_controller::app::{App, Caller, cluster, pool, vm};
use gantry_controller::clock::SystemClock;
use gantry_controller::config::Config;
use gantry_controller::image_library::StoredImages;
use gantry_controller::links::HostLinks;
use gantry_controller::loops::{self, intake};
use gantry_controller::objects::{Change, Objects};
use gantry_controller::power::BuiltInDrivers;
use gantry_e2e::bench::{Better, Figure};
use gantry_e2e::eventually;
use gantry_hostlink::fake::FakeWorld;
use gantry_store::{SharedStore, SqliteStore};
use gantry_types::{
    Event, Host, HostSpec, HostState, Inventory, Name, Pool, PoolSpec, Resource, Timestamp, Vm, VmSpec,
};
use serde_json::json;
use tokio::task::JoinHandle;
use uuid::Uuid;

const HOSTS: u8 = 11;
const VMS: usize = 100;
const BEAT: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(240);

struct Datacenter {
    app: Arc<App>,
    hosts: Arc<FakeWorld>,
    tasks: Vec<JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Drop for Datacenter {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

struct Links(Arc<FakeWorld>);

impl HostLinks for Links {
    fn agent(&self, host: &Host) -> Arc<dyn AgentApi> {
        Arc::new(self.0.host(&host.metadata.name).knowing_lifted(host.status.fences_lifted))
    }
}

fn host_name(number: u8) -> Result<Name> {
    Ok(format!("host-{number}").parse()?)
}

pub async fn fail_over() -> Result<Vec<Figure>> {
    let datacenter = Datacenter::start().await?;
    datacenter.fill().await?;
    let lost_at = Timestamp::from(SystemTime::now());
    datacenter.hosts.unplug(&host_name(1)?);
    let is_back = |vm: &Vm| vm.status.host.as_ref().is_some_and(|host| host.as_str() != "host-1") && vm.status.ready;
    eventually("all VMs run elsewhere", LIMIT, async || {
        let back = datacenter.app.model.list::<Vm>().iter().filter(|vm| is_back(vm)).count();
        ensure!(back == VMS, "{back} of {VMS}");
        Ok(())
    })
    .await?;
    ensure!(datacenter.hosts.violations().is_empty(), "{:?}", datacenter.hosts.violations());
    let events = datacenter.app.model.list::<Event>();
    let told = |reason: &str| {
        let its = events.iter().filter(|event| event.spec.reason == reason);
        let mut at: Vec<Timestamp> = its.filter_map(|event| event.metadata.created_at).collect();
        at.retain(|at| *at >= lost_at);
        at.sort();
        at
    };
    let (proved, again) = (told("HostFenced"), told("VmRunsAgain"));
    let (proved, last) = (proved.first().context("no proof")?, again.last().context("nothing runs again")?);
    ensure!(again.len() == VMS, "{} of {VMS} are told of", again.len());
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    Ok(vec![
        Figure::alone("ha_100_vms_from_proof_to_last_dispatch_ms", ms(last.since(*proved)), Better::Lower, VMS),
        Figure::alone("ha_100_vms_from_power_loss_to_last_dispatch_ms", ms(last.since(lost_at)), Better::Lower, VMS),
    ])
}

impl Datacenter {
    async fn start() -> Result<Self> {
        let directory = tempfile::tempdir().context("no scratch directory")?;
        let store: SharedStore = Arc::new(SqliteStore::open(directory.path().join("store.db")).await?);
        let (hosts, clock) = (FakeWorld::new(), Arc::new(SystemClock::default()));
        let mut change = Change::new();
        for number in 1..=HOSTS {
            let name = host_name(number)?;
            hosts.host(&name);
            let mut host = Host::new(name, HostSpec::default());
            host.metadata.uuid = Uuid::now_v7();
            host.status.state = HostState::Ready;
            host.status.agent_address = format!("10.0.0.{number}:7443");
            host.status.underlay_address = format!("10.0.0.{number}");
            host.status.inventory = Some(inventory()?);
            change.create(&host)?;
        }
        let objects = Objects::new(Arc::clone(&store));
        objects.commit(change).await?;
        cluster::ensure_main(&objects, &*clock).await?;
        let config = Config::new(directory.path(), "127.0.0.1:0".parse()?, "bench");
        let images = Arc::new(StoredImages::open(&config).await?);
        let (links, power) = (Arc::new(Links(Arc::clone(&hosts))), Arc::new(BuiltInDrivers::default()));
        let (app, feed) = App::open(config, store, links, images, power, clock).await?;
        let mut tasks = vec![tokio::spawn(loops::run(Arc::clone(&app), feed))];
        for number in 1..=HOSTS {
            tasks.push(tokio::spawn(beat(Arc::clone(&app), Arc::clone(&hosts), host_name(number)?)));
        }
        Ok(Self { app, hosts, tasks, _directory: directory })
    }

    /// The VMs, protected and guarded, on the first host.
    async fn fill(&self) -> Result<()> {
        let (caller, query) = (Caller::controller(), WriteQuery::default());
        let all: Vec<Name> = (1..=HOSTS).map(host_name).collect::<Result<_>>()?;
        let spec = PoolSpec { hosts: all, ..PoolSpec::dir("/srv/shared", host_name(1)?) };
        pool::create(&self.app, &caller, Pool::new("nas".parse()?, spec), &query).await?;
        eventually("the pool is there", LIMIT, async || {
            let pool = self.app.model.get::<Pool>("nas").context("no pool")?;
            ensure!(pool.status.operation.is_none(), "{:?}", pool.status);
            Ok(())
        })
        .await?;
        let mut others: Vec<Host> = self.app.model.list::<Host>().iter().map(|host| Host::clone(host)).collect();
        others.retain(|host| host.name() != "host-1");
        self.cordon(&others, true).await?;
        for number in 0..VMS {
            let spec: VmSpec = serde_json::from_value(json!({
                "cpus": 1, "memory": "1GiB", "disk": "1GiB", "pool": "nas", "ha": {"policy": "restart"},
            }))?;
            vm::create(&self.app, &caller, Vm::new(format!("vm-{number:03}").parse()?, spec), &query).await?;
        }
        eventually("all VMs run guarded", LIMIT, async || {
            let vms = self.app.model.list::<Vm>();
            let well = vms.iter().filter(|vm| vm.status.ready && vm.status.is_guarded()).count();
            ensure!(well == VMS, "{well} of {VMS}");
            Ok(())
        })
        .await?;
        self.cordon(&others, false).await
    }

    async fn cordon(&self, hosts: &[Host], cordoned: bool) -> Result<()> {
        for host in hosts {
            let mut sent = host.clone();
            sent.spec.cordoned = cordoned;
            sent.metadata.revision = 0;
            let (caller, query) = (Caller::controller(), WriteQuery::default());
            gantry_controller::app::host::put(&self.app, &caller, host.name(), sent, &query).await?;
        }
        Ok(())
    }
}

/// A host's heartbeats, once a second for as long as it has power.
async fn beat(app: Arc<App>, hosts: Arc<FakeWorld>, host: Name) {
    let agent_instance = Uuid::now_v7();
    for sequence in 1.. {
        if let Ok(vms) = hosts.host(&host).observe().await
            && let Some(beat) = heartbeat(&app, &hosts, &host, vms, (agent_instance, sequence))
            && let Ok(reply) = intake::heartbeat(&app, &host, beat).await
            && let Some(grant) = &reply.lease
        {
            hosts.heard(&host, grant);
        }
        tokio::time::sleep(BEAT).await;
    }
}

fn heartbeat(
    app: &App,
    hosts: &FakeWorld,
    host: &Name,
    vms: Vec<VmObservation>,
    (agent_instance, sequence): (Uuid, u64),
) -> Option<Heartbeat> {
    let stored = app.model.get::<Host>(host.as_str())?;
    Some(Heartbeat {
        agent_instance,
        sequence,
        agent_address: stored.status.agent_address.clone(),
        underlay_address: stored.status.underlay_address.clone(),
        inventory: stored.status.inventory.clone()?,
        metrics: Default::default(),
        vms,
        networks_generation: hosts.networks_on(host).generation,
        members: Vec::new(),
        idle_routers: Vec::new(),
        pools: hosts.pool_reports(host),
        traffic: None,
        lease: hosts.lease_report(host),
    })
}

fn inventory() -> Result<Inventory> {
    Ok(serde_json::from_value(json!({
        "arch": "x86_64", "cpu": {"count": 64, "model": "some", "flags": []}, "memory": "256GiB",
        "qemu_version": "7.2.17", "kvm": false, "guest_archs": ["x86_64"], "sandbox": true, "post_copy": true,
        "kernel": "6.1", "agent_version": "0.1.0",
        "pools": [{"name": "default", "capacity": "4TiB", "free": "2TiB"}],
    }))?)
}
