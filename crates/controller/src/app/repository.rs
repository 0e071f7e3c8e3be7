//! Repositories of backups. Their secrets are written and never read again, by anybody but the hosts that open them.

use std::sync::Arc;

use async_trait::async_trait;
use gantry_api::{
    backup::{RepositoryAccess, RepositoryContent},
    rest::RepositoryCheckQuery,
};
use gantry_types::{
    Host, Problem, Repository, RepositoryDirectory, RepositoryPlace, RepositoryReference, RepositorySpec,
    RepositoryStatus, Resource,
};

use super::{
    App, Caller,
    managed::{Managed, Mistake},
};
use crate::{model::Tables, objects::Change, operations::any_host};

/// Of those that are in the way of a deletion.
const USERS_SHOWN: usize = 5;

#[async_trait]
impl Managed for Repository {
    const EVENT: &'static str = "Repository";

    fn mistakes(&self) -> Vec<Mistake> {
        self.spec.mistakes()
    }

    fn wrong_references(&self, _tables: &Tables) -> Vec<Mistake> {
        match &self.spec.place {
            RepositoryPlace::S3(bucket) if bucket.secret_access_key.is_none() => {
                vec![("spec.place.s3.secret_access_key".to_owned(), "is missing".to_owned())]
            }
            _ => Vec::new(),
        }
    }

    fn wrong_changes(&self, current: &Self) -> Vec<Mistake> {
        let mut wrong = Vec::new();
        if self.spec.place.without_keys() != current.spec.place.without_keys() {
            let told = format!("is fixed: {}; make another repository", current.spec.place);
            wrong.push(("spec.place".to_owned(), told));
        }
        if self.spec.passphrase.is_some() && current.spec.passphrase.is_none() {
            let told = "a repository is encrypted from its beginning, or never; make another one".to_owned();
            wrong.push(("spec.passphrase".to_owned(), told));
        }
        wrong
    }

    fn users(&self, tables: &Tables) -> Vec<String> {
        let own = self.name();
        let backups = tables.backups.values().filter(|backup| backup.spec.repository == own);
        let vms = tables.vms.values().filter(|vm| vm.spec.backups.as_ref().is_some_and(|kept| kept.repository == own));
        let backups = backups.map(|backup| format!("backup '{}'", backup.name()));
        let mut users: Vec<_> = backups.chain(vms.map(|vm| format!("the schedule of VM '{}'", vm.name()))).collect();
        let more = users.len().saturating_sub(USERS_SHOWN);
        if more > 0 {
            users.truncate(USERS_SHOWN);
            users.push(format!("{more} more"));
        }
        users
    }

    async fn settle(&mut self, _app: &App, _current: Option<&Self>, _change: &mut Change) -> Result<(), Problem> {
        self.status = RepositoryStatus { encrypted: self.spec.passphrase.is_some() };
        Ok(())
    }

    /// Secrets that are left out stay.
    fn with_status_of(mut self, current: &Self) -> Self {
        if self.spec.passphrase.is_none() {
            self.spec.passphrase.clone_from(&current.spec.passphrase);
        }
        if let (RepositoryPlace::S3(sent), RepositoryPlace::S3(known)) = (&mut self.spec.place, &current.spec.place)
            && sent.secret_access_key.is_none()
            && sent.endpoint == known.endpoint
        {
            sent.secret_access_key.clone_from(&known.secret_access_key);
        }
        self.status.clone_from(&current.status);
        self
    }
}

/// What is wrong with where backups are to be kept.
pub(super) fn reference_mistake(tables: &Tables, repository: &str) -> Option<String> {
    match repository.parse() {
        Ok(RepositoryReference::Directory(_)) => None,
        Ok(RepositoryReference::Named(name)) if tables.repositories.contains_key(name.as_str()) => None,
        Ok(RepositoryReference::Named(name)) => Some(format!(
            "repository '{name}' does not exist; see: gantry repository list; a directory begins with '/'"
        )),
        Err(message) => Some(message),
    }
}

/// What a host needs to open it.
pub(super) fn opening(repository: &Repository) -> RepositoryAccess {
    let RepositorySpec { place, passphrase } = repository.spec.clone();
    RepositoryAccess { place, passphrase }
}

/// What a host needs for the repository that a backup names.
pub(crate) async fn access(app: &App, repository: &str) -> Result<RepositoryAccess, Problem> {
    let wrong =
        |message| Problem::invalid("invalid-backup", "the repository can't be").field("spec.repository", message);
    match repository.parse().map_err(wrong)? {
        RepositoryReference::Directory(path) => {
            let place = RepositoryPlace::Directory(RepositoryDirectory { path });
            Ok(RepositoryAccess { place, passphrase: None })
        }
        RepositoryReference::Named(name) => Ok(opening(&app.objects.get(name.as_str()).await?)),
    }
}

/// Has a host open it, which makes it where nothing is yet.
pub async fn check(
    app: &App,
    caller: &Caller,
    name: &str,
    query: &RepositoryCheckQuery,
) -> Result<RepositoryContent, Problem> {
    caller.may_change()?;
    let repository: Repository = app.objects.get(name).await?;
    let host = host_for(app, &repository, query.host.as_deref())?;
    let opened = app.links.agent(&host).open_repository(&opening(&repository)).await;
    opened.map_err(|problem| at_host(&repository, &host, problem))
}

/// The host that is asked to open it: any, if none is wanted.
pub(super) fn host_for(app: &App, repository: &Repository, wanted: Option<&str>) -> Result<Arc<Host>, Problem> {
    match wanted {
        Some(host) => app.model.get::<Host>(host).ok_or_else(|| Problem::not_found(Host::KIND, host)),
        None => any_host(app, repository.reference(), "open the repository"),
    }
}

/// What a host says of it.
pub(super) fn at_host(repository: &Repository, host: &Host, problem: Problem) -> Problem {
    let detail = format!("host '{}': {}", host.name(), problem.detail);
    Problem { detail, ..problem }.object(repository.reference())
}
