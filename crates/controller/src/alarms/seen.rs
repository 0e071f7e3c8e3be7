//! What one look at an alarm reads from: objects, what hosts have told, and what is counted from both at most once.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use gantry_api::storage::VolumeReport;
use gantry_types::{Host, HostState, Name, Resource, Volume};
use uuid::Uuid;

use crate::{
    model::{Overlay, Tables},
    reach::{self, Uplink},
};

pub struct Seen<'a> {
    pub tables: &'a Tables,
    pub overlay: &'a Overlay,
    /// By pool and volume.
    volumes: OnceCell<HashMap<(Uuid, Uuid), VolumeReport>>,
    /// By network; `None` while a host has not counted twice.
    traffic: OnceCell<Option<HashMap<Name, u64>>>,
    uplinks: OnceCell<BTreeMap<Name, Uplink>>,
}

impl<'a> Seen<'a> {
    pub fn new(tables: &'a Tables, overlay: &'a Overlay) -> Self {
        Self { tables, overlay, volumes: OnceCell::new(), traffic: OnceCell::new(), uplinks: OnceCell::new() }
    }

    /// Those whose newest report is no older than it should be.
    fn reporting(&self) -> impl Iterator<Item = &'a Arc<Host>> {
        self.tables.hosts.values().filter(|host| host.status.state == HostState::Ready)
    }

    /// What its hosts say of a volume where it lies, together; `None` if none of them can say.
    pub fn volume(&self, volume: &Volume) -> Option<VolumeReport> {
        let pool = self.tables.pools.get(volume.spec.pool.as_str())?.metadata.uuid;
        self.volumes.get_or_init(|| self.all_volumes()).get(&(pool, volume.metadata.uuid)).copied()
    }

    fn all_volumes(&self) -> HashMap<(Uuid, Uuid), VolumeReport> {
        let mut all: HashMap<(Uuid, Uuid), VolumeReport> = HashMap::new();
        let reports = self.reporting().filter_map(|host| self.overlay.hosts.get(host.name()));
        for pool in reports.flat_map(|report| &report.pools) {
            for told in &pool.volumes {
                // Each host that sees it says how large it is, and what its own guests do with it.
                let known = all.entry((pool.pool, told.volume)).or_insert(VolumeReport { io_bytes_per_s: 0, ..*told });
                known.allocated = known.allocated.max(told.allocated);
                known.io_bytes_per_s += told.io_bytes_per_s;
            }
        }
        all
    }

    /// Of the guests of a network's ports, wherever they run.
    pub fn network_bytes_per_s(&self, network: &Name) -> Option<u64> {
        let traffic = self.traffic.get_or_init(|| self.all_traffic()).as_ref()?;
        Some(traffic.get(network).copied().unwrap_or_default())
    }

    fn all_traffic(&self) -> Option<HashMap<Name, u64>> {
        let rates = self.reporting().map(|host| self.overlay.counters.bytes_per_s(host.name()));
        let rates: Vec<_> = rates.collect::<Option<_>>()?;
        let mut all: HashMap<Name, u64> = HashMap::new();
        for port in self.tables.ports.values() {
            let of_port = rates.iter().filter_map(|rates| rates.get(&port.metadata.uuid)).sum::<u64>();
            *all.entry(port.spec.network.clone()).or_default() += of_port;
        }
        Some(all)
    }

    /// Why hosts that report have no link for a network.
    pub fn unlinked(&self, network: &Name) -> Vec<String> {
        let uplink = self.uplinks.get_or_init(|| reach::uplinks(self.tables)).get(network);
        self.reporting().filter_map(|host| reach::unlinked(uplink, host)).collect()
    }
}
