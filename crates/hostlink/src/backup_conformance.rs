//! What every implementation of [`BackupApi`](gantry_api::BackupApi) must do, as the rest of the conformance suite.

use std::time::Duration;

use gantry_api::{
    AgentApi,
    agent::{Assignment, PowerAction},
    backup::{
        BackUp, BackedUp, BackupLabel, BackupPlace, FillDisk, ListBackups, RepositoryAccess, RepositoryContent,
        RestoreVolume, StoredBackup, StoredBackups, Work,
    },
    storage::{PoolAssignment, VolumeAssignment},
};
use gantry_types::{ErrorClass, Problem, RepositoryDirectory, RepositoryPlace, Secret, Timestamp, VmSpec};
use uuid::Uuid;

use crate::{
    conformance::{expect, power, refused, worked},
    storage_conformance::volume,
};

const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A backup of a few MiB is done long before.
const ASKED_MAX: u32 = 3000;

/// Asks until it is done.
async fn done<T>(what: &str, ask: impl AsyncFn() -> Result<Work<T>, Problem>) -> Result<T, String> {
    for _ in 0..ASKED_MAX {
        match worked(what, ask().await)? {
            Work::Done(done) => return Ok(done),
            Work::Working { .. } => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
    Err(format!("{what} does not end"))
}

/// A stopped VM is backed up, another one and a volume are filled from that; each can be repeated.
pub(crate) async fn backups_repeat(
    agent: &dyn AgentApi,
    vm: &Assignment,
    pool: &PoolAssignment,
    repository: &str,
) -> Result<(), String> {
    let directory = RepositoryDirectory { path: repository.to_owned() };
    let passphrase = Some(Secret::new("correct horse"));
    let repository = RepositoryAccess { place: RepositoryPlace::Directory(directory), passphrase };
    let made = worked("open_repository", agent.open_repository(&repository).await)?;
    let other = RepositoryAccess { passphrase: Some(Secret::new("incorrect horse")), ..repository.clone() };
    let shut = agent.open_repository(&other).await;
    let is_refused = matches!(&shut, Err(problem) if problem.class == ErrorClass::Invalid && problem.code() == "repository-locked-up");
    expect(is_refused, format!("another passphrase opens it: {shut:?}"))?;
    let place = BackupPlace { repository: repository.clone(), backup: Uuid::new_v4() };
    let spec = VmSpec::new(vm.cpus, vm.memory);
    let label =
        BackupLabel { name: "before".to_owned(), taken_at: Timestamp::UNIX_EPOCH, description: Some("why".to_owned()) };
    let request = BackUp { epoch: vm.epoch, place: place.clone(), quiesce: false, name: vm.name.clone(), spec, label };
    worked("define", agent.define_vm(vm).await)?;
    let older = BackUp { epoch: vm.epoch - 1, ..request.clone() };
    refused("a backup at an older epoch", "stale-epoch", agent.back_up(vm.uuid, &older).await)?;
    let first = done("back_up", async || agent.back_up(vm.uuid, &request).await).await?;
    let again = done("back_up again", async || agent.back_up(vm.uuid, &request).await).await?;
    let with_it = worked("open_repository again", agent.open_repository(&repository).await)?;
    let expected = RepositoryContent { backups: 1, ..made.clone() };
    expect(made.backups == 0 && with_it == expected, format!("a repository was {made:?}, and is {with_it:?}"))?;
    expect(first == again, format!("a repeated backup took {again:?}, the first {first:?}"))?;
    let list = |after| ListBackups { repository: repository.clone(), after };
    let told = worked("list_backups", agent.list_backups(&list(None)).await)?;
    let BackUp { name, spec, label, .. } = request.clone();
    let stored = StoredBackup { backup: place.backup, name, spec, label: Some(label), taken: first.clone() };
    let expected = StoredBackups { backups: vec![stored], unreadable: Vec::new(), next: None };
    expect(told == expected, format!("it should tell of {expected:?}, but: {told:?}"))?;
    let told = worked("list_backups behind it", agent.list_backups(&list(Some(place.backup))).await)?;
    expect(told.backups.is_empty() && told.next.is_none(), format!("behind the last there is {told:?}"))?;
    for _ in 0..2 {
        worked("cancel of what is done", agent.cancel_backup(vm.uuid, place.backup).await)?;
    }
    for _ in 0..2 {
        let check = done("check_backup", async || agent.check_backup(&place).await).await?;
        expect(check.lost.is_empty(), format!("a new backup has lost {:?}", check.lost))?;
    }

    let other = Assignment { uuid: Uuid::new_v4(), ..vm.clone() };
    worked("define another", agent.define_vm(&other).await)?;
    let fill = FillDisk { epoch: other.epoch, place: place.clone() };
    for _ in 0..2 {
        done("fill_disk", async || agent.fill_disk(other.uuid, &fill).await).await?;
    }
    power(agent, &other, PowerAction::Start).await?;
    refused("filling under a guest", "vm-running", agent.fill_disk(other.uuid, &fill).await)?;
    power(agent, &other, PowerAction::Kill).await?;
    volumes_are_restored(agent, pool, &place, &first).await?;
    for vm in [vm, &other] {
        worked("remove", agent.remove_vm(vm.uuid, vm.epoch).await)?;
    }
    for _ in 0..2 {
        done("delete_backup", async || agent.delete_backup(&place).await).await?;
    }
    for _ in 0..ASKED_MAX {
        match agent.check_backup(&place).await {
            Ok(Work::Working { .. }) => tokio::time::sleep(LOOK_AGAIN).await,
            Err(problem) if problem.class == ErrorClass::NotFound => return Ok(()),
            other => return Err(format!("a backup that was deleted is still there: {other:?}")),
        }
    }
    Err("the check of a backup that was deleted does not end".to_owned())
}

async fn volumes_are_restored(
    agent: &dyn AgentApi,
    pool: &PoolAssignment,
    place: &BackupPlace,
    backup: &BackedUp,
) -> Result<(), String> {
    let disk = backup.disks.first().ok_or("a backup without disks")?;
    worked("open", agent.open_pool(pool).await)?;
    let volume = VolumeAssignment { size: disk.size, ..volume(pool)? };
    let request = RestoreVolume { volume: volume.clone(), place: place.clone(), disk: disk.name.clone() };
    let nowhere = done("a volume that is not there", async || agent.restore_volume(&request).await).await;
    expect(nowhere.is_err(), "what is not there was filled".to_owned())?;
    worked("create", agent.create_volume(&volume).await)?;
    for _ in 0..2 {
        done("restore_volume", async || agent.restore_volume(&request).await).await?;
    }
    let other = RestoreVolume { disk: "nothing".to_owned(), ..request.clone() };
    let unknown = done("a disk that the backup has not", async || agent.restore_volume(&other).await).await;
    expect(unknown.is_err(), "what the backup has not was restored".to_owned())?;
    // Given up with the volume, however far it is.
    worked("restore_volume once more", agent.restore_volume(&request).await)?;
    for _ in 0..2 {
        worked("delete", agent.delete_volume(pool, volume.uuid).await)?;
    }
    worked("close", agent.close_pool(pool).await)
}
