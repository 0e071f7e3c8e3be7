//! File work off the async threads.

use std::future::pending;
use std::panic::resume_unwind;

/// Runs `work` where blocking is allowed; a panic in it goes on in the caller.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime is shutting down before the work began: nobody waits for it any more.
            Err(_) => pending().await,
        },
    }
}
