//! Which interfaces this host has for networks, looked at now and then beside everything else: they change when somebody
//! plugs one in.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gantry_types::HostLinks;
use tokio_util::sync::CancellationToken;

use crate::host::Host;

const INTERVAL: Duration = Duration::from_secs(10);

/// What was found last; nothing until the first look.
#[derive(Default)]
pub(crate) struct Links(Mutex<Option<HostLinks>>);

impl Links {
    pub fn known(&self) -> Option<HostLinks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(crate) async fn run(host: &Host, shutdown: CancellationToken) {
    let mut works = true;
    loop {
        match host.networks.links().await {
            Ok(links) => {
                works = true;
                host.losses.note_links(&links);
                *host.links.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(links);
            }
            Err(error) => {
                if works {
                    tracing::warn!(%error, "the interfaces of this host can't be listed, trying again");
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
