//! A host's first contact with its datacenter.
//!
//! The token names the CA by fingerprint, so the host knows the controller before it tells it anything. Keys are made
//! here and never leave. Nothing is stored before the controller has accepted; a second join replaces the first's
//! identities, which is how a host whose certificates were lost comes back.
//!
//! A host that has VMs stays who it is: to another controller, or to the same one under another name, they would be strays,
//! which it removes. Without VMs it may join anywhere, and forgets the networks of where it was.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::{fs, io};

use gantry_api::{
    paths,
    rest::{JoinRequest, JoinResponse},
};
use gantry_trust::{ClientConfig, ExpectedPeer, Fingerprint, Identity, JoinToken, KeyRequest, TrustError, fetch_ca};
use gantry_types::{Name, Problem};

use crate::config::{AgentConfig, ConfigError};
use crate::durable;
use crate::lease::LEASE_FILE;
use crate::networks::NETWORKS_FILE;

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("the controller at {url} did not let this host join: {problem}")]
    Refused { url: String, problem: Problem },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "this host has {vms} VMs of host '{name}' in {}, which must not become another's: join as '{name}', or delete \
         these VMs first",
        directory.display()
    )]
    VmsOfOtherName { name: Name, vms: usize, directory: PathBuf },
    #[error(
        "this host has {vms} VMs of another datacenter in {}: the controller it joined has CA {joined}, the one of this \
         token has {asked}; use a token of the controller it joined, or delete these VMs first",
        directory.display()
    )]
    VmsOfOtherDatacenter { vms: usize, directory: PathBuf, joined: Fingerprint, asked: Fingerprint },
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What a state directory says of an earlier join.
enum Before {
    Nothing,
    /// The same host of the same datacenter.
    Same,
    Other,
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
    let ca = JoinToken::parse(token)?.ca_fingerprint();
    let before = check_before(&name, ca, state_dir)?;
    let ca_pem = fetch_ca(url, ca).await?;
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
    if !matches!(before, Before::Same) {
        // Its generation is another store's: all that this controller sends might be older.
        for file in [NETWORKS_FILE, LEASE_FILE] {
            let path = state_dir.join(file);
            durable::remove(&path).map_err(|source| JoinError::File { action: "remove", path, source })?;
        }
    }
    agent.save(&config.identity_dir())?;
    qemu.save(&config.qemu_identity_dir())?;
    // Last: a state directory with this file is one that has joined.
    config.save()?;
    Ok(config)
}

/// Refuses a join that would make VMs of this host somebody else's.
fn check_before(name: &Name, ca: Fingerprint, state_dir: &Path) -> Result<Before, JoinError> {
    let joined_as = match AgentConfig::load(state_dir) {
        Ok(config) => Some(config.name),
        Err(ConfigError::NotJoined { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    // Lost certificates are a reason to join again; the other identity has the same CA.
    let identity = ["identity", "qemu-identity"].iter().find_map(|part| Identity::load(&state_dir.join(part)).ok());
    let joined_ca = identity.map(|identity| identity.ca_fingerprint());
    let directory = state_dir.join("vms");
    let vms = match fs::read_dir(&directory) {
        Ok(entries) => entries.count(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(source) => return Err(JoinError::File { action: "list", path: directory, source }),
    };
    let same_name = joined_as.as_ref().is_none_or(|joined_as| joined_as == name);
    match (joined_as, joined_ca) {
        (None, None) => Ok(Before::Nothing),
        (_, Some(joined)) if same_name && joined == ca => Ok(Before::Same),
        _ if vms == 0 => Ok(Before::Other),
        (Some(joined_as), _) if !same_name => Err(JoinError::VmsOfOtherName { name: joined_as, vms, directory }),
        (_, Some(joined)) => Err(JoinError::VmsOfOtherDatacenter { vms, directory, joined, asked: ca }),
        // With no certificate left nothing tells the datacenters apart but the name.
        (Some(_), None) => Ok(Before::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_trust::{CertificateAuthority, LEAF_LIFETIME, LeafNames, PeerIdentity, Role};

    #[test]
    fn a_host_with_vms_stays_who_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path().join("state");
        let (ours, theirs) = ("host-1".parse().unwrap(), "host-2".parse().unwrap());
        let authority =
            |name| CertificateAuthority::create(&directory.path().join(name), jiff::Timestamp::now()).unwrap();
        let (here, elsewhere) = (authority("here"), authority("elsewhere"));
        let check = |name: &Name, ca: &CertificateAuthority| check_before(name, ca.fingerprint(), &state_dir);
        assert!(matches!(check(&ours, &here), Ok(Before::Nothing)));

        let address = "10.0.0.1:7443".parse().unwrap();
        let url = "https://10.0.0.9:7440".to_owned();
        let config = AgentConfig::new(ours.clone(), address, address.ip(), url, state_dir.clone());
        config.save().unwrap();
        let names = LeafNames::new(PeerIdentity::new(Role::Host, ours.clone()), &[]);
        let identity = here.issue_identity(&names, LEAF_LIFETIME, jiff::Timestamp::now()).unwrap();
        identity.save(&config.identity_dir()).unwrap();
        assert!(matches!(check(&ours, &here), Ok(Before::Same)));
        assert!(matches!(check(&theirs, &here), Ok(Before::Other)));
        assert!(matches!(check(&ours, &elsewhere), Ok(Before::Other)));

        fs::create_dir_all(state_dir.join("vms/1")).unwrap();
        assert!(matches!(check(&ours, &here), Ok(Before::Same)));
        let error = check(&theirs, &here).err().unwrap();
        assert!(matches!(error, JoinError::VmsOfOtherName { vms: 1, .. }));
        assert!(error.to_string().contains("join as 'host-1'"), "{error}");
        assert!(matches!(check(&ours, &elsewhere), Err(JoinError::VmsOfOtherDatacenter { vms: 1, .. })));

        // The key is lost, not the VMs: it may come back as itself only.
        fs::remove_dir_all(config.identity_dir()).unwrap();
        assert!(matches!(check(&ours, &here), Ok(Before::Other)));
        assert!(matches!(check(&theirs, &here), Err(JoinError::VmsOfOtherName { .. })));
    }
}
