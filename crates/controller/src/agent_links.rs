//! Connections to the hosts' agents over mutual TLS.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use gantry_api::AgentApi;
use gantry_hostlink::AgentClient;
use gantry_trust::LiveIdentity;
use gantry_types::{Host, Resource};

use crate::links::HostLinks;

/// One connection pool per host and address; a host that moved gets a new one.
pub struct AgentLinks {
    identity: LiveIdentity,
    clients: Mutex<HashMap<String, (String, AgentClient)>>,
}

impl AgentLinks {
    pub fn new(identity: LiveIdentity) -> Self {
        Self { identity, clients: Mutex::default() }
    }

    /// The client for this host at its present address.
    pub fn client(&self, host: &Host) -> AgentClient {
        // A panic while the lock was held leaves a map that is still whole.
        let mut clients = self.clients.lock().unwrap_or_else(|e| e.into_inner());
        let address = &host.status.agent_address;
        if let Some((known, client)) = clients.get(host.name())
            && known == address
        {
            return client.knowing_lifted(host.status.fences_lifted);
        }
        // The identity was loaded and checked when the controller started; it can't be unfit now.
        let client = AgentClient::new(&self.identity, &host.metadata.name, address)
            .unwrap_or_else(|error| panic!("the controller's own identity can't be used: {error}"));
        clients.insert(host.name().to_owned(), (address.clone(), client.clone()));
        client.knowing_lifted(host.status.fences_lifted)
    }
}

impl HostLinks for AgentLinks {
    fn agent(&self, host: &Host) -> Arc<dyn AgentApi> {
        Arc::new(self.client(host))
    }
}
