//! The VM's probes: its host asks the application in it again and again, and reports to the VM's task what changes.
//!
//! ```text
//!   QEMU runs the guest ── a task for each probe ── state or reason changed ──▶ the VM's task
//!        liveness fails ─────▶ QEMU is ended, as after any other failure of a protected VM
//!        readiness ──────────▶ told to the controller: the VM is ready, or not
//! ```
//! What the probes say is in the VM's record, so an agent that restarts, and a host that the VM moves to, goes on from
//! there. A guest that boots again is asked anew. What can't be asked has not failed: networks whose services are not up,
//! and, for liveness, a guest's agent that does not answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gantry_api::agent::{Assignment, VmRunState};
use gantry_ha::reaction::Failure;
use gantry_ha::{
    Moment,
    probe::{Health, Probe as HealthOf, ProbePolicy},
};
use gantry_types::{HaPolicy, HttpGet, Name, Probe, ProbeCheck, ProbeKind, ProbeState, ProbeStatus, Timestamp};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::Command;
use super::actor::{Run, VmTask};
use super::guest::GuestLine;
use crate::asking::{self, Get, HttpAnswer};
use crate::host::Host;
use crate::records::ProcessRecord;

/// What could not be asked is asked again after this.
const RETRY: Duration = Duration::from_secs(1);
/// The guest decides what these say; they are shown to people.
const OUTPUT_LENGTH_MAX: usize = 200;

/// The tasks that ask; dropping it ends them.
pub(super) struct Probing {
    subject: Subject,
    /// Tells their reports from those of earlier ones.
    id: Uuid,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

/// What is probed: another one needs other tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Subject {
    process: ProcessRecord,
    probes: Vec<Probe>,
    cards: Vec<(Name, u32, IpAddr)>,
}

/// What a probe says from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probed {
    probing: Uuid,
    index: usize,
    state: ProbeState,
    message: Option<String>,
}

enum Answer {
    Good,
    Bad(String),
    /// Nobody could be asked.
    None(Option<String>),
}

/// What is known of each probe of an assignment, in its order.
pub(super) fn known_of(assignment: &Assignment, known: &[ProbeStatus]) -> Vec<ProbeStatus> {
    let of = |probe: &Probe| {
        let new = ProbeStatus::new(probe);
        let same = |known: &&ProbeStatus| (known.kind, &known.check) == (new.kind, &new.check);
        known.iter().find(same).cloned().unwrap_or(new)
    };
    assignment.probes.iter().map(of).collect()
}

impl VmTask {
    /// Called whenever something has happened: who is to be asked is.
    pub(super) fn plan_probes(&mut self) {
        let Some((subject, guest)) = self.subject() else {
            self.probing = None;
            return;
        };
        if self.probing.as_ref().is_some_and(|probing| probing.subject == subject) {
            return;
        }
        let Some(record) = &mut self.record else { return };
        record.probes = known_of(&record.assignment, &record.probes);
        let (id, first) = (Uuid::new_v4(), &record.probes);
        let start = |(index, (probe, known)): (usize, (&Probe, &ProbeStatus))| {
            let task = Prober {
                host: self.host.clone(),
                guest: guest.clone(),
                card: card_of(&subject.cards, &probe.check),
                probe: probe.clone(),
                reports: self.self_commands.clone(),
                last: Probed { probing: id, index, state: known.state, message: known.message.clone() },
            };
            AbortOnDropHandle::new(tokio::spawn(task.run()))
        };
        let tasks = subject.probes.iter().zip(first).enumerate().map(start).collect();
        self.probing = Some(Probing { subject, id, _tasks: tasks });
    }

    fn subject(&self) -> Option<(Subject, GuestLine)> {
        let (record, Run::On(machine)) = (self.record.as_ref()?, &self.run) else { return None };
        let assignment = &record.assignment;
        if assignment.probes.is_empty() || self.run_state() != VmRunState::Running {
            return None;
        }
        let cards = assignment.nics.iter().map(|nic| (nic.network.clone(), nic.vni, nic.address)).collect();
        let subject = Subject { process: machine.record(&self.host), probes: assignment.probes.clone(), cards };
        Some((subject, machine.guest.clone()))
    }

    pub(super) async fn note_probed(&mut self, probed: Probed) {
        if self.probing.as_ref().is_none_or(|probing| probing.id != probed.probing) {
            return;
        }
        let status = self.record.as_mut().and_then(|record| record.probes.get_mut(probed.index));
        let Some(status) = status else { return };
        status.message = probed.message;
        if status.state == probed.state {
            return;
        }
        status.state = probed.state;
        status.since = Some(Timestamp::from(SystemTime::now()));
        let ProbeStatus { kind, check, state, message, .. } = &*status;
        tracing::info!(vm = %self.vm, %kind, check, %state, message, "a probe says something else");
        if let Err(error) = self.save().await {
            tracing::error!(vm = %self.vm, %error, "what its probes say is not on disk");
        }
    }

    /// A new run of the guest: what was said of the last one does not count.
    pub(super) fn forget_probes(&mut self) {
        self.probing = None;
        if let Some(record) = &mut self.record {
            record.probes.clear();
        }
    }

    /// A protected VM that fails a liveness probe has failed.
    pub(super) fn heed_probes(&mut self) {
        if self.is_moving() || self.probing.is_none() {
            return;
        }
        let Some(record) = self.record.as_ref().filter(|r| r.assignment.ha.policy == HaPolicy::Restart) else { return };
        let mut probes = record.probes.iter().zip(&record.assignment.probes);
        let Some((status, probe)) = probes.find(|(status, _)| status.is_failing(ProbeKind::Liveness)) else {
            return self.fails_no_more(Failure::Application);
        };
        let why = status.message.as_deref().map_or_else(String::new, |message| format!(": {message}"));
        let times = probe.failure_threshold;
        let reason = format!("its liveness probe {} failed {times} times in a row{why}", status.check);
        self.notice(Failure::Application, reason);
    }
}

fn card_of(cards: &[(Name, u32, IpAddr)], check: &ProbeCheck) -> Option<(u32, IpAddr)> {
    let asked = match check.network() {
        Some(network) => cards.iter().find(|(of, _, _)| of == network),
        None => cards.first(),
    };
    asked.map(|(_, vni, address)| (*vni, *address))
}

/// The task of one probe.
struct Prober {
    host: Arc<Host>,
    guest: GuestLine,
    card: Option<(u32, IpAddr)>,
    probe: Probe,
    reports: mpsc::WeakSender<Command>,
    /// As it was last reported.
    last: Probed,
}

impl Prober {
    async fn run(mut self) {
        let origin = Instant::now();
        let at = |instant: Instant| Moment::from(instant.saturating_duration_since(origin));
        let mut health = HealthOf::new(policy(&self.probe), Moment(0), health_of(self.last.state));
        loop {
            sleep_until(origin + Duration::from_millis(health.due().0)).await;
            let begun = at(Instant::now());
            let message = match self.ask().await {
                Answer::Good => {
                    health.result(true, begun);
                    None
                }
                Answer::Bad(reason) => {
                    health.result(false, begun);
                    Some(reason)
                }
                Answer::None(reason) => {
                    sleep(RETRY).await;
                    reason.or_else(|| self.last.message.clone())
                }
            };
            let now = Probed { state: state_of(health.health()), message, ..self.last.clone() };
            if now != self.last {
                // The VM's task has ended: so will this one.
                let Some(reports) = self.reports.upgrade() else { return };
                if reports.send(Command::Probed(now.clone())).await.is_err() {
                    return;
                }
                self.last = now;
            }
        }
    }

    async fn ask(&self) -> Answer {
        let limit = Duration::from_secs(self.probe.timeout_s.into());
        match &self.probe.check {
            ProbeCheck::HttpGet(http) => self.ask_port(http.port, Some(http), limit).await,
            ProbeCheck::TcpSocket(tcp) => self.ask_port(tcp.port, None, limit).await,
            ProbeCheck::Exec(exec) => self.execute(&exec.command, limit).await,
        }
    }

    async fn ask_port(&self, port: u16, http: Option<&HttpGet>, limit: Duration) -> Answer {
        let Some((vni, ip)) = self.card else {
            return Answer::None(Some("the VM has no such network card".to_owned()));
        };
        let address = SocketAddr::new(ip, port);
        let get = http.map(|http| Get { path: &http.path, with_body: http.body.is_some() });
        let asked = asking::ask(&self.host, vni, address, get, limit).await;
        let judged = asked.map(|asked| {
            asked.and_then(|answer| http.zip(answer).map_or(Ok(()), |(http, answer)| judge(http, &answer)))
        });
        match judged {
            Some(Ok(())) => Answer::Good,
            Some(Err(reason)) => Answer::Bad(reason),
            None => Answer::None(None),
        }
    }

    async fn execute(&self, command: &[String], limit: Duration) -> Answer {
        let program = command.first().map_or("", String::as_str);
        let outcome = match self.guest.run(command, limit).await {
            Ok(Some(outcome)) => outcome,
            Ok(None) => return Answer::Bad(format!("{program} did not end within {} s", limit.as_secs())),
            // A silent agent says nothing of the application; but nobody knows that it is ready.
            Err(reason) if self.probe.kind == ProbeKind::Readiness => return Answer::Bad(reason),
            Err(reason) => return Answer::None(Some(reason)),
        };
        let output = if outcome.stderr.is_empty() { &outcome.stdout } else { &outcome.stderr };
        let said: String = String::from_utf8_lossy(output).chars().filter(|c| !c.is_control()).collect();
        let said: String = said.chars().take(OUTPUT_LENGTH_MAX).collect();
        let said = if said.is_empty() { said } else { format!(": {said}") };
        match outcome.exit_code {
            Some(0) => Answer::Good,
            Some(status) => Answer::Bad(format!("{program} ended with status {status}{said}")),
            None => Answer::Bad(format!("{program} was ended by a signal{said}")),
        }
    }
}

/// Whether an answer is as it has to be.
fn judge(http: &HttpGet, answer: &HttpAnswer) -> Result<(), String> {
    let HttpGet { port, path, status, body, .. } = http;
    let is_good = status.map_or_else(|| answer.is_good(), |status| answer.status == status);
    if !is_good {
        let expected = status.map_or_else(|| "200 to 399".to_owned(), |status| status.to_string());
        return Err(format!("port {port} answers {path} with HTTP status {}, expected {expected}", answer.status));
    }
    let contains = |text: &String| answer.body.windows(text.len()).any(|part| part == text.as_bytes());
    match body {
        Some(text) if !contains(text) => Err(format!("what port {port} answers at {path} does not contain '{text}'")),
        _ => Ok(()),
    }
}

fn policy(probe: &Probe) -> ProbePolicy {
    ProbePolicy {
        initial_delay_ms: u64::from(probe.initial_delay_s) * 1000,
        period_ms: u64::from(probe.period_s) * 1000,
        success_threshold: probe.success_threshold,
        failure_threshold: probe.failure_threshold,
    }
}

fn health_of(state: ProbeState) -> Health {
    match state {
        ProbeState::Starting => Health::Starting,
        ProbeState::Passing => Health::Passing,
        ProbeState::Failing => Health::Failing,
    }
}

fn state_of(health: Health) -> ProbeState {
    match health {
        Health::Starting => ProbeState::Starting,
        Health::Passing => ProbeState::Passing,
        Health::Failing => ProbeState::Failing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_by_its_status_and_its_body() {
        let ProbeCheck::HttpGet(plain) = "http://:80/health".parse().unwrap() else { panic!("it is HTTP") };
        let answer = |status, body: &str| HttpAnswer { status, body: body.as_bytes().to_vec() };
        assert_eq!(judge(&plain, &answer(302, "")), Ok(()));
        let wrong = judge(&plain, &answer(500, "")).unwrap_err();
        assert_eq!(wrong, "port 80 answers /health with HTTP status 500, expected 200 to 399");
        let strict = HttpGet { status: Some(204), body: Some("alive".to_owned()), ..plain };
        assert!(judge(&strict, &answer(200, "alive")).unwrap_err().contains("expected 204"));
        assert!(judge(&strict, &answer(204, "ali")).unwrap_err().contains("does not contain 'alive'"));
        assert_eq!(judge(&strict, &answer(204, "it is alive")), Ok(()));
    }
}
