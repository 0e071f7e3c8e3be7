//! The host's side of [`StorageApi`]: pools by their drivers, volumes of VMs through the VMs' tasks.

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use gantry_api::StorageApi;
use gantry_api::agent::VmObservation;
use gantry_api::storage::{
    AttachVolume, CopyVolume, ExportVolume, FillVolume, LeftDisk, MoveDisk, MoveVolume, PoolAssignment,
    VolumeAssignment, VolumeMoveReport, VolumePlace,
};
use gantry_hostlink::Exported;
use gantry_storage::{DiskSpec, StorageError};
use gantry_types::{ErrorClass, PoolHealth, Problem};
use uuid::Uuid;

use crate::agent::Agent;
use crate::problem::{chain, problem};
use crate::vm::Command;

pub(crate) const NOT_ANSWERING: &str = "pool-not-answering";
pub(crate) const WAIT_FOR_SERVER: &str = "wait until the pool's server is back: gantry pool list";

/// An error of a pool's driver. What is wrong with the pool itself has a code of its own.
pub(crate) fn pool_problem(code: &str, what: &str, error: &StorageError) -> Problem {
    match error {
        StorageError::PoolFault { health, .. } => {
            let code = match health {
                PoolHealth::ReadOnly => "pool-read-only",
                PoolHealth::NotWritable => "pool-not-writable",
                PoolHealth::Full | PoolHealth::NearlyFull => "pool-full",
                _ => "pool-missing",
            };
            Problem::new(ErrorClass::Permanent, code, format!("{what}: {}", chain(error)))
                .remedy("mend the pool on its host as the message says, then repeat the command")
        }
        StorageError::PoolNotEmpty { .. } => {
            Problem::conflict("pool-not-empty", format!("{what}: {}", chain(error))).remedy("see: gantry volume list")
        }
        StorageError::Unreachable { .. } => {
            Problem::transient(NOT_ANSWERING, format!("{what}: {}", chain(error))).remedy(WAIT_FOR_SERVER)
        }
        StorageError::NoSpace { .. } => Problem::permanent("pool-full", format!("{what}: {}", chain(error)))
            .remedy("make room in the pool (gantry pool list), or use another one"),
        _ => problem(code, what, error),
    }
}

fn pool_named(pool: &PoolAssignment) -> String {
    format!("pool '{}'", pool.name)
}
pub(crate) fn volume_named(volume: &VolumeAssignment) -> String {
    format!("volume '{}' in pool '{}'", volume.name, volume.pool.name)
}

impl Agent {
    /// The volume as a file.
    pub(crate) async fn export_volume(&self, request: ExportVolume) -> Result<Exported, Problem> {
        let (volume, what) = (&request.volume, volume_named(&request.volume));
        let exported = self.host.pools.driver(&volume.pool).export(volume.uuid, request.format).await;
        let exported = exported.map_err(|error| pool_problem("volume-not-exported", &what, &error))?;
        let bytes = exported.bytes();
        let parts = futures::stream::try_unfold(exported, |mut exported| async move {
            let part = exported.next().await?;
            Ok::<_, std::io::Error>((!part.is_empty()).then(|| (Bytes::from(part), exported)))
        });
        Ok(Exported { bytes, content: parts.boxed() })
    }

    /// `Err` while a VM of this host has the volume.
    pub(crate) async fn expect_loose(&self, place: VolumePlace) -> Result<(), Problem> {
        let vms = self.observations().await;
        let Some(user) = vms.into_iter().find(|vm| vm.volumes.contains(&place)) else { return Ok(()) };
        let detail = format!("volume {} is attached to VM '{}'", place.volume, user.name);
        Err(Problem::conflict("volume-in-use", detail).remedy("detach it first: gantry volume detach NAME"))
    }
}

#[async_trait]
impl StorageApi for Agent {
    async fn open_pool(&self, pool: &PoolAssignment) -> Result<(), Problem> {
        let opened = self.host.pools.driver(pool).open().await;
        opened.map_err(|error| pool_problem("pool-not-opened", &pool_named(pool), &error))
    }

    async fn join_pool(&self, pool: &PoolAssignment) -> Result<(), Problem> {
        let joined = self.host.pools.driver(pool).join().await;
        joined.map_err(|error| pool_problem("pool-not-joined", &pool_named(pool), &error))
    }

    async fn close_pool(&self, pool: &PoolAssignment) -> Result<(), Problem> {
        let closed = self.host.pools.driver(pool).close().await;
        closed.map_err(|error| pool_problem("pool-not-closed", &pool_named(pool), &error))
    }

    async fn create_volume(&self, volume: &VolumeAssignment) -> Result<(), Problem> {
        let spec = DiskSpec { disk: volume.uuid, size_bytes: volume.size.bytes(), image: None, owner_uid: None };
        let made = self.host.pools.driver(&volume.pool).create(&spec).await;
        made.map(drop).map_err(|error| pool_problem("volume-not-made", &volume_named(volume), &error))
    }

    async fn grow_volume(&self, volume: &VolumeAssignment) -> Result<(), Problem> {
        self.expect_loose(volume.place()).await?;
        let grown = self.host.pools.driver(&volume.pool).grow(volume.uuid, volume.size.bytes()).await;
        grown.map(drop).map_err(|error| pool_problem("volume-not-grown", &volume_named(volume), &error))
    }

    async fn delete_volume(&self, pool: &PoolAssignment, volume: Uuid) -> Result<(), Problem> {
        self.expect_loose(VolumePlace { volume, pool: pool.uuid }).await?;
        self.repository_works.end_restoration(volume).await;
        let deleted = self.host.pools.driver(pool).delete(volume).await;
        deleted.map_err(|error| pool_problem("volume-not-deleted", &pool_named(pool), &error))
    }

    async fn attach_volume(&self, vm: Uuid, request: &AttachVolume) -> Result<(), Problem> {
        let wanted = request.volume.uuid;
        let has = |vm: &VmObservation| vm.volumes.iter().any(|place| place.volume == wanted);
        let elsewhere = self.observations().await.into_iter().find(has);
        if let Some(other) = elsewhere.filter(|other| other.uuid != vm) {
            let detail = format!("{} is attached to VM '{}'", volume_named(&request.volume), other.name);
            return Err(Problem::conflict("volume-in-use", detail).remedy("detach it there first"));
        }
        self.existing(vm).await?.ask(vm, |reply| Command::AttachVolume(Box::new(request.clone()), reply)).await
    }

    async fn move_volume(&self, vm: Uuid, request: &MoveVolume) -> Result<VolumeMoveReport, Problem> {
        self.existing(vm).await?.ask(vm, |reply| Command::MoveVolume(request.clone(), reply)).await
    }

    async fn cancel_volume_move(&self, vm: Uuid, request: &MoveVolume) -> Result<VolumeMoveReport, Problem> {
        self.existing(vm).await?.ask(vm, |reply| Command::CancelVolumeMove(request.clone(), reply)).await
    }

    async fn fill_volume(&self, request: &FillVolume) -> Result<(), Problem> {
        let (volume, what) = (&request.volume, volume_named(&request.volume));
        self.expect_loose(volume.place()).await?;
        let image = self.image_file(&request.image).await?;
        let filled = self.host.pools.driver(&volume.pool).fill(volume.uuid, &image).await;
        filled.map_err(|error| pool_problem("volume-not-filled", &what, &error))
    }

    async fn move_disk(&self, vm: Uuid, request: &MoveDisk) -> Result<VolumeMoveReport, Problem> {
        let task = self.existing(vm).await?;
        self.ensure_image_at(request.to.as_ref(), request.image.as_ref()).await?;
        task.ask(vm, |reply| Command::MoveDisk(request.clone(), reply)).await
    }

    async fn cancel_disk_move(&self, vm: Uuid, request: &MoveDisk) -> Result<VolumeMoveReport, Problem> {
        self.existing(vm).await?.ask(vm, |reply| Command::CancelDiskMove(request.clone(), reply)).await
    }

    async fn clear_left_disk(&self, vm: Uuid, request: &LeftDisk) -> Result<(), Problem> {
        self.existing(vm).await?.ask(vm, |reply| Command::ClearLeftDisk(request.clone(), reply)).await
    }

    async fn copy_volume(&self, request: &CopyVolume) -> Result<(), Problem> {
        let (from, what) = (&request.from, volume_named(&request.from));
        let there = self.host.pools.driver(&request.to);
        let copied = self.host.pools.driver(&from.pool).copy_to(from.uuid, &*there, request.target()).await;
        copied.map_err(|error| pool_problem("volume-not-moved", &what, &error))
    }

    async fn detach_volume(&self, vm: Uuid, epoch: u64, volume: Uuid) -> Result<(), Problem> {
        self.existing(vm).await?.ask(vm, |reply| Command::DetachVolume { epoch, volume, reply }).await
    }
}
