//! Requests that are wrong as such: each is refused as a problem document that says what is wrong.

use gantry_types::ErrorClass;
use reqwest::Method;
use serde_json::{Value, json};

use crate::datacenter::{Datacenter, refused};

#[tokio::test]
async fn wrong_requests_are_told_what_is_wrong() {
    let datacenter = Datacenter::new().await;
    let api = &datacenter.admin;
    let cases: [(Method, &str, String, u16, &str); 8] = [
        (Method::GET, "/v1/nothing", String::new(), 404, "no-such-path"),
        (Method::GET, "/", String::new(), 404, "no-such-path"),
        (Method::PATCH, "/v1/vms", String::new(), 405, "no-such-method"),
        (Method::POST, "/v1/vms/a", String::new(), 405, "no-such-method"),
        (Method::GET, "/v1/vms/absent", String::new(), 404, "not-found"),
        (Method::POST, "/v1/vms", "{\"metadata\": {\"name\": ".into(), 400, "invalid-body"),
        (Method::POST, "/v1/vms", String::new(), 400, "invalid-body"),
        (Method::GET, "/v1/vms/%ff", String::new(), 422, "invalid-path"),
    ];
    for (method, path, body, status, code) in cases {
        let problem = api.refused(method.clone(), path, body).await;
        assert_eq!((problem.status, problem.code()), (status, code), "{method} {path}: {problem:?}");
        assert!(problem.remedy.is_some(), "{method} {path}: {problem:?}");
    }
}

#[tokio::test]
async fn malformed_json_names_the_place_and_a_wrong_field_its_path() {
    let datacenter = Datacenter::new().await;
    let api = &datacenter.admin;
    let problem = api.refused(Method::POST, "/v1/vms", "{\n  \"metadata\": }").await;
    assert!(problem.detail.contains("line 2 column 15"), "{problem:?}");

    let sent = |spec: Value| json!({"metadata": {"name": "a"}, "spec": spec}).to_string();
    for (spec, field, word) in [
        (json!({"cpus": 1, "memory": "64MiB", "disk": "1GiB", "colour": 1}), "spec.colour", "unknown field `colour`"),
        (json!({"cpus": "many", "memory": "64MiB", "disk": "1GiB"}), "spec.cpus", "invalid type"),
        (json!({"memory": "64MiB", "disk": "1GiB"}), "spec", "missing field `cpus`"),
        (
            json!({"cpus": 1, "memory": "64MiB", "nics": [{"network": "n"}, {"network": "Not A Name"}]}),
            "spec.nics[1].network",
            "Not A Name",
        ),
    ] {
        let problem = api.refused(Method::POST, "/v1/vms", sent(spec)).await;
        assert_eq!((problem.status, problem.class), (422, ErrorClass::Invalid), "{problem:?}");
        assert_eq!(problem.fields.len(), 1, "{problem:?}");
        assert_eq!(problem.fields[0].field, field, "{problem:?}");
        assert!(problem.fields[0].message.contains(word), "{problem:?}");
    }
    // Something behind the object is not overlooked.
    let trailing = json!({"name": "t", "role": "viewer"}).to_string() + "{}";
    assert_eq!(api.refused(Method::POST, "/v1/tokens", trailing).await.status, 400);
}

#[tokio::test]
async fn a_body_may_be_a_mebibyte_and_no_more() {
    let datacenter = Datacenter::new().await;
    let api = &datacenter.admin;
    for size in [(1 << 20) + 1, 8 << 20] {
        let problem = api.refused(Method::POST, "/v1/vms", vec![b' '; size]).await;
        assert_eq!((problem.status, problem.code()), (413, "body-too-large"), "{size}");
    }
    let largest = api.refused(Method::POST, "/v1/vms", vec![b' '; 1 << 20]).await;
    assert_eq!(largest.status, 400);
}

#[tokio::test]
async fn wrong_queries_are_refused_not_overlooked() {
    let datacenter = Datacenter::new().await;
    datacenter.network().await;
    let api = &datacenter.admin;
    for (path, field) in
        [("/v1/vms?limit=0", "limit"), ("/v1/vms?limit=1001", "limit"), ("/v1/vms?selector=a%20in%20b", "selector")]
    {
        let problem = api.refused(Method::GET, path, "").await;
        assert_eq!((problem.status, problem.fields[0].field.as_str()), (422, field), "{path}");
    }
    for path in ["/v1/vms?limit=x", "/v1/vms?watch=perhaps", "/v1/vms?revision=-1"] {
        assert_eq!(api.refused(Method::GET, path, "").await.code(), "invalid-query", "{path}");
    }
    // A misspelt `dry_run` must not become the real thing.
    let problem = api.refused(Method::DELETE, "/v1/networks/default?dry-run=true", "").await;
    assert_eq!((problem.status, problem.code()), (422, "invalid-query"));
    assert!(problem.detail.contains("dry-run"), "{problem:?}");
    assert!(api.get::<Value>("/v1/networks/default").await.is_ok());
}

#[tokio::test]
async fn a_console_without_an_upgrade_is_a_problem_document() {
    let datacenter = Datacenter::new().await;
    let problem = refused(datacenter.admin.request(Method::GET, "/v1/vms/absent/console")).await;
    assert_eq!((problem.status, problem.code()), (400, "no-websocket"));
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let datacenter = Datacenter::with(|config| {
        config.body_timeout = std::time::Duration::from_millis(50);
        config.upload_idle_timeout = std::time::Duration::from_millis(50);
    })
    .await;
    let image = json!({"metadata": {"name": "tiny"}, "spec": {"format": "raw"}});
    let _made: Value = datacenter.admin.send(Method::POST, "/v1/images", &image).await.expect("made");
    let begun = || {
        let first = futures::stream::once(async { Ok::<_, std::io::Error>("{") });
        reqwest::Body::wrap_stream(futures::StreamExt::chain(first, futures::stream::pending()))
    };
    let problem = datacenter.admin.refused(Method::POST, "/v1/networks", begun()).await;
    assert_eq!((problem.status, problem.code()), (408, "body-timeout"));
    let problem = datacenter.admin.refused(Method::PUT, "/v1/images/tiny/content", begun()).await;
    assert_eq!((problem.status, problem.code()), (408, "upload-stalled"));
}
