//! The controller: a store that survives it, and what it forgets.

use std::collections::{BTreeMap, BTreeSet};

use gantry_ha::{
    FenceLedger, Fencing, Moment, Timing,
    attempts::{Attempts, RetryPolicy},
    fencing::Progress,
    restart::{Candidate, State, Tier, plan},
};
use gantry_types::{Fence, Member, Members, Name, Timestamp};

use super::TIMING;
use super::events::{CONTROLLER, Message, Node, VmId};
use super::host::{host_name, host_node, member_node};
use crate::Planted;

const SILENT_MS: u64 = 2_500;
const REPEAT_MS: u64 = 400;
const RETRY: RetryPolicy = RetryPolicy { first_pause_ms: 1_000, longest_pause_ms: 10_000, per_hour: usize::MAX };

/// In the store.
pub struct Stored {
    pub members: Vec<Members>,
    /// The generation of members that each host is known to have on its disk.
    pub confirmed: BTreeMap<Name, u64>,
    /// Fences that are not lifted, and whether the host is proved gone.
    pub fences: BTreeMap<Name, (Fence, bool)>,
    pub lifted: BTreeMap<Name, u64>,
    /// Where each VM belongs, and its epoch.
    pub vms: BTreeMap<VmId, (Name, u64)>,
    pub capacity: usize,
}

/// In memory.
pub struct Controller {
    started: Moment,
    seen: BTreeMap<Name, Moment>,
    granted: BTreeMap<Name, Moment>,
    reports: BTreeMap<Name, BTreeMap<VmId, (u64, bool)>>,
    ledger: FenceLedger,
    fencings: BTreeMap<Name, Fencing>,
    down_since: BTreeMap<VmId, Moment>,
    attempts: BTreeMap<VmId, Attempts>,
    sent: BTreeMap<(VmId, Node), Moment>,
    last_store: Option<Moment>,
    timing: Timing,
    planted: Option<Planted>,
}

impl Controller {
    /// Begins with what the store has; when it gave whom its word is forgotten.
    pub fn start(stored: &Stored, now: Moment, planted: Option<Planted>) -> Self {
        let short = planted == Some(Planted::ShortWait);
        let timing = if short { Timing { lease_ms: TIMING.lease_ms / 2, ..TIMING } } else { TIMING };
        let fences = stored.fences.values().map(|(fence, _)| fence.clone());
        Self {
            started: now,
            seen: BTreeMap::new(),
            granted: BTreeMap::new(),
            reports: BTreeMap::new(),
            ledger: FenceLedger::load(now, fences, stored.lifted.clone()),
            fencings: BTreeMap::new(),
            down_since: BTreeMap::new(),
            attempts: BTreeMap::new(),
            sent: BTreeMap::new(),
            last_store: None,
            timing,
            planted,
        }
    }

    pub fn look_around(&mut self, stored: &mut Stored, now: Moment) -> Vec<(Node, Message)> {
        let mut out = Vec::new();
        self.fence_silent_hosts(stored, now);
        self.drive_fencings(stored, now, &mut out);
        self.restart(stored, now);
        self.send_starts(stored, now, &mut out);
        out
    }

    fn silent(&self, host: &Name, now: Moment) -> bool {
        now.ms_since(self.seen.get(host).copied().unwrap_or(self.started)) >= SILENT_MS
    }

    fn fence_silent_hosts(&mut self, stored: &mut Stored, now: Moment) {
        let used: BTreeSet<Name> = stored.vms.values().map(|(host, _)| host.clone()).collect();
        for host in used {
            if !stored.fences.contains_key(&host) && self.silent(&host, now) {
                let generation = stored.lifted.get(&host).copied().unwrap_or(0) + 1;
                let why = "no heartbeat".to_owned();
                let fence =
                    Fence { host: host.clone(), generation, by: "controller".into(), why, at: Timestamp::UNIX_EPOCH };
                self.ledger.record(&fence);
                stored.fences.insert(host, (fence, false));
            }
        }
    }

    fn drive_fencings(&mut self, stored: &mut Stored, now: Moment, out: &mut Vec<(Node, Message)>) {
        let repeat = self.last_store.is_none_or(|last| now.ms_since(last) >= REPEAT_MS);
        if repeat {
            self.last_store = Some(now);
        }
        for (host, (fence, proved)) in &mut stored.fences {
            let confirmed = stored.confirmed.get(host).copied().unwrap_or(1);
            let configurations =
                || stored.members.iter().filter(|members| members.generation >= confirmed).cloned().collect();
            let fencing = self.fencings.entry(host.clone()).or_insert_with(|| {
                let mut fencing = Fencing::new(fence.clone(), self.timing, configurations());
                let own = self.ledger.record(fence);
                let granted = self.granted.get(host).copied().unwrap_or(self.started);
                fencing.stored(Member::Controller, own.max(granted));
                fencing
            });
            if let Progress::Proved(_) = fencing.progress(now) {
                *proved = true;
            }
            if repeat {
                let missing = fencing.missing();
                out.extend(missing.iter().filter_map(member_node).map(|node| (node, Message::Store(fence.clone()))));
            }
        }
    }

    /// VMs of hosts that are surely gone get another host.
    fn restart(&mut self, stored: &mut Stored, now: Moment) {
        let mut candidates = Vec::new();
        for (vm, (host, epoch)) in &stored.vms {
            let gone = stored.fences.get(host).is_some_and(|(_, proved)| *proved);
            let executes = self.reports.get(host).and_then(|vms| vms.get(vm)) == Some(&(*epoch, true));
            let state = match (gone, executes) {
                (true, _) => State::Down { since: *self.down_since.entry(*vm).or_insert(now) },
                (false, true) => State::Ready,
                (false, false) => State::Starting,
            };
            if !gone {
                self.down_since.remove(vm);
            }
            let attempts = self.attempts.get(vm).cloned().unwrap_or_default();
            let tier = if vm % 3 == 0 { Tier::High } else { Tier::Normal };
            let Ok(name) = format!("vm-{vm}").parse() else { continue };
            candidates.push(Candidate { name, tier, depends_on: BTreeSet::new(), state, policy: RETRY, attempts });
        }
        for (name, gate) in plan(&candidates, now) {
            let vm = name.as_str().strip_prefix("vm-").and_then(|number| number.parse::<VmId>().ok());
            if let (Some(vm), Ok(()), Some(host)) = (vm, gate, self.place(stored, now))
                && let Some(place) = stored.vms.get_mut(&vm)
            {
                *place = (host, place.1 + 1);
                self.attempts.entry(vm).or_default().begun(now);
            }
        }
    }

    fn place(&self, stored: &Stored, now: Moment) -> Option<Name> {
        let load = |host: &Name| stored.vms.values().filter(|(at, _)| at == host).count();
        let hosts = stored.members.last()?.hosts.keys();
        let fit = hosts.filter(|host| {
            !stored.fences.contains_key(*host) && !self.silent(host, now) && load(host) < stored.capacity
        });
        fit.min_by_key(|host| load(host)).cloned()
    }

    fn send_starts(&mut self, stored: &Stored, now: Moment, out: &mut Vec<(Node, Message)>) {
        for (vm, (host, epoch)) in &stored.vms {
            let executes = self.reports.get(host).and_then(|vms| vms.get(vm)) == Some(&(*epoch, true));
            let Some(node) = host_node(host) else { continue };
            let recent = self.sent.get(&(*vm, node)).is_some_and(|at| now.ms_since(*at) < REPEAT_MS);
            if executes || recent || stored.fences.contains_key(host) {
                continue;
            }
            self.sent.insert((*vm, node), now);
            let incarnation = stored.lifted.get(host).copied().unwrap_or(0);
            out.push((node, Message::Start { vm: *vm, epoch: *epoch, incarnation }));
        }
    }

    pub fn receive(&mut self, stored: &mut Stored, from: Node, message: Message, now: Moment) -> Vec<(Node, Message)> {
        let Some(host) = host_name(from) else { return Vec::new() };
        match message {
            Message::Heartbeat { sent, members_generation, acknowledged, vms } => {
                self.heartbeat(stored, from, &host, sent, members_generation, acknowledged, vms, now)
            }
            Message::Question { round, lifted } => {
                let fence = self.ledger.ask(&host, lifted, now).cloned();
                let answer = gantry_ha::lease::Answer { from: Member::Controller, round, fence };
                vec![(from, Message::Answer(answer))]
            }
            Message::Stored { host: target, generation, ago_ms } => {
                let last_word = self.timing.moment_told(now, ago_ms);
                if let Some(fencing) = self.fencings.get_mut(&target)
                    && fencing.fence().generation == generation
                {
                    fencing.stored(Member::Host(host), last_word);
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    fn heartbeat(
        &mut self,
        stored: &mut Stored,
        from: Node,
        host: &Name,
        sent: Moment,
        members_generation: u64,
        acknowledged: Option<u64>,
        vms: Vec<(VmId, u64, bool)>,
        now: Moment,
    ) -> Vec<(Node, Message)> {
        let mut out = Vec::new();
        self.seen.insert(host.clone(), now);
        let confirmed = stored.confirmed.entry(host.clone()).or_insert(1);
        *confirmed = (*confirmed).max(members_generation);
        if let Some((fence, _)) = stored.fences.get(host).filter(|_| self.planted != Some(Planted::GrantsDespiteFence))
        {
            if acknowledged != Some(fence.generation) {
                return vec![(from, Message::Fenced(fence.clone()))];
            }
            self.lift(stored, host, &mut out);
        }
        self.granted.insert(host.clone(), now);
        let lifted = stored.lifted.get(host).copied().unwrap_or(0);
        let members = stored.members.last().cloned().unwrap_or_default();
        out.push((from, Message::Granted { sent, lifted, members }));
        for (vm, epoch, _) in &vms {
            let (at, newest) = &stored.vms[vm];
            if at != host && epoch < newest {
                out.push((from, Message::Remove { vm: *vm, epoch: *epoch }));
            }
        }
        self.reports.insert(host.clone(), vms.into_iter().map(|(vm, epoch, runs)| (vm, (epoch, runs))).collect());
        out
    }

    /// The host has stopped everything and says so: that is proof too, and it may begin anew.
    fn lift(&mut self, stored: &mut Stored, host: &Name, out: &mut Vec<(Node, Message)>) {
        let Some((fence, _)) = stored.fences.remove(host) else { return };
        stored.lifted.insert(host.clone(), fence.generation);
        self.ledger.lift(host, fence.generation);
        self.fencings.remove(host);
        let members = stored.members.last().cloned().unwrap_or_default();
        let others = members.hosts.keys().filter_map(host_node).filter(|node| *node != CONTROLLER);
        out.extend(others.map(|node| (node, Message::Lift { host: host.clone(), generation: fence.generation })));
    }
}
