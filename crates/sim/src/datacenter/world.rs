//! One run: lets everything happen in order and looks whether it may be so.

mod checks;
mod failing;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use gantry_ha::Timing;
use gantry_hostlink::fake::FakeWorld;
use gantry_types::{Action, ByteSize, Operation, OperationPhase};
use rand::RngExt;
use tokio::sync::mpsc;

use super::controller::Seat;
use super::hub::{CONTROLLER, Event, Hub, Node, Request};
use super::machine::SimMachine;
use super::process::Process;
use super::store::Shelf;
use super::streams::Streams;
use super::time::MachineClock;
use super::user::{self, Estate, Wishes, host_name};
use crate::faults::{self, Cast, Fault};
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
/// Of people who are to meet a mistake in moves.
const MANY_MOVES: usize = 25;
const HOST_RESERVE: ByteSize = ByteSize::mib(512);

/// How a run went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub violations: Vec<String>,
    pub events: u64,
    pub fences: u64,
    /// VMs that were given another host because theirs had failed.
    pub restarts: u64,
    /// VMs that were moved while they ran.
    pub moves: u64,
    /// Moves that ended otherwise.
    pub stayed: u64,
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
        // What comes after a mistake has shown can take long.
        if options.planted.is_some() && !world.report.violations.is_empty() {
            break;
        }
    }
    Ok(world.end())
}

fn new_machines(
    hub: &Arc<Hub>,
    guests: &Arc<FakeWorld>,
    count: usize,
    planted: Option<Planted>,
) -> Vec<Arc<SimMachine>> {
    let streams = Streams::new();
    let machine = |node: Node| {
        let (clock, shared) = (new_clock(hub, node), (guests.clone(), streams.clone()));
        SimMachine::new((node, host_name(node)), clock, hub.clone(), shared, planted)
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
        let moves = matches!(options.planted, Some(Planted::TakesBack | Planted::ForgetsTaken));
        let mirrored = match options.planted {
            None => hub.draw(|rng| rng.random_bool(0.4)),
            // The lease of a disk that both hosts reach would keep a guest from executing twice.
            planted => moves || planted == Some(Planted::PartsUntold),
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
            upkeep: Default::default(),
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
        let estate = Estate { vms, hosts: first, has_spare: (first - 1) * capacity >= vms };
        let deeds = hub.draw(|rng| match faults {
            _ if moves => user::draw_moves(rng, FROM_MS..UNTIL_MS, &estate, MANY_MOVES),
            // Of a datacenter whose faults are given, nobody wants anything.
            Some(_) => Vec::new(),
            None => user::draw(rng, FROM_MS..UNTIL_MS, &estate),
        });
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
            Event::RestArrives(rest) => self.machine(rest.node).rest_arrives(rest),
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

    fn end(mut self) -> Report {
        if self.well_checks < WELL_CHECKS {
            let wrongs = self.wrongs();
            self.report.violations.extend(wrongs.into_iter().map(|wrong| format!("in the end {wrong}")));
        }
        let (hosts, vms, operations) = self.objects();
        self.report.fences = hosts.iter().filter(|host| host.status.fences_lifted > 0).count() as u64;
        let is_move = |operation: &&Operation| matches!(operation.spec.action, Action::VmMigrate { .. });
        let has_moved = |operation: &Operation| operation.status.phase == OperationPhase::Succeeded;
        let (moved, stayed): (Vec<_>, Vec<_>) = operations.iter().filter(is_move).partition(|one| has_moved(one));
        (self.report.moves, self.report.stayed) = (moved.len() as u64, stayed.len() as u64);
        let epochs: u64 = vms.iter().map(|vm| vm.status.epoch.saturating_sub(1)).sum();
        self.report.restarts = epochs.saturating_sub(self.report.moves);
        let trace = self.hub.trace();
        (self.report.events, self.report.trace) = (trace.events, trace.hash);
        self.report
    }
}
