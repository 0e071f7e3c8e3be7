//! Fences over HTTP: what members of a cluster ask each other, and what the controller has them keep.

use async_trait::async_trait;
use axum::{
    Extension, Json, Router,
    extract::{Path, State},
    routing::{post, put},
};
use gantry_api::{
    FencingApi,
    fencing::{FenceAnswer, FenceQuestion, LiftedFence, StoredFence},
    paths::host as paths,
};
use gantry_trust::{PeerIdentity, Role};
use gantry_types::{Fence, Problem};
use reqwest::Method;

use crate::{
    client::{AgentClient, QUICK},
    reply::{Refusal, answer, done},
    router::{Answer, Host},
};

pub(crate) fn routes() -> Router<Host> {
    Router::new().route(paths::FENCE_QUESTION, post(ask)).route(paths::FENCE, put(store).delete(lift))
}

/// The refusal of a command from before a fence.
pub fn stale(known: u64, lifted: u64) -> Problem {
    let detail = format!(
        "this host was shut out and let in again (fence {lifted}) since the command was sent, which knows of fence {known}"
    );
    Problem::conflict("stale-fence", detail).remedy("look where the VM is now, then repeat the command")
}

async fn ask(
    State(host): State<Host>,
    Extension(peer): Extension<Option<PeerIdentity>>,
    Json(question): Json<FenceQuestion>,
) -> Answer<FenceAnswer> {
    // A host asks for itself only: an answer counts as a word given to that host.
    if let Some(peer) = peer.filter(|peer| peer.role() == Role::Host)
        && *peer.name() != question.host
    {
        let detail = format!("{peer} may not ask about fences of host '{}'", question.host);
        return Err(Problem::denied("not-your-fence", detail).into());
    }
    Ok(Json(host.ask_fence(&question).await?))
}

async fn store(State(host): State<Host>, Path(name): Path<String>, Json(fence): Json<Fence>) -> Answer<StoredFence> {
    same_host(&name, fence.host.as_str())?;
    Ok(Json(host.store_fence(&fence).await?))
}

async fn lift(State(host): State<Host>, Path(name): Path<String>, Json(lifted): Json<LiftedFence>) -> Answer<()> {
    same_host(&name, lifted.host.as_str())?;
    Ok(Json(host.lift_fence(&lifted).await?))
}

fn same_host(path: &str, body: &str) -> Result<(), Refusal> {
    if path == body {
        return Ok(());
    }
    Err(Problem::invalid("host-mismatch", format!("the path names host '{path}', the body '{body}'")).into())
}

#[async_trait]
impl FencingApi for AgentClient {
    async fn ask_fence(&self, question: &FenceQuestion) -> Result<FenceAnswer, Problem> {
        answer(&self.host, self.post(paths::FENCE_QUESTION, question, QUICK)).await
    }
    async fn store_fence(&self, fence: &Fence) -> Result<StoredFence, Problem> {
        answer(&self.host, self.put(&paths::fence(fence.host.as_str()), fence, QUICK)).await
    }
    async fn lift_fence(&self, lifted: &LiftedFence) -> Result<(), Problem> {
        let path = paths::fence(lifted.host.as_str());
        done(&self.host, self.request(Method::DELETE, &path, QUICK).json(lifted)).await
    }
}
