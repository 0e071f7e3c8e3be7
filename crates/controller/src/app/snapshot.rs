//! Snapshots: take, describe, delete, go back to.
//!
//! Each of these is an operation on the VM, so a VM has one at a time; the snapshot's object is written in the
//! transaction that begins it.

use gantry_api::rest::{Changed, RevertRequest, WriteQuery};
use gantry_types::{Action, Name, Operation, Problem, Resource, Snapshot, SnapshotPhase, Vm, VmPhase, Volume};

use super::{
    App, Caller, already_exists, check_labels, check_name, check_precondition,
    vm::{engage, expect_idle, expect_phase},
    volume,
};
use crate::{model::Tables, objects::Change, operations::machine_of};

/// Each costs a copy of the disk's top table, and people lose track before that.
pub const MAX_SNAPSHOTS_PER_VM: usize = 64;

/// Phases in which a VM has a disk that nobody else works on.
const AT_REST: [VmPhase; 4] = [VmPhase::Running, VmPhase::Paused, VmPhase::Stopped, VmPhase::Failed];

pub async fn create(
    app: &App,
    caller: &Caller,
    sent: Snapshot,
    query: &WriteQuery,
) -> Result<Changed<Snapshot>, Problem> {
    caller.may_change()?;
    check_labels(&sent.metadata)?;
    sent.validate()?;
    app.objects
        .racing(|| async {
            if let Some(existing) = app.objects.find::<Snapshot>(sent.name()).await? {
                return Err(exists(&existing));
            }
            let current: Vm = app.objects.find(sent.spec.vm.as_str()).await?.ok_or_else(|| {
                Problem::invalid("invalid-snapshot", "the snapshot is not valid")
                    .field("spec.vm", format!("VM '{}' does not exist; see: gantry vm list", sent.spec.vm))
            })?;
            expect_idle(&current)?;
            check_can_be_taken(app, &current, &sent)?;
            let mut snapshot = Snapshot::new(sent.metadata.name.clone(), sent.spec.clone());
            snapshot.metadata.labels = sent.metadata.labels.clone();
            app.stamp(&mut snapshot.metadata);
            let action = Action::SnapshotCreate { snapshot: snapshot.metadata.name.clone() };
            let mut change = Change::new();
            change.create(&snapshot)?;
            begin(app, caller, change, snapshot, &current, action, query).await
        })
        .await
}

fn exists(snapshot: &Snapshot) -> Problem {
    let (vm, short) = (&snapshot.spec.vm, snapshot.short_name());
    already_exists(snapshot)
        .remedy(format!("choose another name, or delete it first: gantry snapshot delete {vm} {short}"))
}

fn check_can_be_taken(app: &App, vm: &Vm, sent: &Snapshot) -> Result<(), Problem> {
    if sent.spec.memory || sent.spec.quiesce {
        let phases: &[_] = if sent.spec.memory { &[VmPhase::Running, VmPhase::Paused] } else { &[VmPhase::Running] };
        expect_phase(vm, phases, "take a snapshot with memory or a quiesced one of", Some("gantry vm start"))?;
    }
    if sent.spec.quiesce && !vm.status.guest_agent {
        let detail = format!("the guest's agent in VM '{}' does not answer, so nobody can quiesce it", vm.name());
        return Err(Problem::conflict("no-guest-agent", detail)
            .object(vm.reference())
            .remedy("install and start qemu-guest-agent in the guest, or take the snapshot without --quiesce"));
    }
    expect_disk(vm, "take a snapshot of")?;
    let count = of_vm(app, vm).len();
    if count >= MAX_SNAPSHOTS_PER_VM {
        let detail = format!("VM '{}' has {count} snapshots, more are not kept", vm.name());
        return Err(Problem::conflict("snapshot-limit", detail).object(vm.reference()).remedy(format!(
            "delete some first: gantry snapshot list {0}, gantry snapshot delete {0} NAME",
            vm.name()
        )));
    }
    Ok(())
}

/// # Errors
/// `vm-without-disk` if it was never started; `wrong-phase` while something is done to it.
pub(super) fn expect_disk(vm: &Vm, verb: &str) -> Result<(), Problem> {
    expect_phase(vm, &AT_REST, verb, None)?;
    if vm.status.host.is_some() {
        return Ok(());
    }
    Err(Problem::conflict("vm-without-disk", format!("VM '{}' has never been started, so it has no disk", vm.name()))
        .object(vm.reference())
        .remedy(format!("start it first: gantry vm start {}", vm.name())))
}

/// The snapshots of a VM.
pub(crate) fn of_vm(app: &App, vm: &Vm) -> Vec<std::sync::Arc<Snapshot>> {
    app.model.read(|tables| {
        let its = |snapshot: &&std::sync::Arc<Snapshot>| snapshot.spec.vm == vm.metadata.name;
        tables.snapshots.values().filter(its).cloned().collect()
    })
}

/// A VM's snapshots are inside its disk on its host and do not move with it.
///
/// # Errors
/// `vm-has-snapshots`.
pub(crate) fn expect_none(app: &App, vm: &Vm) -> Result<(), Problem> {
    let snapshots = of_vm(app, vm);
    if snapshots.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = snapshots.iter().map(|snapshot| snapshot.short_name()).collect();
    let detail = format!("VM '{}' can't move while it has snapshots: {}", vm.name(), names.join(", "));
    Err(Problem::conflict("vm-has-snapshots", detail).object(vm.reference()).remedy(format!(
        "delete them first: gantry snapshot delete {} {}",
        vm.name(),
        names.join(" ")
    )))
}

/// Whether one of its snapshots is of its memory, too.
pub(crate) fn has_memory_state(app: &App, vm: &Vm) -> bool {
    of_vm(app, vm).iter().any(|snapshot| snapshot.spec.memory)
}

/// Creates it or changes its labels and description; the rest is what it is.
pub async fn put(
    app: &App,
    caller: &Caller,
    name: &str,
    sent: Snapshot,
    query: &WriteQuery,
) -> Result<Changed<Snapshot>, Problem> {
    caller.may_change()?;
    check_name(name, &sent)?;
    check_labels(&sent.metadata)?;
    sent.validate()?;
    let found = app.objects.find::<Snapshot>(name).await?;
    if found.is_none() && query.revision.is_none() && sent.metadata.revision == 0 {
        return create(app, caller, sent, query).await;
    }
    app.objects
        .racing(|| async {
            let current: Snapshot = app.objects.get(name).await?;
            check_precondition(&current, &sent.metadata, query)?;
            let mut snapshot = current.clone();
            snapshot.metadata.labels = sent.metadata.labels.clone();
            snapshot.spec.description.clone_from(&sent.spec.description);
            if snapshot.spec != sent.spec {
                return Err(Problem::invalid("unchangeable", format!("snapshot '{name}' can't be changed like this"))
                    .object(current.reference())
                    .field("spec", "is fixed but for its description")
                    .remedy("take another snapshot"));
            }
            if snapshot != current && !query.dry_run {
                let mut change = Change::new();
                change.update(&snapshot)?;
                snapshot.metadata.revision = app.commit(change).await?;
            }
            Ok(Changed { object: snapshot, operation: None })
        })
        .await
}

/// Gives its space back; what grew from it moves to its parent.
pub async fn delete(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<Changed<Snapshot>, Problem> {
    caller.may_change()?;
    app.objects
        .racing(|| async {
            let (mut snapshot, vm) = find(app, name, query).await?;
            expect_disk(&vm, "delete a snapshot of")?;
            snapshot.status.phase = SnapshotPhase::Deleting;
            let action = Action::SnapshotDelete { snapshot: snapshot.metadata.name.clone() };
            let mut change = Change::new();
            change.update(&snapshot)?;
            begin(app, caller, change, snapshot, &vm, action, query).await
        })
        .await
}

/// Makes the VM what it was.
pub async fn revert(
    app: &App,
    caller: &Caller,
    name: &str,
    request: RevertRequest,
    query: &WriteQuery,
) -> Result<Changed<Snapshot>, Problem> {
    caller.may_change()?;
    app.objects
        .racing(|| async {
            let (snapshot, vm) = find(app, name, query).await?;
            if snapshot.status.phase != SnapshotPhase::Ready {
                let detail = format!("snapshot '{name}' is not ready");
                return Err(Problem::conflict("snapshot-not-ready", detail)
                    .object(snapshot.reference())
                    .remedy("see what is wrong with it: gantry get snapshot"));
            }
            expect_disk(&vm, "revert")?;
            let disk_only = request.disk_only || !snapshot.spec.memory;
            if !disk_only {
                expect_same_machine(&vm, &snapshot)?;
                expect_same_volumes(app, &vm, &snapshot)?;
            }
            let action = Action::SnapshotRevert { snapshot: snapshot.metadata.name.clone(), disk_only };
            let mut change = Change::new();
            change.require(&snapshot);
            begin(app, caller, change, snapshot, &vm, action, query).await
        })
        .await
}

fn expect_same_machine(vm: &Vm, snapshot: &Snapshot) -> Result<(), Problem> {
    let Some(machine) = &snapshot.status.machine else { return Ok(()) };
    if *machine == machine_of(vm) {
        return Ok(());
    }
    let detail = format!(
        "VM '{}' has {} processors and {} of memory now, its snapshot '{}' is of a machine with {} and {}",
        vm.name(),
        vm.spec.cpus,
        vm.spec.memory,
        snapshot.short_name(),
        machine.cpus,
        machine.memory
    );
    Err(Problem::conflict("machine-changed", detail).object(vm.reference()).remedy(format!(
        "make the machine what it was, or leave the memory out: gantry snapshot revert {} {} --disk-only",
        vm.name(),
        snapshot.short_name()
    )))
}

/// The guest's memory is of what was on all of them.
fn expect_same_volumes(app: &App, vm: &Vm, snapshot: &Snapshot) -> Result<(), Problem> {
    let has = volume::names_of(app, vm);
    let is_same =
        has.len() == snapshot.status.volumes.len() && has.iter().all(|volume| snapshot.status.volumes.contains(volume));
    if is_same {
        return Ok(());
    }
    let listed = |names: &[Name]| match names {
        [] => "no volumes".to_owned(),
        names => names.iter().map(Name::as_str).collect::<Vec<_>>().join(", "),
    };
    let detail = format!(
        "VM '{}' has {} now, its snapshot '{}' is of {}",
        vm.name(),
        listed(&has),
        snapshot.short_name(),
        listed(&snapshot.status.volumes)
    );
    Err(Problem::conflict("volumes-changed", detail).object(vm.reference()).remedy(format!(
        "give it the volumes that it had, or leave the memory out: gantry snapshot revert {} {} --disk-only",
        vm.name(),
        snapshot.short_name()
    )))
}

/// The volume is part of no snapshot of the VM that has it: what is kept of it is inside it.
///
/// # Errors
/// `volume-in-snapshots`.
pub(crate) fn expect_without(app: &App, volume: &Volume, cannot: &str) -> Result<(), Problem> {
    let holding = app.model.read(|tables| holding(tables, volume));
    let Some(vm) = volume.status.vm.as_ref().filter(|_| !holding.is_empty()) else { return Ok(()) };
    let names = holding.join(" ");
    let detail = format!("volume '{}' can't {cannot}: it is part of snapshots of VM '{vm}': {names}", volume.name());
    Err(Problem::conflict("volume-in-snapshots", detail)
        .object(volume.reference())
        .remedy(format!("delete them first: gantry snapshot delete {vm} {names}")))
}

/// The snapshots that a volume is part of, as people call them beside their VM.
pub(crate) fn holding(tables: &Tables, volume: &Volume) -> Vec<String> {
    let Some(vm) = &volume.status.vm else { return Vec::new() };
    let holds = |snapshot: &&std::sync::Arc<Snapshot>| {
        snapshot.spec.vm == *vm && snapshot.status.volumes.contains(&volume.metadata.name)
    };
    tables.snapshots.values().filter(holds).map(|snapshot| snapshot.short_name().to_owned()).collect()
}

async fn find(app: &App, name: &str, query: &WriteQuery) -> Result<(Snapshot, Vm), Problem> {
    let snapshot: Snapshot = app.objects.get(name).await?;
    check_precondition(&snapshot, &snapshot.metadata, query)?;
    let vm: Vm = app.objects.get(snapshot.spec.vm.as_str()).await?;
    expect_idle(&vm)?;
    Ok((snapshot, vm))
}

async fn begin(
    app: &App,
    caller: &Caller,
    mut change: Change,
    mut snapshot: Snapshot,
    current: &Vm,
    action: Action,
    query: &WriteQuery,
) -> Result<Changed<Snapshot>, Problem> {
    let mut vm = current.clone();
    let mut operation: Operation = engage(app, caller, &mut vm, current, action)?;
    change.update(&vm)?.create(&operation)?;
    if !query.dry_run {
        let written = snapshot.status.phase != SnapshotPhase::Ready;
        let revision = app.commit(change).await?;
        operation.metadata.revision = revision;
        if written {
            snapshot.metadata.revision = revision;
        }
    }
    Ok(Changed { object: snapshot, operation: Some(operation) })
}
