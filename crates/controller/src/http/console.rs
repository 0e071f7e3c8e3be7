//! Serial consoles: the user's websocket joined to the agent's. Nothing is kept here; opening one is an event. A console
//! ends with the token that opened it.

use std::time::Duration;

use axum::{
    extract::{
        State, WebSocketUpgrade,
        ws::{CloseFrame, Message as UserMessage, WebSocket as UserSocket, rejection::WebSocketUpgradeRejection},
    },
    response::Response,
};
use futures::{SinkExt, StreamExt};
use gantry_hostlink::Refusal;
use gantry_trust::WebSocket as AgentSocket;
use gantry_types::{Host, Problem, Resource, Severity, Vm};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message as AgentMessage;

use super::{
    Shared,
    caller::{ShownToken, User},
    request::Path,
};
use crate::{app, objects::Change};

/// How long either side is given to take the end in.
const GOODBYE: Duration = Duration::from_secs(5);

pub async fn open(
    State(front): State<Shared>,
    User(caller): User,
    ShownToken(shown): ShownToken,
    Path(name): Path<String>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    // A console can change everything inside the guest.
    caller.may_change()?;
    let upgrade = upgrade.map_err(|rejection| {
        let detail = format!("a console is a websocket: {}", rejection.body_text());
        Problem { status: 400, ..Problem::invalid("no-websocket", detail) }
            .remedy(format!("use a websocket client, or: gantry vm console {name}"))
    })?;
    let vm: Vm = app::get(&front.app, &caller, &name)?;
    let host =
        vm.status.host.as_ref().and_then(|host| front.app.model.get::<Host>(host.as_str())).ok_or_else(|| {
            Problem::conflict("vm-not-running", format!("VM '{name}' is {} and has no console", vm.status.phase))
                .object(vm.reference())
                .remedy(format!("gantry vm start {name}"))
        })?;
    let agent = front.agents.client(&host).console(vm.metadata.uuid).await?;
    let message = format!("{} opened the console of VM '{name}'", caller.name);
    let mut record = Change::new();
    record.event(&front.app.event(vm.reference(), Severity::Normal, "ConsoleOpened", message))?;
    front.app.objects.commit(record).await?;
    Ok(upgrade.on_upgrade(async move |mut user| {
        let mut agent = agent;
        let reason = tokio::select! {
            () = copy(&mut user, &mut agent) => "the console ended",
            () = app::token::ended(&front.app, &shown) => "the token was deleted or has expired",
        };
        // Either may be gone already, or not read.
        let ended = CloseFrame { code: 1000, reason: reason.into() };
        let goodbye = user.send(UserMessage::Close(Some(ended)));
        drop(timeout(GOODBYE, goodbye).await);
        drop(timeout(GOODBYE, agent.close(None)).await);
    }))
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
