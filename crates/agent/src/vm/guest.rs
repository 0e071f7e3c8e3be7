//! The guest's agent: asked every two seconds whether it is there. The guest may be hostile or hang; nothing here
//! makes anybody wait for it longer than its own limit.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gantry_qemu::guest_agent::{GuestAgent, GuestAgentError, ShutdownMode};
use gantry_types::{GuestInfo, Problem, Timestamp};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::Shared;

const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_LIMIT: Duration = Duration::from_secs(3);
const REBOOT_LIMIT: Duration = Duration::from_secs(5);
/// Wait for this long for an agent that has just failed to answer: a booting guest's starts soon.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// The guest decides what these say; they are shown to people.
const TEXT_LENGTH_MAX: usize = 200;

/// The way to the guest's agent.
#[derive(Clone)]
pub(crate) struct GuestLine {
    reboots: mpsc::Sender<oneshot::Sender<Result<(), GuestAgentError>>>,
}

impl GuestLine {
    /// Asks the guest to reboot. Not for the VM's own task: it waits for the guest.
    pub async fn reboot(&self) -> Result<(), Problem> {
        let silent = |reason: String| {
            Problem::conflict("no-guest-agent", format!("the guest's agent can't be asked to reboot it: {reason}"))
                .remedy("install and start qemu-guest-agent in the guest, or reset the VM")
        };
        let (reply, answer) = oneshot::channel();
        self.reboots.send(reply).await.map_err(|_| silent("the VM is stopping".to_owned()))?;
        match answer.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(silent(crate::problem::chain(&error))),
            Err(_) => Err(silent("the VM is stopping".to_owned())),
        }
    }
}

pub(super) fn start(socket: PathBuf, shared: Arc<Shared>) -> (GuestLine, AbortOnDropHandle<()>) {
    let (reboots, requests) = mpsc::channel(1);
    let task = tokio::spawn(converse(socket, shared, requests));
    (GuestLine { reboots }, AbortOnDropHandle::new(task))
}

async fn converse(
    socket: PathBuf,
    shared: Arc<Shared>,
    mut reboots: mpsc::Receiver<oneshot::Sender<Result<(), GuestAgentError>>>,
) {
    let mut agent = None;
    let mut known = false;
    loop {
        let mut pause = PING_INTERVAL;
        let asked = tokio::select! {
            asked = ask(&mut agent, &socket, &mut known, &shared) => asked,
            // What this one waits for may have been lost while the guest was on its way here.
            () = shared.guest_is_wanted() => {
                agent = None;
                continue;
            }
        };
        match asked {
            Ok(clock_lag_ms) => shared.guest_answered(clock_lag_ms),
            Err(_) => {
                agent = None;
                pause = RETRY_PAUSE;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.guest_is_wanted() => {}
            request = reboots.recv() => match request {
                Some(reply) => {
                    known = false;
                    // Whoever asked may have given up.
                    drop(reply.send(reboot(&mut agent, &socket).await));
                }
                None => return,
            },
        }
    }
}

async fn ask(
    agent: &mut Option<GuestAgent>,
    socket: &std::path::Path,
    known: &mut bool,
    shared: &Shared,
) -> Result<Option<i64>, GuestAgentError> {
    let agent = connected(agent, socket).await?;
    let deadline = Instant::now() + PING_LIMIT;
    agent.ping(deadline).await?;
    let clock_lag_ms = clock_lag_ms(agent, deadline).await;
    if !*known {
        // An agent without these commands is as good as any.
        let hostname = agent.host_name(deadline).await.ok();
        let os = agent.os_name(deadline).await.ok();
        let clean = |text: String| text.chars().filter(|c| !c.is_control()).take(TEXT_LENGTH_MAX).collect();
        shared.set_guest_info(GuestInfo { hostname: hostname.map(clean), os: os.map(clean) });
        *known = true;
    }
    Ok(clock_lag_ms)
}

/// How far the guest's clock is behind this host's. A guest that stands still falls behind by as long, so the
/// difference before and after a move is the downtime by the guest's own clock.
async fn clock_lag_ms(agent: &mut GuestAgent, deadline: Instant) -> Option<i64> {
    let asked = Timestamp::from(SystemTime::now()).unix_ms();
    let guest_ns = agent.time_ns(deadline).await.ok()?;
    let answered = Timestamp::from(SystemTime::now()).unix_ms();
    Some(asked.midpoint(answered) - guest_ns / 1_000_000)
}

async fn reboot(agent: &mut Option<GuestAgent>, socket: &std::path::Path) -> Result<(), GuestAgentError> {
    let agent = connected(agent, socket).await?;
    agent.shutdown(ShutdownMode::Reboot, Instant::now() + REBOOT_LIMIT).await
}

async fn connected<'a>(
    agent: &'a mut Option<GuestAgent>,
    socket: &std::path::Path,
) -> Result<&'a mut GuestAgent, GuestAgentError> {
    match agent {
        Some(agent) => Ok(agent),
        None => Ok(agent.insert(GuestAgent::connect(socket).await?)),
    }
}
