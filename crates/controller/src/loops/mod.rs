//! Loops: each wakes by a timer or a notice, reads everything anew, does what is missing, and forgets.
//!
//! None has state that matters, none retries inside a pass: what failed is still missing in the next.

pub mod alarm_keeper;
pub mod audit_keeper;
pub mod backup_schedules;
pub mod cluster_keeper;
pub mod energy_accountant;
mod errands;
pub mod event_trimmer;
pub mod failover;
pub mod host_failure_detector;
pub mod host_fencer;
pub mod intake;
pub mod load_balancers;
pub mod mirror_keeper;
pub mod network_distributor;
pub mod notice_sender;
pub mod observed_vm;
pub mod policies;
pub mod pool_keeper;
pub mod protection_distributor;
pub mod resource_distributor;
pub mod router_addresses;
pub mod snapshot_schedules;
pub mod stranded;
pub mod stray_vms;

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;

use crate::{app::App, model::ModelFeed, operations::executor};

/// Runs the feed, all loops and all operations until it is dropped, or until the store is closed.
pub async fn run(app: Arc<App>, feed: ModelFeed) {
    let mut tasks = deciding(&app, feed);
    tasks.spawn(energy_accountant::run(Arc::clone(&app)));
    tasks.spawn(audit_keeper::run(app));
    // Each of them runs for ever, so the first to end says that nothing can go on.
    match tasks.join_next().await {
        Some(Err(error)) => tracing::error!(%error, "a part of the controller ended unexpectedly"),
        _ => tracing::info!("the controller's loops end"),
    }
}

/// Begins everything that decides something: all but what only keeps files of its own, on threads of its own.
pub fn deciding(app: &Arc<App>, feed: ModelFeed) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(feed.run());
    tasks.spawn(executor::run(Arc::clone(app)));
    tasks.spawn(host_failure_detector::run(Arc::clone(app)));
    tasks.spawn(host_fencer::run(Arc::clone(app)));
    tasks.spawn(failover::run(Arc::clone(app)));
    tasks.spawn(network_distributor::run(Arc::clone(app)));
    tasks.spawn(protection_distributor::run(Arc::clone(app)));
    tasks.spawn(resource_distributor::run(Arc::clone(app)));
    tasks.spawn(stray_vms::run(Arc::clone(app)));
    tasks.spawn(cluster_keeper::run(Arc::clone(app)));
    tasks.spawn(policies::run(Arc::clone(app)));
    tasks.spawn(pool_keeper::run(Arc::clone(app)));
    tasks.spawn(mirror_keeper::run(Arc::clone(app)));
    tasks.spawn(snapshot_schedules::run(Arc::clone(app)));
    tasks.spawn(backup_schedules::run(Arc::clone(app)));
    tasks.spawn(alarm_keeper::run(Arc::clone(app)));
    tasks.spawn(notice_sender::run(Arc::clone(app)));
    tasks.spawn(event_trimmer::run(Arc::clone(app)));
    tasks
}

/// Waits for the notice, but not longer than the limit.
async fn woken(app: &App, notice: &tokio::sync::Notify, limit: Duration) {
    tokio::select! {
        biased;
        () = notice.notified() => {}
        () = app.clock.sleep(limit) => {}
    }
}
