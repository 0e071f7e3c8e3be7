//! One run: lets everything happen in order and looks whether it may be so.

mod checks;

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use gantry_ha::Timing;
use gantry_hostlink::fake::FakeWorld;
use gantry_types::{ByteSize, Name};
use rand::RngExt;
use tokio::sync::mpsc;

use super::agent;
use super::controller::Seat;
use super::hub::{CONTROLLER, Event, Hub, Node, Request};
use super::machine::SimMachine;
use super::process::Process;
use super::store::Shelf;
use super::time::MachineClock;
use super::user::{self, Wishes, host_name};
use crate::faults::{self, Cast, Fault};
use crate::rules::host_node;
use crate::{Options, Planted};

/// Faults begin after a quiet time, in which everything is made, and end here.
const FROM_MS: u64 = 20_000;
const UNTIL_MS: u64 = 110_000;
/// After the faults have stopped, everything must be well within this time.
const RECOVERY_MS: u64 = 600_000;
/// And stay so for a while.
const WELL_CHECKS: u64 = 5;
const CHECK_US: u64 = 1_000_000;
/// From a machine's reset until it is there again.
const REBOOT_US: u64 = 10_000_000;
const HOST_RESERVE: ByteSize = ByteSize::mib(512);

/// How a run went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub violations: Vec<String>,
    pub events: u64,
    pub fences: u64,
    /// VMs that were given another host.
    pub restarts: u64,
    /// How long it took, after the faults had stopped, until all was well.
    pub recovery_ms: u64,
    /// Of everything that happened: equal runs have equal ones.
    pub trace: u64,
}

struct Program {
    process: Process,
    inbox: mpsc::UnboundedSender<Request>,
}

struct World {
    hub: Arc<Hub>,
    guests: Arc<FakeWorld>,
    machines: Vec<Arc<SimMachine>>,
    seat: Seat,
    /// By node; `None`: it does not run.
    programs: Vec<Option<Program>>,
    memory: ByteSize,
    known_violations: usize,
    well_checks: u64,
    stopped: bool,
    report: Report,
}

/// Runs the datacenter of this seed to its end.
///
/// # Errors
/// Of this machine only: a runtime or a directory that can't be made.
pub fn run(seed: u64, options: Options) -> io::Result<Report> {
    play(seed, options, None)
}

/// The same with these faults, by the millisecond, instead of the seed's. They end at latest when those would.
///
/// # Errors
/// As of [`run`].
pub fn run_with(seed: u64, options: Options, faults: &[(u64, Fault)]) -> io::Result<Report> {
    play(seed, options, Some(faults))
}

fn play(seed: u64, options: Options, faults: Option<&[(u64, Fault)]>) -> io::Result<Report> {
    let directory = tempfile::tempdir()?;
    let mut world = World::new(seed, options, directory.path(), faults)?;
    while let Some(at_us) = world.next_us() {
        if at_us > (UNTIL_MS + RECOVERY_MS) * 1_000 || world.well_checks >= WELL_CHECKS {
            break;
        }
        world.hub.now.store(at_us, Ordering::Relaxed);
        world.step(at_us)?;
        world.note_violations();
    }
    Ok(world.end())
}

fn new_machines(
    hub: &Arc<Hub>,
    guests: &Arc<FakeWorld>,
    count: usize,
    planted: Option<Planted>,
) -> Vec<Arc<SimMachine>> {
    let machine = |node: Node| {
        let clock = new_clock(hub, node);
        SimMachine::new((node, host_name(node)), clock, hub.clone(), guests.clone(), planted)
    };
    (1..=count).map(machine).collect()
}

/// Within what the timing allows two machines to differ.
fn new_clock(hub: &Hub, node: Node) -> Arc<MachineClock> {
    let spread = Timing::DEFAULT.drift_permille * 1_000 / 2 - 100;
    let ppm = hub.draw(|rng| 1_000_000 - spread + rng.random_range(0..=2 * spread));
    MachineClock::new(hub.now.clone(), ppm, 1_000_000 * (node as u64 + 1))
}

impl World {
    fn new(
        seed: u64,
        options: Options,
        directory: &std::path::Path,
        faults: Option<&[(u64, Fault)]>,
    ) -> io::Result<Self> {
        let hub = Hub::new(seed, options.trace);
        let guests = FakeWorld::new();
        let (first, more) = hub.draw(|rng| (rng.random_range(2..5_usize), usize::from(rng.random_bool(0.3))));
        let machines = new_machines(&hub, &guests, first + more, options.planted);
        let (vms, capacity) = hub.draw(|rng| {
            let vms = rng.random_range(1..=2 * first);
            (vms, rng.random_range(vms.div_ceil(first).max(2)..=2 * first))
        });
        // Pools without locks are the harder ones.
        if hub.draw(|rng| rng.random_bool(0.7)) || options.planted.is_some() {
            guests.unlock_disks();
        }
        let mirrored = match options.planted {
            None => hub.draw(|rng| rng.random_bool(0.4)),
            planted => planted == Some(Planted::PartsUntold),
        };
        if options.planted == Some(Planted::PartsUntold) {
            guests.part_untold();
        }
        if options.planted == Some(Planted::OldCommands) {
            guests.forget_disk_leases();
        }
        let vm_memory = ByteSize::mib(256);
        let memory = ByteSize(vm_memory.bytes() * capacity as u64 + HOST_RESERVE.bytes());
        let wishes = Wishes {
            hosts: std::sync::Mutex::new((1..=first).collect()),
            first_hosts: first,
            mirrored,
            vms,
            host_memory: memory,
            vm_memory,
            off: std::sync::Mutex::default(),
            starting: std::sync::Mutex::default(),
        };
        let seat = Seat {
            clock: new_clock(&hub, CONTROLLER),
            hub: hub.clone(),
            shelf: Arc::new(Shelf::default()),
            wishes: Arc::new(wishes),
            directory: directory.to_owned(),
            planted: options.planted,
        };
        let joins: Vec<Node> = (first + 1..=first + more).collect();
        let cast = Cast { hosts: first + more, joins: &joins, machines: true };
        let drawn = hub.draw(|rng| faults::draw(rng, FROM_MS..UNTIL_MS, &cast));
        for (at_ms, fault) in faults.unwrap_or(&drawn).iter().copied().chain([(UNTIL_MS, Fault::Stop)]) {
            hub.put(at_ms * 1_000, Event::Fault(fault));
        }
        // Of a datacenter whose faults are given, nobody wants anything.
        let deeds = if faults.is_none() { hub.draw(|rng| user::draw(rng, FROM_MS..UNTIL_MS, vms)) } else { Vec::new() };
        for (at_ms, deed) in deeds {
            hub.put(at_ms * 1_000, Event::Deed(deed));
        }
        hub.put(CHECK_US, Event::Check);
        let mut world = Self {
            hub,
            guests,
            machines,
            seat,
            programs: (0..=first + more).map(|_| None).collect(),
            memory,
            known_violations: 0,
            well_checks: 0,
            stopped: false,
            report: Report::default(),
        };
        world.start(CONTROLLER)?;
        (1..=first).try_for_each(|node| world.power_on(node))?;
        Ok(world)
    }

    fn machine(&self, node: Node) -> &Arc<SimMachine> {
        &self.machines[node - 1]
    }

    /// When something happens next, in the queue or by a program's timer.
    fn next_us(&self) -> Option<u64> {
        let now_us = self.hub.now_us();
        let timers = self.awake().filter_map(|(_, program)| program.process.timers.next_us());
        timers.chain(self.hub.next_us()).min().map(|at_us| at_us.max(now_us))
    }

    fn awake(&self) -> impl Iterator<Item = (Node, &Program)> {
        let programs = self.programs.iter().enumerate();
        let running = programs.filter_map(|(node, program)| Some((node, program.as_ref()?)));
        running.filter(|(_, program)| !program.process.is_frozen)
    }

    fn step(&mut self, at_us: u64) -> io::Result<()> {
        while self.hub.next_us().is_some_and(|next_us| next_us <= at_us) {
            if let Some(event) = self.hub.take() {
                self.happen(event)?;
            }
        }
        for node in 0..self.programs.len() {
            let is_due = |program: &Program| program.process.timers.next_us().is_some_and(|due_us| due_us <= at_us);
            if self.programs[node].as_ref().is_some_and(is_due) {
                self.run(node);
            }
        }
        Ok(())
    }

    fn run(&self, node: Node) {
        if let Some(program) = self.programs[node].as_ref().filter(|program| !program.process.is_frozen) {
            program.process.run();
        }
    }

    fn happen(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::Request(request) => {
                let Request { from, to, what, .. } = request;
                self.hub.note(|| format!("{from} -> {to} {what}"));
                if let Some(program) = &self.programs[to] {
                    drop(program.inbox.send(request));
                }
                self.run(to);
            }
            Event::Answer { from, to, what, reply } => {
                self.hub.note(|| format!("{from} => {to} {what}"));
                reply();
                self.run(to);
            }
            Event::Execute(start) => {
                let node = start.node;
                self.machine(node).execute(start);
                self.run(node);
            }
            Event::WardenLooks { node, boot } => self.machine(node).warden_looks(boot),
            Event::WatchdogLooks { node, boot, death } => {
                if self.machine(node).is_to_be_reset(boot, death) {
                    self.hub.note(|| format!("the watchdog resets {node}"));
                    self.fail(Fault::PowerOff(node))?;
                    self.hub.put(self.hub.now_us() + REBOOT_US, Event::Fault(Fault::PowerOn(node)));
                }
            }
            Event::Deed(deed) => {
                self.hub.note(|| format!("{deed:?}"));
                self.seat.wishes.wish(deed);
            }
            Event::Fault(fault) => {
                self.hub.note(|| format!("{fault:?}"));
                self.fail(fault)?;
            }
            Event::Check => {
                self.write();
                self.check();
                self.hub.put(self.hub.now_us() + CHECK_US, Event::Check);
            }
        }
        Ok(())
    }

    fn start(&mut self, node: Node) -> io::Result<()> {
        if self.programs[node].is_some() {
            return Ok(());
        }
        let (process, inbox) = match node {
            CONTROLLER => self.seat.start()?,
            _ if !self.machine(node).is_powered() => return Ok(()),
            _ => agent::start(self.machine(node), &self.hub, &self.guests, self.memory)?,
        };
        self.hub.note(|| format!("program of {node} starts"));
        self.programs[node] = Some(Program { process, inbox });
        self.run(node);
        Ok(())
    }

    fn power_on(&mut self, node: Node) -> io::Result<()> {
        self.machine(node).power_on();
        self.start(node)
    }

    fn fail(&mut self, fault: Fault) -> io::Result<()> {
        match fault {
            Fault::Cut(from, to) => self.hub.network(|network| network.cut(from, to)),
            Fault::Mend(from, to) => self.hub.network(|network| network.mend(from, to)),
            Fault::Loss(percent) => self.hub.network(|network| network.loss = percent),
            Fault::Repeats(percent) => self.hub.network(|network| network.repeats = percent),
            Fault::Stragglers(percent) => self.hub.network(|network| network.stragglers = percent),
            Fault::Crash(node) => self.end_program(node),
            Fault::Restart(node) => self.start(node)?,
            Fault::Freeze(node) => self.freeze(node, true),
            Fault::Continue(node) => self.freeze(node, false),
            Fault::PowerOff(node) => {
                self.end_program(node);
                self.machine(node).power_off();
            }
            Fault::PowerOn(node) => self.power_on(node)?,
            Fault::GuestDies(node) => {
                if let Some((vm, _)) = self.machine(node).executing().first() {
                    self.machine(node).end(*vm, "its guest died");
                }
            }
            Fault::WardenDies(node) => self.machine(node).warden_dies(),
            Fault::StallDisk(node, for_ms) => {
                let until_us = self.hub.now_us() + for_ms * 1_000;
                match node {
                    CONTROLLER => self.seat.shelf.stalled_until_us.store(until_us, Ordering::Relaxed),
                    _ => self.machine(node).stall_disk(until_us),
                }
            }
            Fault::StepClock(CONTROLLER, by_ms) => self.seat.clock.step_wall(by_ms),
            Fault::StepClock(node, by_ms) => self.machine(node).clock.step_wall(by_ms),
            Fault::Join(node) => {
                self.seat.wishes.hosts.lock().unwrap_or_else(PoisonError::into_inner).insert(node);
                self.power_on(node)?;
            }
            Fault::Stop => self.stop_faults()?,
        }
        Ok(())
    }

    fn end_program(&mut self, node: Node) {
        self.programs[node] = None;
        if node != CONTROLLER {
            self.guests.agent_ends(&host_name(node));
        }
    }

    /// Every guest writes, and so does its host to the copy of its disk.
    fn write(&self) {
        for machine in &self.machines {
            let reaches = |host: &Name| {
                let to = host_node(host).unwrap_or(CONTROLLER);
                self.hub.network(|network| network.is_open(machine.node, to) && network.is_open(to, machine.node))
            };
            for (vm, _) in machine.executing() {
                self.guests.guest_writes_over(&machine.name, vm, reaches);
            }
        }
    }

    fn freeze(&mut self, node: Node, is_frozen: bool) {
        if let Some(program) = &mut self.programs[node] {
            program.process.is_frozen = is_frozen;
        }
        self.run(node);
    }

    fn stop_faults(&mut self) -> io::Result<()> {
        self.hub.network(crate::rules::network::Network::mend_all);
        self.stopped = true;
        for node in 0..self.programs.len() {
            if node != CONTROLLER {
                self.power_on(node)?;
            }
            self.freeze(node, false);
            self.start(node)?;
        }
        Ok(())
    }

    fn end(mut self) -> Report {
        if self.well_checks < WELL_CHECKS {
            let wrongs = self.wrongs();
            self.report.violations.extend(wrongs.into_iter().map(|wrong| format!("in the end {wrong}")));
        }
        let (hosts, vms, _) = self.objects();
        self.report.fences = hosts.iter().filter(|host| host.status.fences_lifted > 0).count() as u64;
        self.report.restarts = vms.iter().map(|vm| vm.status.epoch.saturating_sub(1)).sum();
        let trace = self.hub.trace();
        (self.report.events, self.report.trace) = (trace.events, trace.hash);
        self.report
    }
}
