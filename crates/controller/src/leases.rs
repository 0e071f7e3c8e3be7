//! The leases that this controller gives its hosts, and the records by which it gives none. The rules are
//! `gantry_ha`'s.
//!
//! Fences are in the store, as a part of their hosts. What is here only is when whom a word was given: a controller that
//! starts assumes that it was just now.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use gantry_api::fencing::{FenceAnswer, FenceQuestion, LeaseGrant, LeaseReport, LiftedFence};
use gantry_ha::{FenceLedger, Fencing, Moment, Timing, fencing::Progress, votes};
use gantry_types::{Cluster, Fence, Host, Member, Members, Name};

use crate::{app::App, clock::Clock, model::Tables};

/// This controller's steady clock, as the rules want it.
pub(crate) fn moment(clock: &dyn Clock) -> Moment {
    Moment::from(clock.elapsed())
}

pub struct Leases {
    timing: Timing,
    book: Mutex<Book>,
}

struct Book {
    granted: HashMap<Name, Moment>,
    ledger: FenceLedger,
    fencings: HashMap<Name, Fencing>,
    /// Lifted fences that the other members were not told of yet.
    untold: Vec<LiftedFence>,
}

impl Leases {
    /// With the fences that are in the store.
    pub fn open(tables: &Tables, timing: Timing, now: Moment) -> Self {
        let hosts = || tables.hosts.values();
        let fences = hosts().filter_map(|host| Some(host.status.fence.as_ref()?.record.clone()));
        let lifted = hosts().map(|host| (host.metadata.name.clone(), host.status.fences_lifted)).collect();
        let ledger = FenceLedger::load(now, fences, lifted);
        let book = Book { granted: HashMap::new(), ledger, fencings: HashMap::new(), untold: Vec::new() };
        Self { timing, book: Mutex::new(book) }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        // A panic while it was held leaves maps that are still whole.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is answered to a heartbeat about the host's lease.
    pub fn grant(&self, app: &App, host: &Host, report: &LeaseReport) -> LeaseGrant {
        let members = app.model.read(|tables| newest_members(tables, &host.spec.cluster).cloned());
        let members = members.filter(|members| members.generation > report.members_generation);
        let mut book = self.lock();
        let fence = book.ledger.fence(&host.metadata.name).cloned();
        if fence.is_none() {
            book.granted.insert(host.metadata.name.clone(), moment(&*app.clock));
        }
        LeaseGrant { fence, lifted: host.status.fences_lifted, members }
    }

    /// The host asks this controller as one member among others.
    pub fn ask(&self, question: &FenceQuestion, now: Moment) -> FenceAnswer {
        FenceAnswer { fence: self.lock().ledger.ask(&question.host, question.lifted, now).cloned() }
    }
}

/// How far shutting a host out is.
pub(crate) struct Look {
    pub progress: Progress,
    /// Members that lack the record.
    pub missing: BTreeSet<Member>,
}

impl Leases {
    /// Gives no lease from here on to a host whose fence is in the store, and says how far it is.
    pub(crate) fn look(&self, tables: &Tables, host: &Host, fence: &Fence, now: Moment) -> Look {
        let name = &host.metadata.name;
        let mut book = self.lock();
        let Book { granted, ledger, fencings, .. } = &mut *book;
        if fencings.get(name).is_none_or(|known| known.fence().generation < fence.generation) {
            let mut fencing = Fencing::new(fence.clone(), self.timing, configurations(tables, host));
            let own = ledger.record(fence);
            fencing.stored(Member::Controller, granted.get(name).map_or(own, |granted| own.max(*granted)));
            fencings.insert(name.clone(), fencing);
        }
        let fencing = &fencings[name];
        Look { progress: fencing.progress(now), missing: fencing.missing() }
    }

    /// A member has the record; `ago_ms` is its answer, which has just arrived.
    pub(crate) fn stored(&self, fence: &Fence, by: Member, ago_ms: u64, now: Moment) {
        let last_word = self.timing.moment_told(now, ago_ms);
        self.with(fence, |fencing| fencing.stored(by, last_word));
    }

    /// The host's power was seen off, after the command and after [`Self::look`].
    pub(crate) fn power_is_off(&self, fence: &Fence) {
        self.with(fence, Fencing::power_is_off);
    }

    fn with(&self, fence: &Fence, change: impl FnOnce(&mut Fencing)) {
        let mut book = self.lock();
        let fencing = book.fencings.get_mut(&fence.host);
        if let Some(fencing) = fencing.filter(|known| known.fence().generation == fence.generation) {
            change(fencing);
        }
    }

    /// Each is given out once: who is not reached then hears it from the host itself.
    pub(crate) fn untold(&self) -> Vec<LiftedFence> {
        std::mem::take(&mut self.lock().untold)
    }

    /// The fences of the host up to this one hold no longer, and that is in the store.
    pub(crate) fn lifted(&self, host: &Name, generation: u64) {
        let mut book = self.lock();
        book.ledger.lift(host, generation);
        book.untold.push(LiftedFence { host: host.clone(), generation });
        if book.fencings.get(host).is_some_and(|known| known.fence().generation <= generation) {
            book.fencings.remove(host);
        }
    }
}

/// Every set of members that the host may go by. One that is empty: it may go by none, and then nobody can shut it out by
/// its lease.
fn configurations(tables: &Tables, host: &Host) -> Vec<Members> {
    let known = host.status.members_generation;
    let all = tables.clusters.values().flat_map(|cluster| &cluster.status.members);
    let sets = all.filter(|set| set.generation >= known && set.hosts.contains_key(&host.metadata.name));
    let mut sets: Vec<Members> = sets.cloned().collect();
    if known == 0 || !sets.iter().any(|set| set.generation == known) {
        sets.push(Members::default());
    }
    sets
}

/// Whether the host can be shut out by its lease at all.
pub(crate) fn is_bound(tables: &Tables, host: &Host) -> bool {
    configurations(tables, host).iter().all(|members| votes::can_fence(members, &host.metadata.name))
}

fn newest_members<'a>(tables: &'a Tables, cluster: &Name) -> Option<&'a Members> {
    tables.clusters.get(cluster.as_str()).and_then(|cluster| cluster.status.members.last())
}

/// The members of a cluster with these hosts: its present ones if nothing has changed, else a new set. What no host can
/// go by any more is left out.
pub(crate) fn members_of(former: &[Members], hosts: &[&Host], all: &[&Cluster]) -> Vec<Members> {
    let now: std::collections::BTreeMap<Name, String> =
        hosts.iter().map(|host| (host.metadata.name.clone(), host.status.agent_address.clone())).collect();
    let mut sets = former.to_vec();
    // A store that was restored knows less than its hosts do, who go by nothing older than what they have.
    let known = hosts.iter().map(|host| host.status.members_generation).max().unwrap_or(0);
    if sets.last().map_or(!now.is_empty(), |newest| newest.hosts != now || newest.generation < known) {
        // One count for all clusters: a host that changes cluster goes by the newer set.
        let all = all.iter().flat_map(|cluster| &cluster.status.members);
        let newest = all.chain(former).map(|members| members.generation).chain([known]).max().unwrap_or(0);
        sets.push(Members { generation: newest + 1, hosts: now });
    }
    let oldest = hosts.iter().map(|host| host.status.members_generation).filter(|known| *known > 0).min();
    let newest = sets.last().map_or(0, |members| members.generation);
    sets.retain(|members| members.generation >= oldest.unwrap_or(newest).min(newest));
    sets
}

#[cfg(test)]
mod tests {
    use gantry_types::HostSpec;

    use super::*;

    fn host(name: &str, knows: u64) -> Host {
        let mut host = Host::new(name.parse().expect("a name"), HostSpec::default());
        host.status.agent_address = format!("{name}:7444");
        host.status.members_generation = knows;
        host
    }
    fn generations(sets: &[Members]) -> Vec<u64> {
        sets.iter().map(|members| members.generation).collect()
    }

    #[test]
    fn a_set_stays_as_long_as_a_host_may_go_by_it() {
        let (one, two) = (host("host-1", 0), host("host-2", 0));
        let first = members_of(&[], &[&one], &[]);
        assert_eq!(generations(&first), [1]);
        assert_eq!(members_of(&first, &[&one], &[]), first);
        let one = host("host-1", 1);
        let second = members_of(&first, &[&one, &two], &[]);
        assert_eq!(generations(&second), [1, 2], "host-1 has not confirmed the second");
        let (one, two) = (host("host-1", 2), host("host-2", 2));
        assert_eq!(generations(&members_of(&second, &[&one, &two], &[])), [2]);
        let mut other = Cluster::new("other".parse().expect("a name"), Default::default());
        other.status.members = vec![Members { generation: 9, ..Members::default() }];
        assert_eq!(generations(&members_of(&second[1..], &[&one], &[&other])), [2, 10]);
        assert!(members_of(&[], &[], &[]).is_empty());
    }
}
