//! The peer: local regression with minimum migration time (LR-MMT), and power-aware best fit decreasing, as CloudSim
//! 3.0.3 decides.
//!
//! A host is overloaded if a line through its last ten loads, carried on by one interval and multiplied by the safety
//! of 1.2, reaches 100 %; with fewer than ten loads, if it is above 70 %. Its VMs with the least memory leave until it is
//! not. Then the least loaded hosts are emptied, one after the other, if all their VMs fit elsewhere. A VM goes where
//! power rises least.
//!
//! Two of CloudSim's habits shape its figures and are kept: a host that takes VMs in a plan may be emptied by the same
//! plan, so a VM can be told to migrate twice; and the power that a host draws before a VM comes is that of the last
//! measurement, not of the plan.

use super::{
    Impossible,
    room::{Migration, Room},
    setting::{HOSTS, INTERVAL_S, host_kind, vm_kind},
    traces::Day,
};

const SAFETY: f64 = 1.2;
const FALLBACK: f64 = 0.7;
const REGRESSION: usize = 10;
const HISTORY: usize = 30;

#[derive(Default)]
pub struct LrMmt {
    /// Each VM's shares of its MIPS, newest first.
    history: Vec<Vec<f64>>,
    memory_counts: bool,
}

/// What the plan makes of a host.
struct Planned {
    vms: Vec<usize>,
    /// MIPS asked for by its VMs, each at most one core's.
    wanted: f64,
    asked: f64,
    ram_mb: u32,
    /// Share of the host in use at each time, newest first.
    load: [f64; HISTORY],
}

impl LrMmt {
    pub fn new(memory_counts: bool) -> Self {
        Self { history: Vec::new(), memory_counts }
    }

    /// First places: no host gives out more MIPS or memory than it has.
    ///
    /// # Errors
    /// If a VM fits nowhere.
    pub fn first(day: &Day) -> Result<Vec<usize>, Impossible> {
        let count = day.vms.len();
        let mut given = [0.0; HOSTS];
        let mut ram = [0; HOSTS];
        let place = |vm| {
            let kind = vm_kind(vm, count);
            let rise = |host: usize| {
                let of = host_kind(host);
                let fits = of.core_mips >= kind.mips
                    && of.mips() - given[host] >= kind.mips
                    && ram[host] + kind.ram_mb <= of.ram_mb;
                fits.then(|| of.power_watts((given[host] + kind.mips) / of.mips()) - of.power_watts(0.0))
            };
            let reason = || Impossible { vm, reason: "no host has the MIPS and the memory left".to_owned() };
            let host = least(rise).ok_or_else(reason)?;
            given[host] += kind.mips;
            ram[host] += kind.ram_mb;
            Ok(host)
        };
        (0..count).map(place).collect()
    }

    pub fn decide(&mut self, room: &Room<'_>, time_s: f64) -> Vec<Migration> {
        self.remember(room, time_s);
        let mut plan = Plan::new(self, room, time_s);
        let overloaded: Vec<usize> = (0..HOSTS).filter(|host| plan.overloaded(*host)).collect();
        let leaving = plan.relieve(&overloaded);
        let mut shut = [false; HOSTS];
        for host in &overloaded {
            shut[*host] = true;
        }
        let mut migrations = Vec::new();
        for vm in plan.largest_first(leaving) {
            if let Some(to) = plan.host_for(vm, &shut) {
                plan.add(to, vm);
                migrations.push(Migration { vm, to });
            }
        }
        plan.empty_least_loaded(shut, &mut migrations);
        migrations
    }

    fn remember(&mut self, room: &Room<'_>, time_s: f64) {
        self.history.resize(room.vms.len(), Vec::new());
        // CloudSim compares floating-point times for equality here, and so misses some.
        if (time_s - super::setting::FIRST_S) % INTERVAL_S != 0.0 {
            return;
        }
        for (vm, history) in self.history.iter_mut().enumerate() {
            history.insert(0, room.asked(vm, time_s) / room.vms[vm].kind.mips);
            history.truncate(HISTORY);
        }
    }
}

struct Plan<'a> {
    policy: &'a LrMmt,
    room: &'a Room<'a>,
    hosts: Vec<Planned>,
    /// MIPS each VM asks for now.
    asked: Vec<f64>,
}

impl<'a> Plan<'a> {
    fn new(policy: &'a LrMmt, room: &'a Room<'a>, time_s: f64) -> Self {
        let asked = (0..room.vms.len()).map(|vm| room.asked(vm, time_s)).collect();
        let empty = || Planned { vms: Vec::new(), wanted: 0.0, asked: 0.0, ram_mb: 0, load: [0.0; HISTORY] };
        let mut plan = Self { policy, room, hosts: (0..HOSTS).map(|_| empty()).collect(), asked };
        for host in 0..HOSTS {
            for vm in &room.hosts[host].vms {
                plan.add(host, *vm);
            }
        }
        plan
    }

    fn add(&mut self, host: usize, vm: usize) {
        self.hosts[host].vms.push(vm);
        self.sum(host);
    }

    fn remove(&mut self, host: usize, vm: usize) {
        self.hosts[host].vms.retain(|other| *other != vm);
        self.sum(host);
    }

    fn sum(&mut self, host: usize) {
        let kind = host_kind(host);
        let state = &mut self.hosts[host];
        (state.wanted, state.asked, state.ram_mb, state.load) = (0.0, 0.0, 0, [0.0; HISTORY]);
        for vm in &state.vms {
            state.wanted += self.asked[*vm].min(kind.core_mips);
            state.asked += self.asked[*vm];
            state.ram_mb += self.room.vms[*vm].kind.ram_mb;
            let mips = self.room.vms[*vm].kind.mips;
            for (sum, share) in state.load.iter_mut().zip(&self.policy.history[*vm]) {
                *sum += share * mips / kind.mips();
            }
        }
    }

    fn overloaded(&self, host: usize) -> bool {
        let state = &self.hosts[host];
        self.is_over(&state.load, state.asked / host_kind(host).mips())
    }

    fn is_over(&self, load: &[f64; HISTORY], now: f64) -> bool {
        let length = load.iter().rposition(|share| *share != 0.0).map_or(0, |last| last + 1);
        if length < REGRESSION {
            return now > FALLBACK;
        }
        predicted(load) * SAFETY >= 1.0
    }

    fn over_with(&self, host: usize, vm: usize) -> bool {
        let (state, kind) = (&self.hosts[host], host_kind(host));
        let mips = self.room.vms[vm].kind.mips;
        let mut load = state.load;
        for (sum, share) in load.iter_mut().zip(&self.policy.history[vm]) {
            *sum += share * mips / kind.mips();
        }
        self.is_over(&load, (state.asked + self.asked[vm]) / kind.mips())
    }

    /// Takes VMs from overloaded hosts until they are not.
    fn relieve(&mut self, overloaded: &[usize]) -> Vec<usize> {
        let mut leaving = Vec::new();
        for host in overloaded {
            loop {
                let least_memory =
                    self.hosts[*host].vms.iter().copied().min_by_key(|vm| self.room.vms[*vm].kind.ram_mb);
                let Some(vm) = least_memory else { break };
                leaving.push(vm);
                self.remove(*host, vm);
                if !self.overloaded(*host) {
                    break;
                }
            }
        }
        leaving
    }

    fn largest_first(&self, mut vms: Vec<usize>) -> Vec<usize> {
        vms.sort_by(|a, b| self.asked[*b].total_cmp(&self.asked[*a]));
        vms
    }

    fn host_for(&self, vm: usize, shut: &[bool; HOSTS]) -> Option<usize> {
        let asked = self.asked[vm];
        least(|host| {
            let (kind, state) = (host_kind(host), &self.hosts[host]);
            let used = state.wanted.min(kind.mips());
            let fits = !shut[host]
                && kind.core_mips >= asked
                && kind.mips() - used >= asked
                && (!self.policy.memory_counts || state.ram_mb + self.room.vms[vm].kind.ram_mb <= kind.ram_mb)
                && (used == 0.0 || !self.over_with(host, vm));
            fits.then(|| {
                kind.power_watts((used + asked) / kind.mips()) - kind.power_watts(self.room.hosts[host].share())
            })
        })
    }

    fn empty_least_loaded(&mut self, mut shut: [bool; HOSTS], migrations: &mut Vec<Migration>) {
        let mut passed_over = shut;
        for (host, _) in self.room.hosts.iter().enumerate().filter(|(_, state)| state.used == 0.0) {
            (passed_over[host], shut[host]) = (true, true);
        }
        loop {
            let load = |host: usize| {
                let share = self.room.hosts[host].share();
                let counts = !passed_over[host] && share > 0.0 && share < 1.0 && !self.hosts[host].vms.is_empty();
                counts.then_some(share)
            };
            let Some(host) = least(load) else { return };
            (passed_over[host], shut[host]) = (true, true);
            let mut moved = Vec::new();
            for vm in self.largest_first(self.hosts[host].vms.clone()) {
                let Some(to) = self.host_for(vm, &shut) else {
                    for Migration { vm, to } in moved.drain(..) {
                        self.remove(to, vm);
                    }
                    break;
                };
                self.add(to, vm);
                moved.push(Migration { vm, to });
            }
            for migration in &moved {
                passed_over[migration.to] = true;
            }
            migrations.extend(moved);
        }
    }
}

/// The first host with the least value.
fn least(value: impl Fn(usize) -> Option<f64>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for host in 0..HOSTS {
        if let Some(value) = value(host).filter(|value| best.is_none_or(|(_, least)| *value < least)) {
            best = Some((host, value));
        }
    }
    best.map(|(host, _)| host)
}

/// A straight line through the ten newest loads, one interval on.
fn predicted(load: &[f64; HISTORY]) -> f64 {
    let count = REGRESSION as f64;
    let (mean_x, mut mean_y) = ((count + 1.0) / 2.0, 0.0);
    for share in &load[..REGRESSION] {
        mean_y += share / count;
    }
    let (mut above, mut below) = (0.0, 0.0);
    for (age, share) in load[..REGRESSION].iter().enumerate() {
        let x = count - age as f64 - mean_x;
        above += x * (share - mean_y);
        below += x * x;
    }
    mean_y + above / below * (count + 1.0 - mean_x)
}
