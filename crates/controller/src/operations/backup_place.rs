//! What operations on backups share: which backup, and which host does it.

use std::sync::Arc;
use std::time::Duration;

use gantry_api::{
    AgentApi,
    backup::{BackupPlace, Work},
};
use gantry_types::{Action, Backup, Host, Name, ObjectRef, Problem, Progress, Resource};

use super::step::{CANCELLED, StepContext};
use crate::app::{App, repository};

const POLL: Duration = Duration::from_millis(300);

/// The backup that an operation on a VM is about.
pub(super) async fn subject(context: &StepContext) -> Result<Backup, Problem> {
    match &context.operation.spec.action {
        Action::BackupCreate { backup } | Action::BackupRestore { backup, .. } => {
            context.app.objects.get(backup.as_str()).await
        }
        other => Err(Problem::permanent("unreadable-object", format!("{} is about no backup", other.verb()))),
    }
}

/// The backup that an operation on a backup is about.
pub(super) async fn target(context: &StepContext) -> Result<Backup, Problem> {
    let target = &context.operation.spec.target;
    match context.app.objects.find::<Backup>(target.name.as_str()).await? {
        Some(backup) if backup.metadata.uuid == target.uuid => Ok(backup),
        _ => Err(Problem::not_found(Backup::KIND, target.name.as_str())),
    }
}

pub(crate) async fn place_of(app: &App, backup: &Backup) -> Result<BackupPlace, Problem> {
    let repository = repository::access(app, &backup.spec.repository).await?;
    Ok(BackupPlace { repository, backup: backup.metadata.uuid })
}

/// A host that is asked about a backup: the one that made it, because that reaches the repository; while it is out of
/// service, any other, which may.
///
/// # Errors
/// `no-host`, transient.
pub(crate) fn reaching_host(app: &App, backup: &Backup) -> Result<Arc<Host>, Problem> {
    let maker = backup.status.host.as_ref().and_then(|host| app.model.get::<Host>(host.as_str()));
    if let Some(maker) = maker.filter(|host| host.is_in_service()) {
        return Ok(maker);
    }
    any_host(app, backup.reference(), &format!("reach the repository of backup '{}'", backup.name()))
}

/// One that is in service, to do something about an object.
///
/// # Errors
/// `no-host`, transient.
pub(crate) fn any_host(app: &App, about: ObjectRef, to: &str) -> Result<Arc<Host>, Problem> {
    let found = app.model.read(|tables| tables.hosts.values().find(|host| host.is_in_service()).cloned());
    found.ok_or_else(|| {
        let detail = format!("no host is in service that could {to}");
        Problem::transient("no-host", detail).object(about).remedy("see: gantry host list")
    })
}

pub(super) fn at_repository(context: &StepContext, backup: &Backup) -> Result<(Name, Arc<dyn AgentApi>), Problem> {
    let host = reaching_host(&context.app, backup)?;
    Ok((host.metadata.name.clone(), context.app.links.agent(&host)))
}

/// The outcome, once it is done; otherwise shows how far it is, and waits a little before it is asked again.
///
/// # Errors
/// `cancelled`, and transient ones of the store.
pub(super) async fn follow<T>(context: &mut StepContext, message: &str, work: Work<T>) -> Result<Option<T>, Problem> {
    let (bytes_done, bytes_total) = match work {
        Work::Done(done) => return Ok(Some(done)),
        Work::Working { done_bytes, total_bytes } => (done_bytes, total_bytes),
    };
    if context.cancel_requested() {
        return Err(Problem::conflict(CANCELLED, "it was cancelled"));
    }
    let message = message.to_owned();
    context.progress(Progress { message, bytes_done, bytes_total, ..Progress::default() }).await?;
    context.sleep(POLL).await;
    Ok(None)
}
