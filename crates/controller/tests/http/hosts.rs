//! Hosts over HTTP: joining, and what only they may ask.

use gantry_api::{
    paths,
    rest::{JoinResponse, RenewRequest},
};
use gantry_controller::objects::Change;
use gantry_trust::{KeyRequest, PeerIdentity, PeerKey};
use gantry_types::{ApiToken, Event, Host, HostState, Role};
use reqwest::Method;
use serde_json::{Value, json};

use crate::datacenter::{Datacenter, join_request};

#[tokio::test]
async fn a_host_joins_and_reports() {
    let mut datacenter = Datacenter::new().await;
    let member = datacenter.join("host-1").await;
    let host: Host = datacenter.admin.get("/v1/hosts/host-1").await.expect("it");
    assert_eq!((host.status.state, host.status.agent_address.as_str()), (HostState::Joining, &*member.agent_address));
    let expected = PeerIdentity::new(gantry_trust::Role::Host, member.name.clone());
    assert_eq!(member.identity.current().peer(), &expected);
    // The token is used up.
    assert!(datacenter.app.model.get::<ApiToken>("join-host-1").is_none());
    assert!(datacenter.event("HostJoined").await.is_some());
    assert_eq!(member.heartbeat(1, Vec::new()).await.expect("taken in").interval_ms, 1000);
    let host: Host = datacenter.admin.get("/v1/hosts/host-1").await.expect("it");
    assert_eq!(host.status.state, HostState::Ready);
    assert!(host.status.last_seen.is_some());
}

#[tokio::test]
async fn a_refused_join_does_not_use_the_token_up() {
    let mut datacenter = Datacenter::new().await;
    // Joined is not enough: a host that was never heard of may join again.
    datacenter.ready("host-1").await;
    let token = datacenter.mint("second", Role::Join, None).await;
    let viewer = datacenter.mint("viewer", Role::Viewer, None).await;
    let nobody = datacenter.with_token(None);
    let (_, good) = join_request(&token, "host-2", "127.0.0.1:1");
    let good = json!(good);
    let changed = |field: &str, value: &str| {
        let mut request = good.clone();
        request[field] = value.into();
        request.to_string()
    };
    let strange =
        join_request(&gantry_trust::JoinToken::create(datacenter.front.authority.fingerprint()).to_text(), "h", "a").1;
    for (body, status, code) in [
        (changed("agent_csr", "rubbish"), 422, "certificate-refused"),
        (
            changed("qemu_csr", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"),
            422,
            "certificate-refused",
        ),
        (changed("name", "host-1"), 409, "already-exists"),
        (changed("name", "Not A Name"), 422, "invalid-body"),
        (changed("agent_address", "nowhere"), 422, "invalid-join"),
        (changed("underlay_address", "nowhere"), 422, "invalid-join"),
        (changed("token", &viewer), 401, "unauthenticated"),
        (changed("token", "gjt1.rubbish"), 401, "unauthenticated"),
        (changed("token", strange.token.as_str()), 401, "unauthenticated"),
    ] {
        let problem = nobody.refused(Method::POST, paths::JOIN, body.clone()).await;
        assert_eq!((problem.status, problem.code()), (status, code), "{body}: {problem:?}");
        assert!(!problem.detail.contains(&token));
    }
    let joined: Result<JoinResponse, _> = nobody.send(Method::POST, paths::JOIN, &good).await;
    assert!(joined.is_ok(), "{joined:?}");
    let mut again = good.clone();
    again["name"] = "host-3".into();
    let problem = nobody.refused(Method::POST, paths::JOIN, again.to_string()).await;
    assert_eq!((problem.status, problem.code()), (401, "unauthenticated"));
    assert!(datacenter.app.model.get::<Host>("host-3").is_none());
}

#[tokio::test]
async fn what_is_for_hosts_is_for_hosts_that_are_still_here() {
    let mut datacenter = Datacenter::new().await;
    let member = datacenter.join("host-1").await;
    let digest = paths::agent_image(&"0".repeat(64));
    let calls = [(Method::POST, paths::HEARTBEAT), (Method::POST, paths::RENEW), (Method::GET, &digest)];
    for (method, path) in &calls {
        for api in [&datacenter.admin, &datacenter.with_token(None)] {
            let problem = api.refused(method.clone(), path, "{}").await;
            assert_eq!((problem.status, problem.code()), (401, "unauthenticated"), "{path}");
        }
    }
    // A certificate is no token.
    assert_eq!(member.api.refused(Method::GET, "/v1/vms", "").await.status, 401);
    datacenter.admin.delete("/v1/hosts/host-1").await.expect("forgotten");
    for (method, path) in &calls {
        let problem = member.api.refused(method.clone(), path, "{}").await;
        assert_eq!((problem.status, problem.code()), (403, "unknown-host"), "{path}");
        assert!(problem.remedy.is_some());
    }
}

#[tokio::test]
async fn the_certificate_of_a_deleted_host_is_not_good_again_with_its_name() {
    let mut datacenter = Datacenter::new().await;
    let former = datacenter.ready("host-1").await;
    datacenter.admin.delete("/v1/hosts/host-1").await.expect("forgotten");
    let next = datacenter.ready("host-1").await;
    let problem = former.heartbeat(2, Vec::new()).await.expect_err("it is another machine");
    assert_eq!((problem.status, problem.code()), (403, "unknown-host-key"));
    assert!(problem.remedy.is_some());
    next.heartbeat(2, Vec::new()).await.expect("taken in");

    // A store from before keys were recorded: the first that is shown is the host's.
    let mut host = datacenter.app.model.get::<Host>("host-1").map(|host| (*host).clone()).expect("it");
    let keys = std::mem::take(&mut host.status.agent_keys);
    let mut change = Change::new();
    change.update(&host).expect("writable");
    let revision = datacenter.app.objects.commit(change).await.expect("written");
    datacenter.app.model.wait_for(revision).await;
    next.heartbeat(3, Vec::new()).await.expect("taken in");
    assert_eq!(datacenter.app.model.get::<Host>("host-1").expect("it").status.agent_keys, keys);
    assert_eq!(former.heartbeat(3, Vec::new()).await.expect_err("late").code(), "unknown-host-key");
}

#[tokio::test]
async fn a_renewal_whose_answer_is_lost_locks_nobody_out() {
    let mut datacenter = Datacenter::new().await;
    let member = datacenter.ready("host-1").await;
    for sequence in 2..6 {
        let (agent, qemu) = (KeyRequest::generate().expect("a key"), KeyRequest::generate().expect("a key"));
        let request =
            RenewRequest { agent_csr: agent.request_pem().to_owned(), qemu_csr: qemu.request_pem().to_owned() };
        let renewed: JoinResponse =
            member.api.send(Method::POST, paths::RENEW, &json!(request)).await.expect("the key in use is good");
        let key = PeerKey::from_pem(&renewed.agent_certificate).expect("a certificate").to_string();
        let keys = datacenter.app.model.get::<Host>("host-1").expect("it").status.agent_keys.clone();
        assert!(keys.len() == 2 && keys[1] == key, "{keys:?}");
        member.heartbeat(sequence, Vec::new()).await.expect("taken in");
    }
}

#[tokio::test]
async fn a_host_moves_to_addresses_that_are_free_only() {
    let mut datacenter = Datacenter::new().await;
    let mut member = datacenter.ready("host-1").await;
    let other = datacenter.ready("host-2").await;
    let own = std::mem::replace(&mut member.agent_address, other.agent_address.clone());
    for sequence in [2, 3] {
        member.heartbeat(sequence, Vec::new()).await.expect("the rest is taken in");
        assert_eq!(datacenter.app.model.get::<Host>("host-1").expect("it").status.agent_address, own);
    }
    let told = |event: &&std::sync::Arc<Event>| event.spec.reason == "HostAddressRefused";
    assert_eq!(datacenter.app.model.list::<Event>().iter().filter(told).count(), 1);
    member.agent_address = "127.0.0.9:7444".into();
    member.heartbeat(4, Vec::new()).await.expect("taken in");
    assert_eq!(datacenter.app.model.get::<Host>("host-1").expect("it").status.agent_address, "127.0.0.9:7444");
    assert!(datacenter.event("HostMoved").await.is_some());
}

#[tokio::test]
async fn certificates_are_renewed_for_the_name_in_the_certificate() {
    let mut datacenter = Datacenter::new().await;
    let member = datacenter.join("host-1").await;
    let (agent, qemu) = (KeyRequest::generate().expect("a key"), KeyRequest::generate().expect("a key"));
    let request = RenewRequest { agent_csr: agent.request_pem().to_owned(), qemu_csr: qemu.request_pem().to_owned() };
    let renewed: JoinResponse = member.api.send(Method::POST, paths::RENEW, &json!(request)).await.expect("renewed");
    let identity = agent.into_identity(&renewed.agent_certificate, &renewed.ca).expect("for this key");
    assert_eq!(identity.peer().to_string(), member.identity.current().peer().to_string());
    let qemu = qemu.into_identity(&renewed.qemu_certificate, &renewed.ca).expect("for this key");
    assert_eq!(qemu.peer().role(), gantry_trust::Role::Qemu);
    let bad = json!({"agent_csr": "rubbish", "qemu_csr": "rubbish"}).to_string();
    assert_eq!(member.api.refused(Method::POST, paths::RENEW, bad).await.code(), "certificate-refused");
    let _host: Value = datacenter.admin.get("/v1/hosts/host-1").await.expect("it");
}
