//! Takes VMs' snapshots by their schedules, and deletes those that no period keeps any more.
//!
//! What is due follows from the snapshots that there are, so nothing is remembered: a controller that was away takes the one
//! that is due when it is back, and not those that it missed. A VM that is busy, stopped or has no host is passed over; one
//! whose last snapshot failed is left alone for a while.

use std::{sync::Arc, time::Duration};

use gantry_api::rest::WriteQuery;
use gantry_types::{
    Action, Name, Operation, OperationPhase, Problem, Resource, Retention, Snapshot, SnapshotPhase, SnapshotSpec,
    Timestamp, Vm, VmPhase,
};
use uuid::Uuid;

use crate::app::{App, Caller, snapshot};

const INTERVAL: Duration = Duration::from_secs(10);
/// After one that failed: what is wrong is likely to be wrong a little longer.
const AFTER_FAILURE: Duration = Duration::from_secs(600);

pub async fn run(app: Arc<App>) {
    loop {
        app.clock.sleep(INTERVAL).await;
        pass(&app).await;
    }
}

/// One step for each VM that has a schedule.
pub async fn pass(app: &App) {
    for vm in app.model.list::<Vm>() {
        let at_work = matches!(vm.status.phase, VmPhase::Running | VmPhase::Paused) && vm.status.operation.is_none();
        if vm.spec.snapshots.is_empty() || !at_work {
            continue;
        }
        if let Err(problem) = go_on(app, &vm).await {
            tracing::warn!(vm = vm.name(), %problem, "the VM's snapshots are not as its schedule says");
        }
    }
}

async fn go_on(app: &App, vm: &Vm) -> Result<(), Problem> {
    let retention = vm.spec.snapshots.retention();
    let its: Vec<Arc<Snapshot>> = snapshot::of_vm(app, vm).into_iter().filter(|one| one.spec.scheduled).collect();
    let taken_at =
        |one: &Arc<Snapshot>| one.status.taken_at.or(one.metadata.created_at).unwrap_or(Timestamp::UNIX_EPOCH);
    let now = app.clock.now();
    if retention.is_due(its.iter().map(taken_at).max(), now) && !failed_lately(app, vm.metadata.uuid, is_snapshot, now)
    {
        return take(app, vm, now).await;
    }
    let ready = its.iter().filter(|one| one.status.phase == SnapshotPhase::Ready);
    let ready: Vec<(Name, Timestamp)> = ready.map(|one| (one.metadata.name.clone(), taken_at(one))).collect();
    let over = retention.surplus(&ready);
    // One that could not be deleted before is gone on with; a VM does one thing at a time.
    let half_gone = its.iter().find(|one| one.status.phase == SnapshotPhase::Deleting).map(|one| &one.metadata.name);
    match half_gone.or(over.first()) {
        Some(_) if failed_lately(app, vm.metadata.uuid, is_snapshot, now) => Ok(()),
        Some(name) => {
            snapshot::delete(app, &Caller::controller(), name.as_str(), &WriteQuery::default()).await.map(drop)
        }
        None => Ok(()),
    }
}

async fn take(app: &App, vm: &Vm, now: Timestamp) -> Result<(), Problem> {
    let own = Retention::name_at(now);
    let name = Snapshot::name_of(vm.name(), &own).ok_or_else(|| {
        let detail = format!("the name of VM '{}' is too long for a snapshot that is called {own}", vm.name());
        Problem::conflict("invalid-name", detail).object(vm.reference())
    })?;
    let spec = SnapshotSpec {
        vm: vm.metadata.name.clone(),
        memory: false,
        quiesce: vm.spec.snapshots.quiesce && vm.status.guest_agent && vm.status.phase == VmPhase::Running,
        description: None,
        scheduled: true,
    };
    let sent = Snapshot::new(name, spec);
    snapshot::create(app, &Caller::controller(), sent, &WriteQuery::default()).await.map(drop)
}

fn is_snapshot(action: &Action) -> bool {
    matches!(action, Action::SnapshotCreate { .. } | Action::SnapshotDelete { .. })
}

/// Whether such an operation on this object has just failed.
pub(super) fn failed_lately(app: &App, target: Uuid, such: fn(&Action) -> bool, now: Timestamp) -> bool {
    app.model.list::<Operation>().into_iter().any(|operation| {
        let status = &operation.status;
        operation.spec.target.uuid == target
            && such(&operation.spec.action)
            && matches!(status.phase, OperationPhase::Failed | OperationPhase::Cancelled)
            && status.finished_at.is_some_and(|finished| now.since(finished) < AFTER_FAILURE)
    })
}
