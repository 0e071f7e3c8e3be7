//! Copies that nobody needs. One of a VM that this store knows nothing of is left alone: it may be the only one there is.

use std::collections::{BTreeMap, BTreeSet};

use gantry_api::mirror::DropCopy;
use gantry_types::{HostState, Name, Pool, Vm, VmPhase};
use uuid::Uuid;

use super::agent;
use crate::{
    app::{App, pool},
    loops::stray_vms::was_deleted,
};

/// Deletes copies that nobody is going to start on: of VMs that are gone, and where others have taken their place.
pub(super) async fn delete(app: &App) {
    let left = app.model.read(|tables| {
        let disks: BTreeMap<Uuid, &Vm> = tables.vms.values().map(|vm| (vm.metadata.uuid, &**vm)).collect();
        let is_left = |host: &Name, pool: &Pool, disk: &Uuid| match disks.get(disk) {
            None => was_deleted(tables, *disk),
            Some(vm) => {
                let is_here = vm.spec.pool.as_ref() == Some(&pool.metadata.name);
                // One that is alone may be about to use any of them.
                let has_two = vm.status.copies.as_ref().is_some_and(|copies| copies.current.len() > 1);
                let is_current = vm.status.copies.as_ref().is_some_and(|copies| copies.is_current(host));
                // It has come to where a copy of its disk was, with its disk.
                let runs_here = vm.status.phase == VmPhase::Running && vm.status.host.as_ref() == Some(host);
                vm.status.operation.is_none() && (!is_here || runs_here || has_two && !is_current)
            }
        };
        let is_ready =
            |host: &Name| tables.hosts.get(host.as_str()).is_some_and(|host| host.status.state == HostState::Ready);
        app.model.overlay(|overlay| {
            let mut left = BTreeSet::new();
            for pool in tables.pools.values().filter(|pool| pool.is_mirrored()) {
                for host in pool.spec.hosts.iter().filter(|host| is_ready(host)) {
                    let report = overlay.hosts.get(host.as_str());
                    let found =
                        report.and_then(|report| report.pools.iter().find(|one| one.pool == pool.metadata.uuid));
                    let kept = found.map_or(&[][..], |found| &found.copies);
                    left.extend(
                        kept.iter()
                            .filter(|disk| is_left(host, pool, disk))
                            .map(|disk| (host.clone(), pool.metadata.name.clone(), *disk)),
                    );
                }
            }
            left
        })
    });
    for (host, pool, disk) in left {
        let Some(pool) = app.model.get::<Pool>(pool.as_str()) else { continue };
        let request = DropCopy { pool: pool::assignment(&pool), disk };
        let dropped = match agent(app, &host) {
            Ok(agent) => agent.drop_copy(&request).await,
            Err(problem) => Err(problem),
        };
        match dropped {
            Ok(()) => tracing::info!(%host, %disk, "a copy that nobody needs is deleted"),
            Err(problem) => tracing::warn!(%host, %disk, %problem, "a copy that nobody needs is left"),
        }
    }
}
