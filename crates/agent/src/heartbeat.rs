//! Tells the controller each second what this host is and has. A controller that is away, for however long, changes
//! nothing here: the loop goes on and says once that it can't be reached, and once that it can be again.

use std::sync::Arc;
use std::time::Duration;

use gantry_api::{
    heartbeat::{Heartbeat, HeartbeatReply},
    paths,
};
use gantry_types::Inventory;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::agent::Agent;
use crate::host::Host;
use crate::host_metrics::HostMeter;
use crate::warden::boottime;

const INTERVAL: Duration = Duration::from_secs(1);
/// What a controller may ask for.
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 100..=60_000;
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

pub(crate) async fn run(host: Arc<Host>, agent: Arc<Agent>, http: reqwest::Client, shutdown: CancellationToken) {
    let url = format!("{}{}", host.config.controller_url.trim_end_matches('/'), paths::HEARTBEAT);
    let agent_instance = Uuid::new_v4();
    let mut meter = HostMeter::default();
    let mut sequence = 0;
    let mut reachable = None;
    let mut interval = INTERVAL;
    loop {
        sequence += 1;
        // What it acknowledges must show in what is said of the VMs, which is looked at afterwards.
        let lease = agent.lease_report().await;
        let vms = agent.observations().await;
        let heartbeat = Heartbeat {
            agent_instance,
            sequence,
            agent_address: host.config.agent_address.to_string(),
            underlay_address: host.config.underlay_address.to_string(),
            inventory: Inventory {
                links: host.links.known(),
                lost_pools: host.losses.lost_pools(),
                ..host.qemu.inventory(&host.pool)
            },
            metrics: meter.measure(),
            vms,
            networks_generation: host.networks.generation(),
            members: host.health.report(),
            idle_routers: host.health.idle_routers(),
            pools: host.pools.reports(),
            traffic: host.counted.take(),
            lease: Some(lease),
        };
        // The lease counts from here, whenever the answer comes.
        let sent = boottime();
        let request = http.post(&url).timeout(ANSWER_LIMIT).json(&heartbeat);
        match gantry_hostlink::answer::<HeartbeatReply>("the controller", request).await {
            Ok(reply) => {
                if let Some(grant) = &reply.lease {
                    host.lease.heard(sent, grant).await;
                }
                host.pools.watch(reply.pools);
                host.losses.may_leave(reply.may_leave);
                interval = Duration::from_millis(reply.interval_ms.clamp(*INTERVAL_MS.start(), *INTERVAL_MS.end()));
                if reachable != Some(true) {
                    tracing::info!(url, "the controller answers");
                }
                reachable = Some(true);
            }
            Err(error) => {
                host.losses.may_leave([]);
                if reachable != Some(false) {
                    tracing::warn!(url, %error, "no heartbeat: the VMs of this host run on while its lease is held");
                }
                reachable = Some(false);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = shutdown.cancelled() => return,
        }
    }
}
