//! Consoles of VMs, serial and screen: the user's websocket joined to the agent's. Nothing is kept here; opening one is
//! an event. A console ends with the credential that opened it.
//!
//! ```text
//!   browser: POST console-ticket (cookie, CSRF token) ──▶ ticket ──▶ websocket (cookie, ticket, Origin) ──▶ agent
//!   program: websocket (API token) ─────────────────────────────────────────────────────────────────▶ agent
//! ```

use std::time::Duration;

use axum::{
    Json,
    extract::{
        FromRequestParts, Request, State, WebSocketUpgrade,
        ws::{CloseFrame, Message as UserMessage, WebSocket as UserSocket},
    },
    http::request::Parts,
    response::Response,
};
use futures::{SinkExt, StreamExt};
use gantry_api::access::{ConsoleKind, ConsoleQuery, ConsoleTicket, TicketRequest};
use gantry_hostlink::Refusal;
use gantry_trust::WebSocket as AgentSocket;
use gantry_types::{Display, Host, Problem, Resource, Severity, Timestamp, Vm};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message as AgentMessage;

use super::{
    Front, Shared,
    caller::{Credential, Shown, User},
    csrf,
    request::{Answer, OptionalBody, Path, QueryOf},
};
use crate::{
    access::{Admission, TICKET_LIFETIME},
    app::{self, Caller},
    objects::Change,
};

/// How long either side is given to take the end in.
const GOODBYE: Duration = Duration::from_secs(5);
/// What noVNC asks for; the bytes are the same without.
const SUBPROTOCOL: &str = "binary";

/// Makes a ticket for a console that could be opened now.
pub async fn ticket(
    State(front): State<Shared>,
    User(caller): User,
    Shown(credential): Shown,
    Path(name): Path<String>,
    OptionalBody(request): OptionalBody<TicketRequest>,
) -> Answer<ConsoleTicket> {
    let kind = request.kind;
    let (vm, _) = find(&front, &caller, &name, kind)?;
    let admission = Admission { vm: vm.metadata.uuid, kind, holder: credential.fingerprint() };
    let ticket = front.app.access.tickets.issue(admission, front.app.clock.elapsed()).to_text();
    let lifetime_ms = i64::try_from(TICKET_LIFETIME.as_millis()).unwrap_or(i64::MAX);
    Ok(Json(ConsoleTicket {
        path: format!("/v1/vms/{name}/{}?ticket={ticket}", kind.path()),
        ticket,
        expires_at: Timestamp::from_unix_ms(front.app.clock.now().unix_ms() + lifetime_ms),
    }))
}

pub async fn open_serial(State(front): State<Shared>, request: Request) -> Result<Response, Refusal> {
    open(front, ConsoleKind::Serial, request).await
}

pub async fn open_screen(State(front): State<Shared>, request: Request) -> Result<Response, Refusal> {
    open(front, ConsoleKind::Vnc, request).await
}

async fn open(front: Shared, kind: ConsoleKind, request: Request) -> Result<Response, Refusal> {
    let (mut parts, _) = request.into_parts();
    let User(caller) = User::from_request_parts(&mut parts, &front).await?;
    let Shown(credential) = Shown::from_request_parts(&mut parts, &front).await?;
    let Path(name) = Path::<String>::from_request_parts(&mut parts, &front).await?;
    let QueryOf(query) = QueryOf::<ConsoleQuery>::from_request_parts(&mut parts, &front).await?;
    caller.may_open_consoles()?;
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &front).await.map_err(|rejection| {
        let detail = format!("a console is a websocket: {}", rejection.body_text());
        Problem { status: 400, ..Problem::invalid("no-websocket", detail) }
            .remedy(format!("use a websocket client, or: gantry vm console {name}"))
    })?;
    let (vm, host) = find(&front, &caller, &name, kind)?;
    check_ticket(
        &front,
        &parts,
        &credential,
        &query,
        &Admission { vm: vm.metadata.uuid, kind, holder: credential.fingerprint() },
    )?;
    let agent = front.agents.client(&host).console(vm.metadata.uuid, kind).await?;
    let message = format!("{} opened the {} of VM '{name}'", caller.name, kind.noun());
    let mut record = Change::new();
    record.event(&front.app.event(vm.reference(), Severity::Normal, "ConsoleOpened", message))?;
    front.app.objects.commit(record).await?;
    Ok(upgrade.protocols([SUBPROTOCOL]).on_upgrade(async move |mut user| {
        let mut agent = agent;
        let reason = tokio::select! {
            () = copy(&mut user, &mut agent) => "the console ended",
            reason = credential.ended(&front.app) => reason,
        };
        // Either may be gone already, or not read.
        let ended = CloseFrame { code: 1000, reason: reason.into() };
        let goodbye = user.send(UserMessage::Close(Some(ended)));
        drop(timeout(GOODBYE, goodbye).await);
        drop(timeout(GOODBYE, agent.close(None)).await);
    }))
}

/// The VM and the host where its console is.
fn find(front: &Front, caller: &Caller, name: &str, kind: ConsoleKind) -> Result<(Vm, std::sync::Arc<Host>), Problem> {
    caller.may_open_consoles()?;
    let vm: Vm = app::get(&front.app, caller, name)?;
    if kind == ConsoleKind::Vnc && vm.spec.display == Display::None {
        return Err(Problem::conflict("no-display", format!("VM '{name}' has no display"))
            .object(vm.reference())
            .remedy(format!("stop it, then: gantry vm set {name} --display vga")));
    }
    let host = vm.status.host.as_ref().and_then(|host| front.app.model.get::<Host>(host.as_str()));
    let host = host.ok_or_else(|| {
        Problem::conflict("vm-not-running", format!("VM '{name}' is {} and has no console", vm.status.phase))
            .object(vm.reference())
            .remedy(format!("gantry vm start {name}"))
    })?;
    Ok((vm, host))
}

/// A browser sends the cookie along whoever opens the websocket, so a session needs a ticket besides. A program that
/// sends its token needs none; one that it shows must be good.
fn check_ticket(
    front: &Front,
    parts: &Parts,
    credential: &Credential,
    query: &ConsoleQuery,
    wanted: &Admission,
) -> Result<(), Problem> {
    match (credential, &query.ticket) {
        (Credential::Token(_), None) => return Ok(()),
        (Credential::Session(..), _) => csrf::same_origin(parts)?,
        (Credential::Token(_), Some(_)) => {}
    }
    let shown = query.ticket.as_deref().unwrap_or_default();
    if front.app.access.tickets.redeem(shown, wanted, front.app.clock.elapsed()) {
        return Ok(());
    }
    Err(Problem::denied("no-ticket", "there is no ticket for this console, or it was used or is older than 30 s")
        .remedy("ask for another: POST /v1/vms/NAME/console-ticket"))
}

/// Copies both ways until either side closes.
async fn copy(user: &mut UserSocket, agent: &mut AgentSocket) {
    loop {
        let went_on = tokio::select! {
            typed = user.recv() => match typed {
                Some(Ok(UserMessage::Binary(bytes))) => agent.send(AgentMessage::Binary(bytes)).await.is_ok(),
                Some(Ok(UserMessage::Text(text))) => {
                    agent.send(AgentMessage::Binary(text.as_bytes().to_vec().into())).await.is_ok()
                }
                Some(Ok(UserMessage::Ping(_) | UserMessage::Pong(_))) => true,
                Some(Ok(UserMessage::Close(_)) | Err(_)) | None => false,
            },
            printed = agent.next() => match printed {
                Some(Ok(AgentMessage::Binary(bytes))) => user.send(UserMessage::Binary(bytes)).await.is_ok(),
                Some(Ok(AgentMessage::Close(_)) | Err(_)) | None => false,
                Some(Ok(_)) => true,
            },
        };
        if !went_on {
            break;
        }
    }
}
