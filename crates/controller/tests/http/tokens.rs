//! Who may do what, and that secrets stay secret.

use gantry_types::{Problem, Role, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};

use crate::datacenter::{Api, Datacenter};

const PUBLIC: [&str; 3] = ["/healthz", "/v1/ca", "/v1/join"];

/// Can change everything inside a guest, although it is a `GET`.
fn is_console(path: &str) -> bool {
    path.ends_with("/console") || path.ends_with("/vnc")
}

/// Needs no credential, or is how one gets one.
fn is_public(method: &Method, path: &str) -> bool {
    PUBLIC.contains(&path) || (path == "/v1/session" && method == Method::POST)
}

/// Every method and path that the API's document names, with names filled in.
pub fn documented() -> Vec<(Method, String)> {
    let document = serde_json::to_value(gantry_controller::openapi()).expect("JSON");
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for method in methods.as_object().expect("methods").keys() {
            if let Ok(method) = method.to_uppercase().parse() {
                found.push((method, path.replace("{name}", "absent")));
            }
        }
    }
    assert!(found.len() > 30, "{found:?}");
    found
}

/// A body that the route understands, so that what is refused is refused for who asks.
pub fn sample_body(method: &Method, path: &str) -> String {
    let parts: Vec<_> = path.trim_start_matches("/v1/").split('/').collect();
    let body = match parts.as_slice() {
        _ if method == Method::DELETE || method == Method::GET => return String::new(),
        ["users" | "tokens"] => json!({"name": "absent", "role": "admin"}),
        ["clusters", _, "update"] => json!({"method": "reboot"}),
        ["hosts", _, "fence"] => json!({"why": "smoke"}),
        ["vms", _, "clone"] => json!({"name": "copy"}),
        ["volumes", _, "attach"] => json!({"vm": "absent"}),
        ["volumes", _, "migrate"] => json!({"to": "absent"}),
        ["alarms", _, "acknowledge"] => json!({}),
        ["alarms", _, "silence"] => json!({"for_s": 60}),
        [_, _, _] => return String::new(),
        ["vms", ..] => json!({"metadata": {"name": "absent"}, "spec": {"cpus": 1, "memory": "64MiB", "disk": "1GiB"}}),
        ["networks", ..] => json!({"metadata": {"name": "absent"}, "spec": {"subnet": {"cidr": "10.8.0.0/24"}}}),
        ["users", ..] => json!({"metadata": {"name": "absent"}, "spec": {"role": "admin"}}),
        ["subnets", ..] => json!({"metadata": {"name": "absent"}, "spec": {"network": "lan", "cidr": "10.8.0.0/24"}}),
        ["backups", ..] => {
            json!({"metadata": {"name": "absent-a"}, "spec": {"vm": "absent", "repository": "/srv/backup"}})
        }
        ["alarms", ..] => {
            let condition = json!({"metric": {"metric": "host_lost", "above": 0}});
            json!({"metadata": {"name": "absent"}, "spec": {"condition": condition}})
        }
        ["receivers", ..] => {
            let via = json!({"webhook": {"url": "https://absent.example/alarms"}});
            json!({"metadata": {"name": "absent"}, "spec": {"via": via}})
        }
        ["repositories", ..] => {
            let place = json!({"directory": {"path": "/srv/backup"}});
            json!({"metadata": {"name": "absent"}, "spec": {"place": place}})
        }
        ["snapshots", ..] => json!({"metadata": {"name": "absent-a"}, "spec": {"vm": "absent"}}),
        ["pools", ..] => json!({"metadata": {"name": "absent"}, "spec": {"path": "/srv/absent", "hosts": ["absent"]}}),
        ["volumes", ..] => json!({"metadata": {"name": "absent"}, "spec": {"pool": "absent", "size": "1GiB"}}),
        ["ports" | "floating-ips", ..] => json!({"metadata": {"name": "absent"}, "spec": {"network": "lan"}}),
        ["load-balancers", ..] => {
            let spec = json!({"network": "lan", "listeners": [{"port": 80}], "members": "tier=web"});
            json!({"metadata": {"name": "absent"}, "spec": spec})
        }
        _ => json!({"metadata": {"name": "absent"}, "spec": {}}),
    };
    body.to_string()
}

fn code(problem: &Problem) -> (u16, &str) {
    (problem.status, problem.code())
}

#[tokio::test]
async fn without_a_valid_token_everything_but_what_is_public_is_refused() {
    let datacenter = Datacenter::new().await;
    let past = Timestamp::from_unix_ms(0);
    let deleted = datacenter.mint("deleted", Role::Admin, None).await;
    datacenter.admin.delete("/v1/tokens/deleted").await.expect("deleted");
    let joining = datacenter.mint("joining", Role::Join, None).await;
    let unknown = gantry_trust::ApiToken::create("admin".parse().expect("a name")).to_text();
    let bad: [Option<&str>; 6] = [None, Some(""), Some("gat1.admin"), Some(&unknown), Some(&deleted), Some(&joining)];
    for (method, path) in documented() {
        if is_public(&method, &path) {
            continue;
        }
        for token in bad {
            let problem = datacenter.with_token(token).refused(method.clone(), &path, "{}").await;
            assert_eq!(code(&problem), (401, "unauthenticated"), "{method} {path} with {token:?}");
            assert!(problem.remedy.is_some());
        }
    }
    // A token that would never be valid is not even made.
    let request = json!({"name": "old", "role": "viewer", "expires_at": past}).to_string();
    let problem = datacenter.admin.refused(Method::POST, "/v1/tokens", request).await;
    assert_eq!(problem.fields[0].field, "expires_at");
}

#[tokio::test]
async fn a_token_expires() {
    let datacenter = Datacenter::new().await;
    let soon = Timestamp::from_unix_ms(datacenter.app.clock.now().0.as_millisecond() + 1500);
    let token = datacenter.mint("short", Role::Viewer, Some(soon)).await;
    let api = datacenter.with_token(Some(&token));
    assert!(api.get::<Value>("/v1/version").await.is_ok());
    crate::datacenter::eventually("the token expires", async || {
        let answer = api.get::<Value>("/v1/version").await;
        answer.err().map(|problem| assert_eq!(code(&problem), (401, "unauthenticated")))
    })
    .await;
    assert!(datacenter.app.clock.now() >= soon);
}

#[tokio::test]
async fn what_is_public_tells_nothing_but_itself() {
    let datacenter = Datacenter::new().await;
    let nobody = datacenter.with_token(None);
    let health = nobody.request(Method::GET, "/healthz").send().await.expect("an answer");
    assert_eq!((health.status().as_u16(), health.text().await.expect("text").as_str()), (200, "ok\n"));
    let ca = nobody.request(Method::GET, "/v1/ca").send().await.expect("an answer").text().await.expect("text");
    assert_eq!(ca, datacenter.front.authority.certificate_pem());
    let fetched = gantry_trust::fetch_ca(&datacenter.url, datacenter.front.authority.fingerprint()).await;
    assert_eq!(fetched.expect("it has the fingerprint"), ca);
}

#[tokio::test]
async fn every_documented_path_is_there() {
    let datacenter = Datacenter::new().await;
    for (method, path) in documented() {
        if path == "/healthz" || path == "/v1/ca" {
            continue;
        }
        let response = datacenter.admin.request(method.clone(), &path).body("").send().await.expect("an answer");
        if response.status().is_success() {
            continue;
        }
        let text = response.text().await.expect("text");
        let problem: Problem = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{method} {path}: {text}"));
        let routed = !["no-such-path", "no-such-method"].contains(&problem.code());
        assert!(routed, "{method} {path}: {problem:?}");
        assert!(problem.status < 500, "{method} {path}: {problem:?}");
    }
}

#[tokio::test]
async fn a_viewer_reads_everything_and_changes_nothing() {
    let datacenter = Datacenter::new().await;
    datacenter.network().await;
    let viewer = datacenter.as_role(Role::Viewer).await;
    for plural in [
        "vms",
        "hosts",
        "images",
        "networks",
        "snapshots",
        "backups",
        "alarms",
        "receivers",
        "notices",
        "operations",
        "events",
        "tokens",
        "users",
    ] {
        assert!(viewer.get::<Value>(&format!("/v1/{plural}")).await.is_ok(), "{plural}");
    }
    assert!(viewer.get::<Value>("/v1/networks/default").await.is_ok());
    let before = datacenter.app.model.revision();
    for (method, path) in documented() {
        if is_public(&method, &path) || (method == Method::GET && !is_console(&path)) {
            continue;
        }
        let body = sample_body(&method, &path);
        let problem = viewer.refused(method.clone(), &path, body).await;
        assert_eq!(problem.status, 403, "{method} {path}: {problem:?}");
    }
    assert_eq!(datacenter.app.model.revision(), before);
}

fn secrets_in(text: &str, secrets: &[String]) -> Option<String> {
    secrets.iter().find(|secret| text.contains(secret.as_str())).cloned()
}

#[tokio::test]
async fn a_tokens_secret_is_shown_once_and_its_hash_never() {
    let datacenter = Datacenter::new().await;
    let mut watch =
        crate::datacenter::Watch::open(datacenter.admin.request(Method::GET, "/v1/tokens?watch=true")).await;
    watch.expect("added", "admin").await;
    watch.expect("bookmark", "").await;
    let shown = datacenter.mint("reader", Role::Viewer, None).await;
    let parsed = gantry_trust::ApiToken::parse(&shown).expect("a token");
    let stored = datacenter.app.model.get::<gantry_types::ApiToken>("reader").expect("stored");
    assert_eq!(stored.status.hash, parsed.hash().to_string());
    let secret = shown.rsplit('.').next().expect("a secret").to_owned();
    let secrets = [stored.status.hash.clone(), secret];
    let added = watch.expect("added", "reader").await;
    assert_eq!(secrets_in(&added.data.to_string(), &secrets), None);

    let api: &Api = &datacenter.admin;
    for path in ["/v1/tokens", "/v1/tokens/reader", "/v1/events", "/v1/operations", "/v1/openapi.json"] {
        let text = api.request(Method::GET, path).send().await.expect("an answer").text().await.expect("text");
        assert_eq!(secrets_in(&text, &secrets), None, "{path}");
    }
    let request = json!({"name": "reader", "role": "viewer"});
    let again = api.send::<Value>(Method::POST, "/v1/tokens", &request).await.expect_err("there is one");
    assert_eq!(code(&again), (409, "already-exists"));
    assert_eq!(secrets_in(&json!(again).to_string(), &secrets), None);
    let gone = api.delete("/v1/tokens/reader").await.expect("deleted");
    assert_eq!(secrets_in(&gone.to_string(), &secrets), None);
    let deleted = watch.expect("deleted", "reader").await;
    assert_eq!(secrets_in(&deleted.data.to_string(), &secrets), None);
    let last = api.delete("/v1/tokens/admin").await.expect_err("it is the last");
    assert_eq!(code(&last), (409, "last-admin-token"));
}

#[tokio::test]
async fn a_dry_run_and_another_revision_change_nothing() {
    let datacenter = Datacenter::new().await;
    let api = &datacenter.admin;
    datacenter.network().await;
    datacenter.mint("ci", Role::Viewer, None).await;
    let image = json!({"metadata": {"name": "tiny"}, "spec": {"format": "raw"}});
    let _made: Value = api.send(Method::POST, "/v1/images", &image).await.expect("made");
    let before = datacenter.app.model.revision();
    let token = json!({"name": "more", "role": "admin"}).to_string();
    for (method, path, body) in [
        (Method::POST, "/v1/tokens", token.as_str()),
        (Method::DELETE, "/v1/tokens/ci", ""),
        (Method::DELETE, "/v1/networks/default", ""),
        (Method::DELETE, "/v1/images/tiny", ""),
        (Method::PUT, "/v1/images/tiny/content", "content"),
    ] {
        let dry = api.request(method.clone(), &format!("{path}?dry_run=true"));
        let answer =
            dry.header("content-type", "application/json").body(body.to_owned()).send().await.expect("an answer");
        assert!(answer.status().is_success(), "{method} {path}: {:?}", answer.text().await);
        assert!(!answer.text().await.expect("text").contains("gat1."), "a secret that is good for nothing");
        if path != "/v1/tokens" {
            let problem = api.refused(method.clone(), &format!("{path}?revision=1"), body.to_owned()).await;
            assert_eq!(code(&problem), (409, "changed-meanwhile"), "{method} {path}");
        }
        assert_eq!(datacenter.app.model.revision(), before, "{method} {path}");
    }
    api.delete("/v1/tokens/ci").await.expect("it is still there");
}
