//! What this host has lost that VMs need: pools that it no longer reaches, interfaces without a link. And which VMs could
//! run elsewhere, as the controller said with its last answer; one that is away has said nothing.
//!
//! Since when something is lost is known from the look that found it so; an agent that starts counts anew. What is done
//! about it each VM's task decides for itself.

use std::collections::{BTreeMap, BTreeSet};

use gantry_api::agent::Assignment;
use gantry_api::storage::{PoolAssignment, PoolReport};
use gantry_ha::loss::Loss;
use gantry_types::{HostLinks, PoolHealth};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost {
    pub since: Instant,
    /// What, for people.
    pub what: String,
}

/// What VM tasks go by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LossView {
    pools: BTreeMap<Uuid, Lost>,
    /// By the interface's name.
    links: BTreeMap<String, Lost>,
    underlay: Option<String>,
    may_leave: BTreeSet<Uuid>,
}

#[derive(Default)]
pub(crate) struct Losses(watch::Sender<LossView>);

impl Losses {
    pub fn views(&self) -> watch::Receiver<LossView> {
        self.0.subscribe()
    }

    /// The pools were looked at.
    pub fn note_pools(&self, pools: &[PoolAssignment], reports: &[PoolReport]) {
        let lost = reports.iter().filter(|report| is_lost(report.health)).map(|report| {
            let pool = pools.iter().find(|pool| pool.uuid == report.pool);
            let name = pool.map_or_else(|| report.pool.to_string(), |pool| pool.name.to_string());
            let why = report.reason.as_deref().unwrap_or("no reason is known");
            (report.pool, format!("pool '{name}' is {} on its host: {why}", report.health))
        });
        self.change(|view| note(&mut view.pools, lost));
    }

    /// The interfaces were looked at.
    pub fn note_links(&self, links: &HostLinks) {
        let lost = links.without_link.iter();
        let lost = lost.map(|name| (name.clone(), format!("interface '{name}' of its host has no link")));
        self.change(|view| {
            view.underlay.clone_from(&links.underlay);
            note(&mut view.links, lost);
        });
    }

    /// The controller has answered, or has not.
    pub fn may_leave(&self, vms: impl IntoIterator<Item = Uuid>) {
        let vms = vms.into_iter().collect();
        self.change(|view| view.may_leave = vms);
    }

    pub fn lost_pools(&self) -> BTreeSet<Uuid> {
        self.0.borrow().pools.keys().copied().collect()
    }

    fn change(&self, change: impl FnOnce(&mut LossView)) {
        self.0.send_if_modified(|view| {
            let before = view.clone();
            change(view);
            *view != before
        });
    }
}

/// A full or read-only pool answers: its guests are told so, and are no better off elsewhere.
fn is_lost(health: PoolHealth) -> bool {
    matches!(health, PoolHealth::Missing | PoolHealth::Unreachable)
}

/// What is lost still is so since it was.
fn note<K: Ord>(known: &mut BTreeMap<K, Lost>, lost: impl Iterator<Item = (K, String)>) {
    let now = Instant::now();
    let lost = lost.map(|(key, what)| {
        let since = known.get(&key).map_or(now, |lost| lost.since);
        (key, Lost { since, what })
    });
    *known = lost.collect();
}

impl LossView {
    /// What the VM needs of what is lost; a pool before a network, the longest lost first.
    pub fn of(&self, assignment: &Assignment) -> Option<(Loss, &Lost)> {
        let pools = assignment.disk.pool.iter().chain(assignment.volumes.iter().map(|volume| &volume.pool));
        let pool = pools.filter_map(|pool| self.pools.get(&pool.uuid)).min_by_key(|lost| lost.since);
        let interfaces = assignment.nics.iter().filter_map(|nic| nic.interface.as_ref().or(self.underlay.as_ref()));
        let link = interfaces.filter_map(|name| self.links.get(name)).min_by_key(|lost| lost.since);
        pool.map(|lost| (Loss::Pool, lost)).or(link.map(|lost| (Loss::Network, lost)))
    }

    pub fn may_leave(&self, vm: Uuid) -> bool {
        self.may_leave.contains(&vm)
    }
}
