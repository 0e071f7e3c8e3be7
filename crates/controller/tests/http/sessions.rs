//! Sessions: who logs in, what a cookie alone is worth, and when it is over.

use std::time::Duration;

use gantry_api::access::{CSRF_HEADER, SessionInfo};
use gantry_types::Role;
use reqwest::{Method, header};
use serde_json::{Value, json};

use crate::{
    browser::Browser,
    datacenter::{Datacenter, Watch, eventually, refused},
};

const NETWORK: &str = "/v1/networks";

fn network(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"subnet": {"cidr": "10.8.0.0/24"}}})
}

#[tokio::test]
async fn the_first_user_logs_in_and_is_an_administrator() {
    let datacenter = Datacenter::new().await;
    let admin = Browser::log_in(&datacenter, "admin", &datacenter.password).await;
    let user = &admin.session.user;
    assert_eq!((user.name.as_str(), user.role, user.consoles), ("admin", Role::Admin, true));
    let shown: SessionInfo = admin.get("/v1/session").await.expect("a session");
    assert_eq!(shown.csrf_token, admin.session.csrf_token);
    assert!(shown.idle_expires_at < shown.expires_at);
    let made: Value = admin.send(Method::POST, NETWORK, &network("made")).await.expect("made");
    assert_eq!(made["object"]["metadata"]["name"], "made");
    let event = datacenter.event("NetworkCreated").await.expect("an event");
    assert!(event["spec"]["message"].as_str().is_some_and(|text| text.starts_with("user/admin ")), "{event}");
    let by_token: SessionInfo = datacenter.admin.get("/v1/session").await.expect("somebody");
    assert_eq!((by_token.user.name.as_str(), by_token.csrf_token), ("token/admin", None));
}

#[tokio::test]
async fn a_cookie_alone_changes_nothing() {
    let datacenter = Datacenter::new().await;
    let admin = Browser::log_in(&datacenter, "admin", &datacenter.password).await;
    let csrf = admin.session.csrf_token.clone().expect("a token");
    let before = datacenter.app.model.revision();
    let post = || admin.by_cookie(Method::POST, NETWORK).json(&network("evil"));
    let other = "https://evil.example";
    for request in [
        post(),
        post().header(header::ORIGIN, &datacenter.url),
        post().header(CSRF_HEADER, &csrf),
        post().header(header::ORIGIN, other).header(CSRF_HEADER, &csrf),
        post().header(header::ORIGIN, "null").header(CSRF_HEADER, &csrf),
        post().header(header::ORIGIN, &datacenter.url).header(CSRF_HEADER, "x"),
    ] {
        let problem = refused(request).await;
        assert_eq!((problem.status, problem.code()), (403, "csrf"));
    }
    for (method, path) in crate::tokens::documented() {
        if method != Method::GET && !["/v1/session", "/v1/join"].contains(&path.as_str()) {
            let problem = refused(admin.by_cookie(method.clone(), &path).body("{}")).await;
            assert_eq!((problem.status, problem.code()), (403, "csrf"), "{method} {path}");
        }
    }
    // Nor can another site log somebody in here.
    let login = json!({"name": "admin", "password": datacenter.password});
    let request = datacenter.with_token(None).request(Method::POST, "/v1/session").header(header::ORIGIN, other);
    assert_eq!(refused(request.json(&login)).await.code(), "csrf");
    assert_eq!(datacenter.app.model.revision(), before);
}

#[tokio::test]
async fn who_is_nobody_and_who_is_wrong_hear_the_same_and_are_slowed() {
    let datacenter = Datacenter::new().await;
    let nobody = datacenter.with_token(None);
    let attempt = |name: &str, password: &str| {
        nobody.request(Method::POST, "/v1/session").json(&json!({"name": name, "password": password}))
    };
    let unknown = refused(attempt("nobody", "wrong password")).await;
    let wrong = refused(attempt("admin", "wrong password")).await;
    assert_eq!((wrong.status, wrong.code()), (401, "unauthenticated"));
    assert_eq!((unknown.detail, unknown.remedy), (wrong.detail, wrong.remedy));
    let mut throttled = None;
    for _ in 0..10 {
        let answer = attempt("admin", "wrong password").send().await.expect("an answer");
        if answer.status().as_u16() == 429 {
            throttled = Some(answer);
            break;
        }
    }
    let throttled = throttled.expect("it is slowed");
    let wait_s: u64 = throttled.headers()[header::RETRY_AFTER].to_str().expect("text").parse().expect("seconds");
    assert!((1..=6).contains(&wait_s), "{wait_s}");
    assert!(throttled.text().await.expect("text").contains("login-throttled"));
    // The right password waits as well, and then it is taken.
    eventually("the next try is let through", async || {
        let answer = attempt("admin", &datacenter.password).send().await.expect("an answer");
        (answer.status().as_u16() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_session_ends_by_itself_and_takes_its_watches_along() {
    let short = |config: &mut gantry_controller::Config| config.sessions.idle = Duration::from_millis(1500);
    let datacenter = Datacenter::with(short).await;
    let admin = Browser::log_in(&datacenter, "admin", &datacenter.password).await;
    let mut watch = Watch::open(admin.by_cookie(Method::GET, "/v1/networks?watch=true")).await;
    watch.expect("bookmark", "").await;
    // The watch is no use of the session.
    while watch.next().await.is_some() {}
    let problem = admin.get::<Value>("/v1/session").await.expect_err("it is over");
    assert_eq!((problem.status, problem.code()), (401, "unauthenticated"));
}

#[tokio::test]
async fn logging_out_and_other_ends() {
    let datacenter = Datacenter::new().await;
    let api = &datacenter.admin;
    let ends = async |user: &str, how: &str| {
        let browser = Browser::of_role(&datacenter, user, "viewer").await;
        let mut watch = Watch::open(browser.by_cookie(Method::GET, "/v1/networks?watch=true")).await;
        watch.expect("bookmark", "").await;
        let user_path = format!("/v1/users/{user}");
        match how {
            "log out" => {
                let answer = browser.request(Method::DELETE, "/v1/session").send().await.expect("an answer");
                assert_eq!(answer.status().as_u16(), 204);
            }
            "password" => {
                let _set: Value =
                    api.send(Method::POST, &format!("{user_path}/password"), &json!({})).await.expect("set");
            }
            "disabled" => {
                let mut object: Value = api.get(&user_path).await.expect("there");
                object["spec"]["disabled"] = true.into();
                let _changed: Value = api.send(Method::PUT, &user_path, &object).await.expect("changed");
            }
            _ => drop(api.delete(&user_path).await.expect("deleted")),
        }
        while watch.next().await.is_some() {}
        let problem = browser.get::<Value>("/v1/networks").await.expect_err("it is over");
        assert_eq!((problem.status, problem.code()), (401, "unauthenticated"), "{how}");
    };
    ends("ann", "log out").await;
    ends("bob", "password").await;
    ends("carl", "disabled").await;
    ends("dora", "deleted").await;
    // One that made it through a change of role is what the user is now.
    let eve = Browser::of_role(&datacenter, "eve", "viewer").await;
    let mut object: Value = api.get("/v1/users/eve").await.expect("there");
    assert_eq!(eve.refused(Method::POST, NETWORK, &network("no")).await.status, 403);
    object["spec"]["role"] = "operator".into();
    let _changed: Value = api.send(Method::PUT, "/v1/users/eve", &object).await.expect("changed");
    let _made: Value = eve.send(Method::POST, NETWORK, &network("yes")).await.expect("made");
    assert_eq!(api.refused(Method::DELETE, "/v1/session", "").await.code(), "no-session");
}
