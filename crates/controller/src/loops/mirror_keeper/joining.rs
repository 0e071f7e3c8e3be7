//! Brings copies of a VM's disks up to date, all on one host that is chosen for them.

use std::time::Duration;

use gantry_api::{
    agent::{VmObservation, VmRunState},
    mirror::{CopyProgress, JoinCopy, ServeCopy, ServedCopy},
};
use gantry_types::{DiskCopies, Host, Name, Problem, Vm, VmPhase};

use super::agent;
use crate::{
    app::{
        App,
        copies::{self, CopiedDisk},
        pool,
    },
    operations::image_of,
};

/// After an attempt that failed, until the next.
const PAUSE: Duration = Duration::from_secs(5);

/// An attempt to bring copies up to date.
#[derive(Debug, Clone)]
pub(super) enum Joining {
    Served {
        peer: Name,
        generation: u64,
        copies: Vec<ServedCopy>,
    },
    /// One has failed: nothing before this moment.
    Pausing {
        until: Duration,
        failed: Name,
    },
}

/// Brings copies up to date under the running VM.
pub(super) async fn join(
    app: &App,
    vm: &Vm,
    host: &Name,
    copies: &DiskCopies,
    seen: &VmObservation,
    joining: Option<Joining>,
) -> Result<Option<Joining>, Problem> {
    let is_at_rest = vm.status.operation.is_none() && vm.status.phase == VmPhase::Running;
    if !is_at_rest || seen.state != VmRunState::Running {
        return Ok(joining.filter(|joining| matches!(joining, Joining::Pausing { .. })));
    }
    let pausing = |failed: Name| Joining::Pausing { until: app.clock.elapsed() + PAUSE, failed };
    let (peer, served) = match joining {
        Some(Joining::Served { peer, generation, copies: served }) if generation == copies.generation => (peer, served),
        Some(Joining::Pausing { until, failed }) if app.clock.elapsed() < until => {
            return Ok(Some(Joining::Pausing { until, failed }));
        }
        before => {
            let failed = match before {
                Some(Joining::Pausing { failed, .. }) => Some(failed),
                _ => None,
            };
            let disks = app.model.read(|tables| copies::disks_of(tables, vm));
            let Some(peer) = choose(app, host, &disks, seen, failed.as_ref()) else { return Ok(None) };
            match serve(app, vm, host, &disks, &peer, seen).await {
                Ok(served) => (peer, served),
                Err(problem) => {
                    tracing::warn!(vm = %vm.metadata.name, %peer, %problem, "no copies of its disks can be made there now");
                    return Ok(Some(pausing(peer)));
                }
            }
        }
    };
    let request =
        JoinCopy { epoch: vm.status.epoch, generation: copies.generation, peer: peer.clone(), copies: served.clone() };
    match agent(app, host)?.join_copy(vm.metadata.uuid, &request).await {
        Ok(CopyProgress::Catching { .. }) => {
            Ok(Some(Joining::Served { peer, generation: copies.generation, copies: served }))
        }
        // Which servings it writes to, it says next: these may have been served anew meanwhile.
        Ok(CopyProgress::Paired) => {
            copies::decided(app, vm, host);
            Ok(None)
        }
        Err(problem) => {
            tracing::warn!(vm = %vm.metadata.name, %peer, %problem, "the copies of its disks have not caught up");
            Ok(Some(pausing(peer)))
        }
    }
}

async fn serve(
    app: &App,
    vm: &Vm,
    host: &Name,
    disks: &[CopiedDisk],
    peer: &Name,
    seen: &VmObservation,
) -> Result<Vec<ServedCopy>, Problem> {
    let since = seen.copies.as_ref().and_then(|copies| copies.since.as_ref());
    let since = since.filter(|former| former.host == *peer).map(|former| former.generation);
    let mut served = Vec::new();
    for CopiedDisk { pool, disk, size, is_own } in disks {
        let request = ServeCopy {
            pool: pool::assignment(pool),
            disk: *disk,
            size: *size,
            image: if *is_own { image_of(app, vm)? } else { None },
            source: host.clone(),
            since,
        };
        served.push(ServedCopy { disk: *disk, endpoint: agent(app, peer)?.serve_copy(&request).await? });
    }
    Ok(served)
}

/// Another host of all the disks' pools, in service and with room: the one that has most of it already, otherwise the emptiest; the
/// one that has just failed only if there is no other.
fn choose(app: &App, host: &Name, disks: &[CopiedDisk], seen: &VmObservation, failed: Option<&Name>) -> Option<Name> {
    let former = seen.copies.as_ref().and_then(|copies| copies.since.as_ref()).map(|former| &former.host);
    // What is left in the pool that has least left, with room for its disks.
    let room = |name: &Name| {
        let at = app.model.get::<Host>(name.as_str()).filter(|at| at.is_in_service())?;
        let is_lost = |pool| at.status.inventory.as_ref().is_some_and(|inventory| inventory.lost_pools.contains(pool));
        let left = disks.iter().map(|CopiedDisk { pool, .. }| {
            let wanted = disks.iter().filter(|other| other.pool.metadata.uuid == pool.metadata.uuid);
            let wanted: u64 = wanted.map(|disk| disk.size.bytes()).sum();
            let space = app.model.overlay(|overlay| {
                let report = overlay.hosts.get(name.as_str())?;
                report.pools.iter().find(|one| one.pool == pool.metadata.uuid)?.space
            })?;
            let fits = pool.is_at(name) && !is_lost(&pool.metadata.uuid) && space.free.bytes() >= wanted;
            fits.then_some(space.free)
        });
        left.collect::<Option<Vec<_>>>()?.into_iter().min()
    };
    let first = disks.first()?;
    let others = first.pool.spec.hosts.iter().filter(|name| *name != host);
    let fit = others.filter_map(|name| Some((name, room(name)?)));
    let best = fit.max_by_key(|(name, free)| (failed != Some(*name), former == Some(*name), *free));
    best.map(|(name, _)| name.clone())
}
