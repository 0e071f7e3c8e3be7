//! The task of each VM on a host: whose turn it is, what it does by itself, and what it does first of all when an agent has
//! taken up what the one before has left.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_agent::lease::Machine;
use gantry_api::agent::{MigrationState, VmObservation};
use tokio::sync::{Notify, OwnedMutexGuard};
use uuid::Uuid;

use super::agent::AgentSide;
use super::records::{End, Side, VmRecord};
use super::sending::SendingTask;

/// How soon the end of a QEMU is seen.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Default)]
pub struct VmTask {
    /// One command at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The lease stands otherwise.
    lease_changed: Notify,
    /// The agent has just started and has not looked for QEMU yet.
    pub recovering: AtomicBool,
    sending: Mutex<Option<SendingTask>>,
}

impl VmTask {
    /// What sends the VM, if something does; dropped, it stops where it is.
    pub fn sending(&self) -> MutexGuard<'_, Option<SendingTask>> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AgentSide {
    /// Begins a VM's task.
    fn attend(self: &Arc<Self>, vm: Uuid, recovering: bool) -> Arc<VmTask> {
        let mut tasks = self.vms.tasks();
        if let Some(task) = tasks.get(&vm) {
            return task.clone();
        }
        let task = Arc::new(VmTask { recovering: AtomicBool::new(recovering), ..VmTask::default() });
        tasks.insert(vm, task.clone());
        let (agent, its) = (self.clone(), task.clone());
        tokio::spawn(async move { agent.run(vm, its).await });
        task
    }

    /// The VM's task, and its turn. It ends by itself if the VM is not here after that.
    pub async fn turn(self: &Arc<Self>, vm: Uuid) -> (Arc<VmTask>, OwnedMutexGuard<()>) {
        loop {
            let task = self.attend(vm, false);
            let turn = task.turn.clone().lock_owned().await;
            // Another one, if this has ended meanwhile.
            if self.vms.task(vm).is_some_and(|now| Arc::ptr_eq(&now, &task)) {
                return (task, turn);
            }
        }
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
            self.vms.tasks().values().for_each(|task| task.lease_changed.notify_one());
        }
    }

    async fn run(self: Arc<Self>, vm: Uuid, task: Arc<VmTask>) {
        if task.recovering.load(Ordering::Relaxed) {
            let _turn = task.turn.lock().await;
            self.recover(vm, &task).await;
            task.recovering.store(false, Ordering::Relaxed);
        }
        loop {
            {
                let _turn = task.turn.lock().await;
                let Ok(known) = self.vms.find(vm) else {
                    self.vms.tasks().remove(&vm);
                    return;
                };
                self.heed(&known, &task).await;
            }
            tokio::select! {
                biased;
                () = task.lease_changed.notified() => {}
                () = self.vms.keeper.sleep(LOOK) => {}
            }
        }
    }

    /// What executes goes on only under guard, and an interrupted move from its record.
    async fn recover(self: &Arc<Self>, vm: Uuid, task: &Arc<VmTask>) {
        let machine = &self.vms.link.machine;
        if let Some(process) = machine.process_of(vm) {
            let record = VmRecord { process: Some(process), end: None, ..machine.record(vm) };
            self.vms.write(vm, record).await;
            let is_guarded = self.vms.find(vm).is_ok_and(|known| known.guarded);
            if is_guarded && !self.vms.keeper.guard(vm, process).await {
                machine.end(vm, "nobody guards it and there is no lease");
            }
        }
        let Some(migration) = machine.record(vm).migration else { return };
        match (&migration.side, migration.state) {
            (Side::Destination { .. }, MigrationState::Receiving) => self.recover_receiving(vm, &migration).await,
            (Side::Source(_), MigrationState::Sending | MigrationState::Committing) => {
                self.recover_sending(vm, task).await;
            }
            // An agent that died between the note that it has failed and the guest's going on.
            (Side::Source(_), MigrationState::Failed | MigrationState::Cancelled) => self.go_on_here(vm, migration.id),
            _ => {}
        }
    }

    /// Draws the conclusions from what has ended and how the lease stands.
    async fn heed(self: &Arc<Self>, known: &VmObservation, task: &Arc<VmTask>) {
        let (vm, view, machine) = (known.uuid, self.vms.keeper.view(), &self.vms.link.machine);
        let mut record = machine.record(vm);
        if let Some(migration) = record.migration.as_ref().filter(|_| record.is_receiving())
            && machine.hears_of_loss(migration.id)
        {
            machine.end(vm, "what it waited for does not come");
        }
        let mut process = machine.process_of(vm);
        if let Some(ended) = record.process.filter(|was| process != Some(*was)) {
            let lease_over = self.vms.link.was_stopped(ended) || !self.vms.keeper.is_held();
            self.vms.keeper.forget_guarded(vm);
            if record.is_receiving() {
                return self.receiving_failed(vm).await;
            }
            self.sending_ended(vm, task).await;
            record = VmRecord {
                process: None,
                end: Some(End { lease_over, reason: "its QEMU ended".to_owned() }),
                ..machine.record(vm)
            };
            self.vms.write(vm, record.clone()).await;
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
            self.vms.write(vm, record.clone()).await;
        }
        let is_claimed = record.is_receiving() || record.is_handed_over();
        let may_start = !is_claimed && (!known.guarded || view.may_run);
        if process.is_none() && record.wanted && record.fenced.is_none() && may_start {
            // What fails is tried again at the next look.
            drop(self.vms.launch(known).await);
        }
    }
}
