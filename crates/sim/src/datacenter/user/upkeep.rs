//! VMs that people move to another host, and hosts that they keep empty for a while, or for good.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_api::rest::{MigrateRequest, WriteQuery};
use gantry_controller::app::{host, host_work, operation, vm};
use gantry_controller::{App, Caller};
use gantry_types::{Action, Host, Maintenance, Operation, Problem, Resource, Vm};

use super::{Node, host_name, vm_name};

/// After an attempt to empty a host, until the next.
const PAUSE: Duration = Duration::from_secs(4);

/// How a host is wanted to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    InService,
    Cordoned,
    Drained,
}

/// What is wanted of VMs and hosts, beside that they are there.
#[derive(Default)]
pub struct Upkeep {
    /// Asked for once: what comes of it is up to the datacenter.
    moves: Mutex<BTreeMap<usize, Node>>,
    /// Moves that are called off, if they are still under way.
    called_off: Mutex<BTreeSet<usize>>,
    hosts: Mutex<BTreeMap<Node, Standing>>,
}

/// When each host was tried to be emptied last; of one life of the controller.
pub type Tried = BTreeMap<Node, Duration>;

impl Upkeep {
    fn moves(&self) -> MutexGuard<'_, BTreeMap<usize, Node>> {
        self.moves.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn called_off(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.called_off.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn hosts(&self) -> MutexGuard<'_, BTreeMap<Node, Standing>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn wish_at(&self, vm: usize, to: Node) {
        self.moves().insert(vm, to);
    }
    pub fn call_off(&self, vm: usize) {
        self.moves().remove(&vm);
        self.called_off().insert(vm);
    }
    pub fn wish_host(&self, node: Node, standing: Standing) {
        self.hosts().insert(node, standing);
    }
    /// Those that are to be empty.
    pub fn to_be_empty(&self) -> Vec<Node> {
        self.hosts().iter().filter(|(_, standing)| **standing == Standing::Drained).map(|(node, _)| *node).collect()
    }

    pub async fn pass(&self, app: &App, tried: &mut Tried) -> Result<(), Problem> {
        let moves = self.moves().clone();
        for (index, to) in moves {
            if is_asked(app, index, to).await? {
                self.moves().remove(&index);
            }
        }
        let called_off = self.called_off().clone();
        for index in called_off {
            call_off(app, index).await?;
            self.called_off().remove(&index);
        }
        let hosts = self.hosts().clone();
        for (node, standing) in hosts {
            if let Some(known) = app.objects.find::<Host>(host_name(node).as_str()).await? {
                settle(app, &known, node, standing, tried).await?;
            }
        }
        Ok(())
    }
}

/// Asks for a move, as soon as nothing else is at work on the VM. Whether there is an answer, whatever it is.
async fn is_asked(app: &App, index: usize, to: Node) -> Result<bool, Problem> {
    let Some(found) = app.objects.find::<Vm>(vm_name(index).as_str()).await? else { return Ok(false) };
    if found.status.operation.is_some() || !found.status.phase.may_execute() {
        return Ok(false);
    }
    let request = MigrateRequest { to: Some(host_name(to)), ..MigrateRequest::default() };
    match vm::migrate(app, &Caller::controller(), found.name(), &request, &WriteQuery::default()).await {
        Err(problem) if problem.is_transient() || problem.code() == "vm-busy" => Err(problem),
        _ => Ok(true),
    }
}

/// Cancels a VM's move, if it is under way.
async fn call_off(app: &App, index: usize) -> Result<(), Problem> {
    let found = app.objects.find::<Vm>(vm_name(index).as_str()).await?;
    let Some(work) = found.and_then(|vm| vm.status.operation) else { return Ok(()) };
    let is_move = |operation: &Operation| matches!(operation.spec.action, Action::VmMigrate { .. });
    if !app.objects.find::<Operation>(work.as_str()).await?.is_some_and(|operation| is_move(&operation)) {
        return Ok(());
    }
    match operation::cancel(app, &Caller::controller(), work.as_str(), &WriteQuery::default()).await {
        Err(problem) if problem.is_transient() => Err(problem),
        _ => Ok(()),
    }
}

/// Takes a host one step nearer to how it is wanted.
async fn settle(app: &App, known: &Host, node: Node, wanted: Standing, tried: &mut Tried) -> Result<(), Problem> {
    let (caller, query, name) = (Caller::controller(), WriteQuery::default(), known.name());
    let is_off = !known.spec.cordoned && known.status.maintenance == Maintenance::Off;
    if let Some(work) = &known.status.operation {
        return match wanted {
            Standing::Drained => Ok(()),
            _ => operation::cancel(app, &caller, work.as_str(), &query).await.map(drop),
        };
    }
    match wanted {
        Standing::InService if !is_off => host_work::undrain(app, &caller, name, &query).await.map(drop),
        Standing::Cordoned if is_off => {
            let mut sent = known.clone();
            sent.spec.cordoned = true;
            host::put(app, &caller, name, sent, &query).await.map(drop)
        }
        Standing::Drained if known.status.maintenance == Maintenance::Drained => {
            // What could start nowhere else has come back: it is drained again.
            match runs_something(app, known) {
                true => host_work::undrain(app, &caller, name, &query).await.map(drop),
                false => Ok(()),
            }
        }
        Standing::Drained => {
            let now = app.clock.elapsed();
            if tried.get(&node).is_some_and(|at| now < *at + PAUSE) {
                return Ok(());
            }
            tried.insert(node, now);
            host_work::drain(app, &caller, name, &query).await.map(drop)
        }
        _ => Ok(()),
    }
}

fn runs_something(app: &App, known: &Host) -> bool {
    let here = |vm: &Vm| vm.status.host.as_ref() == Some(&known.metadata.name) && vm.status.phase.may_execute();
    app.model.read(|tables| tables.vms.values().any(|vm| here(vm) && vm.status.operation.is_none()))
}
