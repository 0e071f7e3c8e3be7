//! This host's data plane: what the controller wants of it, joined with the ports of the VMs that are really here.
//!
//! The controller knows where every other host's ports are; the agent knows which VMs it has, under which users they
//! run and whether their guests are here yet. So remote ports come from the controller, local ones from the VMs'
//! records, and a call of the controller that is computed from an older view of this host never takes a VM's tap away.
//!
//! What the controller says of a local port besides (its VM, its security groups) is kept for as long as the VM is here,
//! also when a later call does not name the port: a port is never opened by not being mentioned.
//!
//! What was applied is on disk and is applied again when the agent starts, before any guest does.
//!
//! A network that the underlay can't carry is refused when it first comes to this host, with what to do about it. One that
//! is here stays.

mod join;
mod routing;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gantry_api::{agent::NicAssignment, rest::CaptureQuery};
use gantry_network::plan::{Scope, plan};
use gantry_network::{CaptureLimits, DataPlane, NetworkError, target};
use gantry_types::{ErrorClass, HostNetwork, HostNetworks, LocalPort, Problem};
use tokio::sync::{Mutex, Notify, mpsc};
use uuid::Uuid;

pub(crate) use self::join::Place;
use self::join::{VmPorts, merged, network_of, port_ref, told};
pub(crate) use self::routing::{MemberCheck, RouterFlows};
use crate::durable;
use crate::problem::problem;
use crate::records::blocking;

pub(crate) struct Networks {
    plane: Arc<dyn DataPlane>,
    underlay_address: IpAddr,
    path: PathBuf,
    state: Mutex<State>,
    /// Something that the networks' services follow has changed.
    changed: Notify,
    /// Of `state.desired`; read by heartbeats, which must not wait for the kernel.
    generation: AtomicU64,
}

#[derive(Default)]
struct State {
    desired: HostNetworks,
    /// What the controller last said of each port that is here, by the port's id.
    told: BTreeMap<Uuid, LocalPort>,
    vms: BTreeMap<Uuid, VmPorts>,
    /// Grows with each change made for one VM; what is left to tidy up after it waits for the next look at the whole.
    touched: u64,
    /// `touched` when the whole data plane was last seen to be as wanted.
    settled: Option<u64>,
}

/// The networks that have a port here, each with those ports and the VMs they are of.
pub(crate) struct Serving {
    pub networks: Vec<(HostNetwork, Vec<(Uuid, NicAssignment)>)>,
}

/// What [`Networks::repair`] did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Repair {
    /// One line for each change, in the order made.
    pub changes: Vec<String>,
    /// What was there was as wanted before, so somebody else has changed it.
    pub was_tampered_with: bool,
}

/// In the state directory: the data plane last applied.
pub(crate) const NETWORKS_FILE: &str = "networks.json";

impl Networks {
    pub fn open(plane: Arc<dyn DataPlane>, underlay_address: IpAddr, state_dir: &Path) -> Result<Self, Problem> {
        let path = state_dir.join(NETWORKS_FILE);
        let damaged = |reason: String| {
            Problem::permanent("networks-damaged", format!("{} is damaged: {reason}", path.display()))
                .remedy("delete it: the controller sends the networks again")
        };
        let desired = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => HostNetworks::default(),
            Err(error) => return Err(damaged(error.to_string())),
        };
        let generation = AtomicU64::new(desired.generation);
        let told = told(&desired, BTreeMap::new(), &BTreeMap::new());
        let state = Mutex::new(State { desired, told, vms: BTreeMap::new(), ..State::default() });
        Ok(Self { plane, underlay_address, path, state, changed: Notify::new(), generation })
    }

    /// What the services of this host's networks answer from, as it is now.
    pub async fn serving(&self) -> Serving {
        let state = self.state.lock().await;
        let here = |ports: &&VmPorts| !matches!(ports.place, Place::Left(_));
        let vms = state.vms.iter().filter(|(_, ports)| here(ports));
        let nics = vms.flat_map(|(vm, ports)| ports.nics.iter().map(|nic| (*vm, nic.clone()))).collect::<Vec<_>>();
        let of = |vni: u32| nics.iter().filter(|(_, nic)| nic.vni == vni).cloned().collect::<Vec<_>>();
        let plan = self.merged(&state.desired, &state);
        let networks = plan.networks.into_iter().map(|network| (of(network.vni), network));
        Serving { networks: networks.filter(|(nics, _)| !nics.is_empty()).map(|(nics, n)| (n, nics)).collect() }
    }

    /// Returns after the next change, also if it has been made since the last call.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Takes over what the controller wants and makes it so. Networks that can't be here are left out; then the rest is
    /// done, the answer names the first of them, and the generation stays the last one that was carried out whole.
    pub async fn apply(&self, desired: &HostNetworks) -> Result<(), Problem> {
        let mut state = self.state.lock().await;
        let current = state.desired.generation;
        if desired.generation < current {
            let detail =
                format!("generation {} of the networks is older than {current}, which is here", desired.generation);
            return Err(Problem::conflict("stale-generation", detail)
                .remedy("nothing is to be done: the controller sends the newest networks by itself"));
        }
        let (possible, refused) = self.fitting(desired, &state).await;
        state.told = told(&possible, std::mem::take(&mut state.told), &state.vms);
        let plan = self.merged(&possible, &state);
        self.plane.apply(&plan).await.map_err(not_applied)?;
        state.settled = Some(state.touched);
        if state.desired != possible {
            let text = serde_json::to_vec_pretty(&possible)
                .map_err(|error| self.not_written(ErrorClass::Permanent, &error.to_string()))?;
            let path = self.path.clone();
            blocking(move || durable::replace(&path, &text))
                .await
                .map_err(|error| self.not_written(ErrorClass::Transient, &error.to_string()))?;
            self.generation.store(possible.generation, Ordering::Relaxed);
            state.desired = possible;
            self.changed.notify_one();
        }
        refused.map_or(Ok(()), Err)
    }

    fn merged(&self, desired: &HostNetworks, state: &State) -> HostNetworks {
        merged(desired, &state.vms, &state.told, self.underlay_address)
    }

    fn not_written(&self, class: ErrorClass, reason: &str) -> Problem {
        Problem::new(class, "networks-not-written", format!("cannot write {}: {reason}", self.path.display()))
            .remedy("check that the state directory's filesystem is writable and has space")
    }

    /// `desired` without the networks that are new and that the underlay can't carry; a network that is here already
    /// stays as it is. With the first reason, if there is one.
    async fn fitting(&self, desired: &HostNetworks, state: &State) -> (HostNetworks, Option<Problem>) {
        let mut possible = HostNetworks { networks: Vec::new(), ..desired.clone() };
        let mut refused = None;
        for network in &desired.networks {
            match self.check_underlay(network, state).await {
                Ok(()) => possible.networks.push(network.clone()),
                Err(problem) => {
                    let before = state.desired.networks.iter().find(|before| before.vni == network.vni);
                    possible.networks.extend(before.cloned());
                    possible.generation = state.desired.generation;
                    refused.get_or_insert(problem);
                }
            }
        }
        (possible, refused)
    }

    async fn check_underlay(&self, network: &HostNetwork, state: &State) -> Result<(), Problem> {
        let is_same = |vni: u32, mtu: u32| (vni, mtu) == (network.vni, network.mtu);
        let is_here = state.desired.networks.iter().any(|here| is_same(here.vni, here.mtu))
            || state.vms.values().flat_map(|ports| &ports.nics).any(|nic| is_same(nic.vni, nic.mtu));
        if is_here {
            return Ok(());
        }
        match self.plane.check_underlay(network).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let code = match &error {
                    NetworkError::UnderlayTooSmall { .. } => "underlay-mtu-too-small",
                    NetworkError::NoUnderlay { .. } => "no-underlay",
                    NetworkError::NoUplink { .. } => "no-interface",
                    NetworkError::UplinkInUse { .. } => "interface-in-use",
                    NetworkError::UplinkTooSmall { .. } => "interface-mtu-too-small",
                    _ => "underlay-not-checked",
                };
                let of = if network.interface.is_some() { "this host's interfaces" } else { "this host's underlay" };
                Err(problem(code, of, &error))
            }
        }
    }

    /// Makes the data plane as it was last wanted, with the VMs known by now.
    pub async fn reapply(&self) -> Result<(), Problem> {
        let mut state = self.state.lock().await;
        let plan = self.merged(&state.desired, &state);
        self.plane.apply(&plan).await.map_err(not_applied)?;
        state.settled = Some(state.touched);
        Ok(())
    }

    /// Puts back what was removed or changed behind the agent's back. While all is as wanted this only reads, and holds
    /// nobody up: a guest may just be moving.
    pub async fn repair(&self) -> Result<Repair, Problem> {
        let (wanted, touched) = {
            let state = self.state.lock().await;
            (self.merged(&state.desired, &state), state.touched)
        };
        let seen = self.plane.observe().await.map_err(not_applied)?;
        if plan(&seen, &target::host(&wanted), Scope::Everything).is_ok_and(|changes| changes.is_empty()) {
            self.state.lock().await.settled = Some(touched);
            return Ok(Repair::default());
        }
        let mut state = self.state.lock().await;
        let wanted = self.merged(&state.desired, &state);
        let applied = self.plane.apply(&wanted).await.map_err(not_applied)?;
        let touched = state.touched;
        let was_settled = state.settled.replace(touched) == Some(touched);
        Ok(Repair { was_tampered_with: was_settled && !applied.changes.is_empty(), changes: applied.changes })
    }

    /// Remembers a VM's ports without touching the host; [`Self::reapply`] follows.
    pub async fn remember(&self, vm: Uuid, nics: &[NicAssignment], owner_uid: u32, place: Place) {
        self.state.lock().await.vms.insert(vm, VmPorts { nics: nics.to_vec(), owner_uid, place });
        self.changed.notify_one();
    }

    /// Makes the VM's taps, guarded, and removes those it no longer has.
    pub async fn ensure(&self, vm: Uuid, nics: &[NicAssignment], owner_uid: u32, place: Place) -> Result<(), Problem> {
        let mut state = self.state.lock().await;
        let failed = |error| problem("port-not-made", &format!("a port of VM {vm}"), &error);
        for nic in nics {
            let network = network_of(&mut HostNetworks::default(), nic, self.underlay_address).clone();
            self.check_underlay(&network, &state).await?;
        }
        state.touched += 1;
        self.changed.notify_one();
        let before = state.vms.insert(vm, VmPorts { nics: nics.to_vec(), owner_uid, place });
        let kept = |nic: &NicAssignment| nics.iter().any(|new| new.port == nic.port && new.vni == nic.vni);
        for nic in before.iter().flat_map(|ports| &ports.nics).filter(|nic| !kept(nic)) {
            self.plane.remove_port(&port_ref(nic)).await.map_err(failed)?;
        }
        let plan = self.merged(&state.desired, &state);
        for nic in nics {
            let network = plan.networks.iter().find(|network| network.vni == nic.vni);
            let port = network.and_then(|network| network.local.iter().find(|port| port.id == nic.port));
            if let (Some(network), Some(port)) = (network, port) {
                self.plane.ensure_port(network, port).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// The guest is here now: its frames go through its taps.
    pub async fn activate(&self, vm: Uuid) -> Result<(), Problem> {
        let mut state = self.state.lock().await;
        state.touched += 1;
        self.changed.notify_one();
        let Some(ports) = state.vms.get_mut(&vm) else { return Ok(()) };
        if ports.place == Place::Here {
            return Ok(());
        }
        ports.place = Place::Here;
        for nic in &ports.nics {
            let activated = self.plane.activate_port(&port_ref(nic)).await;
            activated.map_err(|error| problem("port-not-activated", &format!("a port of VM {vm}"), &error))?;
        }
        Ok(())
    }

    /// The guest is behind `vtep` now.
    pub async fn move_away(&self, vm: Uuid, vtep: IpAddr) -> Result<(), Problem> {
        let mut state = self.state.lock().await;
        state.touched += 1;
        self.changed.notify_one();
        let Some(ports) = state.vms.get_mut(&vm) else { return Ok(()) };
        ports.place = Place::Left(vtep);
        for nic in &ports.nics {
            let moved = self.plane.deactivate_port(&port_ref(nic), vtep).await;
            moved.map_err(|error| problem("port-not-moved", &format!("a port of VM {vm}"), &error))?;
        }
        Ok(())
    }

    /// Captures what passes a port that is here.
    pub async fn capture(&self, port: Uuid, limits: CaptureQuery) -> Result<mpsc::Receiver<Vec<u8>>, Problem> {
        let state = self.state.lock().await;
        let nic = state.vms.values().flat_map(|ports| &ports.nics).find(|nic| nic.port == port);
        let nic = nic.ok_or_else(|| Problem::not_found("port", &port.to_string()))?;
        let limits = CaptureLimits { time: Duration::from_secs(limits.seconds.into()), bytes: limits.max_bytes };
        self.plane.capture(&port_ref(nic), limits).map_err(|error| problem("port-not-captured", "a port", &error))
    }

    pub async fn remove(&self, vm: Uuid) -> Result<(), Problem> {
        let mut state = self.state.lock().await;
        state.touched += 1;
        self.changed.notify_one();
        let Some(ports) = state.vms.get(&vm) else { return Ok(()) };
        for nic in &ports.nics {
            let removed = self.plane.remove_port(&port_ref(nic)).await;
            removed.map_err(|error| problem("port-not-removed", &format!("a port of VM {vm}"), &error))?;
        }
        state.vms.remove(&vm);
        Ok(())
    }
}

fn not_applied(error: NetworkError) -> Problem {
    problem("networks-not-applied", "this host's networks", &error)
}

#[cfg(test)]
mod tests;
