//! What operations on a whole host share.

use gantry_types::{Host, Problem};

use super::step::StepContext;
use crate::objects::Change;

/// The host that the operation is about, as stored now.
pub(super) async fn target_host(context: &StepContext) -> Result<Host, Problem> {
    let target = &context.operation.spec.target;
    match context.app.objects.find::<Host>(target.name.as_str()).await? {
        Some(host) if host.metadata.uuid == target.uuid => Ok(host),
        _ => Err(Problem::not_found("host", target.name.as_str())),
    }
}

/// Reads the host, changes it, writes it; repeated if it loses a race. Writes nothing if nothing changed.
pub(super) async fn update_host(
    context: &StepContext,
    edit: impl Fn(&mut Host) + Send + Sync,
) -> Result<Host, Problem> {
    context
        .app
        .objects
        .racing(|| async {
            let before = target_host(context).await?;
            let mut host = before.clone();
            edit(&mut host);
            if host == before {
                return Ok(host);
            }
            let mut change = Change::new();
            change.update(&host)?;
            host.metadata.revision = context.app.commit(change).await?;
            Ok(host)
        })
        .await
}
