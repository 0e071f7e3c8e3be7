//! Makes VMs' backups by their schedules, and deletes those that no period keeps any more.
//!
//! As with snapshots, what is due follows from the backups that there are. Of those that are due at the same moment few are
//! made at a time on each host, whichever has waited longest first: they read its disks.

use std::{collections::HashMap, sync::Arc, time::Duration};

use gantry_api::rest::{DeleteBackupQuery, WriteQuery};
use gantry_types::{
    Action, Backup, BackupPhase, BackupSchedule, BackupSpec, Name, Problem, Resource, Retention, Timestamp, Vm, VmPhase,
};

use super::snapshot_schedules::failed_lately;
use crate::app::{App, Caller, backup, volume};

const INTERVAL: Duration = Duration::from_secs(10);
/// Scheduled backups that are being made on a host at a time.
const AT_A_TIME: usize = 2;

pub async fn run(app: Arc<App>) {
    loop {
        app.clock.sleep(INTERVAL).await;
        pass(&app).await;
    }
}

/// One step for each VM that has a schedule, as far as its host has room for it.
pub async fn pass(app: &App) {
    let mut its: HashMap<Name, Vec<Arc<Backup>>> = HashMap::new();
    let mut at_work: HashMap<Name, usize> = HashMap::new();
    for one in app.model.list::<Backup>().into_iter().filter(|one| one.spec.scheduled) {
        if let (BackupPhase::Creating, Some(host)) = (one.status.phase, &one.status.host) {
            *at_work.entry(host.clone()).or_default() += 1;
        }
        its.entry(one.spec.vm.clone()).or_default().push(one);
    }
    let now = app.clock.now();
    let mut due = Vec::new();
    for vm in app.model.list::<Vm>() {
        let Some(schedule) = &vm.spec.backups else { continue };
        let made = its.remove(&vm.metadata.name).unwrap_or_default();
        if let Err(problem) = let_go(app, &vm, schedule, &made, now).await {
            tell(&vm, &problem);
        }
        let newest = made.iter().map(made_at).max();
        let is_changed = match vm.status.phase {
            VmPhase::Running | VmPhase::Paused => true,
            VmPhase::Stopped => vm.status.host.is_some() && !is_covered(app, &vm, &made),
            _ => false,
        };
        if is_changed
            && vm.status.operation.is_none()
            && schedule.retention().is_due(newest, now)
            && !failed_lately(app, vm.metadata.uuid, is_backup, now)
        {
            due.push((newest, vm));
        }
    }
    due.sort_by_key(|(newest, _)| *newest);
    for (_, vm) in due {
        let Some((host, schedule)) = vm.status.host.clone().zip(vm.spec.backups.as_ref()) else { continue };
        let busy = at_work.entry(host).or_default();
        if *busy >= AT_A_TIME {
            continue;
        }
        match make(app, &vm, schedule, now).await {
            Ok(()) => *busy += 1,
            Err(problem) => tell(&vm, &problem),
        }
    }
}

/// The last one was made since the VM is off, of all disks that it has: nothing was written since.
fn is_covered(app: &App, vm: &Vm, made: &[Arc<Backup>]) -> bool {
    let whole = made.iter().filter(|one| one.status.phase == BackupPhase::Ready);
    let Some(last) = whole.max_by_key(|one| made_at(one)) else { return false };
    let volumes = volume::names_of(app, vm);
    let has = last.status.disks.iter().skip(1);
    last.status.stopped_at_command == Some(vm.status.last_command)
        && has.map(|disk| disk.name.as_str()).eq(volumes.iter().map(Name::as_str))
}

fn tell(vm: &Vm, problem: &Problem) {
    tracing::warn!(vm = vm.name(), %problem, "the VM's backups are not as its schedule says");
}

fn made_at(one: &Arc<Backup>) -> Timestamp {
    one.status.taken_at.or(one.metadata.created_at).unwrap_or(Timestamp::UNIX_EPOCH)
}

async fn make(app: &App, vm: &Vm, schedule: &BackupSchedule, now: Timestamp) -> Result<(), Problem> {
    let own = Retention::name_at(now);
    let name = Backup::name_of(vm.name(), &own).ok_or_else(|| {
        let detail = format!("the name of VM '{}' is too long for a backup that is called {own}", vm.name());
        Problem::conflict("invalid-name", detail).object(vm.reference())
    })?;
    let spec = BackupSpec {
        vm: vm.metadata.name.clone(),
        repository: schedule.repository.clone(),
        quiesce: schedule.quiesce,
        description: None,
        scheduled: true,
    };
    backup::create(app, &Caller::controller(), Backup::new(name, spec), &WriteQuery::default()).await.map(drop)
}

/// Deletes what is over, one after the other. A damaged one is no backup: it counts for nothing and stays for people to look at.
async fn let_go(
    app: &App,
    vm: &Vm,
    schedule: &BackupSchedule,
    made: &[Arc<Backup>],
    now: Timestamp,
) -> Result<(), Problem> {
    if made.iter().any(|one| one.status.phase == BackupPhase::Deleting && one.status.operation.is_some()) {
        return Ok(());
    }
    let ready = made.iter().filter(|one| one.status.phase == BackupPhase::Ready);
    let ready: Vec<(&Arc<Backup>, Timestamp)> = ready.map(|one| (one, made_at(one))).collect();
    let over = schedule.retention().surplus(&ready);
    // One that could not be deleted before is gone on with.
    let half_gone = made.iter().find(|one| one.status.phase == BackupPhase::Deleting);
    let Some(one) = half_gone.or(over.first().copied()) else { return Ok(()) };
    let is_deletion = |action: &Action| matches!(action, Action::BackupDelete { .. });
    if one.status.operation.is_some() || failed_lately(app, one.metadata.uuid, is_deletion, now) {
        return Ok(());
    }
    tracing::info!(vm = vm.name(), backup = one.name(), "no period keeps the backup any more");
    backup::delete(app, &Caller::controller(), one.name(), &DeleteBackupQuery::default()).await.map(drop)
}

fn is_backup(action: &Action) -> bool {
    matches!(action, Action::BackupCreate { .. })
}
