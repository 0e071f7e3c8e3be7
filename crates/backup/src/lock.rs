//! Locks on a repository: writers share one, whoever removes garbage is alone.
//!
//! ```text
//!  write own lock -> list all -> another one in the way? take own away, `Locked` : go on, renewing it
//! ```
//! Whoever comes second sees the first, because his own lock is there before he looks. A lock counts until the time that
//! it names, so that one whose holder has died does not last; clocks of hosts that share a repository have to agree within
//! [`SKEW`]. A holder who could not renew his lock in time must not go on: [`Lock::expect_held`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::TryStreamExt;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::RepositoryError;
use crate::repository::Repository;

const LOCKS: &str = "locks";
const LOCK_BYTES_MAX: u64 = 4096;
/// How long a lock counts after it was written.
const LEASE: Duration = Duration::from_secs(120);
const RENEWAL: Duration = Duration::from_secs(30);
/// How far clocks may be apart.
const SKEW: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Shared,
    Exclusive,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    kind: Kind,
    /// For people.
    holder: String,
    until_ms: u64,
}

/// Held; given back by [`Lock::release`], otherwise it runs out.
pub(crate) struct Lock {
    repository: Repository,
    id: Uuid,
    until_ms: Arc<AtomicU64>,
    renewing: tokio::task::JoinHandle<()>,
}

impl Lock {
    /// The same `id` again takes over what its former holder, who has died, has left.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`].
    pub async fn take(repository: &Repository, id: Uuid, kind: Kind, holder: &str) -> Result<Self, RepositoryError> {
        let until_ms = Arc::new(AtomicU64::new(write(repository, id, kind, holder).await?));
        match in_the_way(repository, id, kind).await {
            Ok(None) => {}
            Ok(Some(other)) => {
                repository.tree.delete(&path(id)).await?;
                return Err(RepositoryError::Locked { holder: other.holder });
            }
            Err(error) => {
                repository.tree.delete(&path(id)).await?;
                return Err(error);
            }
        }
        let renewing = tokio::spawn(renew(repository.clone(), id, kind, holder.to_owned(), Arc::clone(&until_ms)));
        Ok(Self { repository: repository.clone(), id, until_ms, renewing })
    }

    /// # Errors
    /// [`RepositoryError::LockLost`] if others may think by now that it is over.
    pub fn expect_held(&self) -> Result<(), RepositoryError> {
        if now_ms(&self.repository) + ms(SKEW) < self.until_ms.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(RepositoryError::LockLost)
    }

    pub async fn release(self) -> Result<(), RepositoryError> {
        self.renewing.abort();
        self.repository.tree.delete(&path(self.id)).await
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

fn path(id: Uuid) -> Path {
    Path::from_iter([LOCKS, &id.to_string()])
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn now_ms(repository: &Repository) -> u64 {
    let now: SystemTime = (repository.clock)();
    ms(now.duration_since(UNIX_EPOCH).unwrap_or_default())
}

async fn write(repository: &Repository, id: Uuid, kind: Kind, holder: &str) -> Result<u64, RepositoryError> {
    let until_ms = now_ms(repository) + ms(LEASE);
    let entry = Entry { kind, holder: holder.to_owned(), until_ms };
    let bytes = serde_json::to_vec(&entry).map_err(|_| RepositoryError::LockLost)?;
    repository.tree.put(&path(id), bytes).await?;
    Ok(until_ms)
}

async fn in_the_way(repository: &Repository, own: Uuid, kind: Kind) -> Result<Option<Entry>, RepositoryError> {
    let mut listed = repository.tree.list(LOCKS);
    while let Some(other) = listed.try_next().await? {
        if other == path(own) {
            continue;
        }
        // One that is gone by now is in nobody's way.
        let Some(found) = repository.tree.get(&other, LOCK_BYTES_MAX).await? else { continue };
        let read = found.ok().and_then(|bytes| serde_json::from_slice::<Entry>(&bytes).ok());
        let unreadable =
            || Entry { kind: Kind::Exclusive, holder: format!("an unreadable lock, {other}"), until_ms: u64::MAX };
        let entry = read.unwrap_or_else(unreadable);
        if entry.until_ms + ms(SKEW) < now_ms(repository) {
            // Its holder died. Whoever removes chunks tidies up.
            if kind == Kind::Exclusive {
                repository.tree.delete(&other).await?;
            }
            continue;
        }
        if kind == Kind::Exclusive || entry.kind == Kind::Exclusive {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

async fn renew(repository: Repository, id: Uuid, kind: Kind, holder: String, until_ms: Arc<AtomicU64>) {
    loop {
        tokio::time::sleep(RENEWAL).await;
        match write(&repository, id, kind, &holder).await {
            Ok(until) => until_ms.store(until, Ordering::Relaxed),
            Err(error) => tracing::warn!(%error, "the lock on a backup repository was not renewed"),
        }
    }
}
