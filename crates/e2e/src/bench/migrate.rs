//! `bench migrate`: a busy guest moves, against a minimal QMP script.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gantry_api::rest::ListQuery;
use gantry_types::{MigrationPolicy, Operation, OperationPhase, PostCopy};

use super::{Better, Figure};
use crate::lab::host_of;
use crate::peer::{AFTERMATH, Like, PEER_GUEST, migrate_by_hand, under_load};
use crate::{Lab, Observer, Workload, disk, guest_image};

const LIMIT: f64 = 1.2;
/// MiB of memory that change all the time, and MiB/s at which they do.
const DIRTY: Option<(u32, u32)> = Some((16, 8));

struct Moved {
    total: Duration,
    blackout: Duration,
    lost: u64,
}

pub async fn migrate(runs: usize) -> Result<Vec<Figure>> {
    let lab = Lab::up(2).await?;
    lab.import_guest().await?;
    let model = lab.run_vm("model", None, &Workload::default()).await?;
    let like = Like::vm(&model, &guest_image()?, PEER_GUEST, String::new())?;
    lab.gantry(&["vm", "delete", "model"]).await?.ok()?;

    let (mut product, mut peer) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        let moved = product_move(&lab, &format!("bench{run}")).await?;
        let by_hand = migrate_by_hand(&like, DIRTY).await?;
        eprintln!(
            "migrate {run}: gantry blackout {:?} of {:?}, by hand {:?} of {:?}",
            moved.blackout, moved.total, by_hand.blackout, by_hand.total
        );
        product.push(moved);
        peer.push(by_hand);
    }
    lab.passed();
    let lost: u64 = product.iter().map(|moved| moved.lost).sum();
    let product_of = |what: fn(&Moved) -> Duration| product.iter().map(what).collect::<Vec<_>>();
    let peer_of = |what: fn(&crate::peer::PeerMigration) -> Duration| peer.iter().map(what).collect::<Vec<_>>();
    Ok(vec![
        Figure::medians("migrate_blackout_ms", &product_of(|m| m.blackout), &peer_of(|m| m.blackout), LIMIT),
        Figure::medians("migrate_total_ms", &product_of(|m| m.total), &peer_of(|m| m.total), LIMIT),
        Figure::alone("migrate_lost_writes", lost as f64, Better::Lower, runs).promise(0.0),
    ])
}

async fn product_move(lab: &Lab, name: &str) -> Result<Moved> {
    let (writes, ticks) = (Observer::listen(lab.outside())?, Observer::listen(lab.outside())?);
    let workload = Workload {
        writes_to: Some(writes.address()),
        ticks_to: Some(ticks.address()),
        dirty: DIRTY,
        ..Workload::default()
    };
    let vm = lab.run_vm(name, None, &workload).await?;
    under_load(&writes, &ticks).await?;
    let to = if host_of(&vm)? == 1 { 2 } else { 1 };
    // The script knows no post-copy.
    let policy = MigrationPolicy { post_copy: PostCopy::Never, ..MigrationPolicy::default() };
    let started = Instant::now();
    let moving = lab.migrate(name, to, policy).await?;
    let operation = moving.operation.context("the move started no operation")?;
    let operation = told_of_the_end(lab, operation.metadata.name.as_str()).await?;
    let ended = Instant::now();
    ensure!(operation.status.phase == OperationPhase::Succeeded, "the move: {:?}", operation.status);
    tokio::time::sleep(AFTERMATH).await;
    let blackout = ticks.report().longest_gap(started, Instant::now());
    let acknowledged = writes.last();
    let disk = lab.stopped_disk(name).await?;
    let found = disk::read(&disk)?;
    let lost = acknowledged.saturating_sub(found.last) + found.bad;
    lab.gantry(&["vm", "delete", name]).await?.ok()?;
    eprintln!("{}", steps(&operation));
    Ok(Moved { total: ended - started, blackout, lost })
}

/// As a user hears of it: by a watch, which costs the controller nothing while it waits.
async fn told_of_the_end(lab: &Lab, name: &str) -> Result<Operation> {
    let query = ListQuery { names: Some(name.to_owned()), ..ListQuery::default() };
    let mut watch = lab.client().watch::<Operation>(&query).await?;
    loop {
        if let Some(operation) = watch.next().await?.object
            && operation.status.phase.is_finished()
        {
            return Ok(operation);
        }
    }
}

/// Where the time went.
fn steps(operation: &Operation) -> String {
    let steps = operation.status.steps.iter().map(|step| {
        let ms = step.finished_at.zip(step.started_at).map_or(0, |(end, begin)| end.unix_ms() - begin.unix_ms());
        format!("{} {ms} ms", step.name)
    });
    steps.collect::<Vec<_>>().join(", ")
}
