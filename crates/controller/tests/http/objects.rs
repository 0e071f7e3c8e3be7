//! Objects over HTTP: pages, selectors, dry runs, and two clients with the same object.

use gantry_api::rest::{Changed, Page};
use gantry_types::{Network, Operation, OperationPhase, Vm, VmPhase};
use reqwest::Method;
use serde_json::{Value, json};

use crate::datacenter::{Api, Datacenter, Watch, eventually};

fn network(name: &str, number: u8, tier: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"tier": tier}},
           "spec": {"subnet": {"cidr": format!("10.{number}.0.0/24")}}})
}

fn stopped_vm(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"cpus": 1, "memory": "64MiB", "disk": "1GiB", "power": "stopped"}})
}

async fn names(api: &Api, query: &str) -> (Vec<String>, Option<String>) {
    let page: Page<Network> = api.get(&format!("/v1/networks?{query}")).await.expect("a page");
    (page.items.iter().map(|network| network.metadata.name.to_string()).collect(), page.next)
}

#[tokio::test]
async fn lists_are_paged_and_selected() {
    let datacenter = Datacenter::new().await;
    let api = &datacenter.admin;
    for (number, tier) in [(1, "front"), (2, "back"), (3, "front"), (4, "back"), (5, "front")] {
        let sent = network(&format!("n{number}"), number, tier);
        let made = api.request(Method::POST, "/v1/networks").json(&sent).send().await.expect("an answer");
        assert_eq!(made.status(), 201);
    }
    let (mut seen, mut next) = names(api, "limit=2").await;
    assert_eq!(seen, ["n1", "n2"]);
    while let Some(from) = next {
        let (more, after) = names(api, &format!("limit=2&continue={from}")).await;
        seen.extend(more);
        next = after;
    }
    assert_eq!(seen, ["n1", "n2", "n3", "n4", "n5"]);
    assert_eq!(names(api, "selector=tier%3Dfront&limit=3").await, (vec!["n1".into(), "n3".into(), "n5".into()], None));
    let (first, next) = names(api, "selector=tier%20in%20(front)&limit=2").await;
    assert_eq!((first.len(), next.as_deref()), (2, Some("n3")));
    assert_eq!(names(api, "selector=tier!%3Dfront").await.0, ["n2", "n4"]);
    // The page's revision is where a watch goes on from.
    let page: Page<Network> = api.get("/v1/networks").await.expect("a page");
    let mut watch =
        Watch::open(api.request(Method::GET, &format!("/v1/networks?watch=true&revision={}", page.revision))).await;
    api.delete("/v1/networks/n5").await.expect("deleted");
    watch.expect("deleted", "n5").await;
}

#[tokio::test]
async fn a_dry_run_answers_as_if_and_changes_nothing() {
    let mut datacenter = Datacenter::new().await;
    datacenter.network().await;
    datacenter.ready("host-1").await;
    let api = datacenter.admin.clone();
    let made: Changed<Vm> = api.send(Method::POST, "/v1/vms", &stopped_vm("a")).await.expect("made");
    let before = datacenter.app.model.revision();
    let mut grown = json!(made.object);
    grown["spec"]["cpus"] = 2.into();
    let calls = [
        (Method::POST, "/v1/vms?dry_run=true", stopped_vm("b")),
        (Method::PUT, "/v1/vms/a?dry_run=true", grown),
        (Method::POST, "/v1/vms/a/start?dry_run=true", Value::Null),
        (Method::DELETE, "/v1/vms/a?dry_run=true", Value::Null),
        (Method::POST, "/v1/networks?dry_run=true", network("n1", 1, "x")),
        (Method::DELETE, "/v1/networks/default?dry_run=true", Value::Null),
        (Method::POST, "/v1/images?dry_run=true", json!({"metadata": {"name": "i"}, "spec": {}})),
        (Method::DELETE, "/v1/hosts/host-1?dry_run=true", Value::Null),
        (
            Method::PUT,
            "/v1/hosts/host-1?dry_run=true",
            json!({"metadata": {"name": "host-1"}, "spec": {"cordoned": true}}),
        ),
    ];
    for (method, path, body) in calls {
        let shown: Value =
            api.send(method.clone(), path, &body).await.unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        assert!(shown["object"]["metadata"]["name"].is_string(), "{method} {path}: {shown}");
    }
    // What would be refused is refused in a dry run as well.
    let problem = api.refused(Method::POST, "/v1/vms?dry_run=true", stopped_vm("a").to_string()).await;
    assert_eq!(problem.code(), "already-exists");
    assert_eq!(datacenter.app.model.revision(), before);
}

#[tokio::test]
async fn of_two_clients_with_the_same_object_one_has_to_look_again() {
    let datacenter = Datacenter::new().await;
    let (one, other) = (&datacenter.admin, datacenter.as_role(gantry_types::Role::Admin).await);
    let made: Changed<Vm> = one.send(Method::POST, "/v1/vms", &stopped_vm("a")).await.expect("made");
    let mut mine = json!(one.get::<Vm>("/v1/vms/a").await.expect("it"));
    let mut theirs = json!(other.get::<Vm>("/v1/vms/a").await.expect("it"));
    mine["metadata"]["labels"] = json!({"owner": "one"});
    theirs["metadata"]["labels"] = json!({"owner": "other"});
    let changed: Changed<Vm> = one.send(Method::PUT, "/v1/vms/a", &mine).await.expect("first");
    assert!(changed.object.metadata.revision > made.object.metadata.revision);
    let lost = other.send::<Value>(Method::PUT, "/v1/vms/a", &theirs).await.expect_err("second");
    assert_eq!((lost.status, lost.code()), (409, "changed-meanwhile"));
    assert!(lost.remedy.is_some() && lost.object.is_some());
    let old = format!("/v1/vms/a?revision={}", made.object.metadata.revision);
    assert_eq!(other.delete(&old).await.expect_err("old").code(), "changed-meanwhile");
    // Without a revision the last word counts; the same again changes nothing.
    theirs["metadata"].as_object_mut().expect("an object").remove("revision");
    let after: Changed<Vm> = other.send(Method::PUT, "/v1/vms/a", &theirs).await.expect("whatever it is");
    let same: Changed<Vm> = other.send(Method::PUT, "/v1/vms/a", &theirs).await.expect("the same");
    assert_eq!(same.object.metadata.revision, after.object.metadata.revision);
    assert_eq!(same.object.metadata.labels, after.object.metadata.labels);
}

/// From an order to a guest on a host and away again, with nothing but HTTP.
#[tokio::test]
async fn a_vm_runs_and_goes() {
    let mut datacenter = Datacenter::new().await;
    datacenter.network().await;
    datacenter.ready("host-1").await;
    let api = datacenter.admin.clone();
    let sent = json!({"metadata": {"name": "web"}, "spec": {
        "cpus": 1, "memory": "64MiB", "disk": "1GiB", "nics": [{"network": "default"}]}});
    let response = api.request(Method::POST, "/v1/vms").json(&sent).send().await.expect("an answer");
    assert_eq!(response.status(), 201);
    let made: Changed<Vm> = response.json().await.expect("a VM");
    ended(&api, &made).await;
    let running: Vm = api.get("/v1/vms/web").await.expect("it");
    assert_eq!(running.status.phase, VmPhase::Running);
    assert_eq!(datacenter.hosts.executing(running.metadata.uuid).len(), 1);
    for (verb, phase) in [("pause", VmPhase::Paused), ("resume", VmPhase::Running), ("stop", VmPhase::Stopped)] {
        let path = format!("/v1/vms/web/{verb}");
        let response = api.request(Method::POST, &path).send().await.expect("an answer");
        assert_eq!(response.status(), 202, "{verb}");
        ended(&api, &response.json().await.expect("a VM")).await;
        assert_eq!(api.get::<Vm>("/v1/vms/web").await.expect("it").status.phase, phase);
    }
    let response = api.request(Method::DELETE, "/v1/vms/web").send().await.expect("an answer");
    assert_eq!(response.status(), 202);
    ended(&api, &response.json().await.expect("a VM")).await;
    assert_eq!(api.get::<Vm>("/v1/vms/web").await.expect_err("gone").status, 404);
    assert!(datacenter.hosts.vms_on(&"host-1".parse().expect("a name")).is_empty());
}

async fn ended(api: &Api, changed: &Changed<Vm>) {
    let name = &changed.operation.as_ref().expect("an operation").metadata.name;
    let operation = eventually("the operation ends", async || {
        let shown: Operation = api.get(&format!("/v1/operations/{name}")).await.expect("it");
        shown.status.phase.is_finished().then_some(shown)
    })
    .await;
    assert_eq!(operation.status.phase, OperationPhase::Succeeded, "{operation:#?}");
}
