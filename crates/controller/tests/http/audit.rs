//! The audit log: each change, login and console is in it, with who, from where and what came of it.

use gantry_api::audit::{AuditEntry, AuditOutcome, AuditPage};
use gantry_types::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    browser::Browser,
    datacenter::{Api, Datacenter, refused},
};

async fn log(api: &Api, query: &str) -> Vec<AuditEntry> {
    api.get::<AuditPage>(&format!("/v1/audit{query}")).await.expect("a log").items
}

fn short(entry: &AuditEntry) -> (&str, &str, Option<(&str, &str)>, AuditOutcome, u16) {
    let object = entry.object.as_ref().map(|object| (object.kind.as_str(), object.name.as_str()));
    (&entry.who, &entry.action, object, entry.outcome, entry.status)
}

#[tokio::test]
async fn changes_refusals_and_logins_are_told_and_reads_are_not() {
    let datacenter = Datacenter::new().await;
    let api = &datacenter.admin;
    let network = |name: &str| json!({"metadata": {"name": name}, "spec": {"subnet": {"cidr": "10.8.0.0/24"}}});
    let _made: Value = api.send(Method::POST, "/v1/networks", &network("lan")).await.expect("made");
    let _checked: Value = api.send(Method::POST, "/v1/networks?dry_run=true", &network("dry")).await.expect("checked");
    let viewer = datacenter.as_role(Role::Viewer).await;
    assert_eq!(viewer.refused(Method::DELETE, "/v1/networks/lan", "").await.status, 403);
    assert!(viewer.get::<Value>("/v1/networks").await.is_ok());
    assert_eq!(datacenter.with_token(None).refused(Method::DELETE, "/v1/networks/lan", "").await.status, 401);
    let admin = Browser::log_in(&datacenter, "admin", &datacenter.password).await;
    let wrong = json!({"name": "ann\u{7}", "password": "wrong password"});
    refused(datacenter.with_token(None).request(Method::POST, "/v1/session").json(&wrong)).await;
    admin.request(Method::DELETE, "/v1/session").send().await.expect("an answer");

    let entries = log(api, "").await;
    let seen: Vec<_> = entries.iter().rev().map(short).collect();
    let viewers = entries.iter().map(|entry| entry.who.as_str()).find(|who| who.starts_with("token/of-")).expect("it");
    let viewer_name = viewers.trim_start_matches("token/");
    assert_eq!(
        seen,
        [
            ("token/admin", "POST /v1/networks", Some(("network", "lan")), AuditOutcome::Done, 201),
            ("token/admin", "POST /v1/tokens", Some(("token", viewer_name)), AuditOutcome::Done, 201),
            (viewers, "DELETE /v1/networks/{name}", Some(("network", "lan")), AuditOutcome::Refused, 403),
            ("user/admin", "login", None, AuditOutcome::Done, 200),
            ("user/ann", "login", None, AuditOutcome::Refused, 401),
            ("user/admin", "logout", None, AuditOutcome::Done, 204),
        ]
    );
    assert!(entries.iter().all(|entry| entry.address == "127.0.0.1"), "{entries:?}");
    assert_eq!(entries[3].code.as_deref(), Some("denied"));
    let ids: Vec<_> = entries.iter().map(|entry| entry.id).collect();
    assert_eq!(ids, [6, 5, 4, 3, 2, 1]);

    assert_eq!(log(api, "?user=admin&action=log").await.len(), 2);
    assert_eq!(log(api, "?object=network%2Flan&outcome=refused").await.len(), 1);
    let first: AuditPage = api.get("/v1/audit?limit=4").await.expect("a page");
    let rest = log(api, &format!("?continue={}", first.next.expect("more"))).await;
    assert_eq!((first.items.len(), rest.len()), (4, 2));
    for role in [Role::Viewer, Role::Operator] {
        let other = datacenter.as_role(role).await;
        assert_eq!(other.refused(Method::GET, "/v1/audit", "").await.status, 403);
    }
    assert_eq!(api.refused(Method::GET, "/v1/audit?limit=0", "").await.fields[0].field, "limit");
}

#[tokio::test]
async fn a_host_that_joins_is_told_and_its_heartbeats_are_not() {
    let mut datacenter = Datacenter::new().await;
    let host = datacenter.ready("host-1").await;
    host.heartbeat(2, Vec::new()).await.expect("taken in");
    let entries = log(&datacenter.admin, "?user=host%2Fhost-1").await;
    let seen: Vec<_> = entries.iter().map(short).collect();
    assert_eq!(seen, [("host/host-1", "POST /v1/join", None, AuditOutcome::Done, 200)]);
}
