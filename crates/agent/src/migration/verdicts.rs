//! The destination's decisions: for each migration one file that says `committed` or `aborted`.
//!
//! Creating the file is the only point where it is decided whose guest it is. The first decision is final, on disk
//! before anybody hears of it, and kept after the VM has left this host again: a source that was away for long must
//! still get the answer that was given, or it would let its guest run a second time. A migration nobody knows here is
//! decided `aborted` when it is asked about, so that nothing that arrives late can still commit it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_api::agent::Verdict;
use gantry_types::{Name, Problem};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::durable;
use crate::records::blocking;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Decision {
    pub vm: Uuid,
    pub verdict: Verdict,
    /// Why it was decided so.
    pub reason: String,
    /// The host that sends; absent if this host never received the migration.
    #[serde(default)]
    pub source: Option<Name>,
}

#[derive(Debug, Clone)]
pub(crate) struct Verdicts {
    directory: PathBuf,
    /// Deciding is one at a time, because the temporary file of a decision has a fixed name.
    deciding: Arc<Mutex<()>>,
}

impl Verdicts {
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let directory = state_dir.join("verdicts");
        fs::create_dir_all(&directory)?;
        durable::sync_directory(state_dir)?;
        Ok(Self { directory, deciding: Arc::default() })
    }

    /// Decides unless it is decided; returns what counts. An error means nothing is known to be decided.
    pub async fn decide(&self, migration: Uuid, proposed: Decision) -> Result<Decision, Problem> {
        let _one_at_a_time = self.deciding.lock().await;
        if let Some(decision) = self.get(migration).await? {
            return Ok(decision);
        }
        let path = self.path(migration);
        let text = serde_json::to_vec(&proposed).map_err(|error| self.unusable(migration, &error))?;
        let created = blocking(move || durable::create(&path, &text)).await;
        match created {
            Ok(_) => Ok(proposed),
            Err(error) => Err(self.unusable(migration, &error)),
        }
    }

    pub async fn get(&self, migration: Uuid) -> Result<Option<Decision>, Problem> {
        let path = self.path(migration);
        match blocking(move || durable::read(&path)).await {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| self.unusable(migration, &error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.unusable(migration, &error)),
        }
    }

    fn path(&self, migration: Uuid) -> PathBuf {
        self.directory.join(format!("{migration}.json"))
    }

    fn unusable(&self, migration: Uuid, error: &dyn std::error::Error) -> Problem {
        let detail = format!(
            "the decision about migration {migration} in {} can't be read or written: {error}",
            self.directory.display()
        );
        Problem::transient("verdict-unavailable", detail).remedy("repair that filesystem; the source keeps asking")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(verdict: Verdict) -> Decision {
        Decision { vm: Uuid::nil(), verdict, reason: "test".to_owned(), source: None }
    }

    #[tokio::test]
    async fn whichever_comes_first_is_final_across_restarts() {
        for (first, second) in [(Verdict::Committed, Verdict::Aborted), (Verdict::Aborted, Verdict::Committed)] {
            let state = tempfile::tempdir().unwrap();
            let migration = Uuid::new_v4();
            let verdicts = Verdicts::open(state.path()).unwrap();
            assert_eq!(verdicts.decide(migration, decision(first)).await.unwrap().verdict, first);
            assert_eq!(verdicts.decide(migration, decision(second)).await.unwrap().verdict, first);
            let reopened = Verdicts::open(state.path()).unwrap();
            assert_eq!(reopened.decide(migration, decision(second)).await.unwrap().verdict, first);
        }
    }

    #[tokio::test]
    async fn concurrent_commit_and_abort_get_one_answer() {
        let state = tempfile::tempdir().unwrap();
        let verdicts = Verdicts::open(state.path()).unwrap();
        for _ in 0..20 {
            let migration = Uuid::new_v4();
            let (commit, abort) = tokio::join!(
                verdicts.decide(migration, decision(Verdict::Committed)),
                verdicts.decide(migration, decision(Verdict::Aborted)),
            );
            assert_eq!(commit.unwrap(), abort.unwrap());
        }
    }

    #[tokio::test]
    async fn a_damaged_decision_is_never_taken_for_none() {
        let state = tempfile::tempdir().unwrap();
        let verdicts = Verdicts::open(state.path()).unwrap();
        let migration = Uuid::new_v4();
        fs::write(verdicts.path(migration), b"{").unwrap();
        assert!(verdicts.decide(migration, decision(Verdict::Aborted)).await.is_err());
    }
}
