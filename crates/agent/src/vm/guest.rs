//! The guest's agent: asked every two seconds whether it is there. The guest may be hostile or hang; nothing here
//! makes anybody wait for it longer than its own limit.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gantry_qemu::guest_agent::{ExecOutcome, GuestAgent, GuestAgentError, ShutdownMode};
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

/// Thawing is tried again for this long: a guest that stays frozen is of no use.
const THAW_LIMIT: Duration = Duration::from_secs(10);

type Answer = oneshot::Sender<Result<(), GuestAgentError>>;

/// What the guest's agent is asked to do, besides answering.
enum Request {
    Reboot(Answer),
    Freeze(Duration, Answer),
    Thaw(Answer),
    SetTime,
    Run { command: Vec<String>, limit: Duration, reply: oneshot::Sender<Ran> },
}

/// Nothing if it did not end in time.
type Ran = Result<Option<ExecOutcome>, GuestAgentError>;

/// The way to the guest's agent.
#[derive(Clone)]
pub(crate) struct GuestLine {
    requests: mpsc::Sender<Request>,
}

impl GuestLine {
    /// Asks the guest to reboot. Not for the VM's own task: it waits for the guest.
    pub async fn reboot(&self) -> Result<(), Problem> {
        let remedy = "install and start qemu-guest-agent in the guest, or reset the VM";
        self.ask(Request::Reboot, "reboot it", remedy).await
    }

    /// Asks the guest to write out and freeze its file systems within `limit`. [`Self::thaw`] must follow, whatever comes
    /// of it.
    pub async fn freeze(&self, limit: Duration) -> Result<(), Problem> {
        let remedy = "install and start qemu-guest-agent in the guest, or take the snapshot without --quiesce";
        self.ask(|reply| Request::Freeze(limit, reply), "freeze its file systems", remedy).await
    }

    pub async fn thaw(&self) -> Result<(), Problem> {
        let remedy = "see whether the guest still writes; if not, reset the VM";
        self.ask(Request::Thaw, "let its file systems go on", remedy).await
    }

    /// Sets the guest's clock by the host's, as soon as its agent answers.
    pub fn set_time(&self) {
        // A full line has somebody else's request; a clock that is behind shows in the VM's metrics.
        drop(self.requests.try_send(Request::SetTime));
    }

    /// Runs a program in the guest: what came of it, nothing if it did not end within `limit`, or why its agent could not
    /// be told to.
    pub async fn run(&self, command: &[String], limit: Duration) -> Result<Option<ExecOutcome>, String> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Run { command: command.to_vec(), limit, reply };
        let stopping = || "the VM is stopping".to_owned();
        self.requests.send(request).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?.map_err(|error| crate::problem::chain(&error))
    }

    async fn ask(&self, request: impl FnOnce(Answer) -> Request, doing: &str, remedy: &str) -> Result<(), Problem> {
        let silent = |reason: String| {
            Problem::conflict("no-guest-agent", format!("the guest's agent can't be asked to {doing}: {reason}"))
                .remedy(remedy)
        };
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| silent("the VM is stopping".to_owned()))?;
        match answer.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(silent(crate::problem::chain(&error))),
            Err(_) => Err(silent("the VM is stopping".to_owned())),
        }
    }
}

pub(super) fn start(socket: PathBuf, shared: Arc<Shared>) -> (GuestLine, AbortOnDropHandle<()>) {
    let (line, requests) = mpsc::channel(1);
    let task = tokio::spawn(converse(socket, shared, requests));
    (GuestLine { requests: line }, AbortOnDropHandle::new(task))
}

async fn converse(socket: PathBuf, shared: Arc<Shared>, mut requests: mpsc::Receiver<Request>) {
    let mut agent = None;
    let mut known = false;
    // Whoever had it frozen is gone, with the agent that this one follows.
    let mut may_be_frozen = true;
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
            Ok(()) => {
                if may_be_frozen {
                    may_be_frozen = !thaw_if_frozen(&mut agent, &socket).await;
                }
            }
            Err(_) => {
                agent = None;
                pause = RETRY_PAUSE;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.guest_is_wanted() => {}
            request = requests.recv() => {
                // Whoever asked may have given up.
                match request {
                    Some(Request::Reboot(reply)) => {
                        known = false;
                        drop(reply.send(reboot(&mut agent, &socket).await));
                    }
                    Some(Request::Freeze(limit, reply)) => {
                        may_be_frozen = false;
                        drop(reply.send(freeze(&mut agent, &socket, limit).await));
                    }
                    Some(Request::Thaw(reply)) => drop(reply.send(thaw(&mut agent, &socket).await)),
                    Some(Request::Run { command, limit, reply }) => {
                        let ran = run(&mut agent, &socket, &shared, &command, limit).await;
                        if !matches!(ran, Ok(_) | Err(GuestAgentError::Refused { .. })) {
                            agent = None;
                        }
                        drop(reply.send(ran));
                    }
                    Some(Request::SetTime) => set_time(&mut agent, &socket).await,
                    None => return,
                }
            }
        }
    }
}

async fn ask(
    agent: &mut Option<GuestAgent>,
    socket: &std::path::Path,
    known: &mut bool,
    shared: &Shared,
) -> Result<(), GuestAgentError> {
    let agent = connected(agent, socket).await?;
    let deadline = Instant::now() + PING_LIMIT;
    agent.ping(deadline).await?;
    let clock_lag_ms = clock_lag_ms(agent, deadline).await;
    // At once: the end of a move waits for it.
    shared.guest_answered(clock_lag_ms);
    if !*known {
        // An agent without these commands is as good as any.
        let hostname = agent.host_name(deadline).await.ok();
        let os = agent.os_name(deadline).await.ok();
        let clean = |text: String| text.chars().filter(|c| !c.is_control()).take(TEXT_LENGTH_MAX).collect();
        shared.set_guest_info(GuestInfo { hostname: hostname.map(clean), os: os.map(clean) });
        *known = true;
    }
    Ok(())
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

async fn freeze(
    agent: &mut Option<GuestAgent>,
    socket: &std::path::Path,
    limit: Duration,
) -> Result<(), GuestAgentError> {
    connected(agent, socket).await?.freeze(Instant::now() + limit).await.map(drop)
}

/// Whatever the program does, an agent that tells of it is alive.
async fn run(
    agent: &mut Option<GuestAgent>,
    socket: &std::path::Path,
    shared: &Shared,
    command: &[String],
    limit: Duration,
) -> Ran {
    let agent = connected(agent, socket).await?;
    let (path, arguments) = command.split_first().map_or(("", &[][..]), |(path, rest)| (path.as_str(), rest));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    agent.exec(path, &arguments, limit, PING_LIMIT, || shared.guest_showed_life()).await
}

/// Until it works or its time is over: nothing in the guest can write meanwhile.
async fn thaw(agent: &mut Option<GuestAgent>, socket: &std::path::Path) -> Result<(), GuestAgentError> {
    let deadline = Instant::now() + THAW_LIMIT;
    loop {
        let attempt = Instant::now() + PING_LIMIT;
        let thawed = match connected(agent, socket).await {
            Ok(agent) => agent.thaw(attempt.min(deadline)).await.map(drop),
            Err(error) => Err(error),
        };
        match thawed {
            Err(GuestAgentError::Refused { .. }) | Ok(()) => return thawed,
            Err(_) if Instant::now() >= deadline => return thawed,
            Err(_) => *agent = None,
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// False if it could not be found out.
async fn thaw_if_frozen(agent: &mut Option<GuestAgent>, socket: &std::path::Path) -> bool {
    let Ok(line) = connected(agent, socket).await else { return false };
    match line.is_frozen(Instant::now() + PING_LIMIT).await {
        Ok(true) => {
            tracing::warn!(socket = %socket.display(), "the guest's file systems were left frozen: thawing them");
            thaw(agent, socket).await.is_ok()
        }
        // An agent that can't tell can't freeze either.
        Ok(false) | Err(GuestAgentError::Refused { .. }) => true,
        Err(_) => false,
    }
}

/// A guest whose agent can't do it keeps its clock.
async fn set_time(agent: &mut Option<GuestAgent>, socket: &std::path::Path) {
    let now_ns = Timestamp::from(SystemTime::now()).unix_ms() * 1_000_000;
    let set = match connected(agent, socket).await {
        Ok(agent) => agent.set_time_ns(now_ns, Instant::now() + PING_LIMIT).await,
        Err(error) => Err(error),
    };
    if let Err(error) = set {
        tracing::info!(socket = %socket.display(), %error, "the guest's clock could not be set");
    }
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
