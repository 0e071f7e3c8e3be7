//! Copies that nobody needs, and volumes that other hosts have by now. What this store knows nothing of is left alone: it may be the
//! only one there is.

use std::collections::{BTreeMap, BTreeSet};

use gantry_api::mirror::{DropCopy, DropLeftVolume};
use gantry_types::{Action, DiskCopies, HostState, Name, OperationPhase, Pool, Problem, Vm, VmPhase, Volume};
use uuid::Uuid;

use super::agent;
use crate::{
    app::{App, copies, pool},
    loops::stray_vms::was_deleted,
    model::Tables,
};

/// What a host has for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    Copy,
    /// As its own; others have it since this generation.
    Volume(u64),
}

/// The disks that there may be copies of.
struct Disks<'a> {
    tables: &'a Tables,
    vms: BTreeMap<Uuid, &'a Vm>,
    volumes: BTreeMap<Uuid, &'a Volume>,
}

impl<'a> Disks<'a> {
    fn of(tables: &'a Tables) -> Self {
        Self {
            tables,
            vms: tables.vms.values().map(|vm| (vm.metadata.uuid, &**vm)).collect(),
            volumes: tables.volumes.values().map(|volume| (volume.metadata.uuid, &**volume)).collect(),
        }
    }

    /// Of a VM that is gone, or where others have taken its place.
    fn is_left(&self, host: &Name, pool: &Pool, disk: &Uuid) -> bool {
        if let Some(volume) = self.volumes.get(disk) {
            let copies = copies::of_volume(self.tables, volume);
            let is_here = volume.spec.pool == pool.metadata.name;
            return self.is_at_rest(volume) && (!is_here || others_have(copies.as_ref(), host));
        }
        let Some(vm) = self.vms.get(disk) else {
            return was_deleted(self.tables, *disk) || self.volume_was_deleted(*disk);
        };
        let is_here = vm.spec.pool.as_ref() == Some(&pool.metadata.name);
        // It has come to where a copy of its disk was, with its disk.
        let runs_here = vm.status.phase == VmPhase::Running && vm.status.host.as_ref() == Some(host);
        vm.status.operation.is_none() && (!is_here || runs_here || others_have(vm.status.copies.as_ref(), host))
    }

    /// Since which generation others have the volume, if this host has it no more. What a VM starts on first is kept until it runs there.
    fn left_since(&self, host: &Name, pool: &Pool, volume: &Uuid) -> Option<u64> {
        let Some(volume) = self.volumes.get(volume) else {
            return self.volume_was_deleted(*volume).then_some(u64::MAX);
        };
        if volume.spec.pool != pool.metadata.name {
            return None;
        }
        let runs = self.vm_of(volume).is_none_or(|vm| vm.status.phase == VmPhase::Running);
        let copies = copies::of_volume(self.tables, volume).filter(|_| runs && self.is_at_rest(volume))?;
        (!copies.is_current(host)).then_some(copies.generation)
    }

    fn volume_was_deleted(&self, volume: Uuid) -> bool {
        self.tables.operations.values().any(|operation| {
            let succeeded = operation.status.phase == OperationPhase::Succeeded;
            operation.spec.target.uuid == volume && succeeded && matches!(operation.spec.action, Action::VolumeDelete)
        })
    }

    /// Nothing is at work on it, nor on its VM.
    fn is_at_rest(&self, volume: &Volume) -> bool {
        volume.status.operation.is_none() && self.vm_of(volume).is_none_or(|vm| vm.status.operation.is_none())
    }

    fn vm_of(&self, volume: &Volume) -> Option<&Vm> {
        self.tables.vms.get(volume.status.vm.as_ref()?.as_str()).map(|vm| &**vm)
    }
}

/// Two others have it. One that is alone may be about to use any copy that there is.
fn others_have(copies: Option<&DiskCopies>, host: &Name) -> bool {
    copies.is_some_and(|copies| copies.current.len() > 1 && !copies.is_current(host))
}

/// Deletes what nobody is going to start on.
pub(super) async fn delete(app: &App) {
    let left = app.model.read(|tables| {
        let disks = Disks::of(tables);
        let is_ready =
            |host: &Name| tables.hosts.get(host.as_str()).is_some_and(|host| host.status.state == HostState::Ready);
        app.model.overlay(|overlay| {
            let mut left = BTreeSet::new();
            for pool in tables.pools.values().filter(|pool| pool.is_mirrored()) {
                for host in pool.spec.hosts.iter().filter(|host| is_ready(host)) {
                    let report = overlay.hosts.get(host.as_str());
                    let found =
                        report.and_then(|report| report.pools.iter().find(|one| one.pool == pool.metadata.uuid));
                    let Some(found) = found else { continue };
                    let copies = found.copies.iter().filter(|disk| disks.is_left(host, pool, disk));
                    let copies = copies.map(|disk| (*disk, Left::Copy));
                    let volumes = found
                        .volumes
                        .iter()
                        .filter_map(|one| Some((one.volume, Left::Volume(disks.left_since(host, pool, &one.volume)?))));
                    let found = copies.chain(volumes);
                    left.extend(found.map(|(disk, what)| (host.clone(), pool.metadata.name.clone(), disk, what)));
                }
            }
            left
        })
    });
    for (host, pool, disk, what) in left {
        let Some(pool) = app.model.get::<Pool>(pool.as_str()) else { continue };
        match drop_left(app, &host, &pool, disk, what).await {
            Ok(()) => tracing::info!(%host, %disk, ?what, "what nobody needs is deleted"),
            Err(problem) => tracing::warn!(%host, %disk, ?what, %problem, "what nobody needs is left"),
        }
    }
}

async fn drop_left(app: &App, host: &Name, pool: &Pool, disk: Uuid, what: Left) -> Result<(), Problem> {
    let (agent, pool) = (agent(app, host)?, pool::assignment(pool));
    match what {
        Left::Copy => agent.drop_copy(&DropCopy { pool, disk }).await,
        Left::Volume(generation) => agent.drop_left_volume(&DropLeftVolume { pool, volume: disk, generation }).await,
    }
}
