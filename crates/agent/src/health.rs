//! Whether the load balancers' members on this host serve: each is asked again and again, from the services' address of
//! its network (169.254.169.254), as its own host sees it. The controller reads the verdicts in the heartbeat.
//!
//! A verdict changes only after as many answers of the other kind in a row as the load balancer says. A member that has
//! just arrived begins as the controller last knew it, so a move changes nothing by itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gantry_api::heartbeat::MemberHealth;
use gantry_types::HealthCheck;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::asking::{self, Get};
use crate::host::Host;
use crate::networks::MemberCheck;

/// How soon a new member is checked, and one that has left is not any more.
const INTERVAL: Duration = Duration::from_secs(1);

/// The verdicts on this host's members, by load balancer and port.
#[derive(Default)]
pub(crate) struct Health {
    verdicts: Mutex<BTreeMap<(Uuid, Uuid), Verdict>>,
    idle_routers: Mutex<Vec<Uuid>>,
}

impl Health {
    /// Of those that have been checked.
    pub fn report(&self) -> Vec<MemberHealth> {
        let verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        let checked = verdicts.iter().filter(|(_, verdict)| verdict.checks > 0);
        checked
            .map(|((balancer, port), verdict)| MemberHealth {
                balancer: *balancer,
                port: *port,
                problem: verdict.problem.clone(),
            })
            .collect()
    }

    /// See [`crate::networks::Networks::idle_routers`]; as of the last look.
    pub fn idle_routers(&self) -> Vec<Uuid> {
        self.idle_routers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, of: &MemberCheck, answer: Result<(), String>) {
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(verdict) = verdicts.get_mut(&(of.balancer, of.port)) {
            verdict.note(&of.check, answer);
        }
    }
}

/// What is thought of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    /// Why it is not healthy; nothing if it is.
    problem: Option<String>,
    /// Answers in a row that contradict the verdict.
    against: u32,
    checks: u64,
}

impl Verdict {
    fn new(healthy: bool) -> Self {
        let problem = (!healthy).then(|| "it has not been checked yet".to_owned());
        Self { problem, against: 0, checks: 0 }
    }

    fn note(&mut self, check: &HealthCheck, answer: Result<(), String>) {
        self.checks += 1;
        let needed = match (&self.problem, &answer) {
            (None, Ok(())) => {
                self.against = 0;
                return;
            }
            // The newest reason tells most.
            (Some(_), Err(reason)) => {
                self.against = 0;
                self.problem = Some(reason.clone());
                return;
            }
            (None, Err(_)) => check.unhealthy_after,
            (Some(_), Ok(())) => check.healthy_after,
        };
        self.against += 1;
        if self.against >= needed {
            self.against = 0;
            self.problem = answer.err();
        }
    }
}

pub(crate) async fn run(host: Arc<Host>, shutdown: CancellationToken) {
    let mut running: BTreeMap<MemberCheck, AbortOnDropHandle<()>> = BTreeMap::new();
    loop {
        let wanted: BTreeMap<MemberCheck, bool> = host.networks.checks().await.into_iter().collect();
        running.retain(|check, _| wanted.contains_key(check));
        {
            let mut verdicts = host.health.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
            verdicts.retain(|(balancer, port), _| {
                wanted.keys().any(|check| (check.balancer, check.port) == (*balancer, *port))
            });
            for (check, healthy) in &wanted {
                verdicts.entry((check.balancer, check.port)).or_insert_with(|| Verdict::new(*healthy));
            }
        }
        for check in wanted.into_keys() {
            running
                .entry(check.clone())
                .or_insert_with(|| AbortOnDropHandle::new(tokio::spawn(watch(host.clone(), check))));
        }
        let idle = host.networks.idle_routers().await;
        *host.health.idle_routers.lock().unwrap_or_else(PoisonError::into_inner) = idle;
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn watch(host: Arc<Host>, member: MemberCheck) {
    let interval = Duration::from_secs(member.check.interval_s.into());
    loop {
        let begun = tokio::time::Instant::now();
        if let Some(answer) = ask(&host, &member).await {
            host.health.note(&member, answer);
        }
        tokio::time::sleep_until(begun + interval).await;
    }
}

/// Whether it serves; nothing if it can't be asked, because its network's services are not up.
async fn ask(host: &Host, member: &MemberCheck) -> Option<Result<(), String>> {
    let address = SocketAddr::new(member.address, member.checked_port);
    let limit = Duration::from_secs(member.check.timeout_s.into());
    let get = member.check.http_path.as_deref().map(|path| Get { path, with_body: false });
    let asked = asking::ask(host, member.vni, address, get, limit).await?;
    Some(asked.and_then(|answer| match (answer, &member.check.http_path) {
        (Some(answer), Some(path)) if !answer.is_good() => {
            Err(format!("port {} answers {path} with HTTP status {}", address.port(), answer.status))
        }
        _ => Ok(()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_changes_only_after_enough_answers_in_a_row() {
        let check = HealthCheck { healthy_after: 2, unhealthy_after: 3, ..HealthCheck::default() };
        let mut verdict = Verdict::new(false);
        let bad = || Err("no".to_owned());
        let mut seen = Vec::new();
        for answer in [Ok(()), bad(), Ok(()), Ok(()), bad(), bad(), Ok(()), bad(), bad(), bad(), Ok(())] {
            verdict.note(&check, answer);
            seen.push(verdict.problem.is_none());
        }
        assert_eq!(seen, [false, false, false, true, true, true, true, true, true, false, false]);
        assert_eq!(verdict.problem.as_deref(), Some("no"));
    }
}
