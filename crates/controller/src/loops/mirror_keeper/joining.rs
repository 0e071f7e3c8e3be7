//! Brings a copy of a VM's disk up to date, on a host that is chosen for it.

use std::time::Duration;

use gantry_api::{
    agent::{VmObservation, VmRunState},
    mirror::{CopyEndpoint, CopyProgress, JoinCopy, ServeCopy},
};
use gantry_types::{DiskCopies, Host, Name, Pool, Problem, Vm, VmPhase};

use super::{agent, settle};
use crate::{
    app::{App, copies, pool},
    operations::image_of,
};

/// After an attempt that failed, until the next.
const PAUSE: Duration = Duration::from_secs(5);

/// An attempt to bring a copy up to date.
#[derive(Debug, Clone)]
pub(super) enum Joining {
    Served {
        peer: Name,
        generation: u64,
        endpoint: CopyEndpoint,
    },
    /// One has failed: nothing before this moment.
    Pausing {
        until: Duration,
        failed: Name,
    },
}

/// Brings a copy up to date under the running VM.
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
    let (peer, endpoint) = match joining {
        Some(Joining::Served { peer, generation, endpoint }) if generation == copies.generation => (peer, endpoint),
        Some(Joining::Pausing { until, failed }) if app.clock.elapsed() < until => {
            return Ok(Some(Joining::Pausing { until, failed }));
        }
        before => {
            let failed = match before {
                Some(Joining::Pausing { failed, .. }) => Some(failed),
                _ => None,
            };
            let Some(pool) = copies::pool_of(app, vm) else { return Ok(None) };
            let Some(peer) = choose(app, vm, host, &pool, seen, failed.as_ref()) else { return Ok(None) };
            match serve(app, vm, host, &pool, &peer, seen).await {
                Ok(endpoint) => (peer, endpoint),
                Err(problem) => {
                    tracing::warn!(vm = %vm.metadata.name, %peer, %problem, "no copy of its disk can be made there now");
                    return Ok(Some(pausing(peer)));
                }
            }
        }
    };
    let request = JoinCopy {
        epoch: vm.status.epoch,
        generation: copies.generation,
        peer: peer.clone(),
        endpoint: endpoint.clone(),
    };
    match agent(app, host)?.join_copy(vm.metadata.uuid, &request).await {
        Ok(CopyProgress::Catching { .. }) => {
            Ok(Some(Joining::Served { peer, generation: copies.generation, endpoint }))
        }
        Ok(CopyProgress::Paired) => settle(app, vm, host, &peer, copies.generation).await.map(|()| None),
        Err(problem) => {
            tracing::warn!(vm = %vm.metadata.name, %peer, %problem, "the copy of its disk has not caught up");
            Ok(Some(pausing(peer)))
        }
    }
}

async fn serve(
    app: &App,
    vm: &Vm,
    host: &Name,
    pool: &Pool,
    peer: &Name,
    seen: &VmObservation,
) -> Result<CopyEndpoint, Problem> {
    let since = seen.copies.as_ref().and_then(|copies| copies.since.as_ref());
    let request = ServeCopy {
        pool: pool::assignment(pool),
        disk: vm.metadata.uuid,
        size: vm.status.disk.unwrap_or_default(),
        image: image_of(app, vm)?,
        source: host.clone(),
        since: since.filter(|former| former.host == *peer).map(|former| former.generation),
    };
    agent(app, peer)?.serve_copy(&request).await
}

/// Another host of the pool, in service and with room: the one that has most of it already, otherwise the emptiest; the one that has
/// just failed only if there is no other.
fn choose(app: &App, vm: &Vm, host: &Name, pool: &Pool, seen: &VmObservation, failed: Option<&Name>) -> Option<Name> {
    let former = seen.copies.as_ref().and_then(|copies| copies.since.as_ref()).map(|former| &former.host);
    let wanted = vm.status.disk.unwrap_or_default();
    let room = |name: &Name| {
        let at = app.model.get::<Host>(name.as_str()).filter(|at| at.is_in_service())?;
        let lost = at.status.inventory.as_ref().is_some_and(|found| found.lost_pools.contains(&pool.metadata.uuid));
        let space = app.model.overlay(|overlay| {
            let report = overlay.hosts.get(name.as_str())?;
            report.pools.iter().find(|one| one.pool == pool.metadata.uuid)?.space
        })?;
        (!lost && space.free >= wanted).then_some(space.free)
    };
    let others = pool.spec.hosts.iter().filter(|name| *name != host);
    let fit = others.filter_map(|name| Some((name, room(name)?)));
    let best = fit.max_by_key(|(name, free)| (failed != Some(*name), former == Some(*name), *free));
    best.map(|(name, _)| name.clone())
}
