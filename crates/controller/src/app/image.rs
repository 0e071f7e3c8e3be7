//! Images: create, take the uploaded content, delete.
//!
//! An image to be uploaded waits as `pending` for its content; one with a URL is fetched at once. The content itself
//! is brought to [`upload_path`] by the front end, then [`content_uploaded`] starts the import.

use std::path::PathBuf;

use gantry_api::rest::{Changed, WriteQuery};
use gantry_types::{Action, Image, ImagePhase, ImageSource, ImageStatus, Operation, Problem, Resource, Severity};
use uuid::Uuid;

use super::{App, Caller, already_exists, check_labels, check_name, check_precondition};
use crate::{objects::Change, operations::new_operation};

/// Where the content of this image is to be written before its import.
pub fn upload_path(app: &App, image: Uuid) -> PathBuf {
    app.config.uploads_dir().join(image.to_string())
}

pub async fn create(app: &App, caller: &Caller, sent: Image, query: &WriteQuery) -> Result<Changed<Image>, Problem> {
    caller.may_change()?;
    check_labels(&sent.metadata)?;
    check_spec(&sent)?;
    let mut image = Image::new(sent.metadata.name.clone(), sent.spec.clone());
    image.metadata.labels = sent.metadata.labels.clone();
    app.stamp(&mut image.metadata);
    if app.objects.find::<Image>(image.name()).await?.is_some() {
        return Err(already_exists(&image));
    }
    let mut operation = None;
    if let ImageSource::Url(_) = image.spec.source {
        image.status.phase = ImagePhase::Importing;
        operation = Some(new_operation(app, caller, Action::ImageImport, &image, None)?);
    }
    let mut change = Change::new();
    change.create(&image)?.event(&app.event(
        image.reference(),
        Severity::Normal,
        "ImageCreated",
        format!("{} created image '{}'", caller.name, image.name()),
    ))?;
    write(app, change, image, operation, query).await
}

async fn write(
    app: &App,
    mut change: Change,
    mut image: Image,
    mut operation: Option<Operation>,
    query: &WriteQuery,
) -> Result<Changed<Image>, Problem> {
    if let Some(operation) = &operation {
        change.create(operation)?;
    }
    if !query.dry_run {
        let revision = app.commit(change).await?;
        image.metadata.revision = revision;
        if let Some(operation) = &mut operation {
            operation.metadata.revision = revision;
        }
    }
    Ok(Changed { object: image, operation })
}

fn check_spec(image: &Image) -> Result<(), Problem> {
    let mut problem = Problem::invalid("invalid-image", "the image's spec is not valid");
    if let ImageSource::Url(url) = &image.spec.source
        && !(url.starts_with("http://") || url.starts_with("https://"))
    {
        problem = problem.field("spec.source.url", "must begin with http:// or https://");
    }
    if let Some(sha256) = &image.spec.sha256
        && (sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()))
    {
        problem = problem.field("spec.sha256", "must be 64 hex digits");
    }
    if problem.fields.is_empty() { Ok(()) } else { Err(problem) }
}

/// Creates the image or changes its labels. What it is made from is fixed once it has content; until then it may be
/// changed, and one whose fetching failed is fetched again.
pub async fn put(
    app: &App,
    caller: &Caller,
    name: &str,
    sent: Image,
    query: &WriteQuery,
) -> Result<Changed<Image>, Problem> {
    caller.may_change()?;
    check_name(name, &sent)?;
    check_labels(&sent.metadata)?;
    check_spec(&sent)?;
    app.objects
        .racing(|| async {
            let Some(current) = app.objects.find::<Image>(name).await? else {
                if query.revision.is_some() || sent.metadata.revision != 0 {
                    return Err(Problem::not_found(Image::KIND, name));
                }
                return create(app, caller, sent.clone(), query).await;
            };
            check_precondition(&current, &sent.metadata, query)?;
            let differs = sent.spec != current.spec;
            if differs && !lacks_content(&current) {
                return Err(Problem::invalid("unchangeable", format!("image '{name}' can't be changed any more"))
                    .object(current.reference())
                    .field("spec", "is fixed once the image has its content")
                    .remedy("import it under another name"));
            }
            let mut image = current.clone();
            image.metadata.labels = sent.metadata.labels.clone();
            if differs {
                image.spec = sent.spec.clone();
                image.status = ImageStatus::default();
            }
            let mut operation = None;
            if lacks_content(&current) && matches!(image.spec.source, ImageSource::Url(_)) {
                image.status = ImageStatus { phase: ImagePhase::Importing, ..ImageStatus::default() };
                operation = Some(new_operation(app, caller, Action::ImageImport, &image, None)?);
            }
            if image == current {
                return Ok(Changed { object: current, operation: None });
            }
            let mut change = Change::new();
            change.update(&image)?;
            write(app, change, image, operation, query).await
        })
        .await
}

/// Whether content may be sent now; the image to send it for.
pub fn expect_upload(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<Image, Problem> {
    caller.may_change()?;
    let image = app.model.get::<Image>(name).ok_or_else(|| Problem::not_found(Image::KIND, name))?;
    check_precondition(&*image, &image.metadata, query)?;
    expects_content(&image)?;
    Ok(Image::clone(&image))
}

/// It waits for its content, or its import failed.
fn lacks_content(image: &Image) -> bool {
    matches!(image.status.phase, ImagePhase::Pending | ImagePhase::Failed)
}

fn expects_content(image: &Image) -> Result<(), Problem> {
    if image.spec.source != ImageSource::Upload {
        return Err(Problem::conflict("not-an-upload", format!("image '{}' is fetched from a URL", image.name()))
            .object(image.reference())
            .remedy("create an image without spec.source to upload it"));
    }
    if !lacks_content(image) {
        let state =
            if image.status.phase == ImagePhase::Ready { "has its content already" } else { "is being imported" };
        return Err(Problem::conflict("image-has-content", format!("image '{}' {state}", image.name()))
            .object(image.reference())
            .remedy("import it under another name"));
    }
    Ok(())
}

/// Where the pieces of an upload gather until it is complete.
pub fn pieces_path(app: &App, image: Uuid) -> PathBuf {
    upload_path(app, image).with_extension("pieces")
}

/// The content is complete at [`upload_path`]: import it.
pub async fn content_uploaded(app: &App, caller: &Caller, name: &str) -> Result<Changed<Image>, Problem> {
    caller.may_change()?;
    app.objects
        .racing(|| async {
            let mut image: Image = app.objects.get(name).await?;
            expects_content(&image)?;
            image.status = ImageStatus { phase: ImagePhase::Importing, ..ImageStatus::default() };
            let operation = new_operation(app, caller, Action::ImageImport, &image, None)?;
            let mut change = Change::new();
            change.update(&image)?;
            write(app, change, image, Some(operation), &WriteQuery::default()).await
        })
        .await
}

/// Refused while a VM uses it.
pub async fn delete(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<Changed<Image>, Problem> {
    caller.may_change()?;
    app.objects
        .racing(|| async {
            let image: Image = app.objects.get(name).await?;
            check_precondition(&image, &image.metadata, query)?;
            expect_unused(app, &image)?;
            let operation = new_operation(app, caller, Action::ImageDelete, &image, None)?;
            let mut change = Change::new();
            change.require(&image);
            write(app, change, image, Some(operation), query).await
        })
        .await
}

/// # Errors
/// `image-in-use`, naming the VMs and operations.
pub(crate) fn expect_unused(app: &App, image: &Image) -> Result<(), Problem> {
    let importing = image.status.phase == ImagePhase::Importing;
    let users = app.model.read(|tables| {
        let uses = |vm: &gantry_types::Vm| vm.spec.image.as_ref() == Some(&image.metadata.name);
        tables.vms.values().filter(|vm| uses(vm)).map(|vm| vm.name().to_owned()).collect::<Vec<_>>()
    });
    if importing {
        return Err(Problem::conflict("image-busy", format!("image '{}' is being imported", image.name()))
            .object(image.reference())
            .remedy("wait for the import or cancel it: gantry operation list"));
    }
    if users.is_empty() {
        return Ok(());
    }
    Err(Problem::conflict("image-in-use", format!("image '{}' is used by VMs: {}", image.name(), users.join(", ")))
        .object(image.reference())
        .remedy("delete these VMs first"))
}
