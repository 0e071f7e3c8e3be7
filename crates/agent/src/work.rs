//! Work that takes long: begun by a call, asked about by the next ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gantry_api::backup::Work;
use gantry_types::Problem;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How far it is; told by who does it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
}

impl Progress {
    pub fn add_total(&self, bytes: u64) {
        self.total_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
    pub fn add_done(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A task that does it.
pub(crate) struct Running<T> {
    progress: Arc<Progress>,
    cancel: CancellationToken,
    task: JoinHandle<Result<T, Problem>>,
}

impl<T: Send + 'static> Running<T> {
    /// The work has to heed the token and to tidy up after itself then.
    pub fn start<F>(work: impl FnOnce(Arc<Progress>, CancellationToken) -> F) -> Self
    where
        F: Future<Output = Result<T, Problem>> + Send + 'static,
    {
        let (progress, cancel) = (Arc::<Progress>::default(), CancellationToken::new());
        let task = tokio::spawn(work(Arc::clone(&progress), cancel.clone()));
        Self { progress, cancel, task }
    }

    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    pub fn report(&self) -> Work<T> {
        let [done_bytes, total_bytes] =
            [&self.progress.done_bytes, &self.progress.total_bytes].map(|bytes| bytes.load(Ordering::Relaxed));
        Work::Working { done_bytes, total_bytes }
    }

    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Waits for its end.
    pub async fn outcome(self) -> Result<T, Problem> {
        let ended = self.task.await;
        ended.unwrap_or_else(|error| Err(Problem::transient("work-lost", format!("the work ended by itself: {error}"))))
    }
}
