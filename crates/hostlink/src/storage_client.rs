//! Pools and volumes of a host that is elsewhere.

use async_trait::async_trait;
use gantry_api::{
    StorageApi,
    paths::host as paths,
    storage::{
        AttachVolume, CopyVolume, FillVolume, LeftDisk, MoveDisk, MoveVolume, PoolAssignment, VolumeAssignment,
        VolumeMoveReport,
    },
};
use gantry_types::Problem;
use reqwest::Method;
use uuid::Uuid;

use crate::{
    client::{AgentClient, FETCH, SLOW, STATE},
    reply::{answer, done},
};

#[async_trait]
impl StorageApi for AgentClient {
    async fn open_pool(&self, pool: &PoolAssignment) -> Result<(), Problem> {
        done(&self.host, self.put(&paths::pool(pool.uuid), pool, SLOW)).await
    }
    async fn join_pool(&self, pool: &PoolAssignment) -> Result<(), Problem> {
        done(&self.host, self.post(&format!("{}/membership", paths::pool(pool.uuid)), pool, SLOW)).await
    }
    async fn close_pool(&self, pool: &PoolAssignment) -> Result<(), Problem> {
        done(&self.host, self.post(&format!("{}/closure", paths::pool(pool.uuid)), pool, SLOW)).await
    }
    async fn create_volume(&self, volume: &VolumeAssignment) -> Result<(), Problem> {
        done(&self.host, self.put(&paths::pool_volume(volume.pool.uuid, volume.uuid), volume, SLOW)).await
    }
    async fn grow_volume(&self, volume: &VolumeAssignment) -> Result<(), Problem> {
        let path = format!("{}/size", paths::pool_volume(volume.pool.uuid, volume.uuid));
        done(&self.host, self.put(&path, volume, STATE)).await
    }
    async fn delete_volume(&self, pool: &PoolAssignment, volume: Uuid) -> Result<(), Problem> {
        let path = format!("{}/deletion", paths::pool_volume(pool.uuid, volume));
        done(&self.host, self.post(&path, pool, SLOW)).await
    }
    async fn attach_volume(&self, vm: Uuid, request: &AttachVolume) -> Result<(), Problem> {
        done(&self.host, self.put(&paths::vm_volume(vm, request.volume.uuid), request, SLOW)).await
    }
    async fn move_volume(&self, vm: Uuid, request: &MoveVolume) -> Result<VolumeMoveReport, Problem> {
        let path = format!("{}/move", paths::vm_volume(vm, request.volume));
        answer(&self.host, self.post(&path, request, SLOW)).await
    }
    async fn cancel_volume_move(&self, vm: Uuid, request: &MoveVolume) -> Result<VolumeMoveReport, Problem> {
        let path = format!("{}/move/cancel", paths::vm_volume(vm, request.volume));
        answer(&self.host, self.post(&path, request, SLOW)).await
    }
    async fn fill_volume(&self, request: &FillVolume) -> Result<(), Problem> {
        let path = format!("{}/image", paths::pool_volume(request.volume.pool.uuid, request.volume.uuid));
        done(&self.host, self.post(&path, request, STATE)).await
    }
    async fn move_disk(&self, vm: Uuid, request: &MoveDisk) -> Result<VolumeMoveReport, Problem> {
        // The first call may bring the image.
        answer(&self.host, self.post(&paths::vm_part(vm, "disk/move"), request, FETCH)).await
    }
    async fn cancel_disk_move(&self, vm: Uuid, request: &MoveDisk) -> Result<VolumeMoveReport, Problem> {
        answer(&self.host, self.post(&paths::vm_part(vm, "disk/move/cancel"), request, SLOW)).await
    }
    async fn clear_left_disk(&self, vm: Uuid, request: &LeftDisk) -> Result<(), Problem> {
        done(&self.host, self.post(&paths::vm_part(vm, "disk/left"), request, SLOW)).await
    }
    async fn copy_volume(&self, request: &CopyVolume) -> Result<(), Problem> {
        let path = format!("{}/copy", paths::pool_volume(request.from.pool.uuid, request.from.uuid));
        done(&self.host, self.post(&path, request, STATE)).await
    }
    async fn detach_volume(&self, vm: Uuid, epoch: u64, volume: Uuid) -> Result<(), Problem> {
        let request = self.request(Method::DELETE, &paths::vm_volume(vm, volume), SLOW).query(&[("epoch", epoch)]);
        done(&self.host, request).await
    }
}
