//! The way to the other members of the cluster, over HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use gantry_api::FencingApi;
use gantry_api::fencing::{FenceAnswer, FenceQuestion};
use gantry_api::paths;
use gantry_hostlink::AgentClient;
use gantry_types::{Name, Problem};

use super::questions::{ANSWER_LIMIT, Members};
use crate::host::Host;

/// Connections to the members, by name and address.
pub(crate) struct HttpMembers {
    host: Arc<Host>,
    controller: reqwest::Client,
    links: BTreeMap<Name, (String, AgentClient)>,
}

impl HttpMembers {
    pub fn new(host: Arc<Host>, controller: reqwest::Client) -> Self {
        Self { host, controller, links: BTreeMap::new() }
    }

    fn to(&mut self, name: &Name, address: &str) -> Option<AgentClient> {
        if let Some((known, client)) = self.links.get(name)
            && known == address
        {
            return Some(client.clone());
        }
        let client = AgentClient::new(&self.host.identity, name, address).ok()?;
        self.links.insert(name.clone(), (address.to_owned(), client.clone()));
        Some(client)
    }
}

impl Members for HttpMembers {
    fn ask_host(
        &mut self,
        name: &Name,
        address: &str,
        question: FenceQuestion,
    ) -> Option<BoxFuture<'static, Result<FenceAnswer, Problem>>> {
        let client = self.to(name, address)?;
        Some(Box::pin(async move { client.ask_fence(&question).await }))
    }

    fn ask_controller(&mut self, question: FenceQuestion) -> BoxFuture<'static, Result<FenceAnswer, Problem>> {
        let url = format!("{}{}", self.host.config.controller_url.trim_end_matches('/'), paths::AGENT_FENCE);
        let request = self.controller.post(url).timeout(ANSWER_LIMIT).json(&question);
        Box::pin(async move { gantry_hostlink::answer::<FenceAnswer>("the controller", request).await })
    }
}
