//! `image_import`: get the content, check and convert it, say that it is ready.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use gantry_types::{ByteSize, ErrorClass, Image, ImagePhase, ImageSource, ImageStatus, Problem, Progress, Severity};

use super::step::{CANCELLED, Ending, Procedure, Step, StepContext, Undone};
use crate::{
    app::image::upload_path,
    image_library::{ImportProgress, ImportRequest, ImportedImage},
    objects::Change,
};

const IMPORTED: &str = "imported";
const TICK: Duration = Duration::from_millis(250);

pub struct ImageImport;

#[async_trait]
impl Procedure for ImageImport {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(Fetch), Box::new(Convert), Box::new(CleanUp)]
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let mut image = image(context).await?;
        match ending {
            Ending::Succeeded | Ending::Incomplete(_) => {
                let imported: ImportedImage = context.need(IMPORTED)?;
                image.status = ImageStatus {
                    phase: ImagePhase::Ready,
                    digest: Some(imported.digest),
                    virtual_size: ByteSize(imported.virtual_size_bytes),
                    file_size: ByteSize(imported.file_size_bytes),
                    source_format: Some(imported.source_format),
                    reason: None,
                };
                let message = format!("image '{}' is ready", context.target());
                change.event(&context.event(Severity::Normal, "ImageImported", message, None))?;
            }
            Ending::Failed(problem) => {
                image.status.phase = ImagePhase::Failed;
                image.status.reason = Some(problem.detail.clone());
            }
            Ending::Cancelled => {
                image.status.phase = ImagePhase::Failed;
                image.status.reason = Some("its import was cancelled".into());
            }
        }
        change.update(&image)?;
        Ok(())
    }
}

async fn image(context: &StepContext) -> Result<Image, Problem> {
    let target = &context.operation.spec.target;
    match context.app.objects.find::<Image>(target.name.as_str()).await? {
        Some(image) if image.metadata.uuid == target.uuid => Ok(image),
        _ => Err(Problem::not_found("image", target.name.as_str())),
    }
}

/// Shows the progress of a long piece of work, and drops the work if a cancel is asked for.
async fn watched<T, W: Future<Output = Result<T, Problem>> + Send>(
    context: &mut StepContext,
    work: impl FnOnce(ImportProgress) -> W,
) -> Result<T, Problem> {
    let latest: Arc<Mutex<Option<Progress>>> = Arc::default();
    let writer = Arc::clone(&latest);
    let report: ImportProgress = Arc::new(move |message: &str, bytes_done, bytes_total| {
        let progress = Progress { message: message.into(), bytes_done, bytes_total, ..Progress::default() };
        *writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    });
    let clock = Arc::clone(&context.app.clock);
    let mut work = std::pin::pin!(work(report));
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = clock.sleep(TICK) => {
                if context.cancel_requested() {
                    return Err(Problem::conflict(CANCELLED, "the import was cancelled"));
                }
                let progress = latest.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(progress) = progress {
                    context.progress(progress).await?;
                }
            }
        }
    }
}

async fn remove_upload(context: &StepContext) -> Result<(), Problem> {
    let path = upload_path(&context.app, context.operation.spec.target.uuid);
    for path in [path.with_extension("part"), path] {
        match tokio::fs::remove_file(&path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Problem::transient("disk-error", format!("removing {} failed: {error}", path.display())));
            }
            _ => {}
        }
    }
    Ok(())
}

struct Fetch;

#[async_trait]
impl Step for Fetch {
    fn name(&self) -> &'static str {
        "fetch"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let image = image(context).await?;
        let ImageSource::Url(url) = image.spec.source else { return Ok(()) };
        let to = upload_path(&context.app, image.metadata.uuid);
        let library = Arc::clone(&context.app.images);
        watched(context, move |progress| async move { library.fetch(&url, &to, progress).await }).await
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        remove_upload(context).await?;
        Ok(Undone::Yes)
    }
}

struct Convert;

#[async_trait]
impl Step for Convert {
    fn name(&self) -> &'static str {
        "convert"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let image = image(context).await?;
        let request = ImportRequest {
            source: upload_path(&context.app, image.metadata.uuid),
            sha256: image.spec.sha256,
            format: image.spec.format,
        };
        // Where the controller keeps it is nobody's business.
        let inner = request.source.display().to_string();
        let shown = match image.spec.source {
            ImageSource::Upload => "(the uploaded content)".to_owned(),
            ImageSource::Url(url) => url,
        };
        let library = Arc::clone(&context.app.images);
        let imported = watched(context, move |progress| async move { library.import(&request, progress).await }).await;
        let imported = imported.map_err(|problem| {
            let detail = problem.detail.replace(&inner, &shown);
            // The upload is gone or never came: nothing here can bring it back.
            let class = if problem.class == ErrorClass::NotFound { ErrorClass::Permanent } else { problem.class };
            Problem { class, detail, ..problem }
        })?;
        context.note(IMPORTED, &imported)
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        if let Some(imported) = context.memo::<ImportedImage>(IMPORTED)? {
            remove_content(context, &imported.digest).await?;
        }
        Ok(Undone::Yes)
    }
}

/// Removes the content unless somebody else needs it.
pub(super) async fn remove_content(context: &StepContext, digest: &str) -> Result<(), Problem> {
    if is_shared(context, digest) { Ok(()) } else { context.app.images.remove(digest).await }
}

/// Whether another image has this content, or a VM's disk is based on it.
pub(super) fn is_shared(context: &StepContext, digest: &str) -> bool {
    let target = context.operation.spec.target.uuid;
    context.app.model.read(|tables| {
        let same = |image: &Image| image.status.digest.as_deref() == Some(digest);
        tables.images.values().any(|image| image.metadata.uuid != target && same(image))
            || tables.vms.values().any(|vm| vm.status.image_digest.as_deref() == Some(digest))
    })
}

struct CleanUp;

#[async_trait]
impl Step for CleanUp {
    fn name(&self) -> &'static str {
        "clean-up"
    }

    fn reversible(&self) -> bool {
        false
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        remove_upload(context).await
    }
}
