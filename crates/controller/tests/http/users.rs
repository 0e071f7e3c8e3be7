//! Users: what each role may do, that passwords stay secret, and that a user sees what is his and nothing else.

use gantry_types::{Role, User, Vm, VmPhase};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    browser::Browser,
    datacenter::{Datacenter, Watch, eventually, refused},
};

fn vm(name: &str, owner: Option<&str>) -> Value {
    json!({"metadata": {"name": name}, "spec": {"cpus": 1, "memory": "64MiB", "disk": "1GiB", "owner": owner}})
}

async fn running(datacenter: &Datacenter, name: &str, owner: Option<&str>) {
    let _made: Value = datacenter.admin.send(Method::POST, "/v1/vms", &vm(name, owner)).await.expect("made");
    eventually("it runs", async || {
        let vm: Vm = datacenter.admin.get(&format!("/v1/vms/{name}")).await.expect("it");
        (vm.status.phase == VmPhase::Running && vm.status.operation.is_none()).then_some(())
    })
    .await;
}

/// What somebody with the role `user` may ask for at all; of these only about his own.
fn is_for_users(method: &Method, path: &str) -> bool {
    const OWN: [&str; 5] = ["start", "stop", "reboot", "recover", "console-ticket"];
    let parts: Vec<_> = path.trim_start_matches("/v1/").split('/').collect();
    match parts.as_slice() {
        ["session"] | ["vms"] | ["vms", _] | ["vms", _, "console" | "vnc" | "metrics"] => {
            method == Method::GET || parts == ["session"]
        }
        ["vms", _, verb] => method == Method::POST && OWN.contains(verb),
        _ => false,
    }
}

#[tokio::test]
async fn every_route_refuses_a_user_but_for_his_own_vms() {
    let mut datacenter = Datacenter::new().await;
    datacenter.ready("host-1").await;
    let ann = Browser::of_role(&datacenter, "ann", "user").await;
    running(&datacenter, "absent", None).await;
    let before = datacenter.app.model.revision();
    for (method, path) in crate::tokens::documented() {
        let is_for_all =
            ["/healthz", "/v1/ca", "/v1/join", "/v1/session", "/v1/version", "/v1/openapi.json", "/v1/search"];
        if is_for_all.contains(&path.as_str()) || (method == Method::GET && path == "/v1/vms") {
            continue;
        }
        let body = crate::tokens::sample_body(&method, &path);
        let needed = if path.ends_with("/trace") { "?to=10.8.0.1" } else { "" };
        let needed = if path.ends_with("/files") { "?path=/etc" } else { needed };
        let path = format!("{path}{needed}");
        let expected = match is_for_users(&method, &path) {
            // It is somebody else's, of which he knows nothing; and this is no websocket.
            true if path.ends_with("/console") || path.ends_with("/vnc") => 400,
            true => 404,
            false => 403,
        };
        let problem = refused(ann.request(method.clone(), &path).body(body)).await;
        assert_eq!(problem.status, expected, "{method} {path}: {problem:?}");
    }
    assert_eq!(datacenter.app.model.revision(), before);
}

#[tokio::test]
async fn a_user_has_his_own_vms() {
    let mut datacenter = Datacenter::new().await;
    datacenter.ready("host-1").await;
    let ann = Browser::of_role(&datacenter, "ann", "user").await;
    let api = &datacenter.admin;
    running(&datacenter, "hers", Some("ann")).await;
    running(&datacenter, "other", None).await;
    let page: Value = ann.get("/v1/vms").await.expect("a list");
    assert_eq!(page["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(page["items"][0]["metadata"]["name"], "hers");
    assert!(ann.get::<Vm>("/v1/vms/hers").await.is_ok());
    for denied in ["pause", "migrate"] {
        assert_eq!(ann.refused(Method::POST, &format!("/v1/vms/hers/{denied}"), &json!({})).await.status, 403);
    }
    assert_eq!(ann.refused(Method::PUT, "/v1/vms/hers", &vm("hers", Some("ann"))).await.status, 403);
    assert_eq!(ann.refused(Method::DELETE, "/v1/vms/hers", &Value::Null).await.status, 403);
    let stopped: Value = ann.send(Method::POST, "/v1/vms/hers/stop", &json!({"force": true})).await.expect("stopped");
    assert_eq!(stopped["operation"]["spec"]["requested_by"], "user/ann");
    // Who owns something can't vanish.
    assert_eq!(api.delete("/v1/users/ann").await.expect_err("in use").code(), "user-in-use");
    let problem = api.refused(Method::POST, "/v1/vms", vm("lost", Some("nobody")).to_string()).await;
    assert_eq!(problem.fields[0].field, "spec.owner");
}

#[tokio::test]
async fn a_users_watch_shows_what_becomes_his_and_what_ceases_to_be() {
    let mut datacenter = Datacenter::new().await;
    datacenter.ready("host-1").await;
    let ann = Browser::of_role(&datacenter, "ann", "user").await;
    let api = &datacenter.admin;
    let stopped = |name: &str, owner: Option<&str>| {
        let mut vm = vm(name, owner);
        vm["spec"]["power"] = "stopped".into();
        vm
    };
    for (name, owner) in [("hers", Some("ann")), ("other", None)] {
        let _made: Value = api.send(Method::POST, "/v1/vms", &stopped(name, owner)).await.expect("made");
    }
    let mut watch = Watch::open(ann.by_cookie(Method::GET, "/v1/vms?watch=true")).await;
    watch.expect("added", "hers").await;
    assert_eq!(watch.expect("bookmark", "").await.id, None, "it can't be resumed");
    // What is somebody else's changes unseen; what becomes hers appears.
    let mut other = stopped("other", None);
    other["spec"]["user_data"] = "secret-of-other".into();
    let _changed: Value = api.send(Method::PUT, "/v1/vms/other", &other).await.expect("changed");
    other["spec"]["owner"] = "ann".into();
    let _changed: Value = api.send(Method::PUT, "/v1/vms/other", &other).await.expect("changed");
    watch.expect("added", "other").await;
    // What ceases to be hers is told as it was.
    let mut given = stopped("hers", None);
    given["spec"]["user_data"] = "secret-of-the-next".into();
    let _changed: Value = api.send(Method::PUT, "/v1/vms/hers", &given).await.expect("changed");
    let gone = watch.expect("deleted", "hers").await;
    assert!(!gone.data.to_string().contains("secret-of-the-next"), "{}", gone.data);
    // An old revision does not open the past.
    let revision = datacenter.app.model.revision() - 3;
    let mut resumed = Watch::open(ann.by_cookie(Method::GET, &format!("/v1/vms?watch=true&revision={revision}"))).await;
    resumed.expect("added", "other").await;
    resumed.expect("bookmark", "").await;
    assert_eq!(ann.refused(Method::GET, "/v1/hosts?watch=true", &Value::Null).await.status, 403);
    assert_eq!(ann.refused(Method::GET, "/v1/events?watch=true", &Value::Null).await.status, 403);
}

#[tokio::test]
async fn passwords_are_shown_once_and_their_hashes_never() {
    let datacenter = Datacenter::new().await;
    let api = &datacenter.admin;
    let mut watch = Watch::open(api.request(Method::GET, "/v1/users?watch=true")).await;
    watch.expect("added", "admin").await;
    watch.expect("bookmark", "").await;
    let made: Value =
        api.send(Method::POST, "/v1/users", &json!({"name": "ann", "role": "viewer"})).await.expect("made");
    let password = made["password"].as_str().expect("a password").to_owned();
    let stored = datacenter.app.model.get::<User>("ann").expect("stored");
    assert!(stored.status.password_hash.starts_with("$argon2id$"));
    let added = watch.expect("added", "ann").await;
    for text in [made["object"].to_string(), added.data.to_string()] {
        assert!(!text.contains("argon2") && !text.contains(&password), "{text}");
    }
    for path in ["/v1/users", "/v1/users/ann", "/v1/events"] {
        let text = api.request(Method::GET, path).send().await.expect("an answer").text().await.expect("text");
        assert!(!text.contains("argon2") && !text.contains(&password), "{path}: {text}");
    }
    let problem =
        api.refused(Method::POST, "/v1/users", json!({"name": "x", "role": "viewer", "password": "short"}).to_string());
    assert_eq!(problem.await.fields[0].field, "password");
    let problem = api.refused(Method::POST, "/v1/users", json!({"name": "x", "role": "join"}).to_string());
    assert_eq!(problem.await.fields[0].field, "spec.role");
}

#[tokio::test]
async fn own_passwords_others_passwords_and_the_last_administrator() {
    let datacenter = Datacenter::new().await;
    let api = &datacenter.admin;
    let ann = Browser::of_role(&datacenter, "ann", "operator").await;
    // An operator is no administrator.
    for (method, path, body) in [
        (Method::POST, "/v1/users", json!({"name": "x", "role": "admin"})),
        (Method::POST, "/v1/tokens", json!({"name": "x", "role": "admin"})),
        (Method::DELETE, "/v1/tokens/admin", Value::Null),
        (Method::DELETE, "/v1/users/admin", Value::Null),
        (Method::POST, "/v1/users/admin/password", json!({})),
    ] {
        assert_eq!(ann.refused(method.clone(), path, &body).await.status, 403, "{method} {path}");
    }
    let new = json!({"password": "a new password", "current_password": "wrong"});
    assert_eq!(ann.refused(Method::POST, "/v1/users/ann/password", &new).await.code(), "wrong-password");
    let set: Value = api
        .send(Method::POST, "/v1/users/ann/password", &json!({"password": "the first password"}))
        .await
        .expect("set");
    assert_eq!(set, json!({}));
    let ann = Browser::log_in(&datacenter, "ann", "the first password").await;
    let new = json!({"password": "a new password", "current_password": "the first password"});
    let _set: Value = ann.send(Method::POST, "/v1/users/ann/password", &new).await.expect("set");
    Browser::log_in(&datacenter, "ann", "a new password").await;
    assert_eq!(api.delete("/v1/users/admin").await.expect_err("the last").code(), "last-admin-user");
    let mut object: Value = api.get("/v1/users/admin").await.expect("there");
    object["spec"]["role"] = "viewer".into();
    let problem = api.refused(Method::PUT, "/v1/users/admin", object.to_string()).await;
    assert_eq!((problem.status, problem.code()), (409, "last-admin-user"));
    let _second: Value =
        api.send(Method::POST, "/v1/users", &json!({"name": "second", "role": "admin"})).await.expect("made");
    api.delete("/v1/users/admin").await.expect("there is another");
    let problem = api.refused(Method::POST, "/v1/tokens", json!({"name": "t", "role": "user"}).to_string()).await;
    assert_eq!(problem.fields[0].field, "role");
    let operator = datacenter.as_role(Role::Operator).await;
    assert!(operator.get::<Value>("/v1/vms").await.is_ok());
}
