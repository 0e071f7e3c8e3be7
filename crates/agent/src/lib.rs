//! The agent of a host: runs the VMs it was assigned and owns the truth about them.
//!
//! ```text
//!  controller ──AgentApi──▶ server ──▶ agent ──▶ vm task ──▶ QEMU (outlives the agent)
//!      ▲                                 │          │
//!      └────────── heartbeat ────────────┘          ├── records, verdicts (durable)
//!                                                   ├── lease, and the warden: a process of its own
//!  other host ──commit, abort, report──▶ server     └── storage, network, migration
//! ```
//! It runs in the network namespace of its host, as root, and keeps everything in one state directory ([`config`]).
//! It decides nothing about placement and talks to no database: what it is told is written down before it is answered,
//! so it works without a controller for any length of time.
//!
//! On failure: a killed agent loses nothing. The next one takes over every QEMU and continues every migration from its
//! record.

mod agent;
mod asking;
mod backups;
mod config;
mod copies;
mod counting;
mod durable;
mod flows;
mod health;
pub mod heartbeat;
mod host;
mod host_metrics;
mod images;
mod instance;
mod inventory;
mod join;
pub mod lease;
mod links;
mod losses;
mod migration;
mod network_watch;
mod networks;
mod pool_load;
mod pools;
mod problem;
mod rapl;
mod records;
mod relocation;
mod renewal;
mod report;
mod resources;
mod service_manager;
mod services;
mod storage;
mod vm;
mod vm_files;
mod warden;
mod work;

use std::sync::Arc;

use gantry_api::AgentApi;
use gantry_hostlink::Streams;
use gantry_network::LinuxDataPlane;
use gantry_storage::{DirPool, StorageError};
use gantry_trust::{
    ClientAuth, ClientConfig, ExpectedPeer, Identity, LiveIdentity, Role, Server, ServerLimits, TrustError,
};
use gantry_types::Problem;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::{AgentConfig, ConfigError, DEFAULT_STATE_DIR};
pub use join::{JoinError, join};
pub use warden::{WardenError, run as run_warden};

use agent::Agent;
use host::{Host, Uids};
use images::Images;
use inventory::QemuHost;
use lease::{HttpMembers, LeaseKeeper, ThisMachine};
use networks::Networks;
use pools::Pools;
use records::{Loaded, Records};
use report::HttpReporter;
use resources::Resources;

/// Why the agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("the agent makes network devices and changes users: run it as root")]
    NotRoot,
    #[error("another agent uses {}: stop it first", state_dir.display())]
    AlreadyRunning { state_dir: std::path::PathBuf },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("this host's identity")]
    Identity(#[from] TrustError),
    #[error("this host's pool")]
    Pool(#[from] StorageError),
    #[error("{0}")]
    State(Problem),
    #[error("cannot {action}")]
    System {
        action: String,
        #[source]
        source: std::io::Error,
    },
}

/// Runs the agent of a joined host until `shutdown`. Its VMs run on afterwards.
pub async fn run(config: AgentConfig, shutdown: CancellationToken) -> Result<(), AgentError> {
    if !rustix::process::geteuid().is_root() {
        return Err(AgentError::NotRoot);
    }
    config::create_state_dir(&config.state_dir)?;
    let _lock = lock(&config)?;
    let address = config.agent_address;
    service_manager::warn_of_ended_vms().await;
    let (host, loaded) = open(config).await?;
    let controller = ClientConfig::with_identity(&host.identity, ExpectedPeer::any_controller())?.http()?;
    let instance = instance::begin(&host.config.state_dir);
    let images = Images::new(host.pool.clone(), controller.clone(), &host.config.controller_url);
    let agent = Arc::new(Agent::new(host.clone(), images));
    // Before the VMs: what a warden does not guard must not run.
    host.lease.refresh().await;
    agent.take_up(loaded).await;

    let listen = |source| AgentError::System { action: format!("listen on {address}"), source };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let roles = ClientAuth::Required(vec![Role::Controller, Role::Host]);
    let server = Server::new(&host.identity, roles, ServerLimits::default())?;
    let api: Arc<dyn AgentApi> = agent.clone();
    let streams: Arc<dyn Streams> = agent.clone();
    let router = gantry_hostlink::router(api, streams, host.lease.lifted.clone());
    tracing::info!(name = %host.config.name, %address, "agent ready");
    let renewal = renewal::run(host.clone(), controller.clone(), shutdown.clone());
    let watch = network_watch::run(&host.networks, network_watch::INTERVAL, shutdown.clone());
    let services = services::run(host.clone(), shutdown.clone());
    let health = health::run(host.clone(), shutdown.clone());
    let pools = pools::run(&host, shutdown.clone());
    let counting = counting::run(&host, shutdown.clone());
    let links = links::run(&host, shutdown.clone());
    let resources = resources::run(host.clone(), shutdown.clone());
    let members = HttpMembers::new(host.clone(), controller.clone());
    let lease = lease::run(host.lease.clone(), members, shutdown.clone());
    let reporter = HttpReporter::new(host.clone(), agent, controller);
    let heartbeat = heartbeat::run(reporter, instance, shutdown.clone());
    let kept = async { tokio::join!(renewal, services, health, resources, watch, pools, counting, links, lease) };
    tokio::join!(server.serve(listener, router, shutdown), heartbeat, kept);
    Ok(())
}

/// Two agents on one state directory would each think every VM is theirs. The lock ends with the process.
fn lock(config: &AgentConfig) -> Result<std::fs::File, AgentError> {
    let path = config.state_dir.join("lock");
    let failed = |source| AgentError::System { action: format!("lock {}", path.display()), source };
    let file = std::fs::File::create(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(AgentError::AlreadyRunning { state_dir: config.state_dir.clone() })
        }
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

async fn open(config: AgentConfig) -> Result<(Arc<Host>, Vec<Loaded>), AgentError> {
    let state = |problem: Problem| AgentError::State(problem);
    let identity = LiveIdentity::new(Identity::load(&config.identity_dir())?)?;
    let qemu_identity = LiveIdentity::new(Identity::load(&config.qemu_identity_dir())?)?;
    let pool = DirPool::open(&config.pool_dir())?;
    let swept = pool.sweep().await?;
    if swept > 0 {
        tracing::info!(swept, "leftovers of interrupted work removed from the pool");
    }
    let failed = |action: &str| {
        let action = action.to_owned();
        move |source| AgentError::System { action, source }
    };
    let records = Records::open(&config.state_dir).map_err(|error| state(error.problem()))?;
    let loaded = records.load_all().map_err(|error| state(error.problem()))?;
    let verdicts = migration::Verdicts::open(&config.state_dir).map_err(failed("open the migration verdicts"))?;
    let qemu = QemuHost::find(&config.state_dir, &config.pool_dir()).await.map_err(failed("inspect this host"))?;
    let plane = Arc::new(LinuxDataPlane::current());
    let networks = Networks::open(plane, config.underlay_address, &config.state_dir).map_err(state)?;
    let resources = Arc::new(Resources::open(&config.name, &config.state_dir));
    let lease = LeaseKeeper::open(config.name.clone(), Arc::new(ThisMachine::new(&config)));
    let lease = Arc::new(lease.map_err(failed("read what it knows of leases (lease.json)"))?);
    let uids = Uids::new(config.first_uid, records.taken_uids(&loaded));
    let pools = Pools::new(pool.clone(), config.name.clone());
    let (services, health, counted, links, losses) = Default::default();
    let copies = Default::default();
    let host = Host {
        config,
        identity,
        qemu_identity,
        records,
        verdicts,
        pool,
        pools,
        copies,
        networks,
        resources,
        lease,
        services,
        health,
        counted,
        links,
        losses,
        qemu,
        uids,
    };
    Ok((Arc::new(host), loaded))
}
