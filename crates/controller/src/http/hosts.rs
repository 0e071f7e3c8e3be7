//! What hosts ask of the controller: to join, and from then on, by their certificates, everything else.

use axum::{Extension, Json, extract::State, http::header, response::IntoResponse};
use gantry_api::{
    fencing::{FenceAnswer, FenceQuestion},
    heartbeat::{Heartbeat, HeartbeatReply},
    rest::{JoinRequest, JoinResponse, RenewRequest},
};
use gantry_trust::{JoinToken, LEAF_LIFETIME, LeafNames, PeerIdentity, PeerKey, Role, TrustError};
use gantry_types::{Host, Name, Problem};

use super::{
    Front, Shared,
    audit::Who,
    caller::HostPeer,
    request::{Answer, Body},
};
use crate::{
    app::{self, host::Joining, token},
    leases::moment,
    loops::intake,
};

/// Two signing requests and some names: whoever may send them has shown nothing yet.
pub const MAX_JOIN_BYTES: usize = 64 << 10;

/// The CA's certificate. Public: whoever joins checks its fingerprint against the token's.
pub async fn ca(State(front): State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/x-pem-file")], front.authority.certificate_pem().to_owned())
}

/// Uses a join token up and gives the host its certificates.
pub async fn join(
    State(front): State<Shared>,
    who: Option<Extension<Who>>,
    Body(request): Body<JoinRequest>,
) -> Answer<JoinResponse> {
    let refused = || {
        Problem::unauthenticated("the join token is not valid: it is malformed, unknown, used or expired")
            .remedy("make one: gantry token create NAME --role join")
    };
    let shown = JoinToken::parse(request.token.trim()).map_err(|_| refused())?;
    let stored = token::by_hash(&front.app, &shown.hash().to_string()).ok_or_else(refused)?;
    if let Some(Extension(who)) = who {
        who.note_as(format!("host/{}", request.name));
    }
    // Both requests are checked before the token is used up.
    let leaves = issue(&front, &request.name, &request.underlay_address, &request.agent_csr, &request.qemu_csr)?;
    let joining = Joining {
        name: request.name.clone(),
        agent_address: request.agent_address.clone(),
        underlay_address: request.underlay_address.clone(),
        agent_key: agent_key(&leaves)?,
        token: stored.metadata.name.clone(),
    };
    app::host::join(&front.app, &joining).await?;
    Ok(Json(leaves))
}

/// New certificates for new keys, to a host that still has valid ones.
pub async fn renew(
    State(front): State<Shared>,
    HostPeer(name): HostPeer,
    Extension(used): Extension<PeerKey>,
    Body(request): Body<RenewRequest>,
) -> Answer<JoinResponse> {
    let host = front.app.model.get::<Host>(name.as_str()).ok_or_else(|| Problem::not_found("host", name.as_str()))?;
    let leaves = issue(&front, &name, &host.status.underlay_address, &request.agent_csr, &request.qemu_csr)?;
    app::host::record_renewal(&front.app, &name, &used.to_string(), &agent_key(&leaves)?).await?;
    Ok(Json(leaves))
}

pub async fn heartbeat(
    State(front): State<Shared>,
    HostPeer(name): HostPeer,
    Body(beat): Body<Heartbeat>,
) -> Answer<HeartbeatReply> {
    Ok(Json(intake::heartbeat(&front.app, &name, beat).await?))
}

/// Whether this controller has a record against the host that asks; answered from memory, so that it comes in time.
pub async fn fence(
    State(front): State<Shared>,
    HostPeer(name): HostPeer,
    Body(question): Body<FenceQuestion>,
) -> Answer<FenceAnswer> {
    let question = FenceQuestion { host: name, ..question };
    Ok(Json(front.app.leases.ask(&question, moment(&*front.app.clock))))
}

fn issue(
    front: &Front,
    name: &Name,
    underlay_address: &str,
    agent_csr: &str,
    qemu_csr: &str,
) -> Result<JoinResponse, Problem> {
    let address = underlay_address.parse().map_err(|_| {
        Problem::invalid("invalid-join", format!("host '{name}' can't join like this"))
            .field("underlay_address", "is not an IP address")
    })?;
    let leaf = |role, request: &str| {
        let identity = PeerIdentity::new(role, name.clone());
        let names = LeafNames::new(identity, &[address]);
        front.authority.issue(request, &names, LEAF_LIFETIME, front.app.clock.now().0).map_err(refused)
    };
    Ok(JoinResponse {
        ca: front.authority.certificate_pem().to_owned(),
        agent_certificate: leaf(Role::Host, agent_csr)?,
        qemu_certificate: leaf(Role::Qemu, qemu_csr)?,
        controller: front.identity.current().peer().name().to_string(),
    })
}

fn agent_key(leaves: &JoinResponse) -> Result<String, Problem> {
    Ok(PeerKey::from_pem(&leaves.agent_certificate).map_err(refused)?.to_string())
}

fn refused(error: TrustError) -> Problem {
    Problem::new(error.class(), "certificate-refused", format!("no certificate was issued: {error}"))
}
