//! Keeps this host's certificates young: in the last third of their life it asks the controller for new ones, over the
//! connection that the old ones still open. Weeks are left then, so a failure is only tried again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gantry_api::{
    paths,
    rest::{JoinResponse, RenewRequest},
};
use gantry_trust::KeyRequest;
use gantry_types::{Problem, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::host::Host;
use crate::problem::chain;

const LOOK_INTERVAL: Duration = Duration::from_secs(3600);
const RETRY_INTERVAL: Duration = Duration::from_secs(60);
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

pub(crate) async fn run(host: Arc<Host>, http: reqwest::Client, shutdown: CancellationToken) {
    loop {
        let now = Timestamp::from(SystemTime::now()).0;
        let due = [&host.identity, &host.qemu_identity].iter().any(|identity| identity.current().needs_renewal(now));
        let pause = match due {
            false => LOOK_INTERVAL,
            true => match renew(&host, &http).await {
                Ok(()) => {
                    tracing::info!("this host has new certificates");
                    LOOK_INTERVAL
                }
                Err(error) => {
                    let expires = host.identity.current().expires();
                    tracing::warn!(%error, %expires, "this host's certificates could not be renewed, trying again");
                    RETRY_INTERVAL
                }
            },
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// On disk before they are used: an agent that is killed in between has the old or the new ones, both of them good.
async fn renew(host: &Host, http: &reqwest::Client) -> Result<(), Problem> {
    let failed = |error: gantry_trust::TrustError| {
        Problem::new(error.class(), "not-renewed", chain(&error))
            .remedy("if it stays so until they expire, let this host join again: gantry host join URL TOKEN")
    };
    let (agent_key, qemu_key) = (KeyRequest::generate().map_err(failed)?, KeyRequest::generate().map_err(failed)?);
    let request =
        RenewRequest { agent_csr: agent_key.request_pem().to_owned(), qemu_csr: qemu_key.request_pem().to_owned() };
    let url = format!("{}{}", host.config.controller_url.trim_end_matches('/'), paths::RENEW);
    let sent = http.post(url).timeout(ANSWER_LIMIT).json(&request);
    let answer: JoinResponse = gantry_hostlink::answer("the controller", sent).await?;
    // The CA stays the one this host joined.
    let ca_pem = host.identity.current().ca_pem().to_owned();
    let agent = agent_key.into_identity(&answer.agent_certificate, &ca_pem).map_err(failed)?;
    let qemu = qemu_key.into_identity(&answer.qemu_certificate, &ca_pem).map_err(failed)?;
    qemu.save(&host.config.qemu_identity_dir()).map_err(failed)?;
    host.qemu_identity.replace(qemu).map_err(failed)?;
    agent.save(&host.config.identity_dir()).map_err(failed)?;
    host.identity.replace(agent).map_err(failed)
}
