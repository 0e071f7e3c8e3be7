//! `gantry snapshot …`

use std::collections::BTreeMap;

use gantry_api::rest::{RevertRequest, WriteQuery};
use gantry_types::{Labels, Name, Problem, Snapshot, SnapshotSchedule, SnapshotSpec, Vm};

use super::{Failures, Session, announce, carry_out, networking::change, objects};
use crate::{
    args::{FollowOptions, KeptPeriods, SnapshotCommand, SnapshotCreate, SnapshotScheduleArguments},
    client::Client,
    exit::Failure,
    output::{now, print, snapshot_tree},
};

pub async fn run(session: &Session, command: SnapshotCommand) -> Result<(), Failure> {
    match command {
        SnapshotCommand::Create(arguments) => create(session, arguments).await,
        SnapshotCommand::List { vm: Some(vm), list } if !list.watch && !session.printer.is_structured() => {
            tree(session, &vm, list.selector.as_deref()).await
        }
        SnapshotCommand::List { vm, list } => {
            let wanted = |snapshot: &Snapshot| vm.as_ref().is_none_or(|vm| snapshot.spec.vm.as_str() == vm);
            objects::list::<Snapshot>(session, &list, wanted).await
        }
        SnapshotCommand::Show { vm, name } => {
            objects::show_all::<Snapshot>(session, object_name(&vm, &name)?.as_str()).await
        }
        SnapshotCommand::Revert { vm, name, disk_only, follow } => {
            let client = session.client()?;
            let changed = client.revert(object_name(&vm, &name)?.as_str(), &RevertRequest { disk_only }).await?;
            carry_out(&client, &changed, follow).await?;
            let done = if follow.no_wait { "is being gone back to" } else { "restored" };
            Ok(announce(session.printer, &changed.object, done)?)
        }
        SnapshotCommand::Schedule(arguments) => schedule(session, arguments).await,
        SnapshotCommand::Delete { vm, names, follow } => delete(session, &vm, &names, follow).await,
    }
}

async fn schedule(session: &Session, arguments: SnapshotScheduleArguments) -> Result<(), Failure> {
    let SnapshotScheduleArguments { vm, kept, quiesce, none: _ } = arguments;
    let KeptPeriods { hourly, daily, weekly, monthly } = kept;
    let wanted = SnapshotSchedule { hourly, daily, weekly, monthly, quiesce };
    let (vm, changed) = change::<Vm>(&session.client()?, &vm, |vm| {
        vm.spec.snapshots = wanted;
        Ok(())
    })
    .await?;
    Ok(announce(session.printer, &vm, if changed { "changed" } else { "unchanged" })?)
}

/// What the snapshot's object is called.
pub(super) fn object_name(vm: &str, snapshot: &str) -> Result<Name, Problem> {
    Snapshot::name_of(vm, snapshot).ok_or_else(|| {
        let shown: String = snapshot.chars().filter(|c| !c.is_control()).take(64).collect();
        Problem::invalid("invalid-name", format!("'{shown}' can't be the name of a snapshot of VM '{vm}'"))
            .remedy("use a-z, 0-9 and '-'; together with the VM's name at most 62 of them")
    })
}

async fn create(session: &Session, arguments: SnapshotCreate) -> Result<(), Failure> {
    let client = session.client()?;
    let name = object_name(&arguments.vm, &arguments.name)?;
    // So that a VM that does not exist is told of as for every other command.
    let vm = client.get::<Vm>(&arguments.vm).await?.metadata.name;
    let spec = SnapshotSpec {
        vm,
        memory: arguments.memory,
        quiesce: arguments.quiesce,
        description: arguments.description,
        scheduled: false,
    };
    let mut snapshot = Snapshot::new(name, spec);
    snapshot.metadata.labels = Labels(arguments.labels.into_iter().collect::<BTreeMap<_, _>>());
    let write = WriteQuery { dry_run: arguments.dry_run, revision: None };
    let changed = client.create(&snapshot, &write).await?;
    if arguments.dry_run {
        return Ok(announce(session.printer, &changed.object, "created (dry run)")?);
    }
    carry_out(&client, &changed, arguments.follow).await?;
    let latest = client.get::<Snapshot>(snapshot.metadata.name.as_str()).await.unwrap_or(changed.object);
    let done = if arguments.follow.no_wait { "is being taken" } else { "created" };
    Ok(announce(session.printer, &latest, done)?)
}

/// One after the other, because a VM has one operation at a time.
async fn delete(session: &Session, vm: &str, names: &[String], follow: FollowOptions) -> Result<(), Failure> {
    let client = session.client()?;
    let mut failures = Failures::default();
    for name in names {
        match delete_one(session, &client, vm, name, follow).await {
            Ok(()) => {}
            Err(interrupted @ Failure::Interrupted(_)) => return Err(interrupted),
            Err(failure) => failures.add(failure),
        }
    }
    failures.result()
}

async fn delete_one(
    session: &Session,
    client: &Client,
    vm: &str,
    name: &str,
    follow: FollowOptions,
) -> Result<(), Failure> {
    let changed = client.delete::<Snapshot>(object_name(vm, name)?.as_str(), &WriteQuery::default()).await?;
    carry_out(client, &changed, follow).await?;
    let done = if follow.no_wait { "is being deleted" } else { "deleted" };
    Ok(announce(session.printer, &changed.object, done)?)
}

async fn tree(session: &Session, vm: &str, selector: Option<&str>) -> Result<(), Failure> {
    let client = session.client()?;
    let here = client.get::<Vm>(vm).await?.status.snapshot;
    let mut snapshots: Vec<Snapshot> = client.list(selector).await?;
    snapshots.retain(|snapshot| snapshot.spec.vm.as_str() == vm);
    Ok(print(&snapshot_tree(&snapshots, here.as_ref(), now()))?)
}
