//! A data plane in memory: the same planner over [`crate::model`]'s kernel, so it refuses what the kernel refuses.
//!
//! For the tests of everything above this crate. Frames do not flow; states do.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use gantry_types::HostLinks;
use tokio::sync::mpsc;

use crate::desired::{HostNetwork, HostNetworks, LocalPort, Validate};
use crate::error::{ErrorClass, NetworkError, Result};
use crate::model;
use crate::observed::Observed;
use crate::plan::{Change, Scope, plan};
use crate::plane::{Applied, CaptureLimits, DataPlane, PCAP_HEADER, PortCounters, PortRef, Traffic};
use crate::target;
use crate::underlay::{self, UnderlayReport};

/// See the module.
pub struct FakeDataPlane {
    world: Mutex<World>,
}

struct World {
    state: Observed,
    underlay: BTreeMap<IpAddr, UnderlayReport>,
    uplinks: BTreeMap<String, (u32, Option<String>)>,
    counters: BTreeMap<String, PortCounters>,
    failure: Option<String>,
}

impl Default for FakeDataPlane {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeDataPlane {
    pub fn new() -> Self {
        let world = World {
            state: Observed::default(),
            underlay: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            counters: BTreeMap::new(),
            failure: None,
        };
        Self { world: Mutex::new(world) }
    }

    /// Gives the host an underlay interface. Without one, [`DataPlane::check_underlay`] fails as on a bare host.
    pub fn set_underlay(&self, address: IpAddr, interface: &str, mtu: u32) {
        let report = UnderlayReport { interface: interface.to_owned(), mtu };
        self.world().underlay.insert(address, report);
    }

    /// Gives the host an interface for bridged networks, with what it is used for otherwise.
    pub fn set_uplink(&self, interface: &str, mtu: u32, used: Option<&str>) {
        self.world().uplinks.insert(interface.to_owned(), (mtu, used.map(str::to_owned)));
    }

    /// What [`DataPlane::port_counters`] will answer for a port.
    pub fn set_counters(&self, port: &PortRef, counters: PortCounters) {
        self.world().counters.insert(port.tap(), counters);
    }

    /// Makes each following call fail with a transient error until called with `None`.
    pub fn fail_with(&self, reason: Option<&str>) {
        self.world().failure = reason.map(str::to_owned);
    }

    /// Changes the state behind the plane's back, as a person with `ip` and `nft` could.
    pub fn tamper(&self, change: impl FnOnce(&mut Observed)) {
        change(&mut self.world().state);
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn working(&self, attempt: &str) -> Result<MutexGuard<'_, World>> {
        let world = self.world();
        match &world.failure {
            None => Ok(world),
            Some(reason) => Err(NetworkError::Refused {
                attempt: attempt.to_owned(),
                reason: reason.clone(),
                remedy: "repeat later".to_owned(),
                class: ErrorClass::Transient,
            }),
        }
    }

    fn converge(&self, desired: &Observed, scope: Scope) -> Result<Applied> {
        let mut world = self.working("change the host's networks")?;
        let changes = plan(&world.state, desired, scope)?;
        make(&mut world.state, &changes)?;
        Ok(Applied { changes: changes.iter().map(ToString::to_string).collect() })
    }

    fn flip(&self, port: &PortRef, changes: Vec<Change>) -> Result<()> {
        let mut world = self.working("flip a port")?;
        if !world.state.has_port(port) {
            return Err(NetworkError::NoInterface { name: port.tap(), needed_for: format!("port {}", port.id) });
        }
        make(&mut world.state, &changes)
    }
}

fn make(state: &mut Observed, changes: &[Change]) -> Result<()> {
    for change in changes {
        model::apply(state, change).map_err(|reason| NetworkError::Refused {
            attempt: change.to_string(),
            reason,
            remedy: "apply the host's networks, then repeat".to_owned(),
            class: ErrorClass::Permanent,
        })?;
    }
    Ok(())
}

#[async_trait]
impl DataPlane for FakeDataPlane {
    async fn apply(&self, desired: &HostNetworks) -> Result<Applied> {
        desired.validate()?;
        self.converge(&target::host(desired), Scope::Everything)
    }

    async fn ensure_port(&self, network: &HostNetwork, port: &LocalPort) -> Result<Applied> {
        let desired = target::one_port(network, port);
        desired.validate()?;
        self.converge(&target::host(&desired), Scope::Named)
    }

    async fn activate_port(&self, port: &PortRef) -> Result<()> {
        self.flip(port, target::activation(port))
    }

    async fn deactivate_port(&self, port: &PortRef, new_vtep: IpAddr) -> Result<()> {
        self.flip(port, target::deactivation(port, new_vtep))
    }

    async fn remove_port(&self, port: &PortRef) -> Result<Applied> {
        let mut world = self.working("remove a port")?;
        let changes = target::removal(&world.state, port)?;
        make(&mut world.state, &changes)?;
        Ok(Applied { changes: changes.iter().map(ToString::to_string).collect() })
    }

    /// A descriptor that carries no frames.
    fn open_tap(&self, port: &PortRef) -> Result<OwnedFd> {
        let world = self.working("open a tap")?;
        if !world.state.links.contains_key(&port.tap()) {
            return Err(NetworkError::NoInterface { name: port.tap(), needed_for: "to attach a guest".to_owned() });
        }
        let null = File::options().read(true).write(true).open("/dev/null");
        null.map(OwnedFd::from).map_err(|source| NetworkError::Spawn { program: "/dev/null".into(), source })
    }

    /// A capture in which nothing passes.
    fn capture(&self, port: &PortRef, _limits: CaptureLimits) -> Result<mpsc::Receiver<Vec<u8>>> {
        if !self.working("capture a port")?.state.links.contains_key(&port.tap()) {
            return Err(NetworkError::NoInterface { name: port.tap(), needed_for: "to capture it".to_owned() });
        }
        let (records, receiver) = mpsc::channel(1);
        // The channel is empty.
        let _sent = records.try_send(PCAP_HEADER.to_vec());
        Ok(receiver)
    }

    async fn observe(&self) -> Result<Observed> {
        Ok(self.working("read the host's networks")?.state.clone())
    }

    async fn port_counters(&self, port: &PortRef) -> Result<PortCounters> {
        let world = self.working("read a port's counters")?;
        if !world.state.links.contains_key(&port.tap()) {
            return Err(NetworkError::NoInterface { name: port.tap(), needed_for: format!("port {}", port.id) });
        }
        Ok(world.counters.get(&port.tap()).copied().unwrap_or_default())
    }

    async fn traffic(&self) -> Result<Traffic> {
        let world = self.working("read the host's counters")?;
        let taps = world.counters.iter().filter(|(tap, _)| world.state.links.contains_key(*tap));
        Ok(Traffic { taps: taps.map(|(tap, counters)| (tap.clone(), *counters)).collect(), ..Traffic::default() })
    }

    async fn check_underlay(&self, network: &HostNetwork) -> Result<UnderlayReport> {
        let world = self.working("read the underlay's MTU")?;
        if let Some(interface) = &network.interface {
            return underlay::check_uplink(network, interface, world.uplinks.get(interface).cloned());
        }
        underlay::check(network, world.underlay.get(&network.underlay_address).cloned())
    }

    async fn links(&self, underlay: IpAddr) -> Result<HostLinks> {
        let world = self.working("list the host's interfaces")?;
        let free = world.uplinks.iter().filter(|(_, (_, used))| used.is_none());
        Ok(HostLinks {
            underlay_mtu: world.underlay.get(&underlay).map(|report| report.mtu),
            underlay: world.underlay.get(&underlay).map(|report| report.interface.clone()),
            without_link: Default::default(),
            interfaces: free.map(|(name, (mtu, _))| (name.clone(), *mtu)).collect(),
        })
    }
}
