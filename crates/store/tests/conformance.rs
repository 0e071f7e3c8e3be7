//! Runs the conformance suite against both stores.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gantry_store::conformance::Backend;
use gantry_store::{ManualClock, MemoryOptions, MemoryStore, SqliteOptions, SqliteStore, Store, conformance_tests};

struct UnderTest {
    store: Arc<dyn Store>,
    clock: Arc<ManualClock>,
    _folder: Option<tempfile::TempDir>,
}

#[async_trait]
impl Backend for UnderTest {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }
}

async fn in_memory() -> UnderTest {
    let clock = Arc::new(ManualClock::default());
    let options = MemoryOptions { clock: clock.clone(), ..MemoryOptions::default() };
    UnderTest { store: Arc::new(MemoryStore::new(options)), clock, _folder: None }
}

async fn in_sqlite(recent_revisions: usize) -> UnderTest {
    let clock = Arc::new(ManualClock::default());
    let options = SqliteOptions { clock: clock.clone(), recent_revisions, ..SqliteOptions::default() };
    let folder = tempfile::tempdir().expect("folder");
    let store = SqliteStore::open_with(folder.path().join("store"), options).await.expect("open");
    UnderTest { store: Arc::new(store), clock, _folder: Some(folder) }
}

mod memory {
    use super::*;
    conformance_tests!(in_memory().await);
}

mod sqlite {
    use super::*;
    conformance_tests!(in_sqlite(4096).await);
}

/// Every watch has to fall back to the file again and again.
mod sqlite_with_a_tiny_event_log {
    use super::*;
    conformance_tests!(in_sqlite(1).await);
}
