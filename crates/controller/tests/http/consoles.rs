//! Serial consoles: from a user's websocket through the controller to a host's agent and back.

use axum::http::{HeaderMap, HeaderValue, header};
use futures::{SinkExt, StreamExt};
use gantry_trust::{TrustError, WebSocket};
use gantry_types::{Problem, Role, Vm, VmPhase};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    browser::Browser,
    datacenter::{Api, Datacenter, LIMIT, eventually},
};

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

async fn by_browser(browser: &Browser, path: &str, origin: &str) -> Result<WebSocket, u16> {
    let mut headers = HeaderMap::new();
    headers.insert(header::COOKIE, HeaderValue::from_str(&browser.cookie).expect("a header"));
    headers.insert(header::ORIGIN, HeaderValue::from_str(origin).expect("a header"));
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("binary"));
    match browser.api.config.websocket(&format!("{}{path}", browser.api.url), headers).await {
        Ok(socket) => Ok(socket),
        Err(TrustError::UpgradeRefused { status, .. }) => Err(status),
        Err(other) => panic!("{other}"),
    }
}

async fn ticket(browser: &Browser, vm: &str, kind: &str) -> Result<String, Problem> {
    let made: Result<Value, Problem> =
        browser.send(Method::POST, &format!("/v1/vms/{vm}/console-ticket"), &json!({"kind": kind})).await;
    made.map(|made| made["path"].as_str().expect("a path").to_owned())
}

#[tokio::test]
async fn a_browser_opens_consoles_by_tickets_and_each_ticket_once() {
    let mut datacenter = Datacenter::new().await;
    datacenter.ready("host-1").await;
    let api = datacenter.admin.clone();
    let ann = Browser::of_role(&datacenter, "ann", "user").await;
    let bob = Browser::of_role(&datacenter, "bob", "operator").await;
    for (name, display, owner) in [("desk", "vga", Some("ann")), ("other", "none", None)] {
        let sent = json!({"metadata": {"name": name},
            "spec": {"cpus": 1, "memory": "64MiB", "disk": "1GiB", "display": display, "owner": owner}});
        let _made: Value = api.send(Method::POST, "/v1/vms", &sent).await.expect("made");
        eventually("it runs", async || {
            let vm: Vm = api.get(&format!("/v1/vms/{name}")).await.expect("it");
            (vm.status.phase == VmPhase::Running).then_some(())
        })
        .await;
    }
    let origin = datacenter.url.as_str();
    assert_eq!(by_browser(&ann, "/v1/vms/desk/vnc", origin).await.err(), Some(403), "without a ticket");

    let path = ticket(&ann, "desk", "vnc").await.expect("a ticket");
    let mut screen = by_browser(&ann, &path, origin).await.expect("open");
    assert_eq!(next(&mut screen).await, Some(Message::Binary(b"RFB 003.008\n".to_vec().into())));
    assert_eq!(by_browser(&ann, &path, origin).await.err(), Some(403), "a second time");
    let event = datacenter.event("ConsoleOpened").await.expect("an event");
    assert_eq!(event["spec"]["message"], "user/ann opened the screen of VM 'desk'");

    let path = ticket(&ann, "desk", "serial").await.expect("a ticket");
    let elsewhere = path.replace("/console?", "/vnc?");
    assert_eq!(by_browser(&ann, &elsewhere, origin).await.err(), Some(403), "for the other console");
    assert_eq!(by_browser(&ann, &path, origin).await.err(), Some(403), "it has been tried");
    let path = ticket(&ann, "desk", "serial").await.expect("a ticket");
    assert_eq!(by_browser(&bob, &path, origin).await.err(), Some(403), "somebody else's");
    let path = ticket(&ann, "desk", "serial").await.expect("a ticket");
    assert_eq!(by_browser(&ann, &path, "https://evil.example").await.err(), Some(403), "another site");

    assert_eq!(ticket(&bob, "other", "vnc").await.expect_err("no display").code(), "no-display");
    assert_eq!(ticket(&ann, "other", "serial").await.expect_err("not hers").status, 404);
    let viewer = Browser::of_role(&datacenter, "vera", "viewer").await;
    assert_eq!(ticket(&viewer, "desk", "serial").await.expect_err("not a viewer's").status, 403);

    // What was opened ends with the session.
    ann.request(Method::DELETE, "/v1/session").send().await.expect("an answer");
    match next(&mut screen).await {
        Some(Message::Close(Some(frame))) => assert!(frame.reason.contains("session"), "{frame}"),
        other => panic!("the screen goes on: {other:?}"),
    }
}
