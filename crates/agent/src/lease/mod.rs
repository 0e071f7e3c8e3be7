//! This host's lease: its right to run protected VMs; and the records that it keeps against others as a member of its
//! cluster. The rules are `gantry_ha`'s: here its values meet the clock, the disk, the network and the warden.
//!
//! ```text
//!   heartbeat answered ──┐                              ┌─▶ warden: guards until …
//!                        ▼                              │
//!   members answered ─▶ Lease ──▶ on disk what must be ─┴─▶ VM tasks: may protected VMs run?
//! ```
//! In this order: what must not be forgotten is on disk first, then the warden knows until when, then VMs may start. What the
//! warden was not told is not so.
//!
//! On failure: a disk that can't be written to means no word and no longer lease. An agent that starts has no lease; what
//! its predecessor had is with the warden, and ends there.

mod kept;
mod links;
mod machine;
mod members;
mod questions;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use gantry_api::fencing::{LeaseGrant, LeaseReport};
use gantry_ha::{FenceLedger, Lease, Moment, Timing, lease::Standing};
use gantry_qemu::process::Gate;
use gantry_types::{HostLease, LeaseStanding, Name, Problem};
use tokio::sync::watch;
use uuid::Uuid;

use machine::apart;

pub use crate::warden::{Answer, Order, Term};
pub use kept::Kept;
pub use machine::{Blocks, Machine, Process};
pub use questions::{Members, run};

pub(crate) use kept::LEASE_FILE;
pub(crate) use links::HttpMembers;
pub(crate) use machine::ThisMachine;

/// What is no news is said again this often: a host that nobody grants anything must hear that its warden is stuck.
const TELL_AGAIN_MS: u64 = 1_000;

/// What VM tasks go by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeaseView {
    /// Protected VMs may run, as far as was looked; whoever starts one looks again.
    pub may_run: bool,
    /// Those that run are to be stopped by their tasks: there is no warden that would.
    pub stop: bool,
    /// Shut out by this generation.
    pub fenced: Option<u64>,
}

/// One host's lease, and what it keeps against others.
pub struct LeaseKeeper {
    host: Name,
    machine: Arc<dyn Machine>,
    state: Mutex<State>,
    /// Held while something is written down, so that the newest is what stays.
    writing: tokio::sync::Mutex<()>,
    view: watch::Sender<LeaseView>,
    /// All fences up to this one were lifted: for the router, which refuses commands from before.
    pub lifted: Arc<AtomicU64>,
}

struct State {
    lease: Lease,
    ledger: FenceLedger,
    /// What the warden was told last; `None` if it is another one than then.
    told: Option<Option<Moment>>,
    /// When the warden was last told anything.
    told_at: Moment,
    /// Processes that a new warden has to guard.
    guarded: BTreeMap<Uuid, Process>,
    answer: Option<Answer>,
    problem: Option<String>,
}

impl LeaseKeeper {
    /// With what the machine has kept.
    pub fn open(host: Name, machine: Arc<dyn Machine>) -> io::Result<Self> {
        let kept = machine.load()?;
        let lifted = Arc::new(AtomicU64::new(kept.lifted));
        let lease = Lease::new(host.clone(), Timing::DEFAULT, kept.members, kept.fence, kept.lifted);
        let ledger = FenceLedger::load(machine.boottime(), kept.records, kept.records_lifted);
        let state = State {
            lease,
            ledger,
            told: None,
            told_at: Moment(0),
            guarded: BTreeMap::new(),
            answer: None,
            problem: None,
        };
        Ok(Self {
            host,
            machine,
            state: Mutex::new(state),
            writing: tokio::sync::Mutex::default(),
            view: watch::Sender::default(),
            lifted,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By this machine's clock for leases.
    pub fn now(&self) -> Moment {
        self.machine.boottime()
    }

    pub fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.machine.sleep(duration)
    }

    pub fn view(&self) -> LeaseView {
        *self.view.borrow()
    }
    pub fn views(&self) -> watch::Receiver<LeaseView> {
        self.view.subscribe()
    }

    /// Changes what must be on disk: there first, then in memory. `change` is called twice and must do the same.
    async fn persist(&self, change: impl Fn(&mut Lease, &mut FenceLedger)) -> io::Result<()> {
        let _writing = self.writing.lock().await;
        let (before, after) = {
            let state = self.lock();
            let (mut lease, mut ledger) = (state.lease.clone(), state.ledger.clone());
            change(&mut lease, &mut ledger);
            (Kept::of(&state.lease, &state.ledger), Kept::of(&lease, &ledger))
        };
        if before != after {
            apart(&self.machine, Blocks::OnDisk, move |machine| machine.save(&after)).await?;
        }
        let mut state = self.lock();
        let State { lease, ledger, .. } = &mut *state;
        change(lease, ledger);
        self.lifted.store(lease.lifted(), Ordering::Release);
        Ok(())
    }

    /// The controller answered the heartbeat that was sent at `sent`.
    pub async fn heard(&self, sent: Moment, grant: &LeaseGrant) {
        let written = self.persist(|lease, _| {
            if let Some(members) = &grant.members {
                lease.adopt(members);
            }
            match &grant.fence {
                Some(fence) => {
                    lease.fenced(fence);
                }
                None => lease.granted(sent, grant.lifted),
            }
        });
        if let Err(error) = written.await {
            tracing::error!(%error, "what the controller said of this host's lease is not on disk, so it does not count");
        }
        self.refresh().await;
    }

    /// Tells the warden and the VM tasks how it stands now.
    pub async fn refresh(&self) {
        let now = self.now();
        let (standing, until, told, is_old) = {
            let state = self.lock();
            let is_old = now.ms_since(state.told_at) >= TELL_AGAIN_MS;
            (state.lease.standing(now), state.lease.deadline(), state.told, is_old)
        };
        let fenced = match standing {
            Standing::Fenced { generation } => Some(generation),
            _ => None,
        };
        let order = if fenced.is_some() { Order::EndAll } else { Order::Lease(until) };
        let is_news = fenced.is_some() || told != Some(until) || is_old || !self.machine.has_warden();
        let answered = if is_news { Some(self.tell(order).await) } else { None };
        let mut state = self.lock();
        if is_news {
            state.told_at = now;
        }
        match answered {
            Some(Ok(answer)) => {
                state.told = fenced.is_none().then_some(until);
                (state.answer, state.problem) = (Some(answer), None);
            }
            Some(Err(error)) => {
                if state.problem.is_none() {
                    tracing::error!(%error, "no warden: protected VMs are not started");
                }
                (state.told, state.answer) = (None, None);
                state.problem = Some(format!("the warden can't be reached: {error}"));
            }
            None => {}
        }
        let is_held = state.lease.standing(self.now()).may_run();
        let may_run = state.problem.is_none() && is_held;
        let view = LeaseView { may_run, stop: state.problem.is_some() && !is_held, fenced };
        drop(state);
        self.view.send_if_modified(|shown| {
            let differs = *shown != view;
            if differs {
                tracing::info!(?standing, may_run, "the lease of this host");
            }
            *shown = view;
            differs
        });
    }

    /// To the warden that there is; a new one has to guard what runs.
    async fn tell(&self, order: Order) -> io::Result<Answer> {
        let (until, guarded) = {
            let state = self.lock();
            (state.lease.deadline(), state.guarded.iter().map(|(vm, process)| (*vm, *process)).collect::<Vec<_>>())
        };
        apart(&self.machine, Blocks::OnWarden, move |machine| {
            if machine.has_warden()
                && let Ok(answer) = machine.tell_warden(order)
            {
                return Ok(answer);
            }
            machine.call_warden()?;
            machine.tell_warden(Order::Lease(until))?;
            for (vm, process) in guarded {
                let (pid, start_time_ticks) = process;
                let answer = machine.tell_warden(Order::Guard { vm, pid, start_time_ticks })?;
                if !answer.yes {
                    tracing::warn!(%vm, pid, "no warden guards it any more and the lease is over: it is stopped");
                    machine.kill(process)?;
                }
            }
            machine.tell_warden(order)
        })
        .await
    }

    /// Whether protected VMs may run here at this moment, whatever their tasks have heard of so far.
    pub fn is_held(&self) -> bool {
        self.lock().lease.standing(self.now()).may_run()
    }

    /// # Errors
    /// `lease-not-held` (transient) if protected VMs may not run here now.
    pub fn expect_held(&self, what: &str) -> Result<(), Problem> {
        let standing = self.lock().lease.standing(self.now());
        let why = match standing {
            Standing::Unbound | Standing::Held { .. } => return Ok(()),
            Standing::Lapsed => "its lease is not held".to_owned(),
            Standing::Fenced { generation } => format!("it is shut out (fence {generation})"),
        };
        Err(Problem::transient("lease-not-held", format!("{what} does not start on host '{}': {why}", self.host))
            .remedy("it starts by itself when the host reaches its controller or enough of its cluster again"))
    }

    /// For the process that is to become the VM's QEMU.
    ///
    /// # Errors
    /// `no-warden` (transient).
    pub fn gate(&self, vm: Uuid, what: &str) -> Result<Gate, Problem> {
        self.machine.gate(vm).map_err(|error| {
            let detail = format!("{what} does not start: the warden can't be reached: {error}");
            Problem::transient("no-warden", detail).remedy("see warden.log in the agent's state directory")
        })
    }

    /// The process was let in: a warden that comes later has to know it.
    pub fn note_guarded(&self, vm: Uuid, process: Process) {
        self.lock().guarded.insert(vm, process);
    }
    pub fn forget_guarded(&self, vm: Uuid) {
        self.lock().guarded.remove(&vm);
    }

    /// Has the warden guard a process that runs already. False if it may not run.
    pub async fn guard(&self, vm: Uuid, process: Process) -> bool {
        let (pid, start_time_ticks) = process;
        self.note_guarded(vm, process);
        let answered = self.tell(Order::Guard { vm, pid, start_time_ticks }).await;
        match answered {
            Ok(answer) if answer.yes => true,
            answered => {
                tracing::warn!(%vm, pid, ?answered, "the warden does not guard it");
                self.forget_guarded(vm);
                false
            }
        }
    }

    /// Whether the warden has stopped this process.
    pub fn was_stopped(&self, process: Process) -> bool {
        self.machine.was_stopped(process)
    }

    /// For the heartbeat. `settled`: every VM task has drawn its conclusion from the fence of this generation.
    pub fn report(&self, settled: impl FnOnce(u64) -> bool) -> LeaseReport {
        let state = self.lock();
        let now = self.now();
        let (standing, left_ms) = match state.lease.standing(now) {
            Standing::Unbound => (LeaseStanding::Unbound, None),
            Standing::Held { until } => (LeaseStanding::Held, Some(until.ms_since(now))),
            Standing::Lapsed => (LeaseStanding::Lapsed, None),
            Standing::Fenced { .. } => (LeaseStanding::Fenced, None),
        };
        let guarded_vms = state.answer.map_or(0, |answer| answer.guarded);
        let generation = state.lease.fence().map(|fence| fence.generation);
        let nothing_runs = state.answer.is_some_and(|answer| answer.guarded == 0) && state.problem.is_none();
        let runs = !(nothing_runs && generation.is_some_and(settled));
        LeaseReport {
            lease: HostLease { standing, left_ms, guarded_vms, problem: state.problem.clone() },
            members_generation: state.lease.members().map_or(0, |members| members.generation),
            lifted: state.lease.lifted(),
            acknowledged: state.lease.acknowledge(runs),
        }
    }
}
