//! Sends notices until they have arrived, and drops those that are finished.
//!
//! Receivers are served side by side, the notices of one in their order: one that does not answer holds up nobody else, and
//! an end never arrives before its beginning.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use gantry_types::{Name, Notice, NoticePhase, Problem, Receiver, Resource, Severity};

use super::woken;
use crate::{
    alarms::{
        channel::Channels,
        notices::{is_due, tried},
    },
    app::App,
    objects::Change,
};

const INTERVAL: Duration = Duration::from_secs(1);
const RECEIVERS_AT_ONCE: usize = 16;
/// Finished notices are kept this long, and at most this many.
const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
const KEPT_MAX: usize = 1000;
/// One transaction holds 128 changes.
const BATCH: usize = 100;

pub async fn run(app: Arc<App>) {
    let channels = Channels::new(&app.config.datacenter);
    loop {
        woken(&app, &app.wakeups.notices, INTERVAL).await;
        pass(&app, &channels).await;
    }
}

/// Sends what is due.
pub async fn pass(app: &App, channels: &Channels) {
    let mut waiting: BTreeMap<Name, Vec<Arc<Notice>>> = BTreeMap::new();
    // Names of notices sort by time.
    for notice in app.model.list::<Notice>() {
        if notice.status.phase == NoticePhase::Pending {
            waiting.entry(notice.spec.receiver.clone()).or_default().push(notice);
        }
    }
    let deliver = |(receiver, notices): (Name, Vec<Arc<Notice>>)| async move {
        if let Err(problem) = serve(app, channels, &receiver, &notices).await {
            tracing::warn!(%receiver, %problem, "what became of its notices is not in the store: they are sent again");
        }
    };
    stream::iter(waiting).map(deliver).buffer_unordered(RECEIVERS_AT_ONCE).collect::<()>().await;
    if let Err(problem) = drop_finished(app).await {
        tracing::warn!(%problem, "could not drop old notices");
    }
}

/// Sends a receiver's notices in their order, up to the first that does not arrive or is not due.
async fn serve(app: &App, channels: &Channels, name: &Name, notices: &[Arc<Notice>]) -> Result<(), Problem> {
    let receiver = app.model.get::<Receiver>(name.as_str());
    let Some(receiver) = receiver.filter(|receiver| receiver.spec.enabled) else {
        return forget(app, notices).await;
    };
    for notice in notices {
        if !is_due(notice, app.clock.now()) {
            return Ok(());
        }
        let outcome = channels.send(&receiver, notice).await;
        let tried = tried(notice, outcome, app.clock.now());
        let error = tried.status.error.as_deref().unwrap_or_default();
        let mut change = Change::new();
        change.update(&tried)?;
        if tried.status.phase == NoticePhase::Failed {
            let message = format!(
                "receiver '{name}' could not be told of alarm '{}' within a day: {error}; see: gantry describe receiver {name}",
                tried.spec.alarm
            );
            change.event(&app.event(receiver.reference(), Severity::Warning, "NoticeNotDelivered", message))?;
        }
        app.commit(change).await?;
        if tried.status.phase == NoticePhase::Pending {
            tracing::warn!(receiver = %name, error, attempts = tried.status.attempts, "a notice has not arrived yet");
            return Ok(());
        }
    }
    Ok(())
}

/// Whoever they were for is gone, or wants to hear nothing.
async fn forget(app: &App, notices: &[Arc<Notice>]) -> Result<(), Problem> {
    let mut change = Change::new();
    for notice in notices.iter().take(BATCH) {
        change.delete(&**notice);
    }
    app.commit(change).await.map(drop)
}

async fn drop_finished(app: &App) -> Result<(), Problem> {
    let now = app.clock.now();
    let notices = app.model.list::<Notice>();
    let finished: Vec<_> = notices.iter().filter(|notice| notice.status.phase != NoticePhase::Pending).collect();
    let excess = finished.len().saturating_sub(KEPT_MAX);
    let is_old = |notice: &Notice| notice.status.finished_at.is_some_and(|at| now.since(at) > KEPT_FOR);
    let mut change = Change::new();
    let old = finished.iter().enumerate().filter(|(index, notice)| *index < excess || is_old(notice));
    for (_, notice) in old.take(BATCH) {
        change.delete(&***notice);
    }
    if change.is_empty() { Ok(()) } else { app.commit(change).await.map(drop) }
}
