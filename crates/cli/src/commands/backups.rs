//! `gantry backup …`

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gantry_api::{
    backup::BackupContent,
    rest::{BackupFilesQuery, DeleteBackupQuery, RestoreBackupRequest, WriteQuery},
};
use gantry_types::{
    BackedUpVolume, Backup, BackupPhase, BackupSchedule, BackupSpec, Labels, Name, Problem, Resource, Timestamp, Vm,
    Volume, VolumeSpec,
};

use super::{Failures, Session, announce, carry_out, networking::change, objects};
use crate::{
    args::{
        BackupCommand, BackupCreate, BackupRestore, BackupRestoreVolume, BackupScheduleArguments, FollowOptions,
        KeptPeriods,
    },
    client::Client,
    exit::Failure,
    output::now,
};

pub async fn run(session: &Session, command: BackupCommand) -> Result<(), Failure> {
    match command {
        BackupCommand::Create(arguments) => create(session, arguments).await,
        BackupCommand::List { vm, list } => {
            let wanted = |backup: &Backup| vm.as_ref().is_none_or(|vm| backup.spec.vm.as_str() == vm);
            objects::list::<Backup>(session, &list, wanted).await
        }
        BackupCommand::Show { vm, name } => {
            let backup = find(&session.client()?, &vm, name.as_deref()).await?;
            objects::show_all::<Backup>(session, backup.name()).await
        }
        BackupCommand::Schedule(arguments) => schedule(session, arguments).await,
        BackupCommand::Restore(arguments) => restore(session, arguments).await,
        BackupCommand::RestoreVolume(arguments) => restore_volume(session, arguments).await,
        BackupCommand::Verify { vm, name, follow } => verify(session, &vm, name.as_deref(), follow).await,
        BackupCommand::Files { vm, path, backup } => files(session, &vm, &path, backup.as_deref()).await,
        BackupCommand::Delete { vm, names, force, follow } => delete(session, &vm, &names, force, follow).await,
    }
}

/// What the backup's object is called.
fn object_name(vm: &str, backup: &str) -> Result<Name, Problem> {
    Backup::name_of(vm, backup).ok_or_else(|| {
        let shown: String = backup.chars().filter(|c| !c.is_control()).take(64).collect();
        Problem::invalid("invalid-name", format!("'{shown}' can't be the name of a backup of VM '{vm}'"))
            .remedy("use a-z, 0-9 and '-'; together with the VM's name at most 62 of them")
    })
}

/// `20270131-021500`
fn name_of_moment(moment: Timestamp) -> String {
    let digits: String = moment.to_string().chars().take(19).filter(char::is_ascii_digit).collect();
    let (day, time) = digits.split_at(digits.len().min(8));
    format!("{day}-{time}")
}

/// The backup of this name, or the newest that can be used.
async fn find(client: &Client, vm: &str, name: Option<&str>) -> Result<Backup, Problem> {
    if let Some(name) = name {
        return client.get::<Backup>(object_name(vm, name)?.as_str()).await;
    }
    let backups: Vec<Backup> = client.list(None).await?;
    let usable = |backup: &Backup| {
        backup.spec.vm.as_str() == vm && matches!(backup.status.phase, BackupPhase::Ready | BackupPhase::Damaged)
    };
    // A whole one before a newer one that is damaged.
    let rank = |backup: &Backup| (backup.status.phase == BackupPhase::Ready, backup.status.taken_at);
    backups.into_iter().filter(usable).max_by_key(rank).ok_or_else(|| {
        let remedy = format!("make one: gantry backup create {vm} --to DIRECTORY");
        Problem { detail: format!("there is no backup of VM '{vm}'"), ..Problem::not_found(Backup::KIND, vm) }
            .remedy(remedy)
    })
}

async fn create(session: &Session, arguments: BackupCreate) -> Result<(), Failure> {
    let client = session.client()?;
    let own = arguments.name.unwrap_or_else(|| name_of_moment(now()));
    let name = object_name(&arguments.vm, &own)?;
    // So that a VM that does not exist is told of as for every other command.
    let vm = client.get::<Vm>(&arguments.vm).await?.metadata.name;
    let spec = BackupSpec {
        vm,
        repository: arguments.to,
        quiesce: !arguments.no_quiesce,
        description: arguments.description,
        scheduled: false,
    };
    let mut backup = Backup::new(name, spec);
    backup.metadata.labels = Labels(arguments.labels.into_iter().collect::<BTreeMap<_, _>>());
    let write = WriteQuery { dry_run: arguments.dry_run, revision: None };
    let changed = client.create(&backup, &write).await?;
    if arguments.dry_run {
        return Ok(announce(session.printer, &changed.object, "created (dry run)")?);
    }
    carry_out(&client, &changed, arguments.follow).await?;
    let latest = client.get::<Backup>(backup.name()).await.unwrap_or(changed.object);
    let done = if arguments.follow.no_wait { "is being made" } else { "created" };
    Ok(announce(session.printer, &latest, done)?)
}

async fn schedule(session: &Session, arguments: BackupScheduleArguments) -> Result<(), Failure> {
    let BackupScheduleArguments { vm, to, kept, no_quiesce, none: _ } = arguments;
    let KeptPeriods { hourly, daily, weekly, monthly } = kept;
    let wanted =
        to.map(|repository| BackupSchedule { repository, hourly, daily, weekly, monthly, quiesce: !no_quiesce });
    let (vm, changed) = change::<Vm>(&session.client()?, &vm, |vm| {
        vm.spec.backups.clone_from(&wanted);
        Ok(())
    })
    .await?;
    Ok(announce(session.printer, &vm, if changed { "changed" } else { "unchanged" })?)
}

async fn restore(session: &Session, arguments: BackupRestore) -> Result<(), Failure> {
    let client = session.client()?;
    let backup = find(&client, &arguments.vm, arguments.name.as_deref()).await?;
    let request = RestoreBackupRequest { name: arguments.new_name, host: arguments.host, start: !arguments.no_start };
    let changed = client.restore_backup(backup.name(), &request).await?;
    carry_out(&client, &changed, arguments.follow).await?;
    let latest = client.get::<Vm>(changed.object.name()).await.unwrap_or(changed.object);
    let done = if arguments.follow.no_wait { "is being restored" } else { "restored" };
    Ok(announce(session.printer, &latest, done)?)
}

/// As large as it was; limits and caching are its new owner's to choose.
async fn restore_volume(session: &Session, arguments: BackupRestoreVolume) -> Result<(), Failure> {
    let client = session.client()?;
    let backup = find(&client, &arguments.vm, arguments.name.as_deref()).await?;
    let disk = arguments.disk;
    let found = backup.status.disks.iter().find(|one| one.name == disk);
    let found = found.ok_or_else(|| {
        let names: Vec<_> = backup.status.disks.iter().map(|one| one.name.as_str()).collect();
        Problem::invalid("disk-missing", format!("'{disk}' is not in backup '{}'", backup.name()))
            .remedy(format!("it has: {}", names.join(", ")))
    })?;
    let name = match arguments.new_name {
        Some(name) => name,
        None => disk.parse().map_err(|error| {
            Problem::invalid("invalid-name", format!("'{disk}' can't be a volume's name: {error}"))
                .remedy("name it: --as NAME")
        })?,
    };
    let spec = VolumeSpec {
        pool: arguments.pool,
        size: found.size,
        clone_of: None,
        image: None,
        backup: Some(BackedUpVolume { name: backup.metadata.name.clone(), disk }),
        limits: Default::default(),
        cache: Default::default(),
        discard: true,
    };
    let changed = client.create(&Volume::new(name, spec), &WriteQuery::default()).await?;
    carry_out(&client, &changed, arguments.follow).await?;
    let done = if arguments.follow.no_wait { "is being restored" } else { "restored" };
    Ok(announce(session.printer, &changed.object, done)?)
}

async fn verify(session: &Session, vm: &str, name: Option<&str>, follow: FollowOptions) -> Result<(), Failure> {
    let client = session.client()?;
    let backup = find(&client, vm, name).await?;
    let changed = client.verify_backup(backup.name()).await?;
    carry_out(&client, &changed, follow).await?;
    if follow.no_wait {
        return Ok(announce(session.printer, &changed.object, "is being verified")?);
    }
    let latest = client.get::<Backup>(backup.name()).await?;
    let Some(reason) = &latest.status.reason else { return Ok(announce(session.printer, &latest, "verified")?) };
    let detail = format!("backup '{}' is damaged: {reason}", latest.name());
    let remedy =
        format!("see all that is lost: gantry backup show {}; use another: gantry backup list", latest.typed());
    Err(Problem::permanent("backup-damaged", detail).remedy(remedy).into())
}

/// A file as it is, a directory name by name.
async fn files(session: &Session, vm: &str, path: &str, name: Option<&str>) -> Result<(), Failure> {
    let client = session.client()?;
    let backup = find(&client, vm, name).await?;
    let mut offset = 0;
    loop {
        let query = BackupFilesQuery { path: path.to_owned(), offset: Some(offset) };
        match client.backup_files(backup.name(), &query).await? {
            BackupContent::Directory { entries } => {
                // Names are the guest's: nothing of them reaches the terminal that is no text.
                let shown = |c: char| if c.is_control() { '?' } else { c };
                let lines = entries.iter().map(|entry| entry.chars().map(shown).chain(['\n']).collect::<String>());
                return Ok(write_out(lines.collect::<String>().as_bytes())?);
            }
            BackupContent::File { size_bytes, part } => {
                let part = STANDARD.decode(part).map_err(|error| {
                    Problem::permanent("unreadable-answer", format!("a part of '{path}' is no Base64: {error}"))
                })?;
                offset += part.len() as u64;
                write_out(&part)?;
                if offset >= size_bytes || part.is_empty() {
                    return Ok(());
                }
            }
        }
    }
}

fn write_out(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).context("cannot write to the standard output")
}

async fn delete(
    session: &Session,
    vm: &str,
    names: &[String],
    force: bool,
    follow: FollowOptions,
) -> Result<(), Failure> {
    let client = session.client()?;
    let mut failures = Failures::default();
    for name in names {
        match delete_one(session, &client, vm, name, force, follow).await {
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
    force: bool,
    follow: FollowOptions,
) -> Result<(), Failure> {
    let query = DeleteBackupQuery { force, ..DeleteBackupQuery::default() };
    let changed = client.delete_backup(object_name(vm, name)?.as_str(), &query).await?;
    carry_out(client, &changed, follow).await?;
    let done = if follow.no_wait { "is being deleted" } else { "deleted" };
    Ok(announce(session.printer, &changed.object, done)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_named_after_its_moment() {
        let moment = Timestamp::from_unix_ms(1_801_362_600_000);
        let name = name_of_moment(moment);
        assert_eq!((name.len(), name.find('-')), (15, Some(8)));
        assert!(object_name("web", &name).is_ok(), "{name}");
    }
}
