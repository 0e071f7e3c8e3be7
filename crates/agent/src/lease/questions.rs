//! Asks the other members when the controller has been silent for a while, and looks often how the lease stands.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gantry_api::FencingApi;
use gantry_api::fencing::{FenceAnswer, FenceQuestion};
use gantry_api::paths;
use gantry_ha::lease::Answer;
use gantry_hostlink::AgentClient;
use gantry_types::{Member, Members, Name, Problem};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::LeaseKeeper;
use crate::host::Host;
use crate::warden::boottime;

const LOOK: Duration = Duration::from_millis(100);
/// An answer that takes longer comes too late for its round.
const ANSWER_LIMIT: Duration = Duration::from_millis(1_500);

/// Until the agent ends; the warden goes on.
pub(crate) async fn run(host: Arc<Host>, controller: reqwest::Client, shutdown: CancellationToken) {
    let mut members = Links::default();
    let mut asked = JoinSet::new();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {
                if let Some(round) = host.lease.next_round() {
                    ask_all(&host, &controller, &mut members, &round, &mut asked);
                }
                host.lease.refresh().await;
            }
            // None is waited for longer than its limit.
            Some(_) = asked.join_next() => {}
            () = shutdown.cancelled() => return,
        }
    }
}

struct Round {
    number: u64,
    question: FenceQuestion,
    members: Members,
}

impl LeaseKeeper {
    fn next_round(&self) -> Option<Round> {
        let mut state = self.lock();
        let now = boottime();
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

/// Connections to the other members, by name and address.
#[derive(Default)]
struct Links(BTreeMap<Name, (String, AgentClient)>);

impl Links {
    fn to(&mut self, host: &Host, name: &Name, address: &str) -> Option<AgentClient> {
        if let Some((known, client)) = self.0.get(name)
            && known == address
        {
            return Some(client.clone());
        }
        let client = AgentClient::new(&host.identity, name, address).ok()?;
        self.0.insert(name.clone(), (address.to_owned(), client.clone()));
        Some(client)
    }
}

fn ask_all(host: &Arc<Host>, controller: &reqwest::Client, links: &mut Links, round: &Round, asked: &mut JoinSet<()>) {
    let others = round.members.hosts.iter().filter(|(name, _)| **name != host.config.name);
    for (name, address) in others {
        let Some(client) = links.to(host, name, address) else { continue };
        let question = round.question.clone();
        let asking = async move { client.ask_fence(&question).await };
        asked.spawn(take_in(host.clone(), Member::Host(name.clone()), round.number, asking));
    }
    let url = format!("{}{}", host.config.controller_url.trim_end_matches('/'), paths::AGENT_FENCE);
    let request = controller.post(url).timeout(ANSWER_LIMIT).json(&round.question);
    let asking = async move { gantry_hostlink::answer::<FenceAnswer>("the controller", request).await };
    asked.spawn(take_in(host.clone(), Member::Controller, round.number, asking));
}

async fn take_in(
    host: Arc<Host>,
    from: Member,
    round: u64,
    asking: impl Future<Output = Result<FenceAnswer, Problem>>,
) {
    match tokio::time::timeout(ANSWER_LIMIT, asking).await {
        Ok(Ok(answer)) => host.lease.answered(from, round, answer).await,
        Ok(Err(problem)) => tracing::debug!(%from, %problem, "no word about this host's lease"),
        Err(_) => tracing::debug!(%from, "no word about this host's lease in time"),
    }
}
