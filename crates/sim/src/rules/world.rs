//! One run: lets everything happen in order and looks after each step whether it may be so.

use std::collections::BTreeMap;

use gantry_ha::Moment;
use gantry_types::{Members, Name};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::TIMING;
use super::controller::{Controller, Stored};
use super::events::{CONTROLLER, Event, Message, Node, Queue, VmId};
use super::host::{Host, Wish, host_node};
use super::network::Network;
use crate::faults::{self, Cast, Fault};
use crate::{Options, Planted};

const TICK_MS: u64 = 100;
/// Faults begin after a quiet time and end here.
const FAULTS_FROM_MS: u64 = 5_000;
const FAULTS_UNTIL_MS: u64 = 90_000;
/// After the faults have stopped, everything must be well within this time.
const RECOVERY_MS: u64 = 60_000;

/// How a run went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub violations: Vec<String>,
    pub events: u64,
    pub fences: u64,
    /// VMs that were given another host.
    pub restarts: u64,
}

struct World {
    now_ms: u64,
    queue: Queue,
    rng: StdRng,
    network: Network,
    hosts: Vec<Host>,
    stored: Stored,
    controller: Option<Controller>,
    controller_life: u64,
    controller_frozen: bool,
    controller_backlog: Vec<(Node, Message)>,
    controller_ppm: u64,
    options: Options,
    report: Report,
}

/// Runs the datacenter of this seed to its end.
pub fn run(seed: u64, options: Options) -> Report {
    let mut world = World::new(seed, options);
    while let Some((at_ms, event)) = world.queue.next() {
        if at_ms > FAULTS_UNTIL_MS + RECOVERY_MS {
            break;
        }
        world.now_ms = at_ms;
        world.report.events += 1;
        if options.trace && !matches!(event, Event::Tick { .. }) {
            eprintln!("{at_ms:>7} {event:?}");
        }
        world.happen(event);
    }
    world.check_end();
    let lifted: u64 = world.stored.lifted.values().sum();
    world.report.fences = lifted + world.stored.fences.len() as u64;
    world.report.restarts = world.stored.vms.values().map(|(_, epoch)| epoch - 1).sum();
    world.report
}

impl World {
    fn new(seed: u64, options: Options) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let first = rng.random_range(2..5_usize);
        let count = first + usize::from(rng.random_bool(0.3));
        // Within what the timing allows two machines to differ.
        let spread = TIMING.drift_permille * 1_000 / 2 - 100;
        let ppm = |rng: &mut StdRng| 1_000_000 - spread + rng.random_range(0..=2 * spread);
        let hosts: Vec<Host> = (1..=count).map(|node| Host::new(node, ppm(&mut rng))).collect();
        let controller_ppm = ppm(&mut rng);
        let vms: VmId = rng.random_range(1..=2 * first);
        let home = |vm: VmId| hosts[vm % first].name.clone();
        let stored = Stored {
            members: vec![members(1, hosts.iter().take(first).map(|host| &host.name))],
            confirmed: BTreeMap::new(),
            fences: BTreeMap::new(),
            lifted: BTreeMap::new(),
            vms: (0..vms).map(|vm| (vm, (home(vm), 1))).collect(),
            capacity: rng.random_range(2..=2 * first),
        };
        let mut queue = Queue::default();
        let joins: Vec<Node> = (first + 1..=count).collect();
        let cast = Cast { hosts: count, joins: &joins, machines: false };
        let faults = faults::draw(&mut rng, FAULTS_FROM_MS..FAULTS_UNTIL_MS, &cast);
        for (at_ms, fault) in faults.into_iter().chain([(FAULTS_UNTIL_MS, Fault::Stop)]) {
            queue.put(at_ms, Event::Fault(fault));
        }
        let mut world = Self {
            now_ms: 0,
            queue,
            rng,
            network: Network::default(),
            hosts,
            stored,
            controller: None,
            controller_life: 0,
            controller_frozen: false,
            controller_backlog: Vec::new(),
            controller_ppm,
            options,
            report: Report::default(),
        };
        (0..=count).for_each(|node| world.start_program(node));
        world
    }

    fn controller_clock(&self) -> Moment {
        Moment(self.now_ms * self.controller_ppm / 1_000_000 + 500_000)
    }

    fn start_program(&mut self, node: Node) {
        let planted = self.options.planted;
        let life = if node == CONTROLLER {
            self.controller = Some(Controller::start(&self.stored, self.controller_clock(), planted));
            self.controller_frozen = false;
            self.controller_backlog.clear();
            self.controller_life += 1;
            self.controller_life
        } else {
            let host = &mut self.hosts[node - 1];
            if !host.powered {
                return;
            }
            host.start_agent(host.clock(self.now_ms));
            host.life
        };
        let offset = self.rng.random_range(0..TICK_MS);
        self.queue.put(self.now_ms + offset, Event::Tick { node, life });
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick { node, life } => self.tick(node, life),
            Event::Arrive { from, to, message } => self.arrive(from, to, message),
            Event::Execute { host, vm, boot, deadline } => self.execute(host, vm, boot, deadline),
            Event::WardenWakes { host, boot } => self.warden_wakes(host, boot),
            Event::Fault(fault) => self.fail(fault),
        }
    }

    fn tick(&mut self, node: Node, life: u64) {
        if node == CONTROLLER {
            let now = self.controller_clock();
            if self.controller_life != life {
                return;
            }
            let Some(controller) = &mut self.controller else { return };
            if !self.controller_frozen {
                let out = controller.look_around(&mut self.stored, now);
                self.send_all(CONTROLLER, out);
            }
        } else {
            let host = &mut self.hosts[node - 1];
            if host.agent.is_none() || host.life != life {
                return;
            }
            if !host.frozen {
                let wishes = host.look_around(host.clock(self.now_ms));
                self.grant(node, wishes);
            }
        }
        self.queue.put(self.now_ms + TICK_MS, Event::Tick { node, life });
    }

    fn arrive(&mut self, from: Node, to: Node, message: Message) {
        if to == CONTROLLER {
            if self.controller_frozen {
                self.controller_backlog.push((from, message));
                return;
            }
            let now = self.controller_clock();
            let Some(controller) = &mut self.controller else { return };
            let out = controller.receive(&mut self.stored, from, message, now);
            self.send_all(CONTROLLER, out);
        } else {
            let planted = self.options.planted;
            let host = &mut self.hosts[to - 1];
            if host.frozen {
                host.backlog.push((from, message));
                return;
            }
            let wishes = host.receive(from, message, host.clock(self.now_ms), planted);
            self.grant(to, wishes);
        }
    }

    fn send_all(&mut self, from: Node, messages: Vec<(Node, Message)>) {
        for (to, message) in messages {
            for delay in self.network.deliveries(from, to, &mut self.rng) {
                self.queue.put(self.now_ms + delay, Event::Arrive { from, to, message: message.clone() });
            }
        }
    }

    fn grant(&mut self, node: Node, wishes: Vec<Wish>) {
        for wish in wishes {
            let boot = self.hosts[node - 1].boot;
            match wish {
                Wish::Send(to, message) => self.send_all(node, vec![(to, message)]),
                Wish::Execute { vm, deadline } => {
                    let delay = self.rng.random_range(1..400);
                    self.queue.put(self.now_ms + delay, Event::Execute { host: node, vm, boot, deadline });
                }
                Wish::WakeWarden { at } => {
                    let host = &self.hosts[node - 1];
                    let remaining = at.ms_since(host.clock(self.now_ms)) * 1_000_000 / host.clock_ppm + 1;
                    let lateness = self.rng.random_range(0..TIMING.kill_margin_ms);
                    self.queue.put(self.now_ms + remaining + lateness, Event::WardenWakes { host: node, boot });
                }
                Wish::End(vms) => self.hosts[node - 1].executing.retain(|vm, _| !vms.contains(vm)),
            }
        }
    }

    fn execute(&mut self, node: Node, vm: VmId, boot: u64, deadline: Option<Moment>) {
        let host = &mut self.hosts[node - 1];
        let in_time = deadline.is_none_or(|deadline| host.clock(self.now_ms) < deadline);
        let wanted = host.disk.records.get(&vm).filter(|record| record.wanted).map(|record| record.epoch);
        let (true, true, Some(epoch)) = (host.powered && host.boot == boot, in_time, wanted) else { return };
        host.executing.insert(vm, epoch);
        let at: Vec<&Name> =
            self.hosts.iter().filter(|host| host.executing.contains_key(&vm)).map(|host| &host.name).collect();
        if at.len() > 1 {
            let names = at.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" and ");
            self.report.violations.push(format!("at {} ms vm-{vm} executes on {names}", self.now_ms));
        }
    }

    fn warden_wakes(&mut self, node: Node, boot: u64) {
        let host = &mut self.hosts[node - 1];
        let over = host.warden.is_some_and(|deadline| host.clock(self.now_ms) >= deadline);
        if host.boot == boot && over && self.options.planted != Some(Planted::NoWarden) {
            host.executing.clear();
        }
    }

    fn fail(&mut self, fault: Fault) {
        match fault {
            Fault::Cut(from, to) => self.network.cut(from, to),
            Fault::Mend(from, to) => self.network.mend(from, to),
            Fault::Loss(percent) => self.network.loss = percent,
            Fault::Repeats(percent) => self.network.repeats = percent,
            Fault::Stragglers(percent) => self.network.stragglers = percent,
            Fault::Crash(CONTROLLER) => self.controller = None,
            Fault::Crash(node) => self.hosts[node - 1].agent = None,
            Fault::Restart(CONTROLLER) if self.controller.is_some() => {}
            Fault::Restart(node) if node != CONTROLLER && self.hosts[node - 1].agent.is_some() => {}
            Fault::Restart(node) => self.start_program(node),
            Fault::Freeze(CONTROLLER) => self.controller_frozen = true,
            Fault::Freeze(node) => self.hosts[node - 1].frozen = true,
            Fault::Continue(node) => self.go_on(node),
            Fault::PowerOff(node) => self.power_off(node),
            Fault::PowerOn(node) => self.power_on(node),
            Fault::GuestDies(node) => {
                self.hosts[node - 1].executing.pop_first();
            }
            // Nothing here has a disk that takes time, or a clock on the wall.
            Fault::StallDisk(..) | Fault::StepClock(..) | Fault::WardenDies(_) | Fault::DiesWriting(_) => {}
            Fault::Join(node) => self.join(node),
            Fault::Stop => self.stop_faults(),
        }
    }

    fn go_on(&mut self, node: Node) {
        let backlog = if node == CONTROLLER {
            self.controller_frozen = false;
            std::mem::take(&mut self.controller_backlog)
        } else {
            self.hosts[node - 1].frozen = false;
            std::mem::take(&mut self.hosts[node - 1].backlog)
        };
        backlog.into_iter().for_each(|(from, message)| self.arrive(from, node, message));
    }

    fn power_off(&mut self, node: Node) {
        let host = &mut self.hosts[node - 1];
        (host.powered, host.agent, host.warden) = (false, None, None);
        host.executing.clear();
    }

    fn power_on(&mut self, node: Node) {
        let host = &mut self.hosts[node - 1];
        if !host.powered {
            host.powered = true;
            host.boot += 1;
            self.start_program(node);
        }
    }

    fn join(&mut self, node: Node) {
        let newest = self.stored.members.last().cloned().unwrap_or_default();
        let name = self.hosts[node - 1].name.clone();
        let hosts: Vec<Name> = newest.hosts.keys().cloned().chain([name.clone()]).collect();
        // It starts with these members, or with none.
        self.stored.members.push(members(newest.generation + 1, &hosts));
        self.stored.confirmed.insert(name, 0);
    }

    fn stop_faults(&mut self) {
        self.network.mend_all();
        for node in 0..=self.hosts.len() {
            if node != CONTROLLER {
                self.power_on(node);
            }
            self.go_on(node);
            self.fail(Fault::Restart(node));
        }
    }

    fn check_end(&mut self) {
        let room = self.stored.members.last().map_or(0, |members| members.hosts.len()) * self.stored.capacity;
        for (vm, (host, epoch)) in &self.stored.vms {
            let executes = host_node(host).is_some_and(|node| self.hosts[node - 1].executing.get(vm) == Some(epoch));
            if !executes && self.stored.vms.len() <= room {
                self.report.violations.push(format!("vm-{vm} does not execute on {host} at epoch {epoch} in the end"));
            }
        }
        for host in self.stored.fences.keys() {
            self.report.violations.push(format!("{host} is still fenced in the end"));
        }
    }
}

fn members<'a>(generation: u64, hosts: impl IntoIterator<Item = &'a Name>) -> Members {
    Members { generation, hosts: hosts.into_iter().map(|host| (host.clone(), format!("{host}:7443"))).collect() }
}
