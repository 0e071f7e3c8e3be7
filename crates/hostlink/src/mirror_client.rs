//! Copies of disks on a host that is elsewhere.

use async_trait::async_trait;
use gantry_api::{
    MirrorApi,
    mirror::{
        CopyEndpoint, CopyProgress, DropCopy, DropLeftVolume, GoAlone, JoinCopy, ServeCopy, SettleCopy, TakeCopy,
    },
    paths::host as paths,
};
use gantry_types::Problem;
use uuid::Uuid;

use crate::{
    client::{AgentClient, SLOW},
    reply::{answer, done},
};

#[async_trait]
impl MirrorApi for AgentClient {
    async fn serve_copy(&self, request: &ServeCopy) -> Result<CopyEndpoint, Problem> {
        answer(&self.host, self.put(&paths::pool_copy(request.pool.uuid, request.disk), request, SLOW)).await
    }
    async fn settle_copy(&self, request: &SettleCopy) -> Result<(), Problem> {
        let path = format!("{}/settled", paths::pool_copy(request.pool.uuid, request.disk));
        done(&self.host, self.post(&path, request, SLOW)).await
    }
    async fn take_copy(&self, request: &TakeCopy) -> Result<(), Problem> {
        let path = format!("{}/taken", paths::pool_copy(request.pool.uuid, request.disk));
        done(&self.host, self.post(&path, request, SLOW)).await
    }
    async fn drop_copy(&self, request: &DropCopy) -> Result<(), Problem> {
        let path = format!("{}/deletion", paths::pool_copy(request.pool.uuid, request.disk));
        done(&self.host, self.post(&path, request, SLOW)).await
    }
    async fn drop_left_volume(&self, request: &DropLeftVolume) -> Result<(), Problem> {
        let path = format!("{}/left", paths::pool_volume(request.pool.uuid, request.volume));
        done(&self.host, self.post(&path, request, SLOW)).await
    }
    async fn join_copy(&self, vm: Uuid, request: &JoinCopy) -> Result<CopyProgress, Problem> {
        answer(&self.host, self.post(&paths::vm_part(vm, "disk/peer"), request, SLOW)).await
    }
    async fn go_alone(&self, vm: Uuid, request: &GoAlone) -> Result<(), Problem> {
        done(&self.host, self.post(&paths::vm_part(vm, "disk/alone"), request, SLOW)).await
    }
}
