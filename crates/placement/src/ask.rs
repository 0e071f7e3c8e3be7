//! One request, prepared so that judging a host is a few comparisons.

use crate::{
    Reason, Request, Snapshot,
    ledger::{Ledger, Share},
    rules::{self, Masks},
};

/// A request against a snapshot and a ledger of it.
pub(crate) struct Ask<'a> {
    pub snapshot: &'a Snapshot,
    pub ledger: &'a Ledger,
    pub request: &'a Request,
    pub share: Share,
    /// Where the VM counts at present, and with how much.
    pub own: Vec<u32>,
    pub own_share: Share,
    /// `Some` if the host asked for is not there (`None` inside), or is.
    pub only: Option<Option<u32>>,
    pub except: Option<u32>,
    /// By index of the machine.
    pub machines: Vec<Option<Reason>>,
    pub masks: Masks,
    /// Terms of the score whose weight is not 0.
    pub counting: Vec<(usize, f64)>,
    /// The same for every host: a new VM is too much for the failover that was promised.
    pub failover: Option<Reason>,
}

impl<'a> Ask<'a> {
    pub fn new(snapshot: &'a Snapshot, ledger: &'a Ledger, request: &'a Request) -> Self {
        let placed = snapshot.vms.get(&request.vm);
        let own: Vec<u32> = placed.map(|vm| vm.hosts().collect()).unwrap_or_default();
        let own_share = placed.map(|vm| Share::of(&vm.facts.request)).unwrap_or_default();
        Self {
            snapshot,
            ledger,
            request,
            share: Share::of(request),
            only: request.only.as_ref().map(|only| snapshot.index(only)),
            except: request.except.as_ref().and_then(|except| snapshot.index(except)),
            machines: machines(snapshot, request),
            masks: rules::masks(snapshot, ledger, request, &own),
            counting: snapshot.settings.weights.counting(),
            failover: failover(snapshot, ledger, request, own.is_empty()),
            own,
            own_share,
        }
    }

    /// For a VM that is nowhere and to which no rule speaks.
    pub fn by_rows(snapshot: &'a Snapshot, ledger: &'a Ledger, request: &'a Request) -> Self {
        Self {
            snapshot,
            ledger,
            request,
            share: Share::of(request),
            only: None,
            except: None,
            machines: machines(snapshot, request),
            masks: Masks::default(),
            counting: snapshot.settings.weights.counting(),
            failover: None,
            own: Vec::new(),
            own_share: Share::default(),
        }
    }

    /// What the VM itself takes of the host already.
    pub fn own_at(&self, host: u32) -> Share {
        if self.own.contains(&host) { self.own_share } else { Share::default() }
    }
}

fn machines(snapshot: &Snapshot, request: &Request) -> Vec<Option<Reason>> {
    let check = |machine| {
        let machine: &crate::Machine = machine;
        if !machine.guest_archs.contains(&request.arch) {
            return Some(Reason::CannotRun { arch: request.arch });
        }
        request.like.as_ref().and_then(|like| like.check(machine).err())
    };
    snapshot.machines.iter().map(check).collect()
}

fn failover(snapshot: &Snapshot, ledger: &Ledger, request: &Request, is_new: bool) -> Option<Reason> {
    let hosts = snapshot.settings.failover_hosts;
    let left = ledger.failover_free.saturating_sub(request.memory.bytes());
    (hosts > 0 && is_new && left < ledger.failover_needed).then_some(Reason::FailoverCapacity {
        hosts,
        needed: gantry_types::ByteSize(ledger.failover_needed),
        free: gantry_types::ByteSize(left),
    })
}
