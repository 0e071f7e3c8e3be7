//! The agent of a simulated host: the lease keeper, its questions and the heartbeats are the agent's own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use gantry_agent::heartbeat::{self, Mark, Reporter};
use gantry_agent::lease::{self, LeaseKeeper, Members};
use gantry_api::agent::Verdict;
use gantry_api::fencing::{FenceAnswer, FenceQuestion, LeaseReport};
use gantry_api::heartbeat::{Heartbeat, HeartbeatReply};
use gantry_types::{ByteSize, Inventory, Name, Problem};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::agent_machine::AgentMachine;
use super::hub::{CONTROLLER, Hub, Node, Request, Server};
use super::machine::SimMachine;
use super::process::Process;
use super::time::{Timers, next_id};
use super::vms::Vms;
use crate::Planted;
use crate::rules::host_node;

/// As the agent's of a heartbeat.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(5);
/// Longer than it waits for an answer.
const QUESTION_LIMIT: Duration = Duration::from_secs(5);

/// What a running agent serves.
pub struct AgentSide {
    pub vms: Vms,
}

impl AgentSide {
    pub fn lifted(&self) -> u64 {
        self.vms.keeper.lifted.load(Ordering::Acquire)
    }
}

/// Starts a machine's agent; calls come in by the channel.
pub fn start(machine: &Arc<SimMachine>, memory: ByteSize) -> io::Result<(Process, mpsc::UnboundedSender<Request>)> {
    let process = Process::new(machine.clock.clone())?;
    let (sender, inbox) = mpsc::unbounded_channel();
    let link = AgentMachine::new(machine.clone(), process.timers.clone());
    process.spawn(run(link, memory, inbox));
    Ok((process, sender))
}

async fn run(link: Arc<AgentMachine>, memory: ByteSize, mut inbox: mpsc::UnboundedReceiver<Request>) {
    let (name, node, timers) = (link.machine.name.clone(), link.machine.node, link.timers.clone());
    let hub = link.machine.hub.clone();
    if link.machine.planted == Some(Planted::ForgetsTaken) {
        link.machine.disk(|disk| disk.verdicts.retain(|_, verdict| *verdict != Verdict::Committed));
    }
    let keeper = LeaseKeeper::open(name.clone(), link.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let keeper = Arc::new(keeper);
    // Before the VMs: what a warden does not guard must not run.
    keeper.refresh().await;
    let way = Way { hub: hub.clone(), timers, node };
    let agent = Arc::new(AgentSide { vms: Vms::new(link, keeper.clone(), way.clone()) });
    agent.take_up();
    let heeding = agent.clone();
    tokio::spawn(async move { heeding.heed_lease().await });
    let reporter = SimReporter { agent: agent.clone(), way: way.clone(), memory };
    tokio::spawn(heartbeat::run(reporter, next_id(&hub.ids), CancellationToken::new()));
    tokio::spawn(lease::run(keeper, way, CancellationToken::new()));
    while let Some(request) = inbox.recv().await {
        let (hub, server) = (hub.clone(), Server::Agent(agent.clone()));
        tokio::spawn(async move {
            let reply = (request.job)(server).await;
            hub.answer(&request, reply);
        });
    }
}

/// The network as a host has it.
#[derive(Clone)]
pub struct Way {
    hub: Arc<Hub>,
    timers: Arc<Timers>,
    node: Node,
}

fn silent(whom: &str) -> Problem {
    Problem::transient("unreachable", format!("{whom} does not answer"))
}

impl Way {
    /// Calls another host's agent.
    pub fn ask_host<T: Send + 'static>(
        &self,
        to: Node,
        what: &'static str,
        limit: Duration,
        work: impl Fn(Arc<AgentSide>) -> BoxFuture<'static, Result<T, Problem>> + Send + Sync + 'static,
    ) -> BoxFuture<'static, Result<T, Problem>> {
        let limit = (self.timers.clone(), limit);
        let asking = self.hub.clone().call((self.node, to), what, limit, move |server| match server {
            Server::Agent(agent) => work(agent),
            Server::Controller(_) => Box::pin(async { Err(silent("a host")) }),
        });
        Box::pin(async move { asking.await.unwrap_or_else(|| Err(silent("a host"))) })
    }
}

impl Members for Way {
    fn ask_host(
        &mut self,
        name: &Name,
        _address: &str,
        question: FenceQuestion,
    ) -> Option<BoxFuture<'static, Result<FenceAnswer, Problem>>> {
        Some(Way::ask_host(self, host_node(name)?, "ask_fence", QUESTION_LIMIT, move |agent| {
            let question = question.clone();
            Box::pin(async move { agent.ask_fence(&question).await })
        }))
    }

    fn ask_controller(&mut self, question: FenceQuestion) -> BoxFuture<'static, Result<FenceAnswer, Problem>> {
        let limit = (self.timers.clone(), QUESTION_LIMIT);
        let asking = self.hub.clone().call((self.node, CONTROLLER), "ask_fence", limit, move |server| {
            let question = question.clone();
            Box::pin(async move {
                match server {
                    Server::Controller(controller) => Ok(controller.ask(&question)),
                    Server::Agent(_) => Err(silent("the controller")),
                }
            })
        });
        Box::pin(async move { asking.await.unwrap_or_else(|| Err(silent("the controller"))) })
    }
}

struct SimReporter {
    agent: Arc<AgentSide>,
    way: Way,
    memory: ByteSize,
}

#[async_trait]
impl Reporter for SimReporter {
    fn lease(&self) -> &LeaseKeeper {
        &self.agent.vms.keeper
    }

    async fn lease_report(&self) -> LeaseReport {
        self.agent.vms.lease_report()
    }

    async fn heartbeat(&mut self, mark: Mark) -> Heartbeat {
        let vms = &self.agent.vms;
        let name = &vms.link.machine.name;
        let address = address(self.way.node);
        Heartbeat {
            agent_instance: mark.agent_instance,
            sequence: mark.sequence,
            agent_address: format!("{address}:7443"),
            underlay_address: address,
            inventory: inventory(self.memory),
            metrics: Default::default(),
            vms: vms.known().into_iter().map(|known| vms.shown(known)).collect(),
            networks_generation: vms.world.networks_on(name).generation,
            members: Vec::new(),
            idle_routers: Vec::new(),
            pools: vms.world.pool_reports(name),
            traffic: None,
            lease: Some(mark.lease),
        }
    }

    async fn send(&self, heartbeat: &Heartbeat) -> Result<HeartbeatReply, Problem> {
        let (host, heartbeat) = (self.agent.vms.link.machine.name.clone(), heartbeat.clone());
        let limit = (self.way.timers.clone(), HEARTBEAT_LIMIT);
        let told = self.way.hub.clone().call((self.way.node, CONTROLLER), "heartbeat", limit, move |server| {
            let (host, heartbeat) = (host.clone(), heartbeat.clone());
            Box::pin(async move {
                match server {
                    Server::Controller(controller) => controller.heartbeat(&host, heartbeat).await,
                    Server::Agent(_) => Err(silent("the controller")),
                }
            })
        });
        told.await.unwrap_or_else(|| Err(silent("the controller")))
    }

    fn heard(&self, _reply: HeartbeatReply) {}
    fn unheard(&self) {}
}

pub fn address(node: Node) -> String {
    format!("10.0.0.{node}")
}

pub fn inventory(memory: ByteSize) -> Inventory {
    let inventory = json!({
        "arch": "x86_64", "cpu": {"count": 16, "model": "m", "flags": []}, "memory": memory,
        "qemu_version": "7.2.17", "kvm": false, "guest_archs": ["x86_64"], "sandbox": true, "post_copy": true,
        "kernel": "6.1", "agent_version": "0.1.0",
        "pools": [{"name": "default", "capacity": "100GiB", "free": "50GiB"}]
    });
    serde_json::from_value(inventory).unwrap_or_else(|error| panic!("made an invalid inventory: {error}"))
}
