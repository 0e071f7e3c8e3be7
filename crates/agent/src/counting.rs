//! What this host's ports and rules have counted, read every few seconds beside everything else: a listing that takes long
//! must not hold up a heartbeat.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gantry_api::heartbeat::HostTraffic;
use tokio_util::sync::CancellationToken;

use crate::host::Host;

/// Counters are many, and nobody waits for them.
const INTERVAL: Duration = Duration::from_secs(5);

/// What has been counted and not been told yet.
#[derive(Default)]
pub(crate) struct Counted(Mutex<Option<HostTraffic>>);

impl Counted {
    /// The newest figures, once: the controller keeps them until there are newer ones.
    pub fn take(&self) -> Option<HostTraffic> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

pub(crate) async fn run(host: &Host, shutdown: CancellationToken) {
    let mut works = true;
    loop {
        match host.networks.traffic().await {
            Ok(traffic) => {
                works = true;
                *host.counted.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(traffic);
            }
            Err(error) => {
                if works {
                    tracing::warn!(%error, "the counters of this host's networks can't be read, trying again");
                }
                works = false;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = shutdown.cancelled() => return,
        }
    }
}
