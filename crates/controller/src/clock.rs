//! Time and randomness as values from outside, so that a simulation can decide both.

use std::time::{Duration, Instant, SystemTime};

use futures::future::BoxFuture;
use gantry_types::Timestamp;
use uuid::Uuid;

/// Where the controller gets time and fresh ids from.
pub trait Clock: Send + Sync {
    /// Wall clock: for records only, it may step.
    fn now(&self) -> Timestamp;
    /// Steady time since some origin: for limits and intervals.
    fn elapsed(&self) -> Duration;
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
    fn new_uuid(&self) -> Uuid;
}

/// What `work` comes to, if that is before the limit.
pub(crate) async fn within<T>(clock: &dyn Clock, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = clock.sleep(limit) => None,
    }
}

/// The machine's own clocks and random numbers.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    origin: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }
    fn elapsed(&self) -> Duration {
        self.origin.elapsed()
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
    /// Version 7, so that names made from it sort by time.
    fn new_uuid(&self) -> Uuid {
        Uuid::now_v7()
    }
}
