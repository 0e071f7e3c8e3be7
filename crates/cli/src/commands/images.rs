//! `gantry image …`

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use gantry_api::rest::{Changed, WriteQuery};
use gantry_types::{Image, ImagePhase, ImageSource, ImageSpec, Problem};

use super::{Session, announce, apply, carry_out, objects};
use crate::{
    args::{ImageCommand, ImageImport},
    client::Client,
    exit::Failure,
    kind::Kind,
    output::note,
    progress::{Indicator, Stage},
};

pub async fn run(session: &Session, command: ImageCommand) -> Result<(), Failure> {
    match command {
        ImageCommand::Import(arguments) => import(session, arguments).await,
        ImageCommand::List(options) => objects::list::<Image>(session, &options, |_| true).await,
        ImageCommand::Show { name } => objects::show_all::<Image>(session, &name).await,
        ImageCommand::Delete { names, follow } => apply::delete_named(session, Kind::Image, &names, follow).await,
    }
}

async fn import(session: &Session, arguments: ImageImport) -> Result<(), Failure> {
    let client = session.client()?;
    let is_url = ["http://", "https://"].iter().any(|scheme| arguments.source.starts_with(scheme));
    let source = if is_url { ImageSource::Url(arguments.source.clone()) } else { ImageSource::Upload };
    let file = Path::new(&arguments.source);
    if !is_url && !file.is_file() {
        return Err(Problem::invalid("unreadable-file", format!("'{}' is not a file", file.display()))
            .remedy("name an image file, or a URL that begins with http:// or https://")
            .into());
    }
    let spec = ImageSpec { source, sha256: arguments.sha256, format: arguments.format };
    let image = Image::new(arguments.name, spec);
    let changed = match client.create(&image, &WriteQuery::default()).await {
        Ok(created) if is_url => created,
        Ok(_) => upload_or_withdraw(&client, &image, file).await?,
        Err(problem) if problem.code() == "already-exists" => {
            import_anew(&client, image.clone(), file, problem).await?
        }
        Err(problem) => return Err(problem.into()),
    };
    let operation = carry_out(&client, &changed, arguments.follow).await?;
    let image = match operation {
        Some(_) => client.get::<Image>(image.metadata.name.as_str()).await?,
        None => changed.object,
    };
    Ok(announce(session.printer, &image, if arguments.follow.no_wait { "accepted" } else { "imported" })?)
}

/// An image that still waits for its content, or whose import failed, takes another one.
async fn import_anew(
    client: &Client,
    mut image: Image,
    file: &Path,
    exists: Problem,
) -> Result<Changed<Image>, Failure> {
    let name = image.metadata.name.to_string();
    let current = client.get::<Image>(&name).await?;
    if !matches!(current.status.phase, ImagePhase::Pending | ImagePhase::Failed) {
        return Err(exists.remedy(format!("choose another name, or delete it: gantry image delete {name}")).into());
    }
    image.metadata.labels = current.metadata.labels;
    let changed = client.update(&image, &WriteQuery::default()).await?;
    match image.spec.source {
        ImageSource::Url(_) => Ok(changed),
        ImageSource::Upload => upload(client, &name, file).await,
    }
}

/// An image whose content did not arrive is of no use to anybody: it is taken back, so that the same command can be
/// given again.
async fn upload_or_withdraw(client: &Client, image: &Image, file: &Path) -> Result<Changed<Image>, Failure> {
    let name = image.metadata.name.as_str();
    let failure = match upload(client, name, file).await {
        Ok(changed) => return Ok(changed),
        Err(failure) => failure,
    };
    if let Err(problem) = client.delete::<Image>(name, &WriteQuery::default()).await {
        note(&format!("image '{name}' could not be taken back: {problem}; remove it: gantry image delete {name}"));
    }
    Err(failure)
}

/// Sends a file's content with a progress bar.
pub async fn upload(client: &Client, name: &str, file: &Path) -> Result<Changed<Image>, Failure> {
    let total = tokio::fs::metadata(file).await.map_or(0, |metadata| metadata.len());
    let sent = Arc::new(AtomicU64::new(0));
    let mut indicator = Indicator::new(format!("uploading {name}"));
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    let upload = client.upload_image(name, file, Arc::clone(&sent));
    tokio::pin!(upload);
    loop {
        tokio::select! {
            result = &mut upload => return Ok(result?),
            _ = tick.tick() => indicator.update(&Stage {
                bytes_done: sent.load(Ordering::Relaxed),
                bytes_total: total,
                ..Stage::default()
            }),
            _ = tokio::signal::ctrl_c() => {
                return Err(Failure::Interrupted(format!("the upload of image '{name}' was stopped")));
            }
        }
    }
}
