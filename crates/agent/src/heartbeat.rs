//! Tells the controller each second what this host is and has. A controller that is away, for however long, changes
//! nothing here: the loop goes on and says once that it can't be reached, and once that it can be again.

use std::time::Duration;

use async_trait::async_trait;
use gantry_api::{
    fencing::LeaseReport,
    heartbeat::{Heartbeat, HeartbeatReply},
};
use gantry_types::Problem;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::lease::LeaseKeeper;

const INTERVAL: Duration = Duration::from_secs(1);
/// What a controller may ask for.
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 100..=60_000;

/// What a host says, and how it reaches its controller.
#[async_trait]
pub trait Reporter: Send {
    fn lease(&self) -> &LeaseKeeper;
    async fn lease_report(&self) -> LeaseReport;
    /// Everything else, looked at now.
    async fn heartbeat(&mut self, mark: Mark) -> Heartbeat;
    async fn send(&self, heartbeat: &Heartbeat) -> Result<HeartbeatReply, Problem>;
    /// What the answer says beside the lease.
    fn heard(&self, reply: HeartbeatReply);
    fn unheard(&self);
}

/// By which heartbeats are told apart, and what this one says of the lease.
#[derive(Debug, Clone)]
pub struct Mark {
    pub agent_instance: Uuid,
    pub sequence: u64,
    pub lease: LeaseReport,
}

/// `agent_instance`: new with every start of the agent, and greater than those before.
pub async fn run(mut reporter: impl Reporter, agent_instance: Uuid, shutdown: CancellationToken) {
    let mut sequence = 0;
    let mut reachable = None;
    let mut interval = INTERVAL;
    loop {
        sequence += 1;
        // What it acknowledges must show in what is said of the VMs, which is looked at afterwards.
        let lease = reporter.lease_report().await;
        let heartbeat = reporter.heartbeat(Mark { agent_instance, sequence, lease }).await;
        // The lease counts from here, whenever the answer comes.
        let sent = reporter.lease().now();
        match reporter.send(&heartbeat).await {
            Ok(reply) => {
                if let Some(grant) = &reply.lease {
                    reporter.lease().heard(sent, grant).await;
                }
                interval = Duration::from_millis(reply.interval_ms.clamp(*INTERVAL_MS.start(), *INTERVAL_MS.end()));
                reporter.heard(reply);
                if reachable != Some(true) {
                    tracing::info!("the controller answers");
                }
                reachable = Some(true);
            }
            Err(error) => {
                reporter.unheard();
                if reachable != Some(false) {
                    tracing::warn!(%error, "no heartbeat: the VMs of this host run on while its lease is held");
                }
                reachable = Some(false);
            }
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = reporter.lease().sleep(interval) => {}
        }
    }
}
