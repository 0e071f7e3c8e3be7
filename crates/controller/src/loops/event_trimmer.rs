//! Drops the oldest events and finished operations when there are too many.

use std::{sync::Arc, time::Duration};

use gantry_types::{Event, Operation, Problem};

use crate::{app::App, objects::Change};

const INTERVAL: Duration = Duration::from_secs(30);
/// One transaction; the store allows 128 changes.
const BATCH: usize = 100;

pub async fn run(app: Arc<App>) {
    loop {
        app.clock.sleep(INTERVAL).await;
        match pass(&app).await {
            // A full batch: there is more.
            Ok(BATCH) => continue,
            Ok(_) => {}
            Err(problem) => tracing::warn!(%problem, "could not drop old events"),
        }
    }
}

/// Drops one batch; how many objects that were.
pub async fn pass(app: &App) -> Result<usize, Problem> {
    let mut change = Change::new();
    let dropped = app.model.read(|tables| {
        let excess = tables.events.len().saturating_sub(app.config.max_events);
        // Names of events sort by time.
        let events: Vec<&Arc<Event>> = tables.events.values().take(excess.min(BATCH)).collect();
        for event in &events {
            change.delete(&***event);
        }
        let mut finished: Vec<&Arc<Operation>> =
            tables.operations.values().filter(|operation| operation.status.phase.is_finished()).collect();
        finished.sort_by_key(|operation| operation.status.finished_at);
        let excess = finished.len().saturating_sub(app.config.max_finished_operations);
        let room = BATCH - events.len();
        for operation in finished.iter().take(excess.min(room)) {
            change.delete(&***operation);
        }
        events.len() + excess.min(room)
    });
    if dropped > 0 {
        app.commit(change).await?;
    }
    Ok(dropped)
}
