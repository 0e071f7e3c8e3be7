//! The tasks of a host's VMs, written down once more: in the agent they stand on QEMU. The order of what is on disk, what the
//! lease keeper is asked and what executes is that of `crates/agent/src/vm` (`lease.rs`, `power.rs`, `recover.rs`).

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gantry_agent::lease::{LeaseKeeper, Machine};
use gantry_api::AgentApi;
use gantry_api::agent::{AdoptVm, Assignment, PowerAction, PowerRequest, VmObservation, VmRunState};
use gantry_api::fencing::{FenceAnswer, FenceQuestion, LeaseReport, LiftedFence, StoredFence};
use gantry_hostlink::fake::{FakeHost, FakeWorld};
use gantry_types::{Fence, Problem};
use tokio::sync::Notify;
use uuid::Uuid;

use super::agent::AgentSide;
use super::machine::{AgentMachine, End, VmRecord};

/// How soon the end of a QEMU is seen.
const LOOK: Duration = Duration::from_millis(200);

/// What all VM tasks of a host share.
pub struct Vms {
    pub link: Arc<AgentMachine>,
    pub keeper: Arc<LeaseKeeper>,
    pub world: Arc<FakeWorld>,
    pub fake: FakeHost,
    tasks: Mutex<BTreeMap<Uuid, Arc<VmTask>>>,
}

#[derive(Default)]
struct VmTask {
    /// One command at a time.
    turn: tokio::sync::Mutex<()>,
    /// The lease stands otherwise.
    lease_changed: Notify,
    /// The agent has just started and has not looked for QEMU yet.
    recovering: AtomicBool,
}

impl Vms {
    pub fn new(link: Arc<AgentMachine>, keeper: Arc<LeaseKeeper>, world: Arc<FakeWorld>) -> Self {
        let fake = world.host(&link.machine.name);
        Self { link, keeper, world, fake, tasks: Mutex::default() }
    }

    pub fn known(&self) -> Vec<VmObservation> {
        self.world.vms_on(&self.link.machine.name)
    }

    fn find(&self, vm: Uuid) -> Result<VmObservation, Problem> {
        let found = self.known().into_iter().find(|known| known.uuid == vm);
        found.ok_or_else(|| Problem::not_found("vm", &vm.to_string()))
    }

    fn find_at(&self, vm: Uuid, epoch: u64) -> Result<VmObservation, Problem> {
        let known = self.find(vm)?;
        if epoch < known.epoch {
            return Err(Problem::conflict("stale-epoch", format!("VM '{}' is at epoch {}", known.name, known.epoch)));
        }
        Ok(known)
    }

    fn task(&self, vm: Uuid) -> Option<Arc<VmTask>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).get(&vm).cloned()
    }

    async fn write(&self, vm: Uuid, record: VmRecord) {
        if self.link.machine.record(vm) != record {
            self.link.write(move |disk| drop(disk.vms.insert(vm, record))).await;
        }
    }

    /// What the host says of a VM.
    pub fn shown(&self, mut known: VmObservation) -> VmObservation {
        let record = self.link.machine.record(known.uuid);
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

    pub fn lease_report(&self) -> LeaseReport {
        let machine = &self.link.machine;
        let settled = |generation: u64| {
            let of = |known: &VmObservation| machine.record(known.uuid).fenced;
            self.known().iter().filter(|known| known.guarded).all(|known| of(known) >= Some(generation))
        };
        self.keeper.report(settled)
    }

    /// Draws the conclusions from what has ended and how the lease stands.
    async fn heed(&self, known: &VmObservation) {
        let (vm, view, machine) = (known.uuid, self.keeper.view(), &self.link.machine);
        let mut record = machine.record(vm);
        let mut process = machine.process_of(vm);
        if let Some(ended) = record.process.filter(|was| process != Some(*was)) {
            let lease_over = self.link.was_stopped(ended) || !self.keeper.is_held();
            self.keeper.forget_guarded(vm);
            record.process = None;
            record.end = Some(End { lease_over, reason: "its QEMU ended".to_owned() });
            self.write(vm, record.clone()).await;
        }
        if known.guarded && view.stop && process.is_some() {
            machine.end(vm, "no lease, and no warden");
            process = None;
        }
        if let Some(generation) = view.fenced
            && known.guarded
            && process.is_none()
            && record.fenced < Some(generation)
        {
            record.fenced = Some(generation);
            self.write(vm, record.clone()).await;
        }
        let may_start = !known.guarded || view.may_run;
        if process.is_none() && record.wanted && record.fenced.is_none() && may_start {
            // What fails is tried again at the next look.
            drop(self.launch(known).await);
        }
    }

    /// Makes it execute, if disk, lease and warden let it.
    async fn launch(&self, known: &VmObservation) -> Result<(), Problem> {
        let (vm, machine) = (known.uuid, &self.link.machine);
        self.world.prepare_start(&machine.name, vm, None)?;
        if known.guarded {
            self.keeper.expect_held(&format!("VM '{}'", known.name))?;
        }
        let launched = machine.spawn(vm, known.guarded).await;
        let launched = launched.unwrap_or_else(|_| Err(Problem::transient("gone", "the machine was switched off")));
        let mut record = machine.record(vm);
        match &launched {
            Ok(process) => {
                self.keeper.note_guarded(vm, *process);
                (record.process, record.end) = (Some(*process), None);
            }
            Err(problem) => {
                let lease_over = problem.code() == "lease-not-held";
                record.end = Some(End { lease_over, reason: problem.detail.clone() });
            }
        }
        self.write(vm, record).await;
        launched.map(drop)
    }
}

impl AgentSide {
    /// Begins a VM's task.
    fn attend(self: &Arc<Self>, vm: Uuid, recovering: bool) -> Arc<VmTask> {
        let mut tasks = self.vms.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = tasks.get(&vm) {
            return task.clone();
        }
        let task = Arc::new(VmTask { recovering: AtomicBool::new(recovering), ..VmTask::default() });
        tasks.insert(vm, task.clone());
        let (agent, its) = (self.clone(), task.clone());
        tokio::spawn(async move { agent.run(vm, its).await });
        task
    }

    /// Takes up what the last life of the agent has left.
    pub fn take_up(self: &Arc<Self>) {
        for known in self.vms.known() {
            self.attend(known.uuid, true);
        }
    }

    /// Tells the tasks how the lease stands, always in the same order: whom a watch wakes first is drawn by lot.
    pub async fn heed_lease(&self) {
        let mut views = self.vms.keeper.views();
        while views.changed().await.is_ok() {
            let tasks = self.vms.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            tasks.values().for_each(|task| task.lease_changed.notify_one());
        }
    }

    async fn run(&self, vm: Uuid, task: Arc<VmTask>) {
        if task.recovering.load(Ordering::Relaxed) {
            self.recover(vm).await;
            task.recovering.store(false, Ordering::Relaxed);
        }
        loop {
            {
                let _turn = task.turn.lock().await;
                let Ok(known) = self.vms.find(vm) else { break };
                self.vms.heed(&known).await;
            }
            tokio::select! {
                biased;
                () = task.lease_changed.notified() => {}
                () = self.vms.keeper.sleep(LOOK) => {}
            }
        }
        let mut tasks = self.vms.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.get(&vm).is_some_and(|known| Arc::ptr_eq(known, &task)) {
            tasks.remove(&vm);
        }
    }

    /// What executes goes on only under guard.
    async fn recover(&self, vm: Uuid) {
        let machine = &self.vms.link.machine;
        let Some(process) = machine.process_of(vm) else { return };
        let record = VmRecord { process: Some(process), end: None, ..machine.record(vm) };
        self.vms.write(vm, record).await;
        let is_guarded = self.vms.find(vm).is_ok_and(|known| known.guarded);
        if is_guarded && !self.vms.keeper.guard(vm, process).await {
            machine.end(vm, "nobody guards it and there is no lease");
        }
    }

    pub async fn observe(&self) -> Result<Vec<VmObservation>, Problem> {
        Ok(self.vms.known().into_iter().map(|known| self.vms.shown(known)).collect())
    }

    pub async fn define_vm(self: &Arc<Self>, assignment: &Assignment) -> Result<VmObservation, Problem> {
        let vm = assignment.uuid;
        let turn = self.vms.task(vm);
        let _turn = match &turn {
            Some(task) => Some(task.turn.lock().await),
            None => None,
        };
        let known = self.vms.fake.define_vm(assignment).await?;
        self.vms.write(vm, self.vms.link.machine.record(vm)).await;
        self.attend(vm, false);
        Ok(self.vms.shown(known))
    }

    pub async fn adopt_vm(self: &Arc<Self>, vm: Uuid, request: &AdoptVm) -> Result<VmObservation, Problem> {
        let turn = self.vms.task(vm);
        let _turn = match &turn {
            Some(task) => Some(task.turn.lock().await),
            None => None,
        };
        let same = self.vms.find(vm).is_ok_and(|known| known.epoch == request.assignment.epoch);
        let known = self.vms.fake.adopt_vm(vm, request).await?;
        if !same {
            self.vms.write(vm, VmRecord::default()).await;
        }
        self.attend(vm, false);
        Ok(self.vms.shown(known))
    }

    pub async fn remove_vm(self: &Arc<Self>, vm: Uuid, epoch: u64) -> Result<(), Problem> {
        if self.vms.find(vm).is_err() {
            return Ok(());
        }
        let task = self.attend(vm, false);
        let _turn = task.turn.lock().await;
        self.vms.find_at(vm, epoch)?;
        let machine = &self.vms.link.machine;
        self.vms.write(vm, VmRecord { wanted: false, ..machine.record(vm) }).await;
        machine.end(vm, "the VM was removed");
        self.vms.keeper.forget_guarded(vm);
        self.vms.fake.remove_vm(vm, epoch).await?;
        self.vms.link.write(move |disk| drop(disk.vms.remove(&vm))).await;
        Ok(())
    }

    pub async fn power(self: &Arc<Self>, vm: Uuid, request: &PowerRequest) -> Result<VmObservation, Problem> {
        self.vms.find(vm)?;
        let task = self.attend(vm, false);
        let _turn = task.turn.lock().await;
        let known = self.vms.find_at(vm, request.epoch)?;
        self.take_command(&known, request.command).await?;
        match request.action {
            PowerAction::Start => self.start(&known, request.epoch).await?,
            PowerAction::Kill => {
                let machine = &self.vms.link.machine;
                self.vms.write(vm, VmRecord { wanted: machine.forgets_stops(), ..machine.record(vm) }).await;
                machine.end(vm, "it was stopped");
                self.vms.fake.power(vm, request).await?;
                self.vms.write(vm, VmRecord { process: None, end: None, ..machine.record(vm) }).await;
            }
            _ => drop(self.vms.fake.power(vm, request).await?),
        }
        Ok(self.vms.shown(self.vms.find(vm)?))
    }

    /// Before anything is done: nothing older counts afterwards.
    async fn take_command(&self, known: &VmObservation, command: u64) -> Result<(), Problem> {
        let record = self.vms.link.machine.record(known.uuid);
        if command < record.command {
            let detail = format!("VM '{}' has taken command {}, this is {command}", known.name, record.command);
            return Err(Problem::conflict("stale-command", detail));
        }
        self.vms.write(known.uuid, VmRecord { command, ..record }).await;
        Ok(())
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
