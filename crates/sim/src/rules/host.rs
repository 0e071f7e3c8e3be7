//! A host: what of it survives what.
//!
//! ```text
//!   lost with the agent:  lease, ledger in memory          kept on disk: members, fence, lifted, ledger, records
//!   lost with the power:  warden, guests                   lost never:   the disk
//! ```

use std::collections::BTreeMap;

use gantry_ha::{FenceLedger, Lease, Moment, lease::Standing};
use gantry_types::{Fence, Member, Members, Name};

use super::TIMING;
use super::events::{CONTROLLER, Message, Node, VmId};
use crate::Planted;

const HEARTBEAT_MS: u64 = 1_000;

pub struct Host {
    pub node: Node,
    pub name: Name,
    /// How fast its clock is, in millionths.
    pub clock_ppm: u64,
    pub powered: bool,
    pub boot: u64,
    pub agent: Option<Agent>,
    pub life: u64,
    pub frozen: bool,
    /// Arrived while the agent was frozen.
    pub backlog: Vec<(Node, Message)>,
    /// When the warden stops protected guests; `None`: never.
    pub warden: Option<Moment>,
    pub executing: BTreeMap<VmId, u64>,
    pub disk: Disk,
}

#[derive(Default)]
pub struct Disk {
    pub members: Option<Members>,
    pub fence: Option<Fence>,
    pub lifted: u64,
    pub ledger_fences: Vec<Fence>,
    pub ledger_lifted: BTreeMap<Name, u64>,
    pub records: BTreeMap<VmId, Record>,
}

#[derive(Debug, Clone)]
pub struct Record {
    pub epoch: u64,
    /// The agent keeps it running by itself.
    pub wanted: bool,
}

pub struct Agent {
    pub lease: Lease,
    pub ledger: FenceLedger,
    last_heartbeat: Option<Moment>,
    starting: BTreeMap<VmId, Moment>,
}

/// What a host wants to happen elsewhere, or later.
pub enum Wish {
    Send(Node, Message),
    Execute {
        vm: VmId,
        deadline: Option<Moment>,
    },
    WakeWarden {
        at: Moment,
    },
    /// These guests end now.
    End(Vec<VmId>),
}

pub fn host_node(name: &Name) -> Option<Node> {
    name.as_str().strip_prefix("host-")?.parse().ok()
}

pub fn member_node(member: &Member) -> Option<Node> {
    match member {
        Member::Controller => Some(CONTROLLER),
        Member::Host(name) => host_node(name),
    }
}

impl Host {
    pub fn new(node: Node, clock_ppm: u64) -> Self {
        Self {
            node,
            name: format!("host-{node}").parse().unwrap_or_else(|error| panic!("made an invalid name: {error}")),
            clock_ppm,
            powered: true,
            boot: 0,
            agent: None,
            life: 0,
            frozen: false,
            backlog: Vec::new(),
            warden: None,
            executing: BTreeMap::new(),
            disk: Disk::default(),
        }
    }

    pub fn clock(&self, now_ms: u64) -> Moment {
        // Machines are not switched on at the same time.
        Moment(now_ms * self.clock_ppm / 1_000_000 + 1_000 * self.node as u64)
    }

    pub fn start_agent(&mut self, now: Moment) {
        let disk = &self.disk;
        let lease = Lease::new(self.name.clone(), TIMING, disk.members.clone(), disk.fence.clone(), disk.lifted);
        let ledger = FenceLedger::load(now, disk.ledger_fences.clone(), disk.ledger_lifted.clone());
        self.life += 1;
        self.frozen = false;
        self.backlog.clear();
        self.agent = Some(Agent { lease, ledger, last_heartbeat: None, starting: BTreeMap::new() });
    }

    pub fn look_around(&mut self, now: Moment) -> Vec<Wish> {
        let mut wishes = Vec::new();
        let Some(agent) = &mut self.agent else { return wishes };
        if let Standing::Fenced { .. } = agent.lease.standing(now) {
            // On disk before it is acknowledged: it is the controller's to say what runs where after the fence.
            self.disk.records.values_mut().for_each(|record| record.wanted = false);
            wishes.push(Wish::End(self.executing.keys().copied().collect()));
        }
        if agent.last_heartbeat.is_none_or(|last| now.ms_since(last) >= HEARTBEAT_MS) {
            agent.last_heartbeat = Some(now);
            let fenced = matches!(agent.lease.standing(now), Standing::Fenced { .. });
            let heartbeat = Message::Heartbeat {
                sent: now,
                members_generation: agent.lease.members().map_or(0, |members| members.generation),
                // What the fence stops is stopped above, and what is on its way to start looks at the lease again.
                acknowledged: agent.lease.acknowledge(!fenced),
                vms: self
                    .disk
                    .records
                    .iter()
                    .map(|(vm, record)| (*vm, record.epoch, self.executing.contains_key(vm) && !fenced))
                    .collect(),
            };
            wishes.push(Wish::Send(CONTROLLER, heartbeat));
        }
        if agent.lease.wants_to_ask(now) {
            let (round, lifted) = (agent.lease.ask(now), agent.lease.lifted());
            let members = agent.lease.members().cloned().unwrap_or_default();
            let others = members.hosts.keys().filter(|name| **name != self.name).filter_map(host_node);
            for node in others.chain([CONTROLLER]) {
                wishes.push(Wish::Send(node, Message::Question { round, lifted }));
            }
        }
        if agent.lease.standing(now).may_run() {
            for (vm, record) in &self.disk.records {
                let begun = agent.starting.get(vm).is_some_and(|at| now.ms_since(*at) < 2_000);
                if record.wanted && !self.executing.contains_key(vm) && !begun {
                    agent.starting.insert(*vm, now);
                    wishes.push(Wish::Execute { vm: *vm, deadline: agent.lease.deadline() });
                }
            }
        }
        wishes.extend(self.feed_warden());
        wishes
    }

    /// The warden's deadline only grows, unless there is a fence; then what runs is ended by the agent too.
    fn feed_warden(&mut self) -> Option<Wish> {
        let agent = self.agent.as_ref()?;
        let deadline = agent.lease.deadline()?;
        if self.warden.is_some_and(|known| known >= deadline) {
            return None;
        }
        self.warden = Some(deadline);
        Some(Wish::WakeWarden { at: deadline })
    }

    pub fn receive(&mut self, from: Node, message: Message, now: Moment, planted: Option<Planted>) -> Vec<Wish> {
        let Some(agent) = &mut self.agent else { return Vec::new() };
        let mut wishes = Vec::new();
        match message {
            Message::Granted { sent, lifted, members } => {
                if agent.lease.members().is_none_or(|known| known.generation < members.generation) {
                    self.disk.members = Some(members.clone());
                    agent.lease.adopt(&members);
                }
                self.disk.lifted = self.disk.lifted.max(lifted);
                agent.lease.granted(sent, lifted);
                self.disk.fence = agent.lease.fence().cloned();
            }
            Message::Fenced(fence) => self.note_fence(&fence),
            Message::Answer(answer) => match &answer.fence {
                Some(fence) => self.note_fence(fence),
                None => drop(agent.lease.answered(&answer)),
            },
            Message::Question { round, lifted } => {
                let Some(asker) = host_name(from) else { return wishes };
                let fence = agent.ledger.ask(&asker, lifted, now).cloned();
                let answer = gantry_ha::lease::Answer { from: Member::Host(self.name.clone()), round, fence };
                wishes.push(Wish::Send(from, Message::Answer(answer)));
                self.save_ledger();
            }
            Message::Store(fence) => {
                let last_word = agent.ledger.record(&fence);
                let ago_ms = now.ms_since(last_word);
                self.save_ledger();
                let stored = Message::Stored { host: fence.host, generation: fence.generation, ago_ms };
                wishes.push(Wish::Send(from, stored));
            }
            Message::Lift { host, generation } => {
                agent.ledger.lift(&host, generation);
                self.save_ledger();
            }
            Message::Start { vm, epoch, incarnation } => {
                // A command from before a fence that was lifted since.
                let old = incarnation < agent.lease.lifted() && planted != Some(Planted::OldCommands);
                let newest = self.disk.records.get(&vm).is_none_or(|known| known.epoch <= epoch);
                if !old && newest && agent.lease.standing(now).may_run() {
                    self.disk.records.insert(vm, Record { epoch, wanted: true });
                }
            }
            Message::Remove { vm, epoch } => {
                if self.disk.records.get(&vm).is_some_and(|known| known.epoch <= epoch) {
                    self.disk.records.remove(&vm);
                    wishes.push(Wish::End(vec![vm]));
                }
            }
            Message::Heartbeat { .. } | Message::Stored { .. } => {}
        }
        wishes.extend(self.feed_warden());
        wishes
    }

    fn note_fence(&mut self, fence: &Fence) {
        if let Some(agent) = &mut self.agent
            && agent.lease.fenced(fence)
        {
            self.disk.fence = Some(fence.clone());
        }
    }

    fn save_ledger(&mut self) {
        if let Some(agent) = &self.agent {
            self.disk.ledger_fences = agent.ledger.recorded().cloned().collect();
            self.disk.ledger_lifted = agent.ledger.lifted();
        }
    }
}

pub fn host_name(node: Node) -> Option<Name> {
    format!("host-{node}").parse().ok().filter(|_| node != CONTROLLER)
}
