//! VMs whose host has lost what they need, and which of them it may give up: those that another host can take now. The host
//! hears of it with the answer to its heartbeat, ends them, and the failover loop starts them elsewhere.
//!
//! Asked anew with each heartbeat, so a word that was not heeded holds no longer than a second. Together they must find
//! room, higher tiers first; which host each will really get is decided when it is started.

use gantry_api::agent::VmObservation;
use gantry_placement::{Placement, Request, place_batch};
use gantry_types::{Host, Name, PoolHealth, PowerState, Priority, Vm};
use uuid::Uuid;

use super::failover;
use crate::{
    app::App,
    cluster_view::{Loads, active_schedules, heed_schedules, heed_volumes, with_snapshot},
    model::Tables,
};

/// Of the VMs that this host tells of.
pub fn may_leave(app: &App, host: &Name, told: &[VmObservation]) -> Vec<Uuid> {
    // As nearly always.
    if told.iter().all(|observation| !observation.ha.status.stranded) {
        return Vec::new();
    }
    let Some(known) = app.model.get::<Host>(host.as_str()) else { return Vec::new() };
    let is_free = |vm: &Vm| failover::may_leave(app, vm, Some(&known)).is_ok();
    let mut vms: Vec<Vm> = app.model.read(|tables| stranded(tables, host, told).cloned().collect());
    vms.retain(is_free);
    vms.sort_by_key(|vm| std::cmp::Reverse(rank(vm.spec.ha.priority)));
    let schedules = active_schedules(app);
    let requests: Vec<Request> = vms.iter().map(|vm| request(app, &schedules, vm)).collect();
    let mut leave = Vec::new();
    for tier in [Priority::High, Priority::Medium, Priority::Low] {
        let until = vms.iter().filter(|vm| rank(vm.spec.ha.priority) >= rank(tier)).count();
        let answers = with_snapshot(app, &known.spec.cluster, Loads::Lately, |snapshot| {
            place_batch(snapshot, &requests[..until])
        });
        let is_whole = answers.iter().all(|(_, answer)| answer.is_ok());
        let fits = answers.into_iter().zip(&requests).filter_map(|((vm, answer), request)| {
            answer.ok().filter(|placement| sees_pools(app, placement, request)).map(|_| vm)
        });
        leave = fits.collect();
        if !is_whole {
            // What is left belongs to these first.
            break;
        }
    }
    leave
}

fn stranded<'a>(tables: &'a Tables, host: &'a Name, told: &'a [VmObservation]) -> impl Iterator<Item = &'a Vm> {
    let is_told = move |vm: &Vm| {
        told.iter().any(|observation| {
            observation.uuid == vm.metadata.uuid
                && observation.epoch == vm.status.epoch
                && observation.ha.status.stranded
        })
    };
    let is_here = move |vm: &Vm| {
        let status = &vm.status;
        let is_idle = status.operation.is_none() && status.displaced.is_none();
        status.host.as_ref() == Some(host) && is_idle && vm.spec.power == PowerState::Running
    };
    tables.vms.values().map(|vm| &**vm).filter(move |vm| is_here(vm) && is_told(vm))
}

fn rank(priority: Priority) -> u8 {
    match priority {
        Priority::Low => 0,
        Priority::Medium => 1,
        Priority::High => 2,
    }
}

fn request(app: &App, schedules: &[(Name, gantry_types::Selector, gantry_types::Selector)], vm: &Vm) -> Request {
    let mut request = Request { only: None, except: vm.status.host.clone(), ..Request::new(vm) };
    heed_schedules(&mut request, schedules, vm);
    app.model.read(|tables| heed_volumes(&mut request, tables, vm));
    request
}

/// A host that has not looked at a pool yet may not reach it either.
fn sees_pools(app: &App, placement: &Placement, request: &Request) -> bool {
    let needed = request.pool.iter().chain(&request.volume_pools);
    let uuids: Option<Vec<Uuid>> =
        app.model.read(|tables| needed.map(|pool| Some(tables.pools.get(pool.as_str())?.metadata.uuid)).collect());
    app.model.overlay(|overlay| {
        let Some(report) = overlay.hosts.get(placement.host.as_str()) else { return false };
        let sees =
            |pool: &Uuid| report.pools.iter().any(|seen| seen.pool == *pool && seen.health < PoolHealth::ReadOnly);
        uuids.is_some_and(|uuids| uuids.iter().all(sees))
    })
}
