//! This host as a member of its cluster: what others ask it, and what it keeps for the controller.

use async_trait::async_trait;
use gantry_api::FencingApi;
use gantry_api::fencing::{FenceAnswer, FenceQuestion, LiftedFence, StoredFence};
use gantry_types::{Fence, Problem};

use super::LeaseKeeper;
use crate::agent::Agent;

fn not_written(error: &std::io::Error) -> Problem {
    Problem::transient("fence-not-written", format!("what this host knows of fences can't be written: {error}"))
        .remedy("check the state directory's filesystem")
}

impl LeaseKeeper {
    /// [`FencingApi::ask_fence`].
    ///
    /// # Errors
    /// `fence-not-written` (transient), as of all three.
    pub async fn answer(&self, question: &FenceQuestion) -> Result<FenceAnswer, Problem> {
        let (host, lifted) = (&question.host, question.lifted);
        if self.lock().ledger.would_lift(host, lifted) {
            let written = self.persist(|_, ledger| ledger.lift(host, lifted)).await;
            written.map_err(|error| not_written(&error))?;
        }
        let mut state = self.lock();
        Ok(FenceAnswer { fence: state.ledger.ask(host, lifted, self.now()).cloned() })
    }

    /// [`FencingApi::store_fence`].
    pub async fn store(&self, fence: &Fence) -> Result<StoredFence, Problem> {
        if fence.host == self.host {
            let detail = format!("host '{}' keeps no record against itself", self.host);
            return Err(Problem::invalid("own-fence", detail).remedy("ask the other members"));
        }
        let written = self.persist(|_, ledger| {
            ledger.record(fence);
        });
        let written = written.await;
        written.map_err(|error| not_written(&error))?;
        let mut state = self.lock();
        let last_word = state.ledger.record(fence);
        if state.ledger.fence(&fence.host).is_none_or(|known| known.generation < fence.generation) {
            let detail = format!("fence {} of host '{}' was lifted already", fence.generation, fence.host);
            return Err(Problem::conflict("fence-lifted", detail).remedy("read the host again"));
        }
        Ok(StoredFence { generation: fence.generation, ago_ms: self.now().ms_since(last_word) })
    }

    /// [`FencingApi::lift_fence`].
    pub async fn lift(&self, lifted: &LiftedFence) -> Result<(), Problem> {
        let written = self.persist(|_, ledger| ledger.lift(&lifted.host, lifted.generation)).await;
        written.map_err(|error| not_written(&error))
    }
}

#[async_trait]
impl FencingApi for Agent {
    async fn ask_fence(&self, question: &FenceQuestion) -> Result<FenceAnswer, Problem> {
        self.host.lease.answer(question).await
    }
    async fn store_fence(&self, fence: &Fence) -> Result<StoredFence, Problem> {
        self.host.lease.store(fence).await
    }
    async fn lift_fence(&self, lifted: &LiftedFence) -> Result<(), Problem> {
        self.host.lease.lift(lifted).await
    }
}
