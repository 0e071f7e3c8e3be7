//! `gantry repository …`

use std::path::Path;

use gantry_api::rest::{AdoptBackupsQuery, AdoptedBackups};
use gantry_types::{Problem, Repository, RepositoryDirectory, RepositoryPlace, RepositorySpec, S3Bucket, Secret};

use super::{Session, announce, networking::delete, objects, users::read_secret};
use crate::{
    args::{RepositoryCommand, RepositoryCreate},
    exit::Failure,
    kind::Kind,
    output::note,
};

pub async fn run(session: &Session, command: RepositoryCommand) -> Result<(), Failure> {
    match command {
        RepositoryCommand::Create(arguments) => create(session, arguments).await,
        RepositoryCommand::List(options) => objects::list::<Repository>(session, &options, |_| true).await,
        RepositoryCommand::Show { name } => objects::show_all::<Repository>(session, &name).await,
        RepositoryCommand::Check { name, host } => {
            let content = session.client()?.check_repository(&name, host).await?;
            let text = || format!("repository/{name} is {}, with {} backups\n", content.repository, content.backups);
            Ok(session.printer.value(&content, text)?)
        }
        RepositoryCommand::Adopt { name, host } => adopt(session, &name, host).await,
        RepositoryCommand::Delete { names } => delete(session, Kind::Repository, &names).await,
    }
}

/// All pages; what was taken in before an interruption is known the next time.
async fn adopt(session: &Session, name: &str, host: Option<String>) -> Result<(), Failure> {
    let client = session.client()?;
    let mut query = AdoptBackupsQuery { host, after: None };
    let mut all = AdoptedBackups { adopted: Vec::new(), known: 0, unreadable: Vec::new(), next: None };
    loop {
        let page = client.adopt_backups(name, &query).await?;
        all.adopted.extend(page.adopted);
        all.unreadable.extend(page.unreadable);
        all.known += page.known;
        match page.next {
            Some(next) => query.after = Some(next),
            None => break,
        }
    }
    for unreadable in &all.unreadable {
        note(&format!("backup {} can't be read: {}", unreadable.backup, unreadable.why));
    }
    let text = || {
        let adopted = all.adopted.iter().map(|backup| format!("backup/{backup} adopted\n")).collect::<String>();
        let known = all.known;
        format!("{adopted}repository/{name}: {} backups adopted, {known} were known\n", all.adopted.len())
    };
    Ok(session.printer.value(&all, text)?)
}

fn secret(what: &str, file: Option<&Path>) -> Result<Option<Secret>, Problem> {
    file.map(|file| read_secret(what, file).map(Secret::new)).transpose()
}

async fn create(session: &Session, arguments: RepositoryCreate) -> Result<(), Failure> {
    let key = secret("the key to the bucket", arguments.secret_access_key_file.as_deref())?;
    let passphrase = secret("the passphrase", arguments.passphrase_file.as_deref())?;
    let place = match (arguments.path, arguments.bucket) {
        (Some(path), _) => RepositoryPlace::Directory(RepositoryDirectory { path }),
        (None, bucket) => RepositoryPlace::S3(S3Bucket {
            bucket: bucket.unwrap_or_default(),
            prefix: arguments.prefix,
            endpoint: arguments.endpoint,
            region: arguments.region,
            access_key_id: arguments.access_key_id.unwrap_or_default(),
            secret_access_key: key,
        }),
    };
    let repository = Repository::new(arguments.name, RepositorySpec { place, passphrase });
    let created = session.client()?.create(&repository, &Default::default()).await?;
    Ok(announce(session.printer, &created.object, "created")?)
}
