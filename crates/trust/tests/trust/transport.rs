//! Mutual TLS between real sockets: who gets through, who doesn't, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use crate::installation::{Installation, PATIENCE, RunningServer, everyone, serve};
use axum::Router;
use axum::http::{HeaderMap, HeaderValue};
use axum::routing::get;
use futures::{SinkExt, StreamExt};
use gantry_trust::{
    ClientAuth, ClientConfig, ExpectedPeer, JoinToken, LiveIdentity, Role, ServerLimits, TrustError, fetch_ca,
    http_error_class,
};
use gantry_types::{ErrorClass, Name};
use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;

fn host_name(name: &str) -> Name {
    name.parse().unwrap()
}

async fn agent(installation: &Installation, name: &str) -> RunningServer {
    serve(
        &installation.live(Role::Host, name),
        ClientAuth::Required(vec![Role::Controller]),
        ServerLimits::default(),
        installation.router(),
    )
    .await
}

async fn controller(installation: &Installation, limits: ServerLimits) -> RunningServer {
    serve(&installation.live(Role::Controller, "c1"), ClientAuth::Optional(everyone()), limits, installation.router())
        .await
}

async fn who(config: &ClientConfig, server: &RunningServer) -> Result<String, String> {
    let request = config.http().unwrap().get(server.url("/who")).timeout(PATIENCE);
    let answer = request.send().await.map_err(|error| chain(&error))?;
    answer.text().await.map_err(|error| chain(&error))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        text = format!("{text}: {current}");
        cause = current.source();
    }
    text
}

#[tokio::test]
async fn controller_commands_agent_and_both_know_each_other() {
    let installation = Installation::new();
    let agent = agent(&installation, "h1").await;
    let controller = installation.live(Role::Controller, "c1");
    let config = ClientConfig::with_identity(&controller, ExpectedPeer::host(host_name("h1"))).unwrap();
    let answer = who(&config, &agent).await.unwrap();
    assert_eq!(answer, "gantry:controller/c1 from 127.0.0.1");
}

#[tokio::test]
async fn client_refuses_wrong_ca_wrong_role_and_wrong_name() {
    let ours = Installation::new();
    let theirs = Installation::new();
    let controller = ours.live(Role::Controller, "c1");
    let to_host = |name| ClientConfig::with_identity(&controller, ExpectedPeer::host(host_name(name))).unwrap();

    let foreign = agent(&theirs, "h1").await;
    let error = who(&to_host("h1"), &foreign).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");

    let other_host = agent(&ours, "h2").await;
    let error = who(&to_host("h1"), &other_host).await.unwrap_err();
    assert!(error.contains("gantry:host/h2"), "{error}");

    // A host's certificate can't pose as a controller.
    let user = ClientConfig::anonymous(ours.authority.certificate_pem(), ExpectedPeer::any_controller());
    let error = who(&user.unwrap(), &other_host).await.unwrap_err();
    assert!(error.contains("gantry:controller/(any) was expected"), "{error}");
}

#[tokio::test]
async fn agent_refuses_everyone_but_a_controller_of_its_own_ca() {
    let ours = Installation::new();
    let theirs = Installation::new();
    let agent = agent(&ours, "h1").await;
    let expected = ExpectedPeer::host(host_name("h1"));
    for role in [Role::Host, Role::Qemu] {
        let intruder = ours.live(role, "h2");
        let config = ClientConfig::with_identity(&intruder, expected.clone()).unwrap();
        assert!(who(&config, &agent).await.is_err(), "{role}");
    }
    // Trusts our CA, but shows a certificate of another one under the right name.
    let forged = theirs.live(Role::Controller, "c1");
    let client = reqwest_with_foreign_certificate(&ours, &forged).await;
    assert!(client.get(agent.url("/who")).timeout(PATIENCE).send().await.is_err());
    let anonymous = ClientConfig::anonymous(ours.authority.certificate_pem(), expected.clone()).unwrap();
    assert!(who(&anonymous, &agent).await.is_err());
    // None of it disturbed the server.
    let controller = ours.live(Role::Controller, "c1");
    let config = ClientConfig::with_identity(&controller, expected).unwrap();
    assert!(who(&config, &agent).await.is_ok());
}

/// A client that trusts one installation and shows another one's certificate.
async fn reqwest_with_foreign_certificate(trusted: &Installation, shown: &LiveIdentity) -> reqwest::Client {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(trusted))
        .with_client_cert_resolver(Arc::new(shown.clone()));
    reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap()
}

#[tokio::test]
async fn user_without_certificate_gets_through_where_optional() {
    let installation = Installation::new();
    let controller = controller(&installation, ServerLimits::default()).await;
    let ca_pem = installation.authority.certificate_pem();
    let user = ClientConfig::anonymous(ca_pem, ExpectedPeer::any_controller()).unwrap();
    assert_eq!(who(&user, &controller).await.unwrap(), "anonymous from 127.0.0.1");

    let host = installation.live(Role::Host, "h1");
    let host = ClientConfig::with_identity(&host, ExpectedPeer::any_controller()).unwrap();
    let answer = who(&host, &controller).await.unwrap();
    assert_eq!(answer, "gantry:host/h1 from 127.0.0.1");

    // A certificate that may not connect is worse than none.
    let qemu = installation.live(Role::Qemu, "h1");
    let qemu = ClientConfig::with_identity(&qemu, ExpectedPeer::any_controller()).unwrap();
    assert!(who(&qemu, &controller).await.is_err());
}

#[tokio::test]
async fn expired_certificates_are_refused_on_both_sides() {
    let installation = Installation::new();
    let long_ago = Timestamp::now() - SignedDuration::from_hours(24 * 91);
    let expired = |role, name| LiveIdentity::new(installation.issue(role, name, long_ago)).unwrap();

    let stale_agent = serve(
        &expired(Role::Host, "h1"),
        ClientAuth::Required(vec![Role::Controller]),
        ServerLimits::default(),
        installation.router(),
    )
    .await;
    let expected = ExpectedPeer::host(host_name("h1"));
    let controller_identity = installation.live(Role::Controller, "c1");
    let config = ClientConfig::with_identity(&controller_identity, expected).unwrap();
    let error = who(&config, &stale_agent).await.unwrap_err();
    assert!(error.contains("expired"), "{error}");

    let controller = controller(&installation, ServerLimits::default()).await;
    let stale_host = expired(Role::Host, "h1");
    let config = ClientConfig::with_identity(&stale_host, ExpectedPeer::any_controller()).unwrap();
    assert!(who(&config, &controller).await.is_err());
    // Renewal in place: the same client configuration works with the new certificate.
    stale_host.replace(installation.issue(Role::Host, "h1", Timestamp::now())).unwrap();
    assert!(who(&config, &controller).await.is_ok());
    let somebody_else = installation.issue(Role::Host, "h2", Timestamp::now());
    assert!(stale_host.replace(somebody_else).is_err());
}

#[tokio::test]
async fn fetch_ca_trusts_only_the_tokens_fingerprint_and_a_controllers_leaf() {
    let ours = Installation::new();
    let theirs = Installation::new();
    let token = JoinToken::create(ours.authority.fingerprint());
    let controller = controller(&ours, ServerLimits::default()).await;
    let url = format!("https://{}/", controller.address);
    let ca_pem = fetch_ca(&url, token.ca_fingerprint()).await.unwrap();
    assert_eq!(ca_pem, ours.authority.certificate_pem());

    let error = fetch_ca(&url, theirs.authority.fingerprint()).await.unwrap_err();
    assert!(error.to_string().contains("the token names"), "{error}");

    // Relays our real CA certificate, but is not one of our controllers.
    for impostor in [theirs.live(Role::Controller, "c1"), ours.live(Role::Host, "h1")] {
        let auth = ClientAuth::Optional(everyone());
        let server = serve(&impostor, auth, ServerLimits::default(), ours.router()).await;
        let error = fetch_ca(&server.url(""), token.ca_fingerprint()).await.unwrap_err();
        assert!(matches!(error, TrustError::Tls { .. }), "{error}");
        assert!(error.class() != ErrorClass::Transient);
    }
}

#[tokio::test]
async fn websocket_echoes_through_mutual_tls_and_keeps_its_slot() {
    let installation = Installation::new();
    let limits = ServerLimits { connections: 1, ..ServerLimits::default() };
    let controller = controller(&installation, limits).await;
    let host = installation.live(Role::Host, "h1");
    let config = ClientConfig::with_identity(&host, ExpectedPeer::any_controller()).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("authorization", HeaderValue::from_static("Bearer x"));
    let mut socket = config.websocket(&controller.url("/echo"), headers).await.unwrap();
    for text in ["one", "two"] {
        socket.send(Message::text(text)).await.unwrap();
        let echoed = timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(echoed, Message::text(text));
    }
    // The only slot is taken: this request gets its answer once the socket is closed, not before.
    let waiting = tokio::spawn(async move { who(&config, &controller).await });
    socket.send(Message::text("three")).await.unwrap();
    assert!(timeout(PATIENCE, socket.next()).await.unwrap().is_some());
    assert!(!waiting.is_finished());
    socket.close(None).await.unwrap();
    drop(socket);
    assert!(timeout(PATIENCE, waiting).await.unwrap().unwrap().is_ok());
}

#[tokio::test]
async fn websocket_errors_say_what_the_server_answered() {
    let installation = Installation::new();
    let controller = controller(&installation, ServerLimits::default()).await;
    let ca_pem = installation.authority.certificate_pem();
    let user = ClientConfig::anonymous(ca_pem, ExpectedPeer::any_controller()).unwrap();
    let error = user.websocket(&controller.url("/missing"), HeaderMap::new()).await;
    assert!(matches!(error, Err(TrustError::UpgradeRefused { status: 404, .. })));
    let error = user.websocket("http://127.0.0.1/echo", HeaderMap::new()).await;
    assert!(matches!(error, Err(TrustError::Invalid { .. })));
    let host_only = ExpectedPeer::host(host_name("h1"));
    let config = ClientConfig::anonymous(ca_pem, host_only).unwrap();
    let error = config.websocket(&controller.url("/echo"), HeaderMap::new()).await.unwrap_err();
    assert!(matches!(error, TrustError::Connect { .. }), "{error}");
    assert!(error.class() != ErrorClass::Transient, "another peer won't turn into the right one");
}

#[tokio::test]
async fn silent_handshake_is_cut_off_and_frees_its_slot() {
    let installation = Installation::new();
    let limits =
        ServerLimits { connections: 1, handshake_timeout: Duration::from_millis(100), ..ServerLimits::default() };
    let controller = controller(&installation, limits).await;
    let mut silent = TcpStream::connect(controller.address).await.unwrap();
    // The server closes it; reading ends without a byte having been sent by us.
    let end = timeout(PATIENCE, silent.read(&mut [0; 16])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)));
    let ca_pem = installation.authority.certificate_pem();
    let user = ClientConfig::anonymous(ca_pem, ExpectedPeer::any_controller()).unwrap();
    assert!(who(&user, &controller).await.is_ok());
}

#[tokio::test]
async fn strangers_of_one_address_have_few_connections() {
    let installation = Installation::new();
    let limits = ServerLimits { connections_per_stranger: 1, ..ServerLimits::default() };
    let controller = controller(&installation, limits).await;
    let host = installation.live(Role::Host, "h1");
    let known = ClientConfig::with_identity(&host, ExpectedPeer::any_controller()).unwrap();
    let mut sockets = Vec::new();
    for _ in 0..3 {
        // Each shows a certificate and so gives the place back.
        sockets.push(known.websocket(&controller.url("/echo"), HeaderMap::new()).await.unwrap());
    }
    let stranger = TcpStream::connect(controller.address).await.unwrap();
    let mut second = TcpStream::connect(controller.address).await.unwrap();
    let end = timeout(PATIENCE, second.read(&mut [0; 16])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "closed at once");
    for socket in &mut sockets {
        socket.send(Message::text("still")).await.unwrap();
        assert_eq!(timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap(), Message::text("still"));
    }
    drop(stranger);
    let user = ClientConfig::anonymous(installation.authority.certificate_pem(), ExpectedPeer::any_controller());
    let user = user.unwrap();
    let let_in = async { while who(&user, &controller).await.is_err() {} };
    timeout(PATIENCE, let_in).await.unwrap();
}

#[tokio::test]
async fn plain_http_gets_no_answer_and_redirects_are_not_followed() {
    let installation = Installation::new();
    let target = controller(&installation, ServerLimits::default()).await;
    let elsewhere = target.url("/who");
    let redirect = get(move || async move { axum::response::Redirect::temporary(&elsewhere) });
    let source = serve(
        &installation.live(Role::Controller, "c2"),
        ClientAuth::Optional(everyone()),
        ServerLimits::default(),
        Router::new().route("/who", redirect),
    )
    .await;
    let ca_pem = installation.authority.certificate_pem();
    let user = ClientConfig::anonymous(ca_pem, ExpectedPeer::any_controller()).unwrap();
    let client = user.http().unwrap();
    let answer = client.get(source.url("/who")).send().await.unwrap();
    assert_eq!(answer.status(), 307);
    let plain = format!("http://{}/who", source.address);
    assert!(client.get(plain).send().await.is_err());
}

#[tokio::test]
async fn shutdown_finishes_the_request_in_flight_and_ends_at_the_limit() {
    let installation = Installation::new();
    let (started, mut was_started) = tokio::sync::mpsc::channel::<()>(2);
    let release = Arc::new(tokio::sync::Notify::new());
    let released = Arc::clone(&release);
    let slow = get(move || async move {
        started.send(()).await.unwrap();
        released.notified().await;
        "finished"
    });
    for answered in [true, false] {
        let limits = ServerLimits {
            shutdown_timeout: if answered { PATIENCE } else { Duration::from_millis(50) },
            ..ServerLimits::default()
        };
        let server = serve(
            &installation.live(Role::Controller, "c1"),
            ClientAuth::Optional(everyone()),
            limits,
            Router::new().route("/who", slow.clone()),
        )
        .await;
        let ca_pem = installation.authority.certificate_pem();
        let user = ClientConfig::anonymous(ca_pem, ExpectedPeer::any_controller()).unwrap();
        let url = server.url("/who");
        let client = user.http().unwrap();
        let request = tokio::spawn(client.get(url).timeout(PATIENCE).send());
        timeout(PATIENCE, was_started.recv()).await.unwrap().unwrap();
        server.shutdown.cancel();
        if answered {
            release.notify_one();
        }
        assert_eq!(request.await.unwrap().is_ok(), answered);
        timeout(PATIENCE, server.task).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn half_a_request_is_cut_off() {
    let installation = Installation::new();
    let limits = ServerLimits { header_timeout: Duration::from_millis(100), ..ServerLimits::default() };
    let controller = controller(&installation, limits).await;
    let (tls, name) = raw_tls(&installation);
    let stream = TcpStream::connect(controller.address).await.unwrap();
    let mut stream = tls.connect(name, stream).await.unwrap();
    stream.write_all(b"GET /who HTTP/1.1\r\nhost: x\r\nx-slow: ").await.unwrap();
    let mut answer = Vec::new();
    // Ends only when the server hangs up, with or without a 408 before it.
    let _closed_either_way = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
}

/// A TLS connector that knows our CA and leaves HTTP to the test.
fn raw_tls(installation: &Installation) -> (TlsConnector, ServerName<'static>) {
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(installation))
        .with_no_client_auth();
    (TlsConnector::from(Arc::new(tls)), ServerName::try_from("127.0.0.1").unwrap())
}

fn roots(trusted: &Installation) -> rustls::RootCertStore {
    let mut roots = rustls::RootCertStore::empty();
    let ca = trusted.authority.certificate_pem().as_bytes();
    roots.add(CertificateDer::from_pem_slice(ca).unwrap()).unwrap();
    roots
}

#[tokio::test]
async fn unreachable_and_refused_are_told_apart() {
    let ours = Installation::new();
    let theirs = Installation::new();
    let controller = controller(&ours, ServerLimits::default()).await;
    let class_of = |ca: &Installation, url: String| {
        let config = ClientConfig::anonymous(ca.authority.certificate_pem(), ExpectedPeer::any_controller());
        let request = config.unwrap().http().unwrap().get(url).timeout(PATIENCE);
        async move { http_error_class(&request.send().await.unwrap_err()) }
    };
    assert_eq!(class_of(&theirs, controller.url("/who")).await, ErrorClass::Denied);
    assert_eq!(class_of(&ours, controller.url("/who").replace("https", "http")).await, ErrorClass::Invalid);
    controller.shutdown.cancel();
    timeout(PATIENCE, controller.task).await.unwrap().unwrap();
    assert_eq!(class_of(&ours, format!("https://{}/who", controller.address)).await, ErrorClass::Transient);
}
