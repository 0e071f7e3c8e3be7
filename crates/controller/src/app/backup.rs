//! Backups: make, describe, verify, delete, restore, and look into them.
//!
//! Making one is an operation on its VM; verifying and deleting are operations on the backup, which outlives its VM; restoring
//! is one on the VM that it makes.

use gantry_api::{
    backup::{BackupContent, ReadBackup},
    rest::{BackupFilesQuery, Changed, DeleteBackupQuery, RestoreBackupRequest, WriteQuery},
};
use gantry_types::{
    Action, Backup, BackupPhase, Host, PowerState, Problem, Resource, Severity, SnapshotSchedule, Vm, VmPhase, VmSpec,
    VmStatus,
};

use super::{
    App, Caller, already_exists, check_labels, check_name, check_precondition,
    repository::reference_mistake,
    snapshot::expect_disk,
    vm::{engage, expect_idle},
    vm_references::check_references,
};
use crate::{
    objects::Change,
    operations::{FormerState, machine_with_identity, new_operation, place_of, reaching_host},
};

pub async fn create(app: &App, caller: &Caller, sent: Backup, query: &WriteQuery) -> Result<Changed<Backup>, Problem> {
    caller.may_change()?;
    check_labels(&sent.metadata)?;
    sent.validate()?;
    // Its repository is not forgotten meanwhile.
    let _referring = app.references.read().await;
    app.objects
        .racing(|| async {
            if let Some(existing) = app.objects.find::<Backup>(sent.name()).await? {
                return Err(already_exists(&existing).remedy("choose another name, or leave it out"));
            }
            let current: Vm = app.objects.find(sent.spec.vm.as_str()).await?.ok_or_else(|| {
                Problem::invalid("invalid-backup", "the backup is not valid")
                    .field("spec.vm", format!("VM '{}' does not exist; see: gantry vm list", sent.spec.vm))
            })?;
            if let Some(message) = app.model.read(|tables| reference_mistake(tables, &sent.spec.repository)) {
                let problem = Problem::invalid("invalid-backup", "the backup is not valid");
                return Err(problem.field("spec.repository", message));
            }
            expect_idle(&current)?;
            expect_disk(&current, "back up")?;
            let mut backup = Backup::new(sent.metadata.name.clone(), sent.spec.clone());
            backup.metadata.labels = sent.metadata.labels.clone();
            app.stamp(&mut backup.metadata);
            backup.status.host.clone_from(&current.status.host);
            backup.status.machine = Some(machine_with_identity(&current));
            let is_off = !matches!(current.status.phase, VmPhase::Running | VmPhase::Paused);
            backup.status.stopped_at_command = is_off.then_some(current.status.last_command);
            let mut vm = current.clone();
            let action = Action::BackupCreate { backup: backup.metadata.name.clone() };
            let mut operation = engage(app, caller, &mut vm, &current, action)?;
            backup.status.operation = Some(operation.metadata.name.clone());
            let mut change = Change::new();
            change.create(&backup)?.update(&vm)?.create(&operation)?;
            if !query.dry_run {
                let revision = app.commit(change).await?;
                (backup.metadata.revision, operation.metadata.revision) = (revision, revision);
            }
            Ok(Changed { object: backup, operation: Some(operation) })
        })
        .await
}

/// Creates it or changes its labels and description; the rest is what it is.
pub async fn put(
    app: &App,
    caller: &Caller,
    name: &str,
    sent: Backup,
    query: &WriteQuery,
) -> Result<Changed<Backup>, Problem> {
    caller.may_change()?;
    check_name(name, &sent)?;
    check_labels(&sent.metadata)?;
    sent.validate()?;
    let found = app.objects.find::<Backup>(name).await?;
    if found.is_none() && query.revision.is_none() && sent.metadata.revision == 0 {
        return create(app, caller, sent, query).await;
    }
    app.objects
        .racing(|| async {
            let current: Backup = app.objects.get(name).await?;
            check_precondition(&current, &sent.metadata, query)?;
            let mut backup = current.clone();
            backup.metadata.labels = sent.metadata.labels.clone();
            backup.spec.description.clone_from(&sent.spec.description);
            if backup.spec != sent.spec {
                return Err(Problem::invalid("unchangeable", format!("backup '{name}' can't be changed like this"))
                    .object(current.reference())
                    .field("spec", "is fixed but for its description")
                    .remedy("make another backup"));
            }
            if backup != current && !query.dry_run {
                let mut change = Change::new();
                change.update(&backup)?;
                backup.metadata.revision = app.commit(change).await?;
            }
            Ok(Changed { object: backup, operation: None })
        })
        .await
}

/// Takes it out of its repository, with what it alone needed there; with `force` without asking the repository.
pub async fn delete(
    app: &App,
    caller: &Caller,
    name: &str,
    query: &DeleteBackupQuery,
) -> Result<Changed<Backup>, Problem> {
    let write = WriteQuery { dry_run: query.dry_run, revision: query.revision };
    let phases = [BackupPhase::Ready, BackupPhase::Damaged, BackupPhase::Deleting];
    let action = Action::BackupDelete { force: query.force };
    launch(app, caller, name, &phases, "delete", action, &write).await
}

/// Has all of it read.
pub async fn verify(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<Changed<Backup>, Problem> {
    let phases = [BackupPhase::Ready, BackupPhase::Damaged];
    launch(app, caller, name, &phases, "verify", Action::BackupVerify, query).await
}

async fn launch(
    app: &App,
    caller: &Caller,
    name: &str,
    phases: &[BackupPhase],
    verb: &str,
    action: Action,
    query: &WriteQuery,
) -> Result<Changed<Backup>, Problem> {
    caller.may_change()?;
    app.objects
        .racing(|| async {
            let mut backup: Backup = app.objects.get(name).await?;
            check_precondition(&backup, &backup.metadata, query)?;
            expect_phase(&backup, phases, verb)?;
            let mut operation = new_operation(app, caller, action.clone(), &backup, None)?;
            if let Action::BackupDelete { .. } = &action {
                backup.status.phase = BackupPhase::Deleting;
                backup.status.reason = None;
            }
            backup.status.operation = Some(operation.metadata.name.clone());
            let mut change = Change::new();
            change.update(&backup)?.create(&operation)?;
            if !query.dry_run {
                let revision = app.commit(change).await?;
                (backup.metadata.revision, operation.metadata.revision) = (revision, revision);
            }
            Ok(Changed { object: backup, operation: Some(operation) })
        })
        .await
}

fn expect_phase(backup: &Backup, phases: &[BackupPhase], verb: &str) -> Result<(), Problem> {
    let name = backup.name();
    if let Some(operation) = &backup.status.operation {
        let detail = format!("backup '{name}' is busy: operation '{operation}' is at work on it");
        return Err(Problem::conflict("backup-busy", detail)
            .object(backup.reference())
            .remedy(format!("wait for it: gantry operation wait {operation}")));
    }
    if phases.contains(&backup.status.phase) {
        return Ok(());
    }
    let detail = format!("can't {verb} backup '{name}': it is {}", backup.status.phase);
    let remedy = match backup.status.phase {
        BackupPhase::Damaged => {
            format!("see what is lost: gantry backup show {}; use another: gantry backup list", backup.typed())
        }
        _ => format!("see its state: gantry backup show {}", backup.typed()),
    };
    Err(Problem::conflict("wrong-phase", detail).object(backup.reference()).remedy(remedy))
}

/// Makes a VM whose disk has the backup's content: under its old name with its old addresses, or under another with new ones.
pub async fn restore(
    app: &App,
    caller: &Caller,
    name: &str,
    request: &RestoreBackupRequest,
    query: &WriteQuery,
) -> Result<Changed<Vm>, Problem> {
    caller.may_change()?;
    let backup: Backup = app.objects.get(name).await?;
    check_precondition(&backup, &backup.metadata, query)?;
    expect_phase(&backup, &[BackupPhase::Ready], "restore")?;
    let called = request.name.as_ref().unwrap_or(&backup.spec.vm);
    let spec = restored_spec(app, &backup, request)?;
    spec.validate()?;
    // What it takes of pools and networks others may be asking for at this moment.
    let _alone = app.references.write().await;
    if let Some(existing) = app.objects.find::<Vm>(called.as_str()).await? {
        return Err(already_exists(&existing).remedy(format!(
            "restore it under another name: gantry backup restore {} --as NAME; or delete VM '{called}' first",
            backup.spec.vm
        )));
    }
    let mut vm = Vm::new(called.clone(), spec);
    app.stamp(&mut vm.metadata);
    check_references(app, &vm)?;
    let former = FormerState { phase: VmPhase::Pending, ..FormerState::of(&vm) };
    vm.status = VmStatus { phase: VmPhase::Starting, ..VmStatus::default() };
    let action = Action::BackupRestore {
        backup: backup.metadata.name.clone(),
        host: host_for(app, &backup, request)?,
        start: request.start,
    };
    let mut operation = new_operation(app, caller, action, &vm, Some(&former))?;
    vm.status.operation = Some(operation.metadata.name.clone());
    let message = format!("{} restores VM '{}' from backup '{name}'", caller.name, vm.name());
    let mut change = Change::new();
    change.create(&vm)?.create(&operation)?.require(&backup);
    change.event(&app.event(vm.reference(), Severity::Normal, "VmCreated", message))?;
    if !query.dry_run {
        let revision = app.commit(change).await?;
        (vm.metadata.revision, operation.metadata.revision) = (revision, revision);
    }
    Ok(Changed { object: app.model.decorate(&vm), operation: Some(operation) })
}

fn restored_spec(app: &App, backup: &Backup, request: &RestoreBackupRequest) -> Result<VmSpec, Problem> {
    let (machine, disk) = (&backup.status.machine, backup.status.disks.first());
    let (Some(mut spec), Some(disk)) = (machine.clone(), disk) else {
        let detail = format!("what VM backup '{}' is of is not known", backup.name());
        return Err(Problem::permanent("unreadable-object", detail).object(backup.reference()));
    };
    // All of its content is in the backup, and its size.
    (spec.image, spec.disk) = (None, Some(disk.size));
    spec.host = spec.host.filter(|host| request.host.is_none() && app.model.get::<Host>(host.as_str()).is_some());
    spec.power = if request.start { PowerState::Running } else { PowerState::Stopped };
    if request.name.as_ref().is_some_and(|name| *name != backup.spec.vm) {
        for nic in &mut spec.nics {
            (nic.address, nic.mac, nic.port) = (None, None, None);
        }
        (spec.snapshots, spec.backups) = (SnapshotSchedule::default(), None);
    }
    Ok(spec)
}

/// Where it is restored: the host that made the backup surely reaches its repository.
fn host_for(app: &App, backup: &Backup, request: &RestoreBackupRequest) -> Result<Option<gantry_types::Name>, Problem> {
    if let Some(host) = &request.host {
        app.model.get::<Host>(host.as_str()).ok_or_else(|| Problem::not_found(Host::KIND, host.as_str()))?;
        return Ok(Some(host.clone()));
    }
    let maker = backup.status.host.as_ref().and_then(|host| app.model.get::<Host>(host.as_str()));
    Ok(maker.filter(|host| host.is_in_service()).map(|host| host.metadata.name.clone()))
}

/// What a path in the backup's file systems leads to. It is a guest's secret as much as its disk is.
pub async fn files(app: &App, caller: &Caller, name: &str, query: &BackupFilesQuery) -> Result<BackupContent, Problem> {
    caller.may_change()?;
    let backup: Backup = app.objects.get(name).await?;
    if backup.status.phase == BackupPhase::Creating {
        expect_phase(&backup, &[BackupPhase::Ready, BackupPhase::Damaged], "look into")?;
    }
    let agent = app.links.agent(&*reaching_host(app, &backup)?);
    let request = ReadBackup {
        place: place_of(app, &backup).await?,
        path: query.path.clone(),
        offset_bytes: query.offset.unwrap_or(0),
    };
    agent.read_backup(&request).await
}
