//! Serial consoles: from a user's websocket through the controller to a host's agent and back.

use axum::http::{HeaderMap, HeaderValue, header};
use futures::{SinkExt, StreamExt};
use gantry_trust::{TrustError, WebSocket};
use gantry_types::{Problem, Role, Vm, VmPhase};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::datacenter::{Api, Datacenter, LIMIT, eventually};

async fn open(api: &Api, vm: &str) -> Result<WebSocket, TrustError> {
    let mut headers = HeaderMap::new();
    if let Some(token) = &api.token {
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).expect("a header"));
    }
    api.config.websocket(&format!("{}/v1/vms/{vm}/console", api.url), headers).await
}

async fn refused(api: &Api, vm: &str) -> Problem {
    match open(api, vm).await {
        Err(TrustError::UpgradeRefused { status, body, .. }) => {
            let problem: Problem = serde_json::from_str(&body).expect("a problem");
            assert_eq!(problem.status, status);
            problem
        }
        other => panic!("{other:?}"),
    }
}

async fn next(socket: &mut WebSocket) -> Option<Message> {
    tokio::time::timeout(LIMIT, socket.next()).await.expect("in time")?.ok()
}

#[tokio::test]
async fn a_console_carries_bytes_both_ways() {
    let mut datacenter = Datacenter::new().await;
    datacenter.ready("host-1").await;
    let api = datacenter.admin.clone();
    let sent = json!({"metadata": {"name": "web"}, "spec": {"cpus": 1, "memory": "64MiB", "disk": "1GiB"}});
    let _made: Value = api.send(Method::POST, "/v1/vms", &sent).await.expect("made");
    eventually("it runs", async || {
        let vm: Vm = api.get("/v1/vms/web").await.expect("it");
        (vm.status.phase == VmPhase::Running).then_some(())
    })
    .await;
    assert!(datacenter.event("ConsoleOpened").await.is_none());

    let viewer = datacenter.as_role(Role::Viewer).await;
    assert_eq!(refused(&viewer, "web").await.status, 403);
    assert_eq!(refused(&datacenter.with_token(None), "web").await.status, 401);
    assert_eq!(refused(&api, "absent").await.status, 404);
    assert!(datacenter.event("ConsoleOpened").await.is_none());

    let mut socket = open(&api, "web").await.expect("open");
    for typed in [&b"hello\r"[..], &[0, 255, 27], &[7; 65536]] {
        socket.send(Message::Binary(typed.to_vec().into())).await.expect("open");
        assert_eq!(next(&mut socket).await, Some(Message::Binary(typed.to_vec().into())));
    }
    socket.send(Message::Text("text".into())).await.expect("open");
    assert_eq!(next(&mut socket).await, Some(Message::Binary(b"text".to_vec().into())));
    let event = datacenter.event("ConsoleOpened").await.expect("an event");
    assert_eq!(event["spec"]["regarding"]["name"], "web");
    assert!(event["spec"]["message"].as_str().is_some_and(|message| message.contains("token/admin")), "{event}");
    // The guest's end closes.
    socket.send(Message::Binary(b"exit".to_vec().into())).await.expect("open");
    assert!(matches!(next(&mut socket).await, Some(Message::Close(_)) | None));

    let shown = datacenter.mint("short-lived", Role::Admin, None).await;
    let mut short = open(&datacenter.with_token(Some(&shown)), "web").await.expect("open");
    api.delete("/v1/tokens/short-lived").await.expect("deleted");
    match next(&mut short).await {
        Some(Message::Close(Some(frame))) => assert!(frame.reason.contains("token"), "{frame}"),
        other => panic!("the console goes on: {other:?}"),
    }

    let sent = json!({"metadata": {"name": "off"}, "spec": {"cpus": 1, "memory": "64MiB", "disk": "1GiB", "power": "stopped"}});
    let _made: Value = api.send(Method::POST, "/v1/vms", &sent).await.expect("made");
    let problem = refused(&api, "off").await;
    assert_eq!((problem.status, problem.code()), (409, "vm-not-running"));
    assert_eq!(problem.remedy.as_deref(), Some("gantry vm start off"));
}
