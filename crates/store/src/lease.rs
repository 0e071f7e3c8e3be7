//! When leases end.
//!
//! Owns the deadlines, in memory only: which leases exist is the backend's durable knowledge, and
//! it tells this module of each that was granted or revoked. A lease is
//!
//! ```text
//!   alive --deadline passed--> expiring --revoked--> forgotten
//!     ^ |
//!     +-+ keep_alive
//! ```
//!
//! An expiring lease is never kept alive again. If revoking fails, it is tried again each second
//! until it succeeds, so an expired lease outlives its deadline but never silently stays.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::error::StoreError;
use crate::model::LeaseId;

/// Shortest time of a lease.
pub const MIN_LEASE_TTL: Duration = Duration::from_secs(1);
/// Longest time of a lease.
pub const MAX_LEASE_TTL: Duration = Duration::from_secs(365 * 24 * 3600);

const RETRY_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Deadline {
    ttl: Duration,
    at: Duration,
    expiring: bool,
}

pub(crate) struct LeaseDeadlines {
    clock: Arc<dyn Clock>,
    leases: Mutex<HashMap<LeaseId, Deadline>>,
    changed: Notify,
}

impl LeaseDeadlines {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, leases: Mutex::default(), changed: Notify::new() }
    }

    /// Starts the lease's full time.
    pub(crate) fn start(&self, lease: LeaseId, ttl: Duration) {
        let at = self.clock.now() + ttl;
        self.lock().insert(lease, Deadline { ttl, at, expiring: false });
        self.changed.notify_one();
    }

    /// Starts the lease's time again.
    pub(crate) fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        let now = self.clock.now();
        match self.lock().get_mut(&lease) {
            // At its deadline it is over, even if the expiry task has not come to it yet.
            Some(deadline) if !deadline.expiring && now < deadline.at => {
                deadline.at = now + deadline.ttl;
                Ok(deadline.ttl)
            }
            _ => Err(StoreError::LeaseNotFound { lease }),
        }
    }

    pub(crate) fn forget(&self, lease: LeaseId) {
        self.lock().remove(&lease);
    }

    /// Revokes leases as their time comes, for ever; the backend aborts it when it closes.
    pub(crate) async fn expire_forever<R, F>(self: Arc<Self>, revoke: R)
    where
        R: Fn(LeaseId) -> F,
        F: Future<Output = Result<(), StoreError>>,
    {
        loop {
            let next = self.lock().values().map(|deadline| deadline.at).min();
            match next {
                None => self.changed.notified().await,
                Some(at) => tokio::select! {
                    () = self.clock.sleep_until(at) => {}
                    () = self.changed.notified() => {}
                },
            }
            for lease in self.take_due() {
                match revoke(lease).await {
                    Ok(()) | Err(StoreError::LeaseNotFound { .. }) => self.forget(lease),
                    Err(error) => {
                        tracing::warn!(%lease, %error, "expired lease could not be revoked, will retry");
                    }
                }
            }
        }
    }

    fn take_due(&self) -> Vec<LeaseId> {
        let now = self.clock.now();
        let mut due = Vec::new();
        for (lease, deadline) in self.lock().iter_mut() {
            if deadline.at <= now {
                deadline.expiring = true;
                deadline.at = now + RETRY_AFTER;
                due.push(*lease);
            }
        }
        due.sort_unstable();
        due
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<LeaseId, Deadline>> {
        // No code panics while holding it half-changed.
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks a lease's time and rounds it up to full seconds, the unit of etcd.
pub(crate) fn whole_seconds(ttl: Duration) -> Result<Duration, StoreError> {
    if ttl < MIN_LEASE_TTL || ttl > MAX_LEASE_TTL {
        return Err(StoreError::invalid(format!(
            "a lease of {ttl:?} was asked for, it must last from {MIN_LEASE_TTL:?} to {MAX_LEASE_TTL:?}"
        )));
    }
    let rounded_up = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    Ok(Duration::from_secs(rounded_up))
}
