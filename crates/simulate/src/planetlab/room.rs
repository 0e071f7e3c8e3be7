//! The machine room: hosts with VMs on them, and CloudSim's book-keeping of energy and service.
//!
//! The state of a host is worked out anew at each decision and whenever migrations finish, and holds until the next
//! time. Energy between two such times is that of the mean of the powers at both ends.

use super::{
    setting::{HOSTS, HostKind, MIGRATION_SHARE, Rules, VmKind, host_kind, vm_kind},
    traces::Day,
};

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Migration {
    pub vm: usize,
    pub to: usize,
}

/// Sums over a day.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sums {
    pub energy_joules: f64,
    pub migrations: u64,
    pub shutdowns: u64,
    pub wakes: u64,
    /// Over all hosts: time in use, and that part of it in which VMs got less than they asked for.
    pub active_s: f64,
    pub violated_s: f64,
    /// Over all VMs, in MIPS × s.
    pub asked: f64,
    pub given: f64,
    pub lost_to_migrations: f64,
}

pub struct Room<'a> {
    day: &'a Day,
    pub hosts: Vec<HostState>,
    pub vms: Vec<VmState>,
    pub sums: Sums,
    rules: Rules,
    now_s: f64,
}

pub struct HostState {
    pub kind: &'static HostKind,
    /// In the order in which they came.
    pub vms: Vec<usize>,
    incoming: Vec<usize>,
    /// MIPS in use.
    pub used: f64,
    used_before: f64,
    entry: Option<HostEntry>,
    was_active: bool,
}

#[derive(Clone, Copy)]
struct HostEntry {
    time_s: f64,
    given: f64,
    asked: f64,
}

pub struct VmState {
    pub kind: &'static VmKind,
    pub host: usize,
    /// Finished, by CloudSim's rules.
    pub gone: bool,
    migrating: bool,
    entry: Option<VmEntry>,
}

#[derive(Clone, Copy)]
struct VmEntry {
    time_s: f64,
    given: f64,
    asked: f64,
    migrating: bool,
}

impl HostState {
    /// Share of its MIPS that is in use, 0–1.
    pub fn share(&self) -> f64 {
        (self.used / self.kind.mips()).min(1.0)
    }
}

impl<'a> Room<'a> {
    /// `seats`: the host of each VM.
    pub fn new(day: &'a Day, rules: Rules, seats: &[usize]) -> Self {
        let hosts = (0..HOSTS).map(|host| HostState {
            kind: host_kind(host),
            vms: Vec::new(),
            incoming: Vec::new(),
            used: 0.0,
            used_before: 0.0,
            entry: None,
            was_active: true,
        });
        let mut room = Self { day, hosts: hosts.collect(), vms: Vec::new(), sums: Sums::default(), rules, now_s: 0.0 };
        for (vm, host) in seats.iter().enumerate() {
            let kind = vm_kind(vm, seats.len());
            room.vms.push(VmState { kind, host: *host, gone: false, migrating: false, entry: None });
            room.hosts[*host].vms.push(vm);
        }
        room
    }

    /// MIPS that the VM asks for at the time.
    pub fn asked(&self, vm: usize, time_s: f64) -> f64 {
        self.day.vms[vm].share(time_s) * self.vms[vm].kind.mips
    }

    /// Brings every host to the time and adds up the energy since the last.
    pub fn advance(&mut self, time_s: f64) {
        let passed = time_s - self.now_s;
        for host in 0..self.hosts.len() {
            self.refresh(host, time_s);
            let state = &self.hosts[host];
            if passed > 0.0 && state.used_before > 0.0 {
                let power = |mips: f64| state.kind.power_watts(mips / state.kind.mips());
                let (from, to) = (power(state.used_before), power(state.used));
                self.sums.energy_joules += (from + (to - from) / 2.0) * passed;
            }
        }
        self.now_s = time_s;
        if self.rules.idle_vms_end {
            self.end_idle_vms(time_s);
        }
    }

    fn end_idle_vms(&mut self, time_s: f64) {
        for vm in 0..self.vms.len() {
            let state = &self.vms[vm];
            if !state.gone && !state.migrating && self.asked(vm, time_s) == 0.0 {
                self.hosts[state.host].vms.retain(|other| *other != vm);
                self.vms[vm].gone = true;
            }
        }
    }

    /// Carries out migrations that are decided now; the room is as late as their ends afterwards. Those to a host that is
    /// off begin when it has woken.
    pub fn migrate(&mut self, migrations: &[Migration]) {
        let begin_s = self.now_s;
        let must_wake = |migration: &&Migration| self.rules.wake_s > 0.0 && self.hosts[migration.to].vms.is_empty();
        let (later, now): (Vec<Migration>, Vec<Migration>) = migrations.iter().partition(must_wake);
        self.carry_out(&now);
        if !later.is_empty() {
            let mut woken: Vec<usize> = later.iter().map(|migration| migration.to).collect();
            woken.sort_unstable();
            woken.dedup();
            let idle = |host: &usize| self.hosts[*host].kind.power_watts(0.0) * self.rules.wake_s;
            self.sums.energy_joules += woken.iter().map(idle).sum::<f64>();
            self.advance(begin_s + self.rules.wake_s);
            self.carry_out(&later);
        }
    }

    fn carry_out(&mut self, migrations: &[Migration]) {
        let begin_s = self.now_s;
        for migration in migrations {
            self.vms[migration.vm].migrating = true;
            self.sums.migrations += 1;
            let to = &mut self.hosts[migration.to];
            to.incoming.push(migration.vm);
            to.vms.push(migration.vm);
            self.refresh(migration.to, begin_s);
            self.refresh(self.vms[migration.vm].host, begin_s);
        }
        let mut ends: Vec<(f64, Migration)> = migrations
            .iter()
            .map(|migration| (begin_s + self.vms[migration.vm].kind.migration_s(), *migration))
            .collect();
        ends.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        for finished in ends.chunk_by(|(a, _), (b, _)| a == b) {
            let end_s = finished[0].0;
            self.advance(end_s);
            for (_, Migration { vm, to }) in finished {
                let from = self.vms[*vm].host;
                self.hosts[from].vms.retain(|other| other != vm);
                self.hosts[*to].vms.retain(|other| other != vm);
                self.hosts[*to].incoming.retain(|other| other != vm);
                self.hosts[*to].vms.push(*vm);
                self.vms[*vm].host = *to;
                self.vms[*vm].migrating = false;
            }
            self.advance(end_s);
        }
    }

    /// Divides the host among its VMs as of now.
    fn refresh(&mut self, host: usize, time_s: f64) {
        let state = &self.hosts[host];
        let (core, capacity) = (state.kind.core_mips, state.kind.mips());
        let mut available = capacity;
        let (mut wanted, mut scarce) = (0.0, false);
        for vm in &state.vms {
            let capped = self.asked(*vm, time_s).min(core);
            let taken = if state.incoming.contains(vm) { capped * MIGRATION_SHARE } else { capped };
            wanted += taken;
            if available >= taken {
                available -= taken;
            } else {
                scarce = true;
                available = 0.0;
            }
        }
        let (mut used, mut all_asked) = (0.0, 0.0);
        for at in 0..self.hosts[host].vms.len() {
            let vm = self.hosts[host].vms[at];
            let incoming = self.hosts[host].incoming.contains(&vm);
            let asked = self.asked(vm, time_s);
            let migrating = self.vms[vm].migrating;
            let part = match (incoming, migrating) {
                (true, _) => MIGRATION_SHARE,
                (false, true) => 1.0 - MIGRATION_SHARE,
                (false, false) => 1.0,
            };
            let capped = asked.min(core);
            let mut given = if scarce { (capped * (capacity / wanted) * part).floor() } else { capped * part };
            if !incoming {
                self.enter_vm(vm, VmEntry { time_s, given, asked, migrating });
                if migrating {
                    given /= 1.0 - MIGRATION_SHARE;
                }
            }
            used += given;
            all_asked += asked;
        }
        self.enter_host(host, HostEntry { time_s, given: used, asked: all_asked });
        let state = &mut self.hosts[host];
        state.used_before = state.used;
        state.used = used;
    }

    fn enter_host(&mut self, host: usize, entry: HostEntry) {
        let state = &mut self.hosts[host];
        if let Some(last) = state.entry.filter(|last| last.time_s < entry.time_s) {
            let (passed, active) = (entry.time_s - last.time_s, last.given > 0.0);
            if active {
                self.sums.active_s += passed;
                if last.given < last.asked {
                    self.sums.violated_s += passed;
                }
            }
            self.sums.shutdowns += u64::from(state.was_active && !active);
            self.sums.wakes += u64::from(!state.was_active && active);
            state.was_active = active;
        }
        state.entry = Some(entry);
    }

    fn enter_vm(&mut self, vm: usize, entry: VmEntry) {
        let state = &mut self.vms[vm];
        if let Some(last) = state.entry.filter(|last| last.time_s < entry.time_s) {
            let passed = entry.time_s - last.time_s;
            self.sums.asked += last.asked * passed;
            self.sums.given += last.given * passed;
            if last.migrating && last.given < last.asked {
                self.sums.lost_to_migrations += (last.asked - last.given) * passed;
            }
        }
        state.entry = Some(entry);
    }
}
