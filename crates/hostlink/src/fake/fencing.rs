//! A fake host's lease, and the records it keeps against others. It is held as long as the world does not say otherwise.

use std::collections::BTreeMap;

use async_trait::async_trait;
use gantry_api::{
    FencingApi,
    fencing::{FenceAnswer, FenceQuestion, LeaseGrant, LeaseReport, LiftedFence, StoredFence},
};
use gantry_types::{Fence, HostLease, LeaseStanding, Name, Problem};

use super::{
    FakeHost, FakeWorld, HostState,
    guest::{FakeVm, Guest},
};

#[derive(Default)]
pub(super) struct FakeLease {
    members_generation: u64,
    pub lifted: u64,
    fence: Option<Fence>,
    lapsed: bool,
    records: BTreeMap<Name, Fence>,
    records_lifted: BTreeMap<Name, u64>,
}

impl HostState {
    /// What the warden does.
    fn stop_guarded(&mut self, why: &str) {
        for vm in self.vms.values_mut().filter(|vm| vm.guarded && !matches!(vm.guest, Guest::Off { .. })) {
            vm.guest = Guest::Off { failed: true, reason: Some(why.to_owned()) };
        }
    }

    fn heard(&mut self, grant: &LeaseGrant) {
        let lease = &mut self.lease;
        if let Some(members) = &grant.members {
            lease.members_generation = lease.members_generation.max(members.generation);
        }
        lease.lifted = lease.lifted.max(grant.lifted);
        let news = grant.fence.clone().filter(|fence| fence.generation > lease.lifted);
        lease.lapsed = news.is_some();
        lease.fence = news;
        if self.lease.fence.is_some() {
            self.stop_guarded("its host was shut out");
            let stopped = |vm: &&mut FakeVm| vm.guarded && matches!(vm.guest, Guest::Off { failed: true, .. });
            self.vms.values_mut().filter(stopped).for_each(|vm| vm.ha.elsewhere = true);
        }
    }

    fn lease_report(&self) -> LeaseReport {
        let lease = &self.lease;
        let standing = match (&lease.fence, lease.lapsed) {
            (Some(_), _) => LeaseStanding::Fenced,
            (None, true) => LeaseStanding::Lapsed,
            (None, false) => LeaseStanding::Held,
        };
        let runs = |vm: &&FakeVm| vm.guarded && !matches!(vm.guest, Guest::Off { .. });
        LeaseReport {
            lease: HostLease {
                standing,
                left_ms: (standing == LeaseStanding::Held).then_some(4_000),
                guarded_vms: self.vms.values().filter(runs).count() as u32,
                problem: None,
            },
            members_generation: lease.members_generation,
            lifted: lease.lifted,
            acknowledged: lease.fence.as_ref().map(|fence| fence.generation),
        }
    }
}

impl FakeWorld {
    /// The host's lease runs out: what it guards ends at once, and does not start.
    pub fn lease_ends(&self, host: &Name) {
        self.with(host, |state| {
            state.lease.lapsed = true;
            state.stop_guarded("this host had no lease any more");
        });
    }

    /// What a host would tell of its lease.
    pub fn lease_report(&self, host: &Name) -> Option<LeaseReport> {
        self.with(host, |state| state.lease_report())
    }

    /// The answer to a host's heartbeat arrives.
    pub fn heard(&self, host: &Name, grant: &LeaseGrant) {
        self.with(host, |state| state.heard(grant));
    }

    /// Whom a host keeps a record against.
    pub fn records_on(&self, host: &Name) -> Vec<Fence> {
        self.with(host, |state| state.lease.records.values().cloned().collect()).unwrap_or_default()
    }
}

#[async_trait]
impl FencingApi for FakeHost {
    async fn ask_fence(&self, question: &FenceQuestion) -> Result<FenceAnswer, Problem> {
        self.on_host("ask_fence", |host| {
            host.lift(&question.host, question.lifted);
            Ok(FenceAnswer { fence: host.lease.records.get(&question.host).cloned() })
        })
    }

    async fn store_fence(&self, fence: &Fence) -> Result<StoredFence, Problem> {
        if fence.host == self.name {
            return Err(Problem::invalid("own-fence", format!("host '{}' keeps no record against itself", self.name)));
        }
        self.on_host("store_fence", |host| {
            let lifted = host.lease.records_lifted.get(&fence.host).copied().unwrap_or(0);
            let known = host.lease.records.get(&fence.host).map_or(lifted, |known| known.generation.max(lifted));
            if fence.generation > known {
                host.lease.records.insert(fence.host.clone(), fence.clone());
            }
            Ok(StoredFence { generation: fence.generation, ago_ms: 0 })
        })
    }

    async fn lift_fence(&self, lifted: &LiftedFence) -> Result<(), Problem> {
        self.on_host("lift_fence", |host| {
            host.lift(&lifted.host, lifted.generation);
            Ok(())
        })
    }
}

impl HostState {
    fn lift(&mut self, host: &Name, generation: u64) {
        let lifted = self.lease.records_lifted.entry(host.clone()).or_default();
        *lifted = generation.max(*lifted);
        if self.lease.records.get(host).is_some_and(|fence| fence.generation <= *lifted) {
            self.lease.records.remove(host);
        }
    }
}
