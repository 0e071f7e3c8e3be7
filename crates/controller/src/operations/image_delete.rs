//! `image_delete`: forget the image if nobody uses it, then delete its content everywhere.

use async_trait::async_trait;
use gantry_types::{Host, HostState, Image, Problem, Severity};

use super::{
    image_import::{is_shared, remove_content},
    step::{Ending, Patience, Procedure, Step, StepContext},
};
use crate::{
    app::image::{expect_unused, pieces_path, upload_path},
    objects::Change,
};

const DIGEST: &str = "digest";

pub struct ImageDelete;

#[async_trait]
impl Procedure for ImageDelete {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(Forget), Box::new(Content), Box::new(Caches)]
    }

    async fn conclude(&self, _context: &StepContext, _ending: Ending<'_>, _change: &mut Change) -> Result<(), Problem> {
        Ok(())
    }
}

struct Forget;

#[async_trait]
impl Step for Forget {
    fn name(&self) -> &'static str {
        "forget"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let app = std::sync::Arc::clone(&context.app);
        let target = context.operation.spec.target.clone();
        // No VM that names it is created meanwhile.
        let _alone = app.references.write().await;
        let image = match app.objects.find::<Image>(target.name.as_str()).await? {
            Some(image) if image.metadata.uuid == target.uuid => image,
            _ => return Ok(()),
        };
        expect_unused(&app, &image)?;
        context.note(DIGEST, &image.status.digest)?;
        context.save().await?;
        let mut change = Change::new();
        let message = format!("image '{}' was deleted by {}", target.name, context.operation.spec.requested_by);
        change.delete(&image).event(&context.event(Severity::Normal, "ImageDeleted", message, None))?;
        app.commit(change).await?;
        Ok(())
    }
}

struct Content;

#[async_trait]
impl Step for Content {
    fn name(&self) -> &'static str {
        "content"
    }

    fn patience(&self) -> Patience {
        Patience::Unlimited
    }

    fn reversible(&self) -> bool {
        false
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let image = context.operation.spec.target.uuid;
        for path in [upload_path(&context.app, image), pieces_path(&context.app, image)] {
            match tokio::fs::remove_file(&path).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    let detail = format!("removing {} failed: {error}", path.display());
                    return Err(Problem::transient("disk-error", detail));
                }
                _ => {}
            }
        }
        match context.memo::<Option<String>>(DIGEST)?.flatten() {
            Some(digest) => remove_content(context, &digest).await,
            None => Ok(()),
        }
    }
}

/// Copies in the caches of hosts cost space and nothing else: one try each.
struct Caches;

#[async_trait]
impl Step for Caches {
    fn name(&self) -> &'static str {
        "caches"
    }

    fn reversible(&self) -> bool {
        false
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let Some(digest) = context.memo::<Option<String>>(DIGEST)?.flatten() else { return Ok(()) };
        if is_shared(context, &digest) {
            return Ok(());
        }
        for host in context.app.model.list::<Host>() {
            if host.status.state != HostState::Ready {
                continue;
            }
            if let Err(problem) = context.app.links.agent(&host).remove_image(&digest).await {
                tracing::info!(host = %host.metadata.name, %problem, "an image stays in a host's cache");
            }
        }
        Ok(())
    }
}
