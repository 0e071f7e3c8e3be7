//! The whole state in memory, typed, fed by one watch of the store. Reads never touch the disk.
//!
//! What is not stored (metrics, last heartbeats, progress) lives in the [`Overlay`] and is laid over an object when it
//! is read with [`ReadModel::view`]. The model lags behind the store by the time a watch takes; whoever has just
//! written waits with [`ReadModel::wait_for`]. If the watch breaks, the model keeps its last state, lists again and
//! tells the differences as changes.

mod counters;
mod facts;
mod feed;
mod kind;
mod overlay;

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    mem::discriminant,
    sync::{
        Arc, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use gantry_api::rest::Change as ChangeKind;
use gantry_types::{
    AddressSet, Alarm, ApiToken, Backup, Cluster, Event, FloatingIp, Host, Image, LoadBalancer, Network, NetworkSubnet,
    Notice, Operation, Policy, Pool, Port, Problem, Receiver, Repository, ResourcePool, Router, SecurityGroup,
    Snapshot, User, Vm, Volume,
};
use tokio::sync::{broadcast, watch};

pub use facts::Facts;
pub use feed::ModelFeed;
pub use kind::{AnyObject, Kind};
pub use overlay::{HostReport, Overlay};

/// How many past changes a reconnecting watcher can catch up with.
const KEPT_CHANGES: usize = 8192;

pub type Table<T> = BTreeMap<String, Arc<T>>;

/// All objects by kind and name.
#[derive(Debug, Default)]
pub struct Tables {
    pub vms: Table<Vm>,
    pub hosts: Table<Host>,
    pub clusters: Table<Cluster>,
    pub images: Table<Image>,
    pub networks: Table<Network>,
    pub subnets: Table<NetworkSubnet>,
    pub ports: Table<Port>,
    pub security_groups: Table<SecurityGroup>,
    pub address_sets: Table<AddressSet>,
    pub routers: Table<Router>,
    pub floating_ips: Table<FloatingIp>,
    pub load_balancers: Table<LoadBalancer>,
    pub snapshots: Table<Snapshot>,
    pub backups: Table<Backup>,
    pub pools: Table<Pool>,
    pub volumes: Table<Volume>,
    pub operations: Table<Operation>,
    pub policies: Table<Policy>,
    pub resource_pools: Table<ResourcePool>,
    pub alarms: Table<Alarm>,
    pub receivers: Table<Receiver>,
    pub repositories: Table<Repository>,
    pub notices: Table<Notice>,
    pub events: Table<Event>,
    pub tokens: Table<ApiToken>,
    pub users: Table<User>,
}

/// One change of one object, in the order of revisions.
#[derive(Debug, Clone)]
pub struct ModelChange {
    pub change: ChangeKind,
    pub revision: u64,
    /// Another object of this kind was changed in the same transaction, and follows.
    pub more: bool,
    /// After the change; before it, if it was deleted.
    pub object: AnyObject,
}

/// The state at one revision, and everything that follows it, without a gap.
pub struct Subscription<T> {
    pub objects: Vec<Arc<T>>,
    pub revision: u64,
    /// Changes of all kinds; pick with [`Kind::of`]. A receiver that lags must subscribe again.
    pub changes: broadcast::Receiver<Arc<ModelChange>>,
}

/// A resumed watch: what was missed, then what follows.
pub struct Resumption {
    pub missed: Vec<Arc<ModelChange>>,
    pub changes: broadcast::Receiver<Arc<ModelChange>>,
}

struct State {
    tables: Tables,
    revision: u64,
    recent: VecDeque<Arc<ModelChange>>,
    /// Changes after this revision are all in `recent`.
    recent_after: u64,
}

/// See the module's head.
pub struct ReadModel {
    state: RwLock<State>,
    overlay: RwLock<Overlay>,
    overlay_version: AtomicU64,
    revision: watch::Sender<u64>,
    changes: broadcast::Sender<Arc<ModelChange>>,
}

impl ReadModel {
    fn new(tables: Tables, revision: u64) -> Self {
        Self {
            state: RwLock::new(State { tables, revision, recent: VecDeque::new(), recent_after: revision }),
            overlay: RwLock::default(),
            overlay_version: AtomicU64::new(0),
            revision: watch::Sender::new(revision),
            changes: broadcast::Sender::new(KEPT_CHANGES),
        }
    }

    // A poisoned lock means a panic while only memory was changed; the feed corrects it by the next listing.
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(|e| e.into_inner())
    }
    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(|e| e.into_inner())
    }

    /// The revision this model shows.
    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// Returns once the model shows `revision` or a later one.
    pub async fn wait_for(&self, revision: u64) {
        let mut shown = self.revision.subscribe();
        // The sender lives as long as `self`.
        let _shown = shown.wait_for(|shown| *shown >= revision).await;
    }

    /// Follows the model's revision; it changes with every change of any object.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Reads several tables as of one revision. Keep it short: the feed waits meanwhile.
    pub fn read<R>(&self, look: impl FnOnce(&Tables) -> R) -> R {
        look(&self.state().tables)
    }

    /// The same, with the revision.
    pub fn read_at<R>(&self, look: impl FnOnce(&Tables, u64) -> R) -> R {
        let state = self.state();
        look(&state.tables, state.revision)
    }

    /// The object as stored.
    pub fn get<T: Kind>(&self, name: &str) -> Option<Arc<T>> {
        T::table(&self.state().tables).get(name).cloned()
    }

    pub fn list<T: Kind>(&self) -> Vec<Arc<T>> {
        T::table(&self.state().tables).values().cloned().collect()
    }

    /// The object with what is known besides: metrics, progress, last heartbeat.
    pub fn view<T: Kind>(&self, name: &str) -> Option<T> {
        self.get::<T>(name).map(|object| self.decorate(&*object))
    }

    /// Lays the overlay over an object.
    pub fn decorate<T: Kind>(&self, object: &T) -> T {
        let mut shown = object.clone();
        shown.lay_over(&self.overlay.read().unwrap_or_else(|e| e.into_inner()));
        shown
    }

    pub fn overlay<R>(&self, look: impl FnOnce(&Overlay) -> R) -> R {
        look(&self.overlay.read().unwrap_or_else(|e| e.into_inner()))
    }
    pub fn overlay_mut<R>(&self, change: impl FnOnce(&mut Overlay) -> R) -> R {
        let mut overlay = self.overlay.write().unwrap_or_else(|e| e.into_inner());
        self.overlay_version.fetch_add(1, Ordering::Release);
        change(&mut overlay)
    }
    /// Grows whenever the overlay may have changed.
    pub fn overlay_version(&self) -> u64 {
        self.overlay_version.load(Ordering::Acquire)
    }

    /// The changes that follow; whoever asks within [`Self::read`] misses none after what it reads.
    pub fn changes(&self) -> broadcast::Receiver<Arc<ModelChange>> {
        self.changes.subscribe()
    }

    /// All objects of a kind and the changes that follow.
    pub fn subscribe<T: Kind>(&self) -> Subscription<T> {
        let state = self.state();
        Subscription {
            objects: T::table(&state.tables).values().cloned().collect(),
            revision: state.revision,
            changes: self.changes.subscribe(),
        }
    }

    /// The changes after `revision`, and those that follow.
    ///
    /// # Errors
    /// `revision-too-old` if changes since then are no longer kept: list again.
    pub fn resume(&self, revision: u64) -> Result<Resumption, Problem> {
        let state = self.state();
        if revision < state.recent_after {
            return Err(Problem::conflict(
                "revision-too-old",
                format!("changes since revision {revision} are no longer kept, only since {}", state.recent_after),
            )
            .remedy("list again and watch from that listing's revision"));
        }
        let from = state.recent.partition_point(|change| change.revision <= revision);
        Ok(Resumption { missed: state.recent.range(from..).cloned().collect(), changes: self.changes.subscribe() })
    }

    /// Takes changes in; `revision` is what the model shows afterwards.
    fn apply(&self, mut changes: Vec<ModelChange>, revision: u64) {
        mark_groups(&mut changes);
        let mut state = self.state_mut();
        for change in changes {
            match change.change {
                ChangeKind::Deleted => change.object.remove_from(&mut state.tables),
                _ => change.object.insert_into(&mut state.tables),
            }
            let change = Arc::new(change);
            state.recent.push_back(Arc::clone(&change));
            if state.recent.len() > KEPT_CHANGES
                && let Some(dropped) = state.recent.pop_front()
            {
                state.recent_after = dropped.revision;
            }
            // Nobody listening is fine. Under the lock, so that a subscription misses and repeats nothing.
            let _listeners = self.changes.send(change);
        }
        state.revision = state.revision.max(revision);
        self.revision.send_replace(state.revision);
    }
}

/// Finds out which changes are followed by another one of their transaction and kind.
fn mark_groups(changes: &mut [ModelChange]) {
    let mut later = HashSet::new();
    for change in changes.iter_mut().rev() {
        change.more = !later.insert((change.revision, discriminant(&change.object)));
    }
}
