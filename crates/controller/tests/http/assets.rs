//! The web UI's files: for everyone, with headers that keep its pages to themselves; the API's answers are no pages.

use reqwest::{Method, header};

use crate::datacenter::{Datacenter, refused};

#[tokio::test]
async fn a_browser_gets_the_page_at_every_path_of_the_ui() {
    let datacenter = Datacenter::new().await;
    let nobody = datacenter.with_token(None);
    for path in ["/", "/vms/web", "/my", "/login?next=%2Fvms"] {
        let request = nobody.request(Method::GET, path).header(header::ACCEPT, "text/html,*/*;q=0.8");
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 200, "{path}");
        let headers = answer.headers().clone();
        assert_eq!(headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
        assert_eq!(headers[header::CACHE_CONTROL], "no-cache");
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(headers[header::REFERRER_POLICY], "no-referrer");
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().expect("text");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
    }
}

#[tokio::test]
async fn what_is_no_page_is_no_page() {
    let datacenter = Datacenter::new().await;
    let nobody = datacenter.with_token(None);
    for (method, path) in [
        (Method::GET, "/v1/nothing"),
        (Method::GET, "/v1"),
        (Method::GET, "/assets/gone-1a2b3c4d.js"),
        (Method::POST, "/"),
        (Method::DELETE, "/vms/web"),
    ] {
        let request = nobody.request(method.clone(), path).header(header::ACCEPT, "text/html");
        assert_eq!(refused(request).await.code(), "no-such-path", "{method} {path}");
    }
    assert_eq!(refused(nobody.request(Method::GET, "/vms/web")).await.code(), "no-such-path", "a program");
    let answer = nobody.request(Method::GET, "/v1/ca").send().await.expect("an answer");
    assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");
    assert_eq!(answer.headers()[header::CONTENT_SECURITY_POLICY], "default-src 'none'; frame-ancestors 'none'");
}
