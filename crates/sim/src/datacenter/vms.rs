//! The VMs of a host, written down once more: in the agent they stand on QEMU. The order of what is on disk, what the lease
//! keeper is asked and what executes is that of `crates/agent/src/vm` (`lease.rs`, `power.rs`, `definition.rs`).

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use gantry_agent::lease::LeaseKeeper;
use gantry_api::AgentApi;
use gantry_api::agent::{
    AdoptVm, Assignment, MigrationReport, PowerAction, PowerRequest, Verdict, VmObservation, VmRunState,
};
use gantry_api::fencing::{FenceAnswer, FenceQuestion, LeaseReport, LiftedFence, StoredFence};
use gantry_hostlink::fake::{FakeHost, FakeWorld};
use gantry_types::{Fence, Problem};
use uuid::Uuid;

use super::agent::{AgentSide, Way};
use super::agent_machine::AgentMachine;
use super::machine::Begin;
use super::records::{End, MoveRecord, Side, VmRecord};
use super::tasks::VmTask;

/// What all VM tasks of a host share.
pub struct Vms {
    pub link: Arc<AgentMachine>,
    pub keeper: Arc<LeaseKeeper>,
    pub world: Arc<FakeWorld>,
    pub fake: FakeHost,
    pub way: Way,
    tasks: Mutex<BTreeMap<Uuid, Arc<VmTask>>>,
}

impl Vms {
    pub fn new(link: Arc<AgentMachine>, keeper: Arc<LeaseKeeper>, way: Way) -> Self {
        let world = link.machine.guests.clone();
        let fake = world.host(&link.machine.name);
        Self { link, keeper, world, fake, way, tasks: Mutex::default() }
    }

    pub fn known(&self) -> Vec<VmObservation> {
        self.world.vms_on(&self.link.machine.name)
    }

    pub fn find(&self, vm: Uuid) -> Result<VmObservation, Problem> {
        let found = self.known().into_iter().find(|known| known.uuid == vm);
        found.ok_or_else(|| Problem::not_found("vm", &vm.to_string()))
    }

    pub fn find_at(&self, vm: Uuid, epoch: u64) -> Result<VmObservation, Problem> {
        let known = self.find(vm)?;
        if epoch < known.epoch {
            return Err(Problem::conflict("stale-epoch", format!("VM '{}' is at epoch {}", known.name, known.epoch)));
        }
        Ok(known)
    }

    pub fn tasks(&self) -> MutexGuard<'_, BTreeMap<Uuid, Arc<VmTask>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn task(&self, vm: Uuid) -> Option<Arc<VmTask>> {
        self.tasks().get(&vm).cloned()
    }

    pub async fn write(&self, vm: Uuid, record: VmRecord) {
        if self.link.machine.record(vm) != record {
            self.link.write(move |disk| drop(disk.vms.insert(vm, record))).await;
        }
    }

    /// What the host says of a VM.
    pub fn shown(&self, mut known: VmObservation) -> VmObservation {
        let machine = &self.link.machine;
        let record = machine.record(known.uuid);
        known.migration = record.migration.as_ref().map(|migration| self.report(migration));
        if record.is_handed_over() || record.is_receiving() {
            known.state = if record.is_receiving() { VmRunState::Receiving } else { VmRunState::HandedOver };
            return known;
        }
        let is_off = matches!(known.state, VmRunState::Stopped | VmRunState::Failed);
        let is_recovering = self.task(known.uuid).is_some_and(|task| task.recovering.load(Ordering::Relaxed));
        let reason = record.end.as_ref().map(|end| end.reason.clone());
        match (is_off, record.fenced) {
            (false, _) => {}
            (true, _) if is_recovering => (known.state, known.reason) = (VmRunState::Starting, None),
            (true, Some(_)) => {
                (known.state, known.reason) = (VmRunState::Failed, reason);
                known.ha.status.elsewhere = record.wanted;
            }
            (true, None) if record.wanted => (known.state, known.reason) = (VmRunState::Starting, reason),
            (true, None) => {}
        }
        known
    }

    pub fn report(&self, migration: &MoveRecord) -> MigrationReport {
        let source = match &migration.side {
            Side::Source(_) => self.link.machine.name.clone(),
            Side::Destination { source, .. } => source.clone(),
        };
        MigrationReport {
            migration: migration.id,
            state: migration.state,
            progress: Default::default(),
            figures: None,
            error: migration.error.clone(),
            source: Some(source),
            recovery_port: None,
        }
    }

    pub fn lease_report(&self) -> LeaseReport {
        let machine = &self.link.machine;
        let settled = |generation: u64| {
            let of = |known: &VmObservation| machine.record(known.uuid).fenced;
            self.known().iter().filter(|known| known.guarded).all(|known| of(known) >= Some(generation))
        };
        self.keeper.report(settled)
    }

    /// Makes it execute, if disk, lease and warden let it.
    pub async fn launch(&self, known: &VmObservation) -> Result<(), Problem> {
        let (vm, machine) = (known.uuid, &self.link.machine);
        self.world.prepare_start(&machine.name, vm, None)?;
        let launched = self.start_qemu(known, Begin::Running).await;
        if let Err(problem) = &launched {
            let lease_over = problem.code() == "lease-not-held";
            let end = Some(End { lease_over, reason: problem.detail.clone() });
            self.write(vm, VmRecord { end, ..machine.record(vm) }).await;
        }
        launched
    }

    pub async fn start_qemu(&self, known: &VmObservation, begin: Begin) -> Result<(), Problem> {
        let (vm, machine) = (known.uuid, &self.link.machine);
        if known.guarded {
            self.keeper.expect_held(&format!("VM '{}'", known.name))?;
        }
        let launched = machine.spawn(vm, known.guarded, begin).await;
        let gone = || Problem::transient("gone", "the machine was switched off");
        let process = launched.unwrap_or_else(|_| Err(gone()))?;
        self.keeper.note_guarded(vm, process);
        self.write(vm, VmRecord { process: Some(process), end: None, ..machine.record(vm) }).await;
        Ok(())
    }

    /// Nothing of the VM is here afterwards.
    pub async fn tear_down(&self, vm: Uuid, why: &str) {
        let name = &self.link.machine.name;
        self.link.machine.end(vm, why);
        self.keeper.forget_guarded(vm);
        let forget = |disk: &mut super::records::Disk| {
            self.world.guest_leaves(name, vm);
            disk.vms.remove(&vm);
        };
        self.link.write(forget).await;
    }
}

impl AgentSide {
    pub async fn observe(&self) -> Result<Vec<VmObservation>, Problem> {
        Ok(self.vms.known().into_iter().map(|known| self.vms.shown(known)).collect())
    }

    pub async fn define_vm(self: &Arc<Self>, assignment: &Assignment) -> Result<VmObservation, Problem> {
        let vm = assignment.uuid;
        let (_task, _turn) = self.turn(vm).await;
        let known = self.vms.fake.define_vm(assignment).await?;
        self.vms.write(vm, self.vms.link.machine.record(vm)).await;
        Ok(self.vms.shown(known))
    }

    pub async fn adopt_vm(self: &Arc<Self>, vm: Uuid, request: &AdoptVm) -> Result<VmObservation, Problem> {
        let (task, _turn) = self.turn(vm).await;
        let same = self.vms.find(vm).is_ok_and(|known| known.epoch == request.assignment.epoch);
        let mut adopted = None;
        let adopt = |disk: &mut super::records::Disk| {
            let known = self.vms.fake.adopt_vm(vm, request).now_or_never();
            if !same && matches!(known, Some(Ok(_))) {
                disk.vms.insert(vm, VmRecord::default());
            }
            adopted = known;
        };
        self.vms.link.write(adopt).await;
        let known = adopted.unwrap_or_else(|| panic!("a host in memory waits"))?;
        if !same {
            // What was left behind here by a move.
            *task.sending() = None;
            self.vms.link.machine.end(vm, "it was left behind");
        }
        Ok(self.vms.shown(known))
    }

    pub async fn remove_vm(self: &Arc<Self>, vm: Uuid, epoch: u64) -> Result<(), Problem> {
        if self.vms.find(vm).is_err() {
            return self.vms.fake.remove_vm(vm, epoch).await;
        }
        let (task, _turn) = self.turn(vm).await;
        let known = self.vms.find_at(vm, epoch)?;
        let machine = &self.vms.link.machine;
        let record = machine.record(vm);
        record.expect_not_handed_over(&known.name)?;
        if let Some(migration) = record.migration.as_ref().filter(|_| record.is_receiving())
            && self.decide(vm, migration.id, Verdict::Aborted).await == Verdict::Committed
        {
            if epoch <= known.epoch {
                return Err(super::moves::committed_here(&known));
            }
            self.note_committed(vm).await;
        }
        self.sending_ended(vm, &task).await;
        self.vms.write(vm, VmRecord { wanted: false, ..machine.record(vm) }).await;
        machine.end(vm, "the VM was removed");
        self.vms.keeper.forget_guarded(vm);
        let mut removed = None;
        let remove = |disk: &mut super::records::Disk| {
            removed = self.vms.fake.remove_vm(vm, epoch).now_or_never();
            disk.vms.remove(&vm);
        };
        self.vms.link.write(remove).await;
        removed.unwrap_or(Ok(()))
    }

    pub async fn power(self: &Arc<Self>, vm: Uuid, request: &PowerRequest) -> Result<VmObservation, Problem> {
        self.vms.find(vm)?;
        let (task, _turn) = self.turn(vm).await;
        let known = self.vms.find_at(vm, request.epoch)?;
        self.expect_command(&known, request)?;
        self.take_command(&known, request.command).await;
        match request.action {
            PowerAction::Start => self.start(&known, request.epoch).await?,
            PowerAction::Kill => {
                let machine = &self.vms.link.machine;
                self.vms.write(vm, VmRecord { wanted: machine.forgets_stops(), ..machine.record(vm) }).await;
                self.sending_ended(vm, &task).await;
                machine.end(vm, "it was stopped");
                self.vms.fake.power(vm, request).await?;
                self.vms.write(vm, VmRecord { process: None, end: None, ..machine.record(vm) }).await;
            }
            _ => drop(self.vms.fake.power(vm, request).await?),
        }
        Ok(self.vms.shown(self.vms.find(vm)?))
    }

    fn expect_command(&self, known: &VmObservation, request: &PowerRequest) -> Result<(), Problem> {
        let record = self.vms.link.machine.record(known.uuid);
        if request.command < record.command {
            let (last, this) = (record.command, request.command);
            let detail = format!("VM '{}' has taken command {last}, this is {this}", known.name);
            return Err(Problem::conflict("stale-command", detail));
        }
        match request.action {
            // A guest that is being sent may still be stopped; the move then fails.
            PowerAction::ShutDown | PowerAction::Kill if !record.is_receiving() => {
                record.expect_not_handed_over(&known.name)
            }
            _ => record.expect_not_moving(&known.name),
        }
    }

    /// Before anything is done: nothing older counts afterwards.
    async fn take_command(&self, known: &VmObservation, command: u64) {
        let record = self.vms.link.machine.record(known.uuid);
        self.vms.write(known.uuid, VmRecord { command, ..record }).await;
    }

    /// The controller starts it: what was before a fence counts no more.
    async fn start(&self, known: &VmObservation, epoch: u64) -> Result<(), Problem> {
        let (vm, machine) = (known.uuid, &self.vms.link.machine);
        if known.guarded {
            self.vms.keeper.expect_held(&format!("VM '{}'", known.name))?;
        }
        self.vms.world.prepare_start(&machine.name, vm, Some(epoch))?;
        let record = VmRecord { fenced: None, wanted: true, ..machine.record(vm) };
        self.vms.write(vm, record).await;
        match machine.process_of(vm) {
            Some(_) => Ok(()),
            None => self.vms.launch(known).await,
        }
    }

    pub async fn ask_fence(&self, question: &FenceQuestion) -> Result<FenceAnswer, Problem> {
        self.vms.keeper.answer(question).await
    }
    pub async fn store_fence(&self, fence: &Fence) -> Result<StoredFence, Problem> {
        self.vms.keeper.store(fence).await
    }
    pub async fn lift_fence(&self, lifted: &LiftedFence) -> Result<(), Problem> {
        self.vms.keeper.lift(lifted).await
    }
}

/// What is not said above is as in memory.
impl Deref for AgentSide {
    type Target = FakeHost;
    fn deref(&self) -> &FakeHost {
        &self.vms.fake
    }
}
