//! Backups that a repository has and this datacenter does not know: of a controller that was lost, or of another datacenter.

use gantry_api::{
    backup::{ListBackups, StoredBackup},
    rest::{AdoptBackupsQuery, AdoptedBackups},
};
use gantry_types::{
    Backup, BackupDisk, BackupPhase, BackupSpec, BackupStatus, Host, Name, Problem, Repository, Resource, Timestamp,
};
use uuid::Uuid;

use super::{App, Caller, repository};
use crate::objects::Change;

/// Takes a page of them in, as they say of themselves. One that is known already stays as it is. None belongs to a schedule: who
/// else may be using the repository is not known, so none is ever deleted by itself.
pub async fn adopt(
    app: &App,
    caller: &Caller,
    name: &str,
    query: &AdoptBackupsQuery,
) -> Result<AdoptedBackups, Problem> {
    caller.may_change()?;
    // It is not forgotten meanwhile.
    let _referring = app.references.read().await;
    let found: Repository = app.objects.get(name).await?;
    let host = repository::host_for(app, &found, query.host.as_deref())?;
    let request = ListBackups { repository: repository::opening(&found), after: query.after };
    let told = app.links.agent(&host).list_backups(&request).await;
    let told = told.map_err(|problem| repository::at_host(&found, &host, problem))?;
    let mut answer = AdoptedBackups { adopted: Vec::new(), known: 0, unreadable: told.unreadable, next: told.next };
    for stored in &told.backups {
        match take_in(app, &found, &host, stored).await? {
            Some(backup) => answer.adopted.push(backup.metadata.name),
            None => answer.known += 1,
        }
    }
    Ok(answer)
}

/// `None` if it is known.
async fn take_in(
    app: &App,
    repository: &Repository,
    host: &Host,
    stored: &StoredBackup,
) -> Result<Option<Backup>, Problem> {
    app.objects
        .racing(|| async {
            let known = app.model.list::<Backup>();
            if known.iter().any(|backup| backup.metadata.uuid == stored.backup) {
                return Ok(None);
            }
            let is_free = |name: &Name| known.iter().all(|backup| backup.metadata.name != *name);
            let name = names(stored).into_iter().find(is_free).ok_or_else(|| {
                let detail = format!("backup {} of VM '{}' can't be given a name", stored.backup, stored.name);
                Problem::conflict("already-exists", detail).remedy("delete one of its VM's other backups first")
            })?;
            let spec = BackupSpec {
                vm: stored.name.clone(),
                repository: repository.name().to_owned(),
                quiesce: stored.taken.frozen_ms.is_some(),
                description: stored.label.as_ref().and_then(|label| label.description.clone()),
                scheduled: false,
            };
            let mut backup = Backup::new(name, spec);
            app.stamp(&mut backup.metadata);
            backup.metadata.uuid = stored.backup;
            let disks = stored.taken.disks.iter();
            backup.status = BackupStatus {
                phase: BackupPhase::Ready,
                host: Some(host.metadata.name.clone()),
                taken_at: Some(taken_at(stored)),
                machine: Some(stored.spec.clone()),
                disks: disks.map(|disk| BackupDisk { name: disk.name.clone(), size: disk.size }).collect(),
                read: Some(stored.taken.read),
                written: Some(stored.taken.written),
                frozen_ms: stored.taken.frozen_ms,
                ..BackupStatus::default()
            };
            let mut change = Change::new();
            change.create(&backup)?;
            app.commit(change).await?;
            Ok(Some(backup))
        })
        .await
}

/// What it may be called, best first: as it was, or told apart from others that are called so.
fn names(stored: &StoredBackup) -> Vec<Name> {
    let id = stored.backup.simple().to_string();
    let moment = || {
        let digits = taken_at(stored).to_string().chars().filter(char::is_ascii_digit).take(14).collect::<String>();
        format!("{}-{}", &digits[..8], &digits[8..])
    };
    let own = stored.label.as_ref().map_or_else(moment, |label| label.name.clone());
    let tries = [own.clone(), format!("{own}-{}", &id[id.len() - 4..]), id[id.len() - 8..].to_owned(), id];
    tries.iter().filter_map(|short| Backup::name_of(stored.name.as_str(), short)).collect()
}

/// One that does not say it has the moment in its id (RFC 9562, version 7).
fn taken_at(stored: &StoredBackup) -> Timestamp {
    stored.label.as_ref().map_or_else(|| began(stored.backup), |label| label.taken_at)
}

fn began(id: Uuid) -> Timestamp {
    let ms = id.get_timestamp().map_or(0, |at| {
        let (seconds, nanoseconds) = at.to_unix();
        seconds * 1000 + u64::from(nanoseconds) / 1_000_000
    });
    Timestamp::from_unix_ms(i64::try_from(ms).unwrap_or(0))
}
