//! The state that decisions are made on, kept up by small changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use gantry_types::{Host, Labels, Name, Pool, Vm};
use uuid::Uuid;

use crate::{
    Baseline, Demand, HostFacts, Machine, Request, Settings, VmFacts,
    ledger::{HostRow, Ledger, Share},
};

/// In selectors of host rules, the host's name.
pub(crate) const NAME_LABEL: &str = "gantry.io/name";

/// Hosts, the VMs on them and the rules, with dense indexes.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub(crate) settings: Settings,
    /// By index; `None` where a host was removed.
    pub(crate) hosts: Vec<Option<HostEntry>>,
    pub(crate) vms: BTreeMap<Uuid, VmEntry>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) ledger: Ledger,
    by_name: HashMap<Name, u32>,
    free_slots: Vec<u32>,
    domains: HashMap<(Option<String>, Option<String>), u32>,
}

#[derive(Debug, Clone)]
pub(crate) struct HostEntry {
    pub facts: HostFacts,
    /// Its own and [`NAME_LABEL`].
    pub labels: Labels,
    pub vms: BTreeSet<Uuid>,
}

#[derive(Debug, Clone)]
pub(crate) struct VmEntry {
    pub facts: VmFacts,
    /// Where it counts: its host, and where it moves to.
    pub at: [Option<u32>; 2],
}

impl VmEntry {
    pub fn hosts(&self) -> impl Iterator<Item = u32> {
        self.at.into_iter().flatten()
    }
}

impl Snapshot {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            hosts: Vec::new(),
            vms: BTreeMap::new(),
            machines: Vec::new(),
            ledger: Ledger::default(),
            by_name: HashMap::new(),
            free_slots: Vec::new(),
            domains: HashMap::new(),
        }
    }

    /// Of the objects as they are.
    pub fn of<'a>(
        settings: Settings,
        hosts: impl IntoIterator<Item = &'a Host>,
        vms: impl IntoIterator<Item = &'a Vm>,
        pools: &[Pool],
    ) -> Self {
        let facts = |host| HostFacts::from(host).with_pools(pools);
        Self::build(settings, hosts.into_iter().map(facts), vms.into_iter().map(VmFacts::from))
    }

    /// Of facts that the caller has completed.
    pub fn build(
        settings: Settings,
        hosts: impl IntoIterator<Item = HostFacts>,
        vms: impl IntoIterator<Item = VmFacts>,
    ) -> Self {
        let mut snapshot = Self::new(settings);
        for host in hosts {
            snapshot.insert_host(host);
        }
        snapshot.rank_hosts();
        snapshot.ledger.sum_up(&snapshot.settings);
        for vm in vms {
            snapshot.put_vm(vm);
        }
        snapshot
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Adds the host or replaces what was known of it.
    pub fn put_host(&mut self, facts: HostFacts) {
        let name = facts.name.clone();
        let is_new = !self.by_name.contains_key(&name);
        self.insert_host(facts);
        self.ledger.sum_up(&self.settings);
        if is_new {
            self.rank_hosts();
            // VMs that were told of before their host.
            let names_it = |vm: &&VmEntry| [&vm.facts.host, &vm.facts.moving_to].contains(&&Some(name.clone()));
            let waiting: Vec<VmFacts> = self.vms.values().filter(names_it).map(|vm| vm.facts.clone()).collect();
            waiting.into_iter().for_each(|vm| self.put_vm(vm));
        }
    }

    /// Replaces what is known of hosts that are there already; cheaper than one by one.
    pub fn put_known_hosts(&mut self, hosts: impl IntoIterator<Item = HostFacts>) {
        let mut changed = false;
        for facts in hosts.into_iter().filter(|facts| self.by_name.contains_key(&facts.name)).collect::<Vec<_>>() {
            self.insert_host(facts);
            changed = true;
        }
        if changed {
            self.ledger.sum_up(&self.settings);
        }
    }

    /// How busy the host is now, as a share of its processors; nothing happens if it is not known.
    pub fn set_load(&mut self, host: &Name, share: f64) {
        let Some(index) = self.index(host) else { return };
        if let Some(entry) = &mut self.hosts[index as usize] {
            entry.facts.cpu_used = entry.facts.cpu_capacity * share;
            self.ledger.rows[index as usize].cpu_used = entry.facts.cpu_used;
        }
    }

    fn insert_host(&mut self, facts: HostFacts) {
        let machine = facts.machine.as_ref().map(|machine| self.machine_index(machine));
        let known = self.by_name.get(&facts.name).copied();
        let index = known.or_else(|| self.free_slots.pop()).unwrap_or(self.hosts.len() as u32);
        let domains = self.domains_of(index, &facts);
        let mut row = HostRow::new(&facts, &self.settings, machine, domains);
        let mut labels = facts.labels.clone();
        labels.0.insert(NAME_LABEL.to_owned(), facts.name.as_str().to_owned());
        let name = facts.name.clone();
        let vms = known.and_then(|at| self.hosts[at as usize].take()).map(|entry| entry.vms).unwrap_or_default();
        let entry = Some(HostEntry { facts, labels, vms });
        if index as usize == self.hosts.len() {
            self.hosts.push(entry);
            self.ledger.rows.push(row);
        } else {
            if known.is_some() {
                keep_what_is_given(&mut row, &self.ledger.rows[index as usize]);
            }
            self.hosts[index as usize] = entry;
            self.ledger.rows[index as usize] = row;
        }
        self.by_name.insert(name, index);
    }

    /// True if it was there. Its VMs stay known, on no host.
    pub fn remove_host(&mut self, name: &Name) -> bool {
        let Some(index) = self.by_name.remove(name) else { return false };
        let vms = self.hosts[index as usize].take().map(|entry| entry.vms).unwrap_or_default();
        for vm in vms {
            let Some(entry) = self.vms.get_mut(&vm) else { continue };
            for at in entry.at.iter_mut().filter(|at| **at == Some(index)) {
                *at = None;
                self.ledger.give_back(index, &entry.facts.request);
            }
        }
        self.ledger.rows[index as usize].present = false;
        self.free_slots.push(index);
        self.rank_hosts();
        self.ledger.sum_up(&self.settings);
        true
    }

    /// Numbers the hosts by name, so that ties are broken without looking at names.
    fn rank_hosts(&mut self) {
        let mut order: Vec<(&Name, u32)> = self.by_name.iter().map(|(name, index)| (name, *index)).collect();
        order.sort_unstable();
        for (rank, (_, index)) in order.into_iter().enumerate() {
            self.ledger.rows[index as usize].rank = rank as u32;
        }
    }

    /// Adds the VM or replaces what was known of it.
    pub fn put_vm(&mut self, facts: VmFacts) {
        let uuid = facts.request.vm;
        self.remove_vm(uuid);
        let index = |name: &Option<Name>| name.as_ref().and_then(|name| self.by_name.get(name).copied());
        let at = [index(&facts.host), index(&facts.moving_to).filter(|to| Some(*to) != index(&facts.host))];
        for host in at.into_iter().flatten() {
            self.ledger.take(host, &facts.request);
            if let Some(entry) = &mut self.hosts[host as usize] {
                entry.vms.insert(uuid);
            }
        }
        self.vms.insert(uuid, VmEntry { facts, at });
    }

    /// True if it was there.
    pub fn remove_vm(&mut self, uuid: Uuid) -> bool {
        let Some(vm) = self.vms.remove(&uuid) else { return false };
        for host in vm.hosts() {
            self.ledger.give_back(host, &vm.facts.request);
            if let Some(entry) = &mut self.hosts[host as usize] {
                entry.vms.remove(&uuid);
            }
        }
        true
    }

    /// New figures of a VM's use; nothing happens if it is not known.
    pub fn set_demand(&mut self, uuid: Uuid, demand: Demand) {
        let Some(vm) = self.vms.get_mut(&uuid) else { return };
        let before = Share::of(&vm.facts.request);
        vm.facts.request.demand = demand;
        let after = Share::of(&vm.facts.request);
        if before != after {
            vm.hosts().for_each(|host| self.ledger.expect(host, &before, &after));
        }
    }

    /// What all hosts have in common; `None` if nothing can move everywhere.
    pub fn baseline(&self) -> Option<Baseline> {
        let used: BTreeSet<u32> =
            self.ledger.rows.iter().filter(|row| row.present).filter_map(|row| row.machine).collect();
        Baseline::of(used.into_iter().map(|index| &self.machines[index as usize]))
    }

    /// Names of the hosts, sorted.
    pub fn host_names(&self) -> Vec<Name> {
        let mut names: Vec<Name> = self.hosts.iter().flatten().map(|entry| entry.facts.name.clone()).collect();
        names.sort();
        names
    }

    pub fn host(&self, name: &Name) -> Option<&HostFacts> {
        self.hosts[self.index(name)? as usize].as_ref().map(|entry| &entry.facts)
    }

    pub fn vm(&self, uuid: Uuid) -> Option<&VmFacts> {
        self.vms.get(&uuid).map(|vm| &vm.facts)
    }

    pub fn vms(&self) -> impl Iterator<Item = &VmFacts> {
        self.vms.values().map(|vm| &vm.facts)
    }

    /// VMs that count on the host, by uuid.
    pub fn vms_on(&self, host: &Name) -> Vec<&VmFacts> {
        let entry = self.index(host).and_then(|index| self.hosts[index as usize].as_ref());
        entry.into_iter().flat_map(|entry| &entry.vms).filter_map(|uuid| self.vm(*uuid)).collect()
    }

    pub(crate) fn index(&self, name: &Name) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn name_of(&self, index: u32) -> &Name {
        &self.entry(index).facts.name
    }

    /// # Panics
    /// If the slot is empty: indexes of removed hosts are never handed on.
    pub(crate) fn entry(&self, index: u32) -> &HostEntry {
        self.hosts[index as usize].as_ref().expect("a host that is there")
    }

    fn machine_index(&mut self, machine: &Machine) -> u32 {
        let known = self.machines.iter().position(|known| known == machine);
        known.unwrap_or_else(|| {
            self.machines.push(machine.clone());
            self.machines.len() - 1
        }) as u32
    }

    /// Ids of the host, its rack and its site. A host that names none is one of its own.
    fn domains_of(&mut self, index: u32, facts: &HostFacts) -> [u32; 3] {
        const OWN: u32 = 1 << 31;
        let next = self.domains.len() as u32;
        let site = facts.failure_domain.site.clone();
        let rack = facts.failure_domain.rack.clone();
        let rack_id = match &rack {
            Some(_) => *self.domains.entry((site.clone(), rack)).or_insert(next),
            None => OWN | index,
        };
        let next = self.domains.len() as u32;
        let site_id = match &site {
            Some(_) => *self.domains.entry((site, None)).or_insert(next),
            None => OWN | index,
        };
        [index, rack_id, site_id]
    }

    /// A VM that is placed, as a request to go elsewhere.
    pub(crate) fn request_to_leave(&self, vm: &VmFacts) -> Request {
        let mut request = vm.request.clone();
        request.except = vm.host.clone();
        request
    }
}

fn keep_what_is_given(row: &mut HostRow, old: &HostRow) {
    row.rank = old.rank;
    row.memory_given = old.memory_given;
    row.memory_reserved = old.memory_reserved;
    row.cpus_given = old.cpus_given;
    row.cpu_reserved = old.cpu_reserved;
    row.demand = old.demand;
    row.variance = old.variance;
    row.vms = old.vms;
}
