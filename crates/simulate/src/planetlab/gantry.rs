//! Gantry's own policy: the placement and power engines of the product, told what could be measured by then.
//!
//! First places come from a batch placement that packs. From then on each decision is one call of the power engine, with a
//! forecast for each VM from its samples so far.

use std::collections::BTreeMap;

use gantry_placement::{
    HostFacts, Likeness, Machine, Request, Settings, Snapshot, VmFacts, Weights,
    forecast::{History, Usual},
    place_batch,
    power::{self, MoveCost, Outlook},
};
use gantry_types::{
    Arch, ByteSize, FailureDomain, HostRule, HostState, Keep, Labels, Name, PlacementRules, Selector, Strength,
};
use uuid::Uuid;

use super::{
    Impossible,
    room::{Migration, Room},
    setting::{HOSTS, INTERVAL_S, MIGRATION_MB_PER_S, MIGRATION_SHARE, Rules, host_kind, vm_kind},
    traces::Day,
};

/// Samples after which one counts for a third in the forecast: three hours.
const MEMORY_SAMPLES: f64 = 36.0;
/// The label that says how fast a host's cores are.
const CORE_LABEL: &str = "core-mips";

pub struct Gantry {
    snapshot: Snapshot,
    settings: power::Settings,
    histories: Vec<History>,
    names: Vec<Name>,
    hosts: BTreeMap<Name, usize>,
    rules: Rules,
}

/// How the power engine is set for the benchmark. CPU is in MIPS here; where the engine speaks of a hundredth of a
/// processor, read one MIPS.
pub fn settings() -> power::Settings {
    power::Settings {
        target_fill: 0.75,
        relief_fill: 1.0,
        spare_hosts: 0,
        vm_hold_s: 0,
        host_hold_s: 0,
        interval_s: INTERVAL_S as u64,
        joules_per_cpu_second: 1000.0,
        max_moves: usize::MAX,
        max_emptied: usize::MAX,
        ..power::Settings::default()
    }
}

impl Gantry {
    /// The policy and the first places.
    ///
    /// # Errors
    /// If the day has more VMs than the hosts have memory for.
    pub fn start(day: &Day, settings: power::Settings, rules: Rules) -> Result<(Self, Vec<usize>), Impossible> {
        let count = day.vms.len();
        let names: Vec<Name> = (0..HOSTS).map(|host| name("host", host)).collect();
        let hosts: BTreeMap<Name, usize> = names.iter().cloned().zip(0..).collect();
        let packed = Settings { cpu_overcommit: 1e6, weights: Weights::pack(), ..Settings::default() };
        let mut snapshot = Snapshot::build(packed, (0..HOSTS).map(|host| host_facts(host, &names)), []);
        let requests: Vec<Request> = (0..count).map(|vm| request(vm, count)).collect();
        let mut seats = Vec::with_capacity(count);
        for (vm, (_, answer)) in place_batch(&snapshot, &requests).into_iter().enumerate() {
            let placement = answer.map_err(|refusal| Impossible { vm, reason: refusal.to_string() })?;
            seats.push(hosts[&placement.host]);
            snapshot.put_vm(vm_facts(vm, placement.host, requests[vm].clone()));
        }
        let histories = vec![History::default(); count];
        Ok((Self { snapshot, settings, histories, names, hosts, rules }, seats))
    }

    pub fn decide(&mut self, room: &Room<'_>, time_s: f64) -> Vec<Migration> {
        self.measure(room, time_s);
        let outlook = Outlook {
            demand_factor: 1.0,
            cost: MoveCost { seconds_per_gib: 1024.0 / MIGRATION_MB_PER_S, lost_share: MIGRATION_SHARE },
            ..Outlook::default()
        };
        let plan = power::propose(&self.snapshot, &self.settings, &outlook);
        let mut migrations = Vec::with_capacity(plan.moves.len());
        for planned in plan.moves {
            let vm = planned.vm.as_u128() as usize - 1;
            let Some(mut facts) = self.snapshot.vm(planned.vm).cloned() else { continue };
            migrations.push(Migration { vm, to: self.hosts[&planned.to] });
            facts.host = Some(planned.to);
            self.snapshot.put_vm(facts);
        }
        migrations
    }

    /// Tells the engine what was measured: the VMs' use, and which hosts have nothing to do and are off.
    fn measure(&mut self, room: &Room<'_>, time_s: f64) {
        for (vm, history) in self.histories.iter_mut().enumerate() {
            if room.vms[vm].gone {
                self.snapshot.remove_vm(uuid(vm));
            } else {
                history.push(room.asked(vm, time_s) / room.vms[vm].kind.mips, MEMORY_SAMPLES);
            }
        }
        let present = || (0..self.histories.len()).filter(|vm| !room.vms[*vm].gone);
        let usual = Usual::of(present().map(|vm| &self.histories[vm]));
        for vm in present() {
            self.snapshot.set_demand(uuid(vm), self.histories[vm].demand(&usual, room.vms[vm].kind.mips));
        }
        for host in 0..HOSTS {
            let asleep = room.hosts[host].vms.is_empty();
            let known = self.snapshot.host(&self.names[host]);
            // After the first placement CloudSim asks for no memory any more.
            let limitless = self.rules.memory_counts || known.is_some_and(|facts| facts.memory > MEMORY_LIMIT);
            if !limitless || known.is_some_and(|facts| facts.asleep != asleep) {
                let mut facts = host_facts(host, &self.names);
                facts.asleep = asleep;
                if !self.rules.memory_counts {
                    facts.memory = ByteSize(u64::MAX / 1_000_000);
                }
                self.snapshot.put_host(facts);
            }
        }
    }
}

/// More than any of the benchmark's hosts has.
const MEMORY_LIMIT: ByteSize = ByteSize::gib(64);

fn name(what: &str, number: usize) -> Name {
    format!("{what}-{number:04}").parse().expect("letters, digits and a dash")
}

fn uuid(vm: usize) -> Uuid {
    Uuid::from_u128(vm as u128 + 1)
}

fn host_facts(host: usize, names: &[Name]) -> HostFacts {
    let kind = host_kind(host);
    let mut labels = Labels::default();
    labels.0.insert(CORE_LABEL.to_owned(), kind.core_mips.to_string());
    HostFacts {
        name: names[host].clone(),
        labels,
        state: HostState::Ready,
        cordoned: false,
        maintenance: false,
        asleep: false,
        wake_proven: true,
        failure_domain: FailureDomain::default(),
        machine: Some(Machine::new(Arch::X86_64, vec![Arch::X86_64], true, "7.2".to_owned(), Vec::new())),
        cpus: 2,
        cpu_capacity: kind.mips(),
        cpu_used: 0.0,
        memory: ByteSize::mib(u64::from(kind.ram_mb)),
        pools: Vec::new(),
        named_pools: Vec::new(),
        out_of_reach: BTreeMap::new(),
        watts: Some(kind.watts),
    }
}

/// A VM goes where a core is as fast as its own.
fn request(vm: usize, count: usize) -> Request {
    let kind = vm_kind(vm, count);
    let slow = super::setting::HOST_KINDS.iter().filter(|host| host.core_mips < kind.mips);
    let avoid = |host: &super::setting::HostKind| HostRule {
        keep: Keep::Apart,
        selector: format!("{CORE_LABEL}={}", host.core_mips).parse::<Selector>().expect("a selector"),
        strength: Strength::Must,
    };
    Request {
        vm: uuid(vm),
        labels: Labels::default(),
        rules: PlacementRules { vms: Vec::new(), hosts: slow.map(avoid).collect() },
        arch: Arch::X86_64,
        cpus: 1,
        cpu_reservation_percent: 0,
        memory: ByteSize::mib(u64::from(kind.ram_mb)),
        memory_reservation: ByteSize(0),
        disk_space: ByteSize(0),
        pool: None,
        volume_pools: Vec::new(),
        networks: Vec::new(),
        demand: gantry_placement::Demand::default(),
        only: None,
        except: None,
        despite_cordon: false,
        may_wake: false,
        like: None::<Likeness>,
    }
}

fn vm_facts(vm: usize, host: Name, request: Request) -> VmFacts {
    VmFacts { name: name("vm", vm), host: Some(host), moving_to: None, running: true, obstacle: None, request }
}
