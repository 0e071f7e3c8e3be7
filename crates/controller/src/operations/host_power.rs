//! `host_sleep`, `host_wake`, `host_reboot`: a host's power, switched by its driver.
//!
//! ```text
//!  sleep:  cordon -> empty -> off
//!  wake:                             on -> awake
//!  reboot: cordon -> empty -> off -> on -> awake     proves that the host can be woken
//! ```
//! Before the power goes, the host is `sleeping` in the store, with the agent that ran there: what is still heard of
//! that one is old and does not wake it. Undone, a host that may be off is switched on again.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use gantry_types::{
    Action, Asleep, Host, HostState, Maintenance, Name, PowerStatus, Problem, Resource, Severity, Timestamp, WakeProof,
};

use super::{
    host_empty::{Close, Empty, STAYED, Stopped, was_cordoned},
    host_target::{target_host, update_host},
    step::{CANCELLED, Ending, Procedure, Step, StepContext, Undone},
};
use crate::{objects::Change, power::PowerDriver};

const SWITCHED_ON_AT: &str = "switched_on_at";
const WOKE_AT: &str = "woke_at";
const POLL: Duration = Duration::from_millis(200);

pub struct HostPowerCycle {
    pub action: Action,
}

#[async_trait]
impl Procedure for HostPowerCycle {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        let down: Vec<Box<dyn Step>> = vec![Box::new(Close), Box::new(Empty { stopped: Stopped::Stay }), Box::new(Off)];
        let up: Vec<Box<dyn Step>> = vec![Box::new(On), Box::new(Awake)];
        match self.action {
            Action::HostSleep => down,
            Action::HostWake => up,
            _ => down.into_iter().chain(up).collect(),
        }
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let mut host = target_host(context).await?;
        host.status.operation = None;
        if let Ending::Succeeded = ending {
            let name = host.metadata.name.clone();
            let by = &context.operation.spec.requested_by;
            // Asleep nothing is placed on it anyway; awake it is as it was.
            if self.action != Action::HostWake {
                host.spec.cordoned = was_cordoned(context)?;
                host.status.maintenance = Maintenance::Off;
            }
            if self.action == Action::HostSleep {
                let stayed: Vec<(Name, String)> = context.memo(STAYED)?.unwrap_or_default();
                let message =
                    format!("host '{name}' sleeps, put there by {by}; {} stopped VMs stay there", stayed.len());
                change.event(&context.event(Severity::Normal, "HostAsleep", message, Some(&name)))?;
            } else if let (Some(on), Some(woke)) =
                (context.memo::<Timestamp>(SWITCHED_ON_AT)?, context.memo::<Timestamp>(WOKE_AT)?)
            {
                let took_ms = woke.since(on).as_millis() as u64;
                host.status.wake_proof = Some(WakeProof { at: woke, took_ms });
                let message = format!("host '{name}' is awake after {took_ms} ms, woken by {by}");
                change.event(&context.event(Severity::Normal, "HostAwake", message, Some(&name)))?;
            }
        }
        change.update(&host)?;
        Ok(())
    }
}

fn driver(context: &StepContext, host: &Host) -> Result<Arc<dyn PowerDriver>, Problem> {
    context.app.power.of(host)
}

struct Off;

#[async_trait]
impl Step for Off {
    fn name(&self) -> &'static str {
        "off"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let name = context.target().clone();
        let agent_instance =
            context.app.model.overlay(|overlay| overlay.hosts.get(name.as_str()).map(|report| report.agent_instance));
        let since = context.app.clock.now();
        let host = update_host(context, |host| {
            if host.status.asleep.is_none() {
                host.status.asleep = Some(Asleep { since, agent_instance });
            }
            host.status.state = HostState::Sleeping;
        })
        .await?;
        let driver = driver(context, &host)?;
        driver.off().await?;
        match driver.status().await? {
            PowerStatus::Off => Ok(()),
            PowerStatus::On => {
                Err(Problem::transient("power-still-on", format!("the power of host '{name}' is still on")))
            }
        }
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        let host = target_host(context).await?;
        driver(context, &host)?.on().await?;
        // Whichever agent speaks next: the power may never have been off.
        update_host(context, |host| {
            if host.status.state == HostState::Sleeping {
                host.status.state = HostState::Waking;
            }
            host.status.asleep = None;
        })
        .await?;
        Ok(Undone::Yes)
    }
}

struct On;

#[async_trait]
impl Step for On {
    fn name(&self) -> &'static str {
        "on"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        if context.memo::<Timestamp>(SWITCHED_ON_AT)?.is_none() {
            let now = context.app.clock.now();
            context.note(SWITCHED_ON_AT, &now)?;
            context.save().await?;
        }
        let host = update_host(context, |host| {
            if host.status.state == HostState::Sleeping {
                host.status.state = HostState::Waking;
            }
        })
        .await?;
        driver(context, &host)?.on().await
    }
}

struct Awake;

#[async_trait]
impl Step for Awake {
    fn name(&self) -> &'static str {
        "awake"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let clock = Arc::clone(&context.app.clock);
        let until = clock.elapsed() + context.app.config.wake_patience;
        loop {
            let host = target_host(context).await?;
            if host.status.state == HostState::Ready {
                return match context.memo::<Timestamp>(WOKE_AT)? {
                    Some(_) => Ok(()),
                    None => context.note(WOKE_AT, &clock.now()),
                };
            }
            if context.cancel_requested() {
                return Err(Problem::conflict(CANCELLED, format!("waiting for host '{}' was cancelled", host.name())));
            }
            if clock.elapsed() >= until {
                let waited_s = context.app.config.wake_patience.as_secs();
                let detail = format!("host '{}' has power, and its agent is silent after {waited_s} s", host.name());
                return Err(Problem::permanent("not-awake", detail)
                    .remedy("look at the machine's console; its agent must start at boot"));
            }
            context.sleep(POLL).await;
        }
    }
}
