//! The guest agent's client against a channel that misbehaves the ways the real one can.

use std::time::Duration;

use gantry_qemu::guest_agent::{GuestAgent, GuestAgentError};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::time::Instant;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// An agent that first sends `stale`, then answers; `guest-exec-status` says "running" once.
async fn agent(listener: UnixListener, stale: &'static [u8]) {
    let (stream, _) = listener.accept().await.expect("accept");
    let (reader, mut writer) = stream.into_split();
    writer.write_all(stale).await.expect("write");
    let mut lines = BufReader::new(reader);
    let mut polls = 0;
    loop {
        let mut line = Vec::new();
        if lines.read_until(b'\n', &mut line).await.expect("read") == 0 {
            return;
        }
        let start = line.iter().position(|&byte| byte == b'{').expect("JSON");
        let request: Value = serde_json::from_slice(&line[start..]).expect("JSON");
        let answer = match request["execute"].as_str().expect("execute") {
            "guest-sync-delimited" => {
                writer.write_all(&[0xff]).await.expect("write");
                request["arguments"]["id"].clone()
            }
            "guest-ping" => json!({}),
            "guest-fsfreeze-status" => json!("thawed"),
            "guest-exec" => json!({"pid": 7}),
            "guest-exec-status" => {
                polls += 1;
                match polls {
                    1 => json!({"exited": false}),
                    _ => json!({"exited": true, "exitcode": 3, "out-data": "aGk="}),
                }
            }
            "guest-network-get-interfaces" => {
                writer
                    .write_all(b"{\"error\":{\"class\":\"GenericError\",\"desc\":\"no such luck\"}}\n")
                    .await
                    .expect("write");
                continue;
            }
            other => panic!("unexpected {other}"),
        };
        let line = format!("{}\n", json!({ "return": answer }));
        writer.write_all(line.as_bytes()).await.expect("write");
    }
}

async fn with_agent(stale: &'static [u8]) -> (tempfile::TempDir, GuestAgent) {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("agent.sock");
    tokio::spawn(agent(UnixListener::bind(&path).expect("bind"), stale));
    let client = GuestAgent::connect(&path).await.expect("connect");
    (dir, client)
}

#[tokio::test]
async fn old_bytes_are_thrown_away() {
    for stale in
        [&b""[..], b"{\"return\": {}}\n", b"{\"return\": {\"half an ans", b"\xff{\"return\": 12345}\n\xff{\"ret"]
    {
        let (_dir, mut client) = with_agent(stale).await;
        client.ping(soon()).await.expect("ping");
        assert!(!client.is_frozen(soon()).await.expect("status"));
    }
}

#[tokio::test]
async fn exec_waits_for_the_end() {
    let (_dir, mut client) = with_agent(b"").await;
    let limit = Duration::from_secs(20);
    let outcome = client.exec("/bin/hi", &["there"], limit, limit, || {}).await.expect("exec").expect("it ends");
    assert_eq!((outcome.exit_code, outcome.stdout.as_slice()), (Some(3), &b"hi"[..]));
}

#[tokio::test]
async fn a_refusal_keeps_the_channel() {
    let (_dir, mut client) = with_agent(b"").await;
    let error = client.network_interfaces(soon()).await.expect_err("refused");
    assert!(matches!(&error, GuestAgentError::Refused { desc, .. } if desc == "no such luck"), "{error}");
    client.ping(soon()).await.expect("ping");
}

#[tokio::test]
async fn silence_is_an_error_at_the_deadline() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("agent.sock");
    let _listener = UnixListener::bind(&path).expect("bind");
    let mut client = GuestAgent::connect(&path).await.expect("connect");
    let error = client.ping(Instant::now()).await.expect_err("nobody there");
    assert!(matches!(error, GuestAgentError::Silent { .. }), "{error}");
    assert_eq!(error.class(), gantry_qemu::ErrorClass::Transient);
}
