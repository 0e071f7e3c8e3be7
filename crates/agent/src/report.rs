//! What this host's heartbeats say, and their way to the controller.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gantry_api::{
    fencing::LeaseReport,
    heartbeat::{Heartbeat, HeartbeatReply},
    paths,
};
use gantry_types::{Inventory, Problem};

use crate::agent::Agent;
use crate::heartbeat::{Mark, Reporter};
use crate::host::Host;
use crate::host_metrics::HostMeter;
use crate::lease::LeaseKeeper;

const ANSWER_LIMIT: Duration = Duration::from_secs(5);

pub(crate) struct HttpReporter {
    host: Arc<Host>,
    agent: Arc<Agent>,
    http: reqwest::Client,
    url: String,
    meter: HostMeter,
}

impl HttpReporter {
    pub fn new(host: Arc<Host>, agent: Arc<Agent>, http: reqwest::Client) -> Self {
        let url = format!("{}{}", host.config.controller_url.trim_end_matches('/'), paths::HEARTBEAT);
        Self { host, agent, http, url, meter: HostMeter::default() }
    }
}

#[async_trait]
impl Reporter for HttpReporter {
    fn lease(&self) -> &LeaseKeeper {
        &self.host.lease
    }

    async fn lease_report(&self) -> LeaseReport {
        self.agent.lease_report().await
    }

    async fn heartbeat(&mut self, mark: Mark) -> Heartbeat {
        let vms = self.agent.observations().await;
        let host = &self.host;
        Heartbeat {
            agent_instance: mark.agent_instance,
            sequence: mark.sequence,
            agent_address: host.config.agent_address.to_string(),
            underlay_address: host.config.underlay_address.to_string(),
            inventory: Inventory {
                links: host.links.known(),
                lost_pools: host.losses.lost_pools(),
                ..host.qemu.inventory(&host.pool)
            },
            metrics: self.meter.measure(),
            vms,
            networks_generation: host.networks.generation(),
            members: host.health.report(),
            idle_routers: host.health.idle_routers(),
            pools: host.pools.reports(),
            traffic: host.counted.take(),
            lease: Some(mark.lease),
        }
    }

    async fn send(&self, heartbeat: &Heartbeat) -> Result<HeartbeatReply, Problem> {
        let request = self.http.post(&self.url).timeout(ANSWER_LIMIT).json(heartbeat);
        gantry_hostlink::answer::<HeartbeatReply>("the controller", request).await
    }

    fn heard(&self, reply: HeartbeatReply) {
        self.host.pools.watch(reply.pools);
        self.host.losses.may_leave(reply.may_leave);
    }

    fn unheard(&self) {
        self.host.losses.may_leave([]);
    }
}
