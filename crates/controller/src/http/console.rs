//! Serial consoles: the user's websocket joined to the agent's. Nothing is kept here; opening one is an event.

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
use tokio_tungstenite::tungstenite::Message as AgentMessage;

use super::{Shared, caller::User, request::Path};
use crate::{app, objects::Change};

pub async fn open(
    State(front): State<Shared>,
    User(caller): User,
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
    Ok(upgrade.on_upgrade(|user| join(user, agent)))
}

/// Copies both ways until either side closes.
async fn join(mut user: UserSocket, mut agent: AgentSocket) {
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
    // Either may be gone already.
    let ended = CloseFrame { code: 1000, reason: "the console ended".into() };
    drop(user.send(UserMessage::Close(Some(ended))).await);
    drop(agent.close(None).await);
}
