//! The host's side of [`BackupApi`]: what is about a VM goes to its task; what is about a repository is done here.

use std::collections::HashMap;
use std::sync::Mutex as StdMutex;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gantry_api::BackupApi;
use gantry_api::backup::{
    BackUp, BackedUp, BackupCheck, BackupContent, BackupPlace, FillDisk, ListBackups, ReadBackup, RepositoryAccess,
    RepositoryContent, RestoreVolume, StoredBackups, UnreadableBackup, Work,
};
use gantry_backup::guest_files::{Found, look_up};
use gantry_backup::{CHUNK_BYTES, Class, DiskReader, Lost, Repository, RepositoryError};
use gantry_storage::loose_socket_dir;
use gantry_types::{ByteSize, ErrorClass, LostRange, Problem};
use uuid::Uuid;

use crate::agent::Agent;
use crate::problem::chain;
use crate::storage::volume_named;
use crate::vm::Command;
use crate::vm::backup::fill::Fill;
use crate::vm::backup::job::stored;
use crate::vm::backup::source::DiskPool;
use crate::work::Running;

/// What is quickly done is answered at once.
const PATIENCE: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// So many backups are told of at once.
const PAGE: usize = 50;

/// What is done in repositories now, by backup.
#[derive(Default)]
pub(crate) struct RepositoryWorks {
    checks: StdMutex<HashMap<Uuid, Running<BackupCheck>>>,
    deletions: StdMutex<HashMap<Uuid, Running<()>>>,
    /// By volume.
    restorations: StdMutex<HashMap<Uuid, Running<()>>>,
}

impl RepositoryWorks {
    /// Gives up what fills a volume, and waits until it writes no more.
    pub async fn end_restoration(&self, volume: Uuid) {
        let running = lock(&self.restorations).remove(&volume);
        if let Some(running) = running {
            running.cancel();
            if let Err(error) = running.outcome().await {
                tracing::info!(%volume, %error, "filling a volume was ended");
            }
        }
    }
}

fn lock<T>(works: &StdMutex<HashMap<Uuid, Running<T>>>) -> MutexGuard<'_, HashMap<Uuid, Running<T>>> {
    // Each holder inserts or removes one entry.
    works.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins the work if it is not under way, waits a little, and tells how far it is.
async fn advance<T: Send + 'static>(
    works: &StdMutex<HashMap<Uuid, Running<T>>>,
    backup: Uuid,
    begin: impl FnOnce() -> Running<T>,
) -> Result<Work<T>, Problem> {
    lock(works).entry(backup).or_insert_with(begin);
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let over = {
            let mut works = lock(works);
            match works.get(&backup) {
                Some(running) if !running.is_over() && tokio::time::Instant::now() >= until => {
                    return Ok(running.report());
                }
                Some(running) if running.is_over() => works.remove(&backup),
                _ => None,
            }
        };
        if let Some(over) = over {
            return over.outcome().await.map(Work::Done);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// An error of a repository, told about `what`.
pub(crate) fn repository_problem(what: &str, error: &RepositoryError) -> Problem {
    let class = match error.class() {
        Class::Invalid => ErrorClass::Invalid,
        Class::NotFound => ErrorClass::NotFound,
        Class::Permanent => ErrorClass::Permanent,
        Class::Transient => ErrorClass::Transient,
    };
    const PASSPHRASE: &str =
        "see whether the repository has a passphrase, and the right one: gantry repository check NAME";
    let (code, remedy) = match error {
        RepositoryError::PassphraseMissing { .. }
        | RepositoryError::PassphraseWrong { .. }
        | RepositoryError::NotEncrypted { .. } => ("repository-locked-up", PASSPHRASE),
        RepositoryError::NotARepository { .. } => (
            "repository-missing",
            "name a place that the VM's host reaches and that is empty, new, or a repository already; mount it there if it is a share",
        ),
        RepositoryError::Place { .. } | RepositoryError::Store { .. } | RepositoryError::NotSealed => (
            "repository-unavailable",
            "check the repository from its host: is its server reached, are its keys right, is there space?",
        ),
        RepositoryError::Locked { .. } => {
            ("repository-locked", "wait for its end; a lock whose holder died ends in minutes")
        }
        RepositoryError::LockLost => ("repository-lock-lost", "nothing is to be done: it is tried again"),
        RepositoryError::BackupMissing { .. } => ("backup-missing", "see: gantry backup list"),
        RepositoryError::ManifestDamaged { .. }
        | RepositoryError::ChunkMissing { .. }
        | RepositoryError::ChunkDamaged { .. } => {
            ("backup-damaged", "see what is lost: gantry backup verify VM NAME; use another backup: gantry backup list")
        }
        RepositoryError::DiskMissing { .. } => ("disk-missing", "see which it has: gantry backup show VM NAME"),
        RepositoryError::DiskSize { .. } => ("disk-size", "make the disk's size a whole number of sectors"),
        RepositoryError::GuestFiles(_) => (
            "file-not-read",
            "restore the backup under another name and look there: gantry backup restore VM --as NAME",
        ),
    };
    Problem::new(class, code, format!("{what}: {}", chain(error))).remedy(remedy)
}

/// What a request describes.
pub(crate) async fn open_as(access: &RepositoryAccess, make: bool) -> Result<Repository, RepositoryError> {
    Repository::open(&access.place, access.passphrase.as_ref(), make).await
}

async fn open(repository: &RepositoryAccess) -> Result<RepositoryContent, RepositoryError> {
    let repository = open_as(repository, true).await?;
    Ok(RepositoryContent { repository: repository.id(), backups: repository.backups().await?.len() as u64 })
}

/// A page of what is there, read one by one: each is as large as a request may be.
async fn list(request: &ListBackups) -> Result<StoredBackups, RepositoryError> {
    let repository = open_as(&request.repository, false).await?;
    let behind = repository.backups().await?.into_iter().filter(|backup| Some(*backup) > request.after);
    let page: Vec<Uuid> = behind.take(PAGE).collect();
    let next = page.last().copied().filter(|_| page.len() == PAGE);
    let mut told = StoredBackups { backups: Vec::new(), unreadable: Vec::new(), next };
    for backup in page {
        match repository.manifest(backup).await.and_then(|manifest| stored(&manifest)) {
            Ok(stored) => told.backups.push(stored),
            // Deleted meanwhile.
            Err(RepositoryError::BackupMissing { .. }) => {}
            Err(error @ RepositoryError::ManifestDamaged { .. }) => {
                told.unreadable.push(UnreadableBackup { backup, why: chain(&error) });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(told)
}

fn lost_range(lost: Lost) -> LostRange {
    let Lost { disk, offset_bytes, length_bytes, why } = lost;
    LostRange { disk, offset_bytes, length_bytes, why }
}

async fn check(place: BackupPlace, progress: &crate::work::Progress) -> Result<BackupCheck, RepositoryError> {
    let repository = open_as(&place.repository, false).await?;
    let manifest = repository.manifest(place.backup).await?;
    progress.add_total(manifest.disks.iter().map(|disk| disk.size_bytes).sum());
    let verification = repository.verify(place.backup, || progress.add_done(CHUNK_BYTES as u64)).await?;
    let lost = verification.lost.into_iter().map(lost_range).collect();
    Ok(BackupCheck { checked: ByteSize(verification.checked_bytes), lost })
}

async fn delete(place: BackupPlace, holder: String) -> Result<(), RepositoryError> {
    let repository = open_as(&place.repository, false).await?;
    repository.delete(place.backup).await?;
    match repository.collect(&holder).await {
        Ok(collected) => tracing::info!(backup = %place.backup, ?collected, "a backup was deleted"),
        // The backup is gone. Its space is given back with the next that is deleted.
        Err(error) => tracing::warn!(backup = %place.backup, error = chain(&error), "its chunks are not collected yet"),
    }
    Ok(())
}

#[async_trait]
impl BackupApi for Agent {
    async fn back_up(&self, vm: Uuid, request: &BackUp) -> Result<Work<BackedUp>, Problem> {
        self.existing(vm).await?.ask(vm, |reply| Command::BackUp(Box::new(request.clone()), reply)).await
    }

    async fn cancel_backup(&self, vm: Uuid, backup: Uuid) -> Result<(), Problem> {
        match self.find(vm).await {
            Some(handle) => handle.ask(vm, |reply| Command::CancelBackup(backup, reply)).await,
            None => Ok(()),
        }
    }

    async fn fill_disk(&self, vm: Uuid, request: &FillDisk) -> Result<Work<()>, Problem> {
        self.existing(vm).await?.ask(vm, |reply| Command::FillDisk(Box::new(request.clone()), reply)).await
    }

    async fn restore_volume(&self, request: &RestoreVolume) -> Result<Work<()>, Problem> {
        let RestoreVolume { volume, place, disk } = request;
        self.expect_loose(volume.place()).await?;
        let what = volume_named(volume);
        let pool = DiskPool::Volume(self.host.pools.driver(&volume.pool));
        let (volume, place, name) = (volume.uuid, place.clone(), disk.clone());
        let begin = || {
            Running::start(move |progress, cancel| async move {
                let sockets = loose_socket_dir().map_err(|error| {
                    Problem::transient("disk-not-filled", format!("no directory for a socket can be made: {error}"))
                })?;
                let fill = Fill { what, disk: volume, pool, sockets: sockets.path().to_owned(), place, name };
                fill.run(progress, cancel).await
            })
        };
        advance(&self.repository_works.restorations, volume, begin).await
    }

    async fn open_repository(&self, repository: &RepositoryAccess) -> Result<RepositoryContent, Problem> {
        let what = format!("repository {}", repository.place);
        open(repository).await.map_err(|error| repository_problem(&what, &error))
    }

    async fn list_backups(&self, request: &ListBackups) -> Result<StoredBackups, Problem> {
        let what = format!("repository {}", request.repository.place);
        list(request).await.map_err(|error| repository_problem(&what, &error))
    }

    async fn check_backup(&self, place: &BackupPlace) -> Result<Work<BackupCheck>, Problem> {
        let wanted = place.clone();
        let begin = || {
            Running::start(|progress, _| async move {
                let what = format!("backup {}", wanted.backup);
                check(wanted, &progress).await.map_err(|error| repository_problem(&what, &error))
            })
        };
        advance(&self.repository_works.checks, place.backup, begin).await
    }

    async fn delete_backup(&self, place: &BackupPlace) -> Result<Work<()>, Problem> {
        let (unwanted, holder) = (place.clone(), format!("host '{}', which removes garbage", self.host.config.name));
        let begin = || {
            Running::start(|_, _| async move {
                let what = format!("backup {}", unwanted.backup);
                delete(unwanted, holder).await.map_err(|error| repository_problem(&what, &error))
            })
        };
        advance(&self.repository_works.deletions, place.backup, begin).await
    }

    async fn read_backup(&self, request: &ReadBackup) -> Result<BackupContent, Problem> {
        let found = async {
            let repository = open_as(&request.place.repository, false).await?;
            let manifest = repository.manifest(request.place.backup).await?;
            let missing = || RepositoryError::DiskMissing { backup: manifest.backup, disk: "the VM's own".to_owned() };
            let disk = manifest.disks.first().ok_or_else(missing)?;
            look_up(DiskReader::new(&repository, disk), &request.path, request.offset_bytes).await
        };
        let what = format!("'{}' in backup {}", request.path, request.place.backup);
        match found.await.map_err(|error| repository_problem(&what, &error))? {
            Found::File { size_bytes, part } => Ok(BackupContent::File { size_bytes, part: STANDARD.encode(part) }),
            Found::Directory { entries } => Ok(BackupContent::Directory { entries }),
        }
    }
}
