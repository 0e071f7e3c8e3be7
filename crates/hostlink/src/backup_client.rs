//! Backups of a host that is elsewhere.

use async_trait::async_trait;
use gantry_api::{
    BackupApi,
    backup::{
        BackUp, BackedUp, BackupCheck, BackupContent, BackupPlace, FillDisk, ListBackups, ReadBackup, RepositoryAccess,
        RepositoryContent, RestoreVolume, StoredBackups, Work,
    },
    paths::host as paths,
};
use gantry_types::Problem;
use reqwest::Method;
use uuid::Uuid;

use crate::{
    client::{AgentClient, SLOW},
    reply::{answer, done},
};

#[async_trait]
impl BackupApi for AgentClient {
    async fn back_up(&self, vm: Uuid, request: &BackUp) -> Result<Work<BackedUp>, Problem> {
        answer(&self.host, self.put(&paths::vm_backup(vm, request.place.backup), request, SLOW)).await
    }
    async fn cancel_backup(&self, vm: Uuid, backup: Uuid) -> Result<(), Problem> {
        done(&self.host, self.request(Method::DELETE, &paths::vm_backup(vm, backup), SLOW)).await
    }
    async fn fill_disk(&self, vm: Uuid, request: &FillDisk) -> Result<Work<()>, Problem> {
        answer(&self.host, self.post(&paths::vm_part(vm, "disk/filling"), request, SLOW)).await
    }
    async fn restore_volume(&self, request: &RestoreVolume) -> Result<Work<()>, Problem> {
        let path = format!("{}/restoration", paths::pool_volume(request.volume.pool.uuid, request.volume.uuid));
        answer(&self.host, self.post(&path, request, SLOW)).await
    }
    async fn open_repository(&self, repository: &RepositoryAccess) -> Result<RepositoryContent, Problem> {
        answer(&self.host, self.post(paths::REPOSITORY, repository, SLOW)).await
    }
    async fn list_backups(&self, request: &ListBackups) -> Result<StoredBackups, Problem> {
        answer(&self.host, self.post(paths::REPOSITORY_BACKUPS, request, SLOW)).await
    }
    async fn check_backup(&self, place: &BackupPlace) -> Result<Work<BackupCheck>, Problem> {
        answer(&self.host, self.post(&paths::backup_part(place.backup, "check"), place, SLOW)).await
    }
    async fn delete_backup(&self, place: &BackupPlace) -> Result<Work<()>, Problem> {
        answer(&self.host, self.post(&paths::backup_part(place.backup, "deletion"), place, SLOW)).await
    }
    async fn read_backup(&self, request: &ReadBackup) -> Result<BackupContent, Problem> {
        answer(&self.host, self.post(&paths::backup_part(request.place.backup, "content"), request, SLOW)).await
    }
}
