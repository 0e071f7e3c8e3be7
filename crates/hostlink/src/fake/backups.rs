//! Repositories that all fake hosts reach, and what fake hosts do with them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use gantry_api::{
    BackupApi,
    backup::{
        BackUp, BackedUp, BackedUpDisk, BackupCheck, BackupContent, BackupLabel, BackupPlace, FillDisk, ListBackups,
        ReadBackup, RepositoryAccess, RepositoryContent, RestoreVolume, StoredBackup, StoredBackups, Work,
    },
};
use gantry_types::{ByteSize, LostRange, Name, Problem, Secret, VmSpec};
use uuid::Uuid;

use super::{
    FakeHost, State,
    guest::Guest,
    host::{handed_over, stale},
};

/// How often each work says that it goes on before it is done.
const ROUNDS: u32 = 2;
const SIZE: ByteSize = ByteSize::mib(1);
/// Of a list.
const PAGE: usize = 2;

/// What all hosts see under the paths of repositories.
#[derive(Debug, Default)]
pub(super) struct FakeRepositories {
    backups: BTreeMap<(String, Uuid), FakeBackup>,
    /// How often works have been asked about, by what they are about.
    rounds: BTreeMap<(&'static str, Uuid), u32>,
    /// Each opens with the passphrase that it was made with.
    made: BTreeMap<String, (Uuid, Option<Secret>)>,
}

#[derive(Debug, Clone)]
struct FakeBackup {
    content: u64,
    name: Name,
    spec: VmSpec,
    label: BackupLabel,
    taken: BackedUp,
    lost: Vec<LostRange>,
}

fn key(place: &BackupPlace) -> (String, Uuid) {
    (place.repository.place.to_string(), place.backup)
}

impl FakeRepositories {
    fn find(&self, place: &BackupPlace) -> Result<&FakeBackup, Problem> {
        self.backups.get(&key(place)).ok_or_else(|| Problem::not_found("backup", &place.backup.to_string()))
    }

    fn open(&mut self, access: &RepositoryAccess) -> Result<RepositoryContent, Problem> {
        let place = access.place.to_string();
        let made = self.made.entry(place.clone()).or_insert_with(|| (Uuid::new_v4(), access.passphrase.clone()));
        if made.1 != access.passphrase {
            return Err(Problem::invalid("repository-locked-up", format!("another passphrase opens {place}")));
        }
        let backups = self.backups.keys().filter(|(at, _)| *at == place).count() as u64;
        Ok(RepositoryContent { repository: made.0, backups })
    }

    fn list(&self, request: &ListBackups) -> StoredBackups {
        let place = request.repository.place.to_string();
        let behind = self.backups.iter().filter(|((at, id), _)| *at == place && Some(*id) > request.after);
        let backups: Vec<_> = behind
            .take(PAGE)
            .map(|((_, id), kept)| StoredBackup {
                backup: *id,
                name: kept.name.clone(),
                spec: kept.spec.clone(),
                label: Some(kept.label.clone()),
                taken: kept.taken.clone(),
            })
            .collect();
        let next = backups.last().map(|last| last.backup).filter(|_| backups.len() == PAGE);
        StoredBackups { backups, unreadable: Vec::new(), next }
    }

    /// Whether the work is done with this question.
    fn is_done(&mut self, work: &'static str, about: Uuid) -> bool {
        let rounds = self.rounds.entry((work, about)).or_default();
        *rounds += 1;
        let done = *rounds > ROUNDS;
        if done {
            self.rounds.remove(&(work, about));
        }
        done
    }
}

const WORKING: (u64, u64) = (1, 2);

fn working<T>() -> Work<T> {
    Work::Working { done_bytes: WORKING.0, total_bytes: WORKING.1 }
}

impl State {
    fn back_up(&mut self, host: &gantry_types::Name, vm: Uuid, request: &BackUp) -> Result<Work<BackedUp>, Problem> {
        let found = self.host(host)?.vm(vm)?;
        stale(found, request.epoch)?;
        handed_over(found)?;
        if found.is_moving() {
            return Err(Problem::conflict("vm-migrating", "the VM is being migrated"));
        }
        let content = found.disk.content;
        if let Ok(known) = self.repositories.find(&request.place) {
            return Ok(Work::Done(known.taken.clone()));
        }
        if !self.repositories.is_done("back_up", request.place.backup) {
            return Ok(working());
        }
        let disks = vec![BackedUpDisk { name: "disk".to_owned(), size: SIZE }];
        let taken = BackedUp { disks, read: SIZE, written: SIZE, frozen_ms: request.quiesce.then_some(1) };
        let BackUp { name, spec, label, .. } = request.clone();
        let backup = FakeBackup { content, name, spec, label, taken: taken.clone(), lost: Vec::new() };
        self.repositories.backups.insert(key(&request.place), backup);
        Ok(Work::Done(taken))
    }

    fn fill_disk(&mut self, host: &gantry_types::Name, vm: Uuid, request: &FillDisk) -> Result<Work<()>, Problem> {
        let backup = self.repositories.find(&request.place)?.clone();
        let is_done = self.repositories.is_done("fill_disk", vm);
        let found = self.host(host)?.vm(vm)?;
        stale(found, request.epoch)?;
        if !matches!(found.guest, Guest::Off { .. }) {
            return Err(Problem::conflict("vm-running", "the VM runs"));
        }
        if !backup.lost.is_empty() {
            return Err(Problem::permanent("backup-damaged", "the backup is damaged"));
        }
        if !is_done {
            return Ok(working());
        }
        found.disk.content = backup.content;
        Ok(Work::Done(()))
    }
}

#[async_trait]
impl BackupApi for FakeHost {
    async fn back_up(&self, vm: Uuid, request: &BackUp) -> Result<Work<BackedUp>, Problem> {
        self.call("back_up", |state| state.back_up(&self.name, vm, request))
    }

    async fn cancel_backup(&self, _vm: Uuid, backup: Uuid) -> Result<(), Problem> {
        self.call("cancel_backup", |state| {
            state.repositories.rounds.remove(&("back_up", backup));
            Ok(())
        })
    }

    async fn fill_disk(&self, vm: Uuid, request: &FillDisk) -> Result<Work<()>, Problem> {
        self.call("fill_disk", |state| state.fill_disk(&self.name, vm, request))
    }

    async fn restore_volume(&self, request: &RestoreVolume) -> Result<Work<()>, Problem> {
        self.call("restore_volume", |state| {
            let backup = state.repositories.find(&request.place)?.clone();
            if !backup.taken.disks.iter().any(|disk| disk.name == request.disk) {
                return Err(Problem::not_found("disk", &request.disk));
            }
            let volume = &request.volume;
            if !state.host(&self.name)?.pool(&volume.pool)?.content().volumes.contains_key(&volume.uuid) {
                return Err(Problem::not_found("volume", volume.name.as_str()));
            }
            if !backup.lost.is_empty() {
                return Err(Problem::permanent("backup-damaged", "the backup is damaged"));
            }
            let done = state.repositories.is_done("restore_volume", volume.uuid);
            Ok(if done { Work::Done(()) } else { working() })
        })
    }

    async fn open_repository(&self, repository: &RepositoryAccess) -> Result<RepositoryContent, Problem> {
        self.call("open_repository", |state| state.repositories.open(repository))
    }

    async fn list_backups(&self, request: &ListBackups) -> Result<StoredBackups, Problem> {
        self.call("list_backups", |state| Ok(state.repositories.list(request)))
    }

    async fn check_backup(&self, place: &BackupPlace) -> Result<Work<BackupCheck>, Problem> {
        self.call("check_backup", |state| {
            let lost = state.repositories.find(place)?.lost.clone();
            let done = state.repositories.is_done("check_backup", place.backup);
            Ok(if done { Work::Done(BackupCheck { checked: SIZE, lost }) } else { working() })
        })
    }

    async fn delete_backup(&self, place: &BackupPlace) -> Result<Work<()>, Problem> {
        self.call("delete_backup", |state| {
            if !state.repositories.is_done("delete_backup", place.backup) {
                return Ok(working());
            }
            state.repositories.backups.remove(&key(place));
            Ok(Work::Done(()))
        })
    }

    async fn read_backup(&self, request: &ReadBackup) -> Result<BackupContent, Problem> {
        self.call("read_backup", |state| {
            state.repositories.find(&request.place)?;
            let name = request.path.trim_start_matches('/').to_owned();
            Ok(BackupContent::Directory { entries: vec![name] })
        })
    }
}

impl super::FakeWorld {
    /// The backups in a repository.
    pub fn backups_in(&self, repository: &str) -> Vec<Uuid> {
        let state = self.lock();
        let ours = state.repositories.backups.keys().filter(|(place, _)| place == repository);
        ours.map(|(_, backup)| *backup).collect()
    }

    /// A part of a backup rots.
    pub fn damage_backup(&self, backup: Uuid, lost: LostRange) {
        let mut state = self.lock();
        for ((_, id), kept) in &mut state.repositories.backups {
            if *id == backup {
                kept.lost.push(lost.clone());
            }
        }
    }
}
