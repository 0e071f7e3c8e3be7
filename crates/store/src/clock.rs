//! Time for leases, passed in so that tests decide when it passes.
//!
//! Only durations since an origin of the clock's own choosing; never the wall clock, which steps.

use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::sync::watch;

/// A steady clock. `now` may be called on any thread.
pub trait Clock: Send + Sync {
    /// Time since the clock's origin.
    fn now(&self) -> Duration;
    /// Completes once `now() >= at`.
    fn sleep_until(&self, at: Duration) -> BoxFuture<'_, ()>;
}

/// The machine's monotonic clock, waited for with tokio's timer.
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
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn sleep_until(&self, at: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // tokio rounds its timers, so one sleep may end a moment early.
            while let Some(left) = at.checked_sub(self.now()).filter(|left| !left.is_zero()) {
                tokio::time::sleep(left).await;
            }
        })
    }
}

/// A clock that moves only when told to.
#[derive(Debug)]
pub struct ManualClock {
    now: watch::Sender<Duration>,
}

impl Default for ManualClock {
    fn default() -> Self {
        Self { now: watch::Sender::new(Duration::ZERO) }
    }
}

impl ManualClock {
    /// Lets time pass; whoever sleeps is woken.
    pub fn advance(&self, by: Duration) {
        self.now.send_modify(|now| *now += by);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        *self.now.borrow()
    }

    fn sleep_until(&self, at: Duration) -> BoxFuture<'_, ()> {
        let mut now = self.now.subscribe();
        Box::pin(async move {
            // The sender lives in `self`, which is borrowed: the channel cannot close.
            if now.wait_for(|now| *now >= at).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}
