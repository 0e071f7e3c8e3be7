//! A host's first contact with its datacenter.
//!
//! The token names the CA by fingerprint, so the host knows the controller before it tells it anything. Keys are made
//! here and never leave. Nothing is stored before the controller has accepted; a second join replaces the first's
//! identities, which is how a host whose certificates were lost comes back.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use gantry_api::{
    paths,
    rest::{JoinRequest, JoinResponse},
};
use gantry_trust::{ClientConfig, ExpectedPeer, JoinToken, KeyRequest, TrustError, fetch_ca};
use gantry_types::{Name, Problem};

use crate::config::{AgentConfig, ConfigError};

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("the controller at {url} did not let this host join: {problem}")]
    Refused { url: String, problem: Problem },
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Joins the datacenter whose controller answers at `url` (`https://ADDRESS:PORT`), as `name`; writes the state
/// directory.
pub async fn join(
    url: &str,
    token: &str,
    name: Name,
    agent_address: SocketAddr,
    underlay_address: IpAddr,
    state_dir: &Path,
) -> Result<AgentConfig, JoinError> {
    let url = url.trim_end_matches('/');
    let ca_pem = fetch_ca(url, JoinToken::parse(token)?.ca_fingerprint()).await?;
    let (agent_key, qemu_key) = (KeyRequest::generate()?, KeyRequest::generate()?);
    let request = JoinRequest {
        token: token.trim().to_owned(),
        name: name.clone(),
        agent_address: agent_address.to_string(),
        underlay_address: underlay_address.to_string(),
        agent_csr: agent_key.request_pem().to_owned(),
        qemu_csr: qemu_key.request_pem().to_owned(),
    };
    let http = ClientConfig::anonymous(&ca_pem, ExpectedPeer::any_controller())?.http()?;
    let sent = http.post(format!("{url}{}", paths::JOIN)).json(&request);
    let response: JoinResponse = gantry_hostlink::answer("the controller", sent)
        .await
        .map_err(|problem| JoinError::Refused { url: url.to_owned(), problem })?;

    let config = AgentConfig::new(name, agent_address, underlay_address, url.to_owned(), state_dir.to_owned());
    let agent = agent_key.into_identity(&response.agent_certificate, &ca_pem)?;
    let qemu = qemu_key.into_identity(&response.qemu_certificate, &ca_pem)?;
    crate::config::create_state_dir(state_dir)?;
    agent.save(&config.identity_dir())?;
    qemu.save(&config.qemu_identity_dir())?;
    // Last: a state directory with this file is one that has joined.
    config.save()?;
    Ok(config)
}
