//! Asks the other members when the controller has been silent for a while, and looks often how the lease stands.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use gantry_api::fencing::{FenceAnswer, FenceQuestion};
use gantry_ha::lease::Answer;
use gantry_types::{Member, Members as Known, Name, Problem};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::LeaseKeeper;

const LOOK: Duration = Duration::from_millis(100);
/// An answer that takes longer comes too late for its round.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_millis(1_500);

/// The way to the other members.
pub trait Members: Send {
    /// `None` if there is none to this one.
    fn ask_host(
        &mut self,
        name: &Name,
        address: &str,
        question: FenceQuestion,
    ) -> Option<BoxFuture<'static, Result<FenceAnswer, Problem>>>;
    fn ask_controller(&mut self, question: FenceQuestion) -> BoxFuture<'static, Result<FenceAnswer, Problem>>;
}

/// Until the agent ends; the warden goes on.
pub async fn run(keeper: Arc<LeaseKeeper>, mut members: impl Members, shutdown: CancellationToken) {
    let mut asked = JoinSet::new();
    loop {
        let mut next_look = keeper.sleep(LOOK);
        if let Some(round) = keeper.next_round() {
            ask_all(&keeper, &mut members, &round, &mut asked);
        }
        keeper.refresh().await;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = &mut next_look => break,
                // None is waited for longer than its limit.
                Some(_) = asked.join_next() => {}
            }
        }
    }
}

struct Round {
    number: u64,
    question: FenceQuestion,
    members: Known,
}

impl LeaseKeeper {
    fn next_round(&self) -> Option<Round> {
        let mut state = self.lock();
        let now = self.now();
        if !state.lease.wants_to_ask(now) {
            return None;
        }
        let number = state.lease.ask(now);
        let question = FenceQuestion { host: self.host.clone(), lifted: state.lease.lifted() };
        Some(Round { number, question, members: state.lease.members().cloned().unwrap_or_default() })
    }

    async fn answered(&self, from: Member, round: u64, answer: FenceAnswer) {
        if let Some(fence) = &answer.fence {
            let written = self.persist(|lease, _| {
                lease.fenced(fence);
            });
            let written = written.await;
            if let Err(error) = written {
                tracing::error!(%error, "that this host is shut out is not on disk");
            }
        } else {
            let answer = Answer { from, round, fence: None };
            self.lock().lease.answered(&answer);
        }
        self.refresh().await;
    }
}

fn ask_all(keeper: &Arc<LeaseKeeper>, members: &mut impl Members, round: &Round, asked: &mut JoinSet<()>) {
    let others = round.members.hosts.iter().filter(|(name, _)| **name != keeper.host);
    for (name, address) in others {
        let Some(asking) = members.ask_host(name, address, round.question.clone()) else { continue };
        asked.spawn(take_in(keeper.clone(), Member::Host(name.clone()), round.number, asking));
    }
    let asking = members.ask_controller(round.question.clone());
    asked.spawn(take_in(keeper.clone(), Member::Controller, round.number, asking));
}

async fn take_in(
    keeper: Arc<LeaseKeeper>,
    from: Member,
    round: u64,
    asking: BoxFuture<'static, Result<FenceAnswer, Problem>>,
) {
    let answered = tokio::select! {
        biased;
        answered = asking => answered,
        () = keeper.sleep(ANSWER_LIMIT) => return tracing::debug!(%from, "no word about this host's lease in time"),
    };
    match answered {
        Ok(answer) => keeper.answered(from, round, answer).await,
        Err(problem) => tracing::debug!(%from, %problem, "no word about this host's lease"),
    }
}
