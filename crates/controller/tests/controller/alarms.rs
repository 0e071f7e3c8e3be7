//! Alarms from their condition to the receiver: a real HTTP server and a real mail server, which refuse at first; the
//! controller dies in between.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use gantry_api::{
    alarms::{AcknowledgeRequest, SilenceRequest},
    rest::WriteQuery,
};
use gantry_controller::{
    Caller,
    alarms::{built_in, channel::Channels, turn::Pending},
    app::{alarm, managed, receiver},
    loops::{alarm_keeper, host_failure_detector, notice_sender},
    objects::{Change, Objects},
};
use gantry_types::{Alarm, AlarmState, Name, Notice, NoticePhase, NoticeState, Receiver, Resource, Severity};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

use crate::world::{Controller, World, name};

/// What arrived at a server, and how many more it refuses first.
#[derive(Default)]
struct Desk {
    refuse: Mutex<usize>,
    arrived: Mutex<Vec<String>>,
}

impl Desk {
    fn takes(&self, message: String) -> bool {
        let mut refuse = self.refuse.lock().expect("unpoisoned");
        if *refuse > 0 {
            *refuse -= 1;
            return false;
        }
        self.arrived.lock().expect("unpoisoned").push(message);
        true
    }
    fn arrived(&self) -> Vec<String> {
        self.arrived.lock().expect("unpoisoned").clone()
    }
}

type Server = (u16, Arc<Desk>, AbortOnDropHandle<()>);

async fn serve<F: Future<Output = Option<()>> + Send>(
    refuse: usize,
    talk: impl Fn(TcpStream, Arc<Desk>) -> F + Send + 'static,
) -> Server {
    let desk = Arc::new(Desk { refuse: Mutex::new(refuse), ..Desk::default() });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let known = Arc::clone(&desk);
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            talk(stream, Arc::clone(&known)).await;
        }
    });
    (port, desk, AbortOnDropHandle::new(task))
}

/// One request for each connection; its head and body are kept.
async fn http(refuse: usize) -> Server {
    serve(refuse, async |stream: TcpStream, desk: Arc<Desk>| {
        let mut stream = BufReader::new(stream);
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.ok()?;
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if line.trim().is_empty() {
                break;
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        let taken = desk.takes(format!("{head}\n{}", String::from_utf8(body).ok()?));
        let status = if taken { "204 No Content" } else { "503 Service Unavailable" };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.ok()
    })
    .await
}

/// As much of RFC 5321 as a client needs.
async fn smtp(refuse: usize) -> Server {
    serve(refuse, async |stream: TcpStream, desk: Arc<Desk>| {
        let mut stream = BufReader::new(stream);
        stream.write_all(b"220 mail.test ESMTP\r\n").await.ok()?;
        let mut envelope = String::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            let answer = match line.get(..4).unwrap_or_default() {
                "EHLO" => "250 mail.test\r\n",
                "MAIL" | "RCPT" => {
                    envelope.push_str(&line);
                    "250 ok\r\n"
                }
                "DATA" => {
                    stream.write_all(b"354 go on\r\n").await.ok()?;
                    let mut text = String::new();
                    while !text.ends_with("\r\n.\r\n") {
                        stream.read_line(&mut text).await.ok()?;
                    }
                    if desk.takes(format!("{envelope}{text}")) { "250 taken\r\n" } else { "451 try later\r\n" }
                }
                "QUIT" => return stream.write_all(b"221 bye\r\n").await.ok(),
                _ => "502 what?\r\n",
            };
            stream.write_all(answer.as_bytes()).await.ok()?;
        }
    })
    .await
}

fn query() -> WriteQuery {
    WriteQuery::default()
}

async fn put<T: managed::Managed>(controller: &Controller, object: Value) -> T {
    let object: T = serde_json::from_value(object).expect("an object");
    let name = object.name().to_owned();
    managed::put(&controller.app, &Caller::controller(), &name, object, &query()).await.expect("accepted").object
}

async fn webhook(controller: &Controller, port: u16) -> Receiver {
    let webhook = json!({"url": format!("http://127.0.0.1:{port}/hook"), "authorization": "Bearer s3cret"});
    put(controller, json!({"kind": "receiver", "metadata": {"name": "ops"}, "spec": {"via": {"webhook": webhook}}}))
        .await
}

async fn stored<T: Resource>(world: &World, name: &str) -> T {
    Objects::new(Arc::clone(&world.store)).get(name).await.expect("it is there")
}

async fn notices(world: &World) -> Vec<Notice> {
    Objects::new(Arc::clone(&world.store)).list().await.expect("a store")
}

/// The model shows what is in the store.
async fn shown(controller: &Controller) {
    let app = &controller.app;
    app.model.wait_for(app.objects.store().revision().await.expect("a store").0).await;
}

/// One round of looking and sending.
async fn turn(controller: &Controller, pending: &mut Pending) {
    let app = &controller.app;
    shown(controller).await;
    alarm_keeper::pass(app, pending).await;
    shown(controller).await;
    notice_sender::pass(app, &Channels::new(&app.config.datacenter)).await;
    shown(controller).await;
}

async fn lose(world: &World, controller: &Controller, host: &str) {
    world.hosts.cut(&name(host));
    world.clock.advance(Duration::from_secs(5));
    world.heartbeats(controller).await;
    host_failure_detector::pass(&controller.app, Duration::ZERO).await.expect("a store");
}

async fn find(world: &World, controller: &Controller, host: &str) {
    world.hosts.mend(&name(host));
    world.heartbeats(controller).await;
}

#[tokio::test]
async fn a_lost_host_is_told_of_once_however_often_the_receiver_refuses_and_the_controller_dies() {
    let (port, desk, _server) = http(2).await;
    let world = World::new().await;
    let controller = world.controller().await;
    built_in::ensure(&controller.app.objects, &*world.clock).await.expect("made");
    webhook(&controller, port).await;
    world.heartbeats(&controller).await;
    let mut pending = Pending::default();
    turn(&controller, &mut pending).await;
    assert_eq!(
        (stored::<Alarm>(&world, "host-lost").await.status.state, notices(&world).await),
        (AlarmState::Ok, vec![])
    );

    lose(&world, &controller, "host-2").await;
    turn(&controller, &mut pending).await;
    let alarm: Alarm = stored(&world, "host-lost").await;
    assert_eq!((alarm.status.state, alarm.status.firings.len()), (AlarmState::Firing, 1));
    assert_eq!(alarm.status.firings[0].message, "host 'host-2' does not report");
    let refused = notices(&world).await;
    assert_eq!((refused.len(), refused[0].status.phase, refused[0].status.attempts), (1, NoticePhase::Pending, 1));
    assert_eq!(refused[0].status.error.as_deref(), Some("it answers with HTTP status 503 Service Unavailable"));

    // Not before its time, and by another controller; the second refusal makes the pause longer.
    drop(controller);
    let controller = world.controller().await;
    let mut pending = Pending::default();
    for (advance_s, attempts, arrived) in [(0, 1, 0), (5, 2, 0), (5, 2, 0), (5, 3, 1), (600, 3, 1)] {
        world.clock.advance(Duration::from_secs(advance_s));
        turn(&controller, &mut pending).await;
        let notice = notices(&world).await.remove(0);
        assert_eq!((notice.status.attempts, desk.arrived().len()), (attempts, arrived), "after {advance_s} s");
    }
    let told = desk.arrived().remove(0);
    assert!(told.starts_with("POST /hook HTTP/1.1") && told.contains("authorization: Bearer s3cret"), "{told}");
    let body: Value = serde_json::from_str(told.rsplit('\n').next().expect("a body")).expect("JSON");
    assert_eq!(
        (&body["alarm"], &body["state"], &body["severity"]),
        (&json!("host-lost"), &json!("firing"), &json!("critical"))
    );
    assert_eq!((&body["object"]["name"], &body["datacenter"]), (&json!("host-2"), &json!("test")));
    assert_eq!(body["id"], notices(&world).await[0].name());

    find(&world, &controller, "host-2").await;
    turn(&controller, &mut pending).await;
    turn(&controller, &mut pending).await;
    assert_eq!(stored::<Alarm>(&world, "host-lost").await.status.state, AlarmState::Ok);
    let states: Vec<_> = notices(&world).await.iter().map(|notice| (notice.spec.state, notice.status.phase)).collect();
    assert_eq!(
        states,
        [(NoticeState::Firing, NoticePhase::Delivered), (NoticeState::Resolved, NoticePhase::Delivered)]
    );
    assert_eq!(desk.arrived().len(), 2);
}

#[tokio::test]
async fn nobody_is_told_while_it_is_silenced_and_whoever_acknowledges_it_is_known() {
    let (port, desk, _server) = http(0).await;
    let world = World::new().await;
    let controller = world.controller().await;
    built_in::ensure(&controller.app.objects, &*world.clock).await.expect("made");
    webhook(&controller, port).await;
    world.heartbeats(&controller).await;
    let silence =
        |object: &str, for_s| SilenceRequest { object: Some(object.to_owned()), for_s, why: "works".to_owned() };
    let caller = Caller::controller();
    for object in ["host/host-1", "host/host-2"] {
        alarm::silence(&controller.app, &caller, "host-lost", silence(object, 60), &query()).await.expect("silent");
    }
    let mut pending = Pending::default();
    for host in ["host-1", "host-2"] {
        lose(&world, &controller, host).await;
    }
    turn(&controller, &mut pending).await;
    let alarm: Alarm = stored(&world, "host-lost").await;
    let states: Vec<_> = alarm.status.firings.iter().map(|firing| firing.state).collect();
    assert_eq!((alarm.status.state, states), (AlarmState::Silenced, vec![AlarmState::Silenced; 2]));
    assert_eq!((notices(&world).await.len(), desk.arrived().len()), (0, 0));

    // One comes back meanwhile; the silence of the other is over by itself.
    find(&world, &controller, "host-1").await;
    turn(&controller, &mut pending).await;
    assert_eq!(stored::<Alarm>(&world, "host-lost").await.status.firings.len(), 1);
    world.clock.advance(Duration::from_secs(60));
    turn(&controller, &mut pending).await;
    let alarm: Alarm = stored(&world, "host-lost").await;
    assert_eq!((alarm.status.state, alarm.status.silences), (AlarmState::Firing, vec![]));
    assert!(desk.arrived().len() == 1 && desk.arrived()[0].contains("host-2"), "{:?}", desk.arrived());

    let nobody = AcknowledgeRequest { object: Some("host/host-1".to_owned()) };
    let refused = alarm::acknowledge(&controller.app, &caller, "host-lost", nobody, &query()).await;
    assert_eq!(refused.expect_err("it does not fire").code(), "alarm-not-firing");
    let all = AcknowledgeRequest::default();
    let changed = alarm::acknowledge(&controller.app, &caller, "host-lost", all, &query()).await.expect("acknowledged");
    assert_eq!(changed.object.status.firings[0].acknowledged_by.as_deref(), Some("controller"));
    turn(&controller, &mut pending).await;
    assert_eq!(stored::<Alarm>(&world, "host-lost").await.status.state, AlarmState::Acknowledged);
    let refused = managed::delete::<Alarm>(&controller.app, &caller, "host-lost", &query()).await;
    assert_eq!(refused.expect_err("built in").code(), "alarm-built-in");
}

async fn happens(world: &World, controller: &Controller, reason: &str) {
    let vm = world.vm("web").await.expect("a VM");
    let mut change = Change::new();
    change
        .event(&controller.app.event(vm.reference(), Severity::Warning, reason, format!("{reason} of web")))
        .expect("one");
    controller.app.objects.commit(change).await.expect("a store");
    shown(controller).await;
}

#[tokio::test]
async fn an_alarm_by_events_counts_each_once_and_is_told_by_mail() {
    let (port, desk, _server) = smtp(1).await;
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    controller.running("web").await;
    happens(&world, &controller, "VmRestarted").await;
    let condition = json!({"event": {"reasons": ["VmRestarted"]}});
    let objects = json!({"kind": "vm", "names": ["web"]});
    let spec = json!({"severity": "info", "condition": condition, "objects": objects});
    put::<Alarm>(&controller, json!({"kind": "alarm", "metadata": {"name": "restarts"}, "spec": spec})).await;
    let email = json!({
        "server": "127.0.0.1", "port": port, "encryption": "none",
        "from": "Gantry <gantry@example.org>", "to": ["ann@example.org", "bob@example.org"],
    });
    let spec = json!({"via": {"email": email}, "severity": "info", "alarms": ["restarts"]});
    put::<Receiver>(&controller, json!({"kind": "receiver", "metadata": {"name": "mail"}, "spec": spec})).await;
    let mut pending = Pending::default();
    turn(&controller, &mut pending).await;
    let alarm: Alarm = stored(&world, "restarts").await;
    assert_eq!(alarm.status.state, AlarmState::Ok, "what was before the alarm is no news");

    happens(&world, &controller, "VmRestarted").await;
    turn(&controller, &mut pending).await;
    assert_eq!(stored::<Alarm>(&world, "restarts").await.status.firings[0].message, "VmRestarted of web");
    assert_eq!(desk.arrived().len(), 0);
    let why = notices(&world).await[0].status.error.clone().expect("refused");
    assert!(why.contains("451") || why.contains("try later"), "{why}");
    world.clock.advance(Duration::from_secs(5));
    turn(&controller, &mut pending).await;
    let mail = desk.arrived().remove(0);
    for part in [
        "MAIL FROM:<gantry@example.org>",
        "RCPT TO:<bob@example.org>",
        "Subject: [test] firing: restarts (vm/web)",
        "VmRestarted of web",
        "gantry alarm show restarts",
    ] {
        assert!(mail.contains(part), "{part}: {mail}");
    }

    // Nothing resolves it but somebody who has seen it; another controller does not see the same event again.
    drop(controller);
    let controller = world.controller().await;
    let caller = Caller::controller();
    let all = AcknowledgeRequest::default();
    alarm::acknowledge(&controller.app, &caller, "restarts", all, &query()).await.expect("acknowledged");
    let mut pending = Pending::default();
    turn(&controller, &mut pending).await;
    assert_eq!((stored::<Alarm>(&world, "restarts").await.status.state, desk.arrived().len()), (AlarmState::Ok, 1));
    happens(&world, &controller, "VmRestarted").await;
    turn(&controller, &mut pending).await;
    assert_eq!((stored::<Alarm>(&world, "restarts").await.status.state, desk.arrived().len()), (AlarmState::Firing, 2));
}

#[tokio::test]
async fn a_secret_is_kept_shown_to_nobody_and_sent_nowhere_else() {
    let (port, desk, _server) = http(0).await;
    let world = World::new().await;
    let controller = world.controller().await;
    let shown = webhook(&controller, port).await;
    let secret = |mut receiver: Receiver| receiver.spec.secret_mut().take();
    assert_eq!((secret(shown.clone()), shown.status.has_secret), (None, true));
    let viewed = controller.app.model.view::<Receiver>("ops").expect("a receiver");
    assert_eq!(secret(viewed), None);

    // What was shown can be sent back.
    let mut sent = Receiver::new(name("ops"), shown.spec.clone());
    sent.spec.alarms = Vec::new();
    sent.metadata.labels.0.insert("team".to_owned(), "ops".to_owned());
    managed::put(&controller.app, &Caller::controller(), "ops", sent.clone(), &query()).await.expect("accepted");
    assert_eq!(secret(stored(&world, "ops").await).as_deref(), Some("Bearer s3cret"));
    receiver::test(&controller.app, &Caller::controller(), "ops", &query()).await.expect("begun");
    turn(&controller, &mut Pending::default()).await;
    assert!(
        desk.arrived()[0].contains("Bearer s3cret") && desk.arrived()[0].contains("\"test\""),
        "{:?}",
        desk.arrived()
    );

    let elsewhere = json!({"url": "http://127.0.0.1:1/hook"});
    sent.spec.via = serde_json::from_value(json!({"webhook": elsewhere})).expect("a channel");
    managed::put(&controller.app, &Caller::controller(), "ops", sent, &query()).await.expect("accepted");
    let now: Receiver = stored(&world, "ops").await;
    assert_eq!((now.status.has_secret, secret(now)), (false, None));
}

#[tokio::test]
async fn what_a_receiver_or_an_alarm_can_not_be_is_refused_field_by_field() {
    let world = World::new().await;
    let controller = world.controller().await;
    async fn fields<T: managed::Managed + std::fmt::Debug>(controller: &Controller, object: Value) -> Vec<String> {
        let object: T = serde_json::from_value(object).expect("an object");
        let name: Name = object.metadata().name.clone();
        let refused = managed::put(&controller.app, &Caller::controller(), name.as_str(), object, &query()).await;
        refused.expect_err("refused").fields.into_iter().map(|field| field.field).collect()
    }
    let of = |kind: &str, spec: Value| json!({"kind": kind, "metadata": {"name": "wrong"}, "spec": spec});
    let via = json!({"webhook": {"url": "ftp://u:p@example.org", "authorization": "a\nb"}});
    let wrong = fields::<Receiver>(&controller, of("receiver", json!({"via": via}))).await;
    assert_eq!(wrong, ["spec.via.webhook.url", "spec.via.webhook.url", "spec.via.webhook.authorization"]);
    let via = json!({"email": {"server": "", "password": "x", "from": "nobody", "to": ["ann@example.org", "?"]}});
    let wrong = fields::<Receiver>(&controller, of("receiver", json!({"via": via}))).await;
    let expected = ["server", "username", "from", "to[1]"].map(|field| format!("spec.via.email.{field}"));
    assert_eq!(wrong, expected);
    let condition = json!({"metric": {"metric": "host_cpu_percent", "for_s": 90_000}});
    let wrong =
        fields::<Alarm>(&controller, of("alarm", json!({"condition": condition, "objects": {"kind": "vm"}}))).await;
    assert_eq!(wrong, ["spec.condition.metric", "spec.condition.metric.for_s", "spec.objects.kind"]);
}
