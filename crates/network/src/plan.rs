//! The difference between two kernel states as an ordered list of changes. Pure.
//!
//! The order is the safety argument: a tap gets its guard before it joins a bridge, leaves the bridge before it loses
//! its guard, and comes up last. Each step is applied to a copy of the state as it is planned, so later steps see
//! what earlier ones imply (a deleted device takes its entries along).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use crate::error::{NetworkError, Result};
use crate::guard::device_of;
use crate::mac::{EthernetAddress, MacAddress};
use crate::model;
use crate::names::{self, Role};
use crate::observed::{BridgeOptions, Guard, Link, LinkKind, Observed, PortFlags};
use crate::router::RouterState;
use crate::ruleset::Ruleset;

/// How much a plan may remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What is not desired goes.
    Everything,
    /// Only objects that the desired state names are looked at.
    Named,
}

/// One step. `Display` completes the sentence "could not …".
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Takes a device down and off its bridge.
    DetachLink {
        name: String,
    },
    RemoveGuards {
        devices: Vec<String>,
    },
    DeleteLink {
        name: String,
    },
    AddLink {
        name: String,
        kind: LinkKind,
        mtu: u32,
    },
    /// One transaction. `replacing` names the chains that exist already.
    SetGuards {
        guards: BTreeMap<String, Guard>,
        replacing: BTreeSet<String>,
    },
    /// Makes a router's namespace, empty.
    AddRouter {
        router: String,
    },
    /// Makes the inside of a router's namespace, whose legs are there, be as it should.
    SetRouter {
        router: String,
        from: Box<RouterState>,
        to: Box<RouterState>,
    },
    RemoveRouter {
        router: String,
    },
    /// Lets the kernel show bridged packets to the security groups.
    FilterBridges,
    /// One transaction from the rules that are there to those that should be.
    SetGroups {
        from: Box<Ruleset>,
        to: Box<Ruleset>,
    },
    /// The same for the frames that take another way.
    SetSteering {
        from: Box<Ruleset>,
        to: Box<Ruleset>,
    },
    SetBridgeOptions {
        name: String,
        options: BridgeOptions,
    },
    SetMtu {
        name: String,
        mtu: u32,
    },
    StopAddressGeneration {
        name: String,
    },
    SetMaster {
        name: String,
        master: String,
    },
    SetPortFlags {
        name: String,
        flags: PortFlags,
    },
    SetUp {
        name: String,
    },
    /// Points a unicast MAC at one VTEP, replacing another.
    SetVtep {
        device: String,
        mac: MacAddress,
        vtep: IpAddr,
    },
    /// Adds one more VTEP for unknown destinations.
    AddDefaultVtep {
        device: String,
        vtep: IpAddr,
    },
    SetBridgeEntry {
        bridge: String,
        mac: MacAddress,
        port: String,
    },
    SetNeighbour {
        device: String,
        address: IpAddr,
        mac: MacAddress,
    },
    RemoveBridgeEntry {
        bridge: String,
        mac: MacAddress,
        port: String,
    },
    RemoveVtep {
        device: String,
        mac: MacAddress,
        vtep: IpAddr,
    },
    RemoveNeighbour {
        device: String,
        address: IpAddr,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: Vec<&String>| names.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        match self {
            Self::DetachLink { name } => write!(f, "detach '{name}' from its bridge"),
            Self::RemoveGuards { devices } => write!(f, "remove the guards of {}", list(devices.iter().collect())),
            Self::DeleteLink { name } => write!(f, "delete interface '{name}'"),
            Self::AddLink { name, .. } => write!(f, "create interface '{name}'"),
            Self::SetGuards { guards, .. } => write!(f, "set the guards of {}", list(guards.keys().collect())),
            Self::AddRouter { router } => write!(f, "create the namespace of router '{router}'"),
            Self::SetRouter { router, .. } => write!(f, "set up router '{router}'"),
            Self::RemoveRouter { router } => write!(f, "remove router '{router}'"),
            Self::FilterBridges => write!(f, "filter bridged packets"),
            Self::SetGroups { .. } => write!(f, "set the security groups"),
            Self::SetSteering { .. } => write!(f, "set the ways of balanced connections"),
            Self::SetBridgeOptions { name, .. } => write!(f, "set the options of bridge '{name}'"),
            Self::SetMtu { name, mtu } => write!(f, "set the MTU of '{name}' to {mtu}"),
            Self::StopAddressGeneration { name } => write!(f, "stop IPv6 address generation on '{name}'"),
            Self::SetMaster { name, master } => write!(f, "add '{name}' to bridge '{master}'"),
            Self::SetPortFlags { name, .. } => write!(f, "set the bridge port flags of '{name}'"),
            Self::SetUp { name } => write!(f, "bring up '{name}'"),
            Self::SetVtep { device, mac, vtep } => write!(f, "point {mac} on '{device}' at VTEP {vtep}"),
            Self::AddDefaultVtep { device, vtep } => write!(f, "add external VTEP {vtep} to '{device}'"),
            Self::SetBridgeEntry { bridge, mac, port } => write!(f, "point {mac} on '{bridge}' at '{port}'"),
            Self::SetNeighbour { device, address, mac } => write!(f, "record {address} as {mac} on '{device}'"),
            Self::RemoveBridgeEntry { bridge, mac, .. } => write!(f, "remove {mac} from bridge '{bridge}'"),
            Self::RemoveVtep { device, mac, vtep } => write!(f, "remove {mac} at VTEP {vtep} from '{device}'"),
            Self::RemoveNeighbour { device, address } => write!(f, "remove neighbour {address} from '{device}'"),
        }
    }
}

/// The changes that turn `actual` into `desired`, in the order to make them. Empty when they agree.
pub fn plan(actual: &Observed, desired: &Observed, scope: Scope) -> Result<Vec<Change>> {
    refuse_foreign(actual, desired)?;
    let state = match scope {
        Scope::Everything => actual.clone(),
        Scope::Named => named_by(actual, desired),
    };
    let mut planner = Planner { state, desired, changes: Vec::new() };
    planner.remove_links();
    planner.add_and_remove_routers();
    let added = planner.add_links();
    planner.set_guards(&added);
    if scope == Scope::Everything {
        planner.set_groups();
    }
    planner.set_links();
    planner.set_routers();
    planner.set_entries();
    planner.remove_entries();
    Ok(planner.changes)
}

fn refuse_foreign(actual: &Observed, desired: &Observed) -> Result<()> {
    for name in desired.links.keys() {
        if let Some(Link { kind: LinkKind::Foreign(found), .. }) = actual.links.get(name) {
            let wanted = match names::role(name) {
                Some(Role::Bridge) => "bridge",
                Some(Role::Vxlan) => "vxlan device",
                Some(Role::Leg) => "router's device",
                _ => "tap",
            };
            return Err(NetworkError::NameTaken { name: name.clone(), found: found.clone(), wanted });
        }
    }
    Ok(())
}

fn named_by(actual: &Observed, desired: &Observed) -> Observed {
    let mut state = actual.clone();
    state.links.retain(|k, _| desired.links.contains_key(k));
    state.routers.clear();
    state.guards.retain(|k, _| desired.guards.contains_key(k) || desired.links.contains_key(device_of(k)));
    // What points at a named tap belongs to it: an inactive port has no entry, and must lose the one it had.
    let to_named_tap = |port: &String| desired.guards.contains_key(port) && desired.links.contains_key(port);
    state.bridge_fdb.retain(|k, port| desired.bridge_fdb.contains_key(k) || to_named_tap(port));
    state.vxlan_fdb.retain(|k, _| desired.vxlan_fdb.contains_key(k));
    state.neighbours.retain(|k, _| desired.neighbours.contains_key(k));
    state
}

struct Planner<'a> {
    state: Observed,
    desired: &'a Observed,
    changes: Vec<Change>,
}

impl Planner<'_> {
    fn push(&mut self, change: Change) {
        // The planner only makes steps that its own model accepts; a refusal is a defect of the order above.
        if let Err(reason) = model::apply(&mut self.state, &change) {
            unreachable!("planned step cannot be made: {change}: {reason}");
        }
        self.changes.push(change);
    }

    /// Removes stale devices and those that must be made anew because the kernel cannot change them in place.
    fn remove_links(&mut self) {
        let gone = |(name, link): (&String, &Link)| match self.desired.links.get(name) {
            None => !matches!(link.kind, LinkKind::Foreign(_)),
            Some(wanted) => !matches!(wanted.kind, LinkKind::Bridge(_)) && wanted.kind != link.kind,
        };
        let gone = self.state.links.iter().filter(|l| gone(*l)).map(|(name, _)| name.clone()).collect::<Vec<_>>();
        for name in &gone {
            if self.state.links[name].master.is_some() || self.state.links[name].up {
                self.push(Change::DetachLink { name: name.clone() });
            }
        }
        let unguarded =
            |name: &String| gone.iter().any(|gone| gone == device_of(name)) || !self.desired.guards.contains_key(name);
        let devices = self.state.guards.keys().filter(|n| unguarded(n)).cloned().collect::<Vec<_>>();
        if !devices.is_empty() {
            self.push(Change::RemoveGuards { devices });
        }
        for name in gone {
            self.push(Change::DeleteLink { name });
        }
    }

    fn add_and_remove_routers(&mut self) {
        let gone = self.state.routers.keys().filter(|router| !self.desired.routers.contains_key(*router)).cloned();
        for router in gone.collect::<Vec<_>>() {
            self.push(Change::RemoveRouter { router });
        }
        for router in self.desired.routers.keys() {
            if !self.state.routers.contains_key(router) {
                self.push(Change::AddRouter { router: router.clone() });
            }
        }
    }

    fn set_routers(&mut self) {
        for (router, wanted) in &self.desired.routers {
            let has = &self.state.routers[router];
            if has != wanted {
                let (from, to) = (Box::new(has.clone()), Box::new(wanted.clone()));
                self.push(Change::SetRouter { router: router.clone(), from, to });
            }
        }
    }

    fn add_links(&mut self) -> BTreeSet<String> {
        let mut added = BTreeSet::new();
        for (name, link) in &self.desired.links {
            if !self.state.links.contains_key(name) {
                self.push(Change::AddLink { name: name.clone(), kind: link.kind.clone(), mtu: link.mtu });
                added.insert(name.clone());
            }
        }
        added
    }

    /// A new device always gets its chain written: one left over from a deleted device may hang on nothing.
    fn set_guards(&mut self, added: &BTreeSet<String>) {
        let wrong = |name: &String, guard: &Guard| {
            added.contains(device_of(name)) || self.state.guards.get(name) != Some(guard)
        };
        let guards = self.desired.guards.iter().filter(|(name, guard)| wrong(name, guard));
        let guards = guards.map(|(n, g)| (n.clone(), g.clone())).collect::<BTreeMap<_, _>>();
        if !guards.is_empty() {
            let replacing = guards.keys().filter(|n| self.state.guards.contains_key(*n)).cloned().collect();
            self.push(Change::SetGuards { guards, replacing });
        }
    }

    /// Before a new tap comes up: a guest's first packet meets its groups.
    fn set_groups(&mut self) {
        if !self.desired.groups.is_empty() && !self.state.filters_bridges {
            self.push(Change::FilterBridges);
        }
        if self.state.groups != self.desired.groups {
            let (from, to) = (Box::new(self.state.groups.clone()), Box::new(self.desired.groups.clone()));
            self.push(Change::SetGroups { from, to });
        }
        if self.state.steering != self.desired.steering {
            let (from, to) = (Box::new(self.state.steering.clone()), Box::new(self.desired.steering.clone()));
            self.push(Change::SetSteering { from, to });
        }
    }

    fn set_links(&mut self) {
        for (name, wanted) in &self.desired.links {
            let name = || name.clone();
            let mut has = self.state.links[&name()].clone();
            if let (LinkKind::Bridge(options), true) = (&wanted.kind, has.kind != wanted.kind) {
                self.push(Change::SetBridgeOptions { name: name(), options: *options });
            }
            if has.mtu != wanted.mtu {
                self.push(Change::SetMtu { name: name(), mtu: wanted.mtu });
            }
            if has.generates_address && !wanted.generates_address {
                self.push(Change::StopAddressGeneration { name: name() });
            }
            if let Some(master) = wanted.master.clone().filter(|m| has.master.as_ref() != Some(m)) {
                self.push(Change::SetMaster { name: name(), master });
                has = self.state.links[&name()].clone();
            }
            if let Some(flags) = wanted.port.filter(|p| has.port != Some(*p)) {
                self.push(Change::SetPortFlags { name: name(), flags });
            }
            if wanted.up && !has.up {
                self.push(Change::SetUp { name: name() });
            }
        }
    }

    fn set_entries(&mut self) {
        for ((device, mac), vteps) in &self.desired.vxlan_fdb {
            let has = self.state.vxlan_fdb.get(&(device.clone(), *mac)).cloned().unwrap_or_default();
            if has == *vteps {
                continue;
            }
            if *mac == MacAddress::ZERO {
                for vtep in vteps.difference(&has) {
                    self.push(Change::AddDefaultVtep { device: device.clone(), vtep: *vtep });
                }
                for vtep in has.difference(vteps) {
                    self.push(Change::RemoveVtep { device: device.clone(), mac: *mac, vtep: *vtep });
                }
                continue;
            }
            if has.len() > 1 {
                for vtep in has {
                    self.push(Change::RemoveVtep { device: device.clone(), mac: *mac, vtep });
                }
            }
            for vtep in vteps {
                self.push(Change::SetVtep { device: device.clone(), mac: *mac, vtep: *vtep });
            }
        }
        for ((bridge, mac), port) in &self.desired.bridge_fdb {
            if self.state.bridge_fdb.get(&(bridge.clone(), *mac)) != Some(port) {
                self.push(Change::SetBridgeEntry { bridge: bridge.clone(), mac: *mac, port: port.clone() });
            }
        }
        for ((device, address), mac) in &self.desired.neighbours {
            if self.state.neighbours.get(&(device.clone(), *address)) != Some(mac) {
                self.push(Change::SetNeighbour { device: device.clone(), address: *address, mac: *mac });
            }
        }
    }

    fn remove_entries(&mut self) {
        let desired = self.desired;
        for (key, port) in self.state.bridge_fdb.clone() {
            if !desired.bridge_fdb.contains_key(&key) {
                self.push(Change::RemoveBridgeEntry { bridge: key.0, mac: key.1, port });
            }
        }
        for (key, vteps) in self.state.vxlan_fdb.clone() {
            for vtep in vteps.into_iter().filter(|_| !desired.vxlan_fdb.contains_key(&key)) {
                self.push(Change::RemoveVtep { device: key.0.clone(), mac: key.1, vtep });
            }
        }
        for (key, _) in self.state.neighbours.clone() {
            if !desired.neighbours.contains_key(&key) {
                self.push(Change::RemoveNeighbour { device: key.0, address: key.1 });
            }
        }
    }
}
