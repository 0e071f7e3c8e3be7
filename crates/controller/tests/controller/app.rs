//! What the app functions refuse, and what they promise: one transaction, read your own writes, no room given twice.

use gantry_api::rest::{CreateToken, ListQuery, MigrateRequest, WriteQuery};
use gantry_controller::{
    Caller,
    app::{self, host, image, network, operation, token, vm},
    loops::host_failure_detector,
};
use gantry_hostlink::fake::{Fault, When};
use gantry_types::{
    ApiToken, ByteSize, ErrorClass, Event, Host, HostState, Image, ImagePhase, Network, Operation, OperationPhase,
    PowerState, Problem, Resource, Role, Vm, VmPhase,
};
use serde_json::json;

use crate::world::{Controller, HOSTS, World, name, succeeded};

fn admin() -> Caller {
    Caller::token("admin", Role::Admin)
}
fn now() -> WriteQuery {
    WriteQuery::default()
}
fn code<T: std::fmt::Debug>(result: Result<T, Problem>) -> String {
    result.expect_err("must be refused").code().to_owned()
}
fn stopped_vm(vm: &str, change: serde_json::Value) -> Vm {
    let mut spec = json!({"cpus": 1, "memory": "64MiB", "disk": "1GiB", "power": "stopped"});
    for (key, value) in change.as_object().expect("an object") {
        spec[key] = value.clone();
    }
    Vm::new(name(vm), serde_json::from_value(spec).expect("a spec"))
}

async fn a_running_vm() -> (World, Controller, Vm) {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    controller.running("web").await;
    let vm = world.vm("web").await.expect("a VM");
    (world, controller, vm)
}

#[tokio::test]
async fn only_admins_change_things_and_join_tokens_read_nothing() {
    let world = World::new().await;
    let controller = world.controller().await;
    let app = &*controller.app;
    let (viewer, joiner) = (Caller::token("v", Role::Viewer), Caller::token("j", Role::Join));
    assert_eq!(code(vm::create(app, &viewer, stopped_vm("a", json!({})), &now()).await), "denied");
    assert_eq!(code(host::delete(app, &viewer, "host-1", &now()).await), "denied");
    assert!(app::list::<Host>(app, &viewer, &ListQuery::default()).is_ok());
    assert_eq!(code(app::list::<Host>(app, &joiner, &ListQuery::default())), "denied");
}

#[tokio::test]
async fn a_new_vm_is_checked_field_by_field() {
    let world = World::new().await;
    let controller = world.controller().await;
    let app = &*controller.app;
    let sent = stopped_vm(
        "a",
        json!({"image": "none", "host": "none", "nics": [
            {"network": "none"}, {"network": "default", "address": "10.9.0.1"},
            {"network": "default", "address": "10.9.0.9"}, {"network": "default", "address": "10.9.0.9"}]}),
    );
    let problem = vm::create(app, &admin(), sent, &now()).await.expect_err("must be refused");
    let fields: Vec<_> = problem.fields.iter().map(|field| field.field.as_str()).collect();
    assert_eq!(
        fields,
        ["spec.image", "spec.nics[0].network", "spec.nics[1].address", "spec.nics[3].address", "spec.host"]
    );
    assert_eq!(problem.class, ErrorClass::Invalid);
}

#[tokio::test]
async fn what_was_written_is_read_and_a_dry_run_writes_nothing() {
    let world = World::new().await;
    let controller = world.controller().await;
    let app = &*controller.app;
    let dry = WriteQuery { dry_run: true, ..now() };
    let shown = vm::create(app, &admin(), stopped_vm("a", json!({})), &dry).await.expect("fine").object;
    assert_eq!((shown.status.phase, shown.metadata.revision), (VmPhase::Stopped, 0));
    assert!(app.model.get::<Vm>("a").is_none());
    let made = vm::create(app, &admin(), stopped_vm("a", json!({})), &now()).await.expect("fine").object;
    assert_eq!(app.model.get::<Vm>("a").as_deref(), Some(&made));
    assert_eq!(code(vm::create(app, &admin(), stopped_vm("a", json!({})), &now()).await), "already-exists");
    let told = app.model.list::<Event>();
    assert!(told.iter().any(|event| event.spec.reason == "VmCreated" && event.spec.regarding == made.reference()));
}

#[tokio::test]
async fn putting_what_is_there_changes_nothing() {
    let (_world, controller, vm) = a_running_vm().await;
    let same = vm::put(&controller.app, &admin(), "web", vm.clone(), &now()).await.expect("fine");
    assert_eq!((same.object.metadata.revision, same.operation), (vm.metadata.revision, None));
}

#[tokio::test]
async fn a_stale_revision_and_another_object_of_the_same_name_are_conflicts() {
    let (_world, controller, vm) = a_running_vm().await;
    let app = &controller.app;
    let mut mine = vm.clone();
    mine.metadata.labels.0.insert("app".into(), "web".into());
    let changed = vm::put(app, &admin(), "web", mine.clone(), &now()).await.expect("fine").object;
    assert!(changed.metadata.revision > vm.metadata.revision);
    mine.metadata.labels.0.insert("app".into(), "db".into());
    assert_eq!(code(vm::put(app, &admin(), "web", mine.clone(), &now()).await), "changed-meanwhile");
    mine.metadata.revision = 0;
    mine.metadata.uuid = uuid::Uuid::now_v7();
    assert_eq!(code(vm::put(app, &admin(), "web", mine, &now()).await), "different-object");
    let query = WriteQuery { revision: Some(1), ..now() };
    assert_eq!(code(vm::delete(app, &admin(), "web", false, &query).await), "changed-meanwhile");
}

#[tokio::test]
async fn a_running_vm_is_changed_only_where_that_is_possible() {
    let (world, controller, vm) = a_running_vm().await;
    let app = &controller.app;
    let put = async |change: fn(&mut Vm)| {
        let mut sent = vm.clone();
        sent.metadata.revision = 0;
        change(&mut sent);
        vm::put(app, &admin(), "web", sent, &now()).await
    };
    let memory = put(|vm| vm.spec.memory = ByteSize::mib(512)).await.expect_err("runs");
    assert_eq!(
        (memory.code(), memory.remedy.as_deref()),
        ("vm-not-stopped", Some("stop it first: gantry vm stop web"))
    );
    assert_eq!(code(put(|vm| vm.spec.nics.clear()).await), "unchangeable");
    assert_eq!(code(put(|vm| vm.spec.disk = Some(ByteSize::gib(9))).await), "unchangeable");
    assert_eq!(code(put(|vm| vm.spec.host = Some(name("host-2"))).await), "vm-elsewhere");
    put(|vm| vm.spec.migration.max_downtime_ms = 50).await.expect("any time");
    // Asking for another power state is a verb.
    let stop = put(|vm| vm.spec.power = PowerState::Stopped).await.expect("stops").operation.expect("an operation");
    assert_eq!(code(vm::pause(app, &admin(), "web", &now()).await), "vm-busy");
    controller.execute(&stop.metadata.name).await;
    assert_eq!(world.vm("web").await.expect("a VM").status.phase, VmPhase::Stopped);
    put(|vm| {
        vm.spec.power = PowerState::Stopped;
        vm.spec.memory = ByteSize::mib(512);
    })
    .await
    .expect("it is stopped");
    let start = vm::start(app, &admin(), "web", &now()).await.expect("starts").operation.expect("an operation");
    controller.execute(&start.metadata.name).await;
    succeeded(&world.operation(start.name()).await);
    world.check().await;
}

#[tokio::test]
async fn verbs_say_what_is_wrong() {
    let (_world, controller, vm) = a_running_vm().await;
    let app = &controller.app;
    assert_eq!(code(vm::start(app, &admin(), "web", &now()).await), "wrong-phase");
    assert_eq!(code(vm::resume(app, &admin(), "web", &now()).await), "wrong-phase");
    assert_eq!(code(vm::start(app, &admin(), "none", &now()).await), "not-found");
    let to = |host: &str| MigrateRequest { to: Some(name(host)), ..MigrateRequest::default() };
    let here = vm.status.host.expect("a host");
    let there_already = vm::migrate(app, &admin(), "web", &to(here.as_str()), &now()).await.expect("success");
    assert!(there_already.operation.is_none());
    assert_eq!(code(vm::migrate(app, &admin(), "web", &to("none"), &now()).await), "not-found");
}

#[tokio::test]
async fn used_things_are_not_deleted_and_their_users_are_named() {
    let (world, controller, _) = a_running_vm().await;
    let app = &controller.app;
    for problem in [
        image::delete(app, &admin(), "tiny", &now()).await.expect_err("used"),
        network::delete(app, &admin(), "default", &now()).await.expect_err("used"),
        host::delete(app, &admin(), "host-1", &now()).await.expect_err("used"),
    ] {
        assert_eq!(problem.class, ErrorClass::Conflict);
        assert!(problem.detail.contains("web"), "{problem}");
    }
    let delete = vm::delete(app, &admin(), "web", false, &now()).await.expect("fine").operation.expect("an operation");
    controller.execute(&delete.metadata.name).await;
    network::delete(app, &admin(), "default", &now()).await.expect("free now");
    host::delete(app, &admin(), "host-1", &now()).await.expect("free now");
    let gone = image::delete(app, &admin(), "tiny", &now()).await.expect("free now").operation.expect("an operation");
    controller.execute(&gone.metadata.name).await;
    assert!(app.model.get::<Image>("tiny").is_none() && world.images.kept.lock().expect("unpoisoned").is_empty());
}

#[tokio::test]
async fn an_image_whose_content_another_one_shares_is_deleted_and_the_content_stays() {
    let (world, controller, vm) = a_running_vm().await;
    let app = &controller.app;
    let twin = Image::new(name("twin"), Default::default());
    image::create(app, &admin(), twin, &now()).await.expect("made");
    let imported = image::content_uploaded(app, &admin(), "twin").await.expect("uploaded").operation.expect("one");
    controller.execute(&imported.metadata.name).await;
    let gone = image::delete(app, &admin(), "twin", &now()).await.expect("no VM names it").operation.expect("one");
    controller.execute(&gone.metadata.name).await;
    succeeded(&world.operation(gone.name()).await);
    assert!(app.model.get::<Image>("twin").is_none());
    let digest = vm.status.image_digest.expect("made from an image");
    assert_eq!(*world.images.kept.lock().expect("unpoisoned"), std::slice::from_ref(&digest));
    assert!(world.hosts.images_on(&vm.status.host.expect("a host")).contains(&digest));
}

#[tokio::test]
async fn what_a_stopped_vm_has_pinned_is_kept_for_it() {
    let world = World::new().await;
    let controller = world.controller().await;
    let app = &*controller.app;
    let pinned = json!({"network": "default", "address": "10.9.0.2", "mac": "52:54:00:00:00:01"});
    let nics = |nic: &serde_json::Value| json!({ "nics": [nic] });
    vm::create(app, &admin(), stopped_vm("first", nics(&pinned)), &now()).await.expect("made");
    let refused = vm::create(app, &admin(), stopped_vm("second", nics(&pinned)), &now()).await.expect_err("taken");
    let fields: Vec<_> = refused.fields.iter().map(|field| field.field.as_str()).collect();
    assert_eq!(fields, ["spec.nics[0].address", "spec.nics[0].mac"]);
    assert!(refused.fields.iter().all(|field| field.message.contains("'first'")), "{refused:?}");
    let mut any = stopped_vm("any", nics(&json!({"network": "default"})));
    any.spec.power = PowerState::Running;
    let started = vm::create(app, &admin(), any, &now()).await.expect("made").operation.expect("an operation");
    controller.execute(&started.metadata.name).await;
    let got = world.vm("any").await.expect("a VM").status.nics[0].address;
    assert_ne!(got, "10.9.0.2".parse::<std::net::IpAddr>().expect("an address"), "the first free one is pinned");
    let start = vm::start(app, &admin(), "first", &now()).await.expect("starts").operation.expect("an operation");
    controller.execute(&start.metadata.name).await;
    succeeded(&world.operation(start.name()).await);
}

#[tokio::test]
async fn a_vm_that_no_host_has_a_qemu_for_names_the_package_and_is_started_not_made_again() {
    let world = World::new().await;
    let controller = world.controller().await;
    let app = &*controller.app;
    let sent = stopped_vm("arm", json!({"arch": "aarch64", "power": "running"}));
    let made = vm::create(app, &admin(), sent.clone(), &now()).await.expect("made").operation.expect("an operation");
    controller.execute(&made.metadata.name).await;
    let error = world.operation(made.name()).await.status.error.expect("no host can");
    assert!(error.remedy.expect("one").contains("qemu-system-arm"));
    let again = vm::create(app, &admin(), sent, &now()).await.expect_err("it is there");
    assert_eq!(again.code(), "already-exists");
    assert!(again.remedy.as_deref().is_some_and(|remedy| remedy.contains("gantry vm start arm")), "{again:?}");
}

#[tokio::test]
async fn a_migration_that_fails_says_where_the_vm_is_and_leaves_no_progress() {
    let (world, controller, vm) = a_running_vm().await;
    let app = &*controller.app;
    let cause = Problem::permanent("migration-failed", format!("VM {}: no TLS channel", vm.metadata.uuid));
    world.hosts.inject(Fault::once("send_migration", When::Before, cause));
    let request = MigrateRequest { to: Some(name("host-2")), ..MigrateRequest::default() };
    let moved = vm::migrate(app, &admin(), "web", &request, &now()).await.expect("begins").operation.expect("one");
    controller.execute(&moved.metadata.name).await;
    let status = world.operation(moved.name()).await.status;
    let error = status.error.expect("it failed");
    assert_eq!(
        error.detail,
        "VM 'web' stays on host 'host-1': the move to host 'host-2' failed: VM web: no TLS channel"
    );
    assert_eq!(error.class, ErrorClass::Permanent);
    assert!(error.remedy.expect("one").contains("gantry vm migrate web --to host-2"));
    assert_eq!(status.progress, None);
    assert_eq!(world.vm("web").await.expect("a VM").status.phase, VmPhase::Running);
}

#[tokio::test]
async fn networks_get_a_free_identifier_and_keep_what_guests_rely_on() {
    let (_world, controller, _) = a_running_vm().await;
    let app = &controller.app;
    let sent = |text: &str, vni: Option<u32>| {
        let spec = json!({"subnet": {"cidr": "10.8.0.0/24"}, "vni": vni});
        Network::new(name(text), serde_json::from_value(spec).expect("a spec"))
    };
    let (caller, query) = (admin(), now());
    let (a, b) = tokio::join!(
        network::create(app, &caller, sent("a", None), &query),
        network::create(app, &caller, sent("b", None), &query),
    );
    let mut vnis = [a.expect("made").object.status.vni, b.expect("made").object.status.vni];
    vnis.sort_unstable();
    assert_eq!(vnis, [1001, 1002]);
    assert_eq!(code(network::create(app, &admin(), sent("c", Some(1001)), &now()).await), "vni-in-use");
    let mut used = Network::clone(&app.model.get::<Network>("default").expect("a network"));
    used.metadata.revision = 0;
    used.spec.mtu = 1400;
    used.spec.subnet.as_mut().expect("a subnet").gateway = Some("10.9.0.2".parse().expect("an address"));
    let problem = network::put(app, &admin(), "default", used, &now()).await.expect_err("in use");
    let fields: Vec<_> = problem.fields.iter().map(|field| field.field.as_str()).collect();
    assert_eq!((problem.code(), fields), ("network-in-use", vec!["spec.mtu", "spec.subnet.gateway"]));
}

#[tokio::test]
async fn room_is_given_out_once_when_many_vms_start_together() {
    let world = World::new().await;
    let controller = world.controller().await;
    let app = &controller.app;
    let mut operations = Vec::new();
    for n in 0..12 {
        // Two fit on each of three hosts.
        let sent = stopped_vm(&format!("vm-{n}"), json!({"memory": "1800MiB", "power": "running"}));
        operations.push(vm::create(app, &admin(), sent, &now()).await.expect("made").operation.expect("an operation"));
    }
    futures::future::join_all(operations.iter().map(|operation| controller.execute(&operation.metadata.name))).await;
    let vms = app.model.list::<Vm>();
    assert_eq!(vms.iter().filter(|vm| vm.status.phase == VmPhase::Running).count(), 6);
    for host in HOSTS {
        assert_eq!(vms.iter().filter(|vm| vm.status.host == Some(name(host))).count(), 2, "{host}");
    }
    let failed = vms.iter().find(|vm| vm.status.phase == VmPhase::Failed).expect("too many");
    let reason = failed.status.reason.as_deref().unwrap_or_default();
    assert!(HOSTS.iter().all(|host| reason.contains(host)), "{reason}");
    world.check().await;
}

#[tokio::test]
async fn lists_are_paged_and_selected() {
    let world = World::new().await;
    let controller = world.controller().await;
    let app = &*controller.app;
    for n in 0..5 {
        let mut sent = stopped_vm(&format!("vm-{n}"), json!({}));
        sent.metadata.labels.0.insert("even".into(), (n % 2 == 0).to_string());
        vm::create(app, &admin(), sent, &now()).await.expect("made");
    }
    let query = |selector: Option<&str>, limit, next| ListQuery {
        selector: selector.map(str::to_owned),
        limit,
        next,
        ..Default::default()
    };
    let first = app::list::<Vm>(app, &admin(), &query(None, Some(3), None)).expect("a page");
    let second = app::list::<Vm>(app, &admin(), &query(None, Some(3), first.next.clone())).expect("a page");
    let names: Vec<_> = first.items.iter().chain(&second.items).map(|vm| vm.name().to_owned()).collect();
    assert_eq!(names, ["vm-0", "vm-1", "vm-2", "vm-3", "vm-4"]);
    assert_eq!(second.next, None);
    let even = app::list::<Vm>(app, &admin(), &query(Some("even=true"), None, None)).expect("a page");
    assert_eq!(even.items.len(), 3);
    assert_eq!(code(app::list::<Vm>(app, &admin(), &query(Some("=,"), None, None))), "invalid-query");
    assert_eq!(code(app::list::<Vm>(app, &admin(), &query(None, Some(0), None))), "invalid-query");
}

#[tokio::test]
async fn tokens_show_no_hash_expire_and_the_last_admin_stays() {
    let world = World::new().await;
    let controller = world.controller().await;
    let app = &*controller.app;
    let request = |text: &str, role, expires_at| CreateToken { name: name(text), role, expires_at };
    let made =
        token::create(app, &admin(), &request("root", Role::Admin, None), "aa".into(), &now()).await.expect("made");
    assert_eq!(made.status.hash, "");
    assert_eq!(app::get::<ApiToken>(app, &admin(), "root").expect("there").status.hash, "");
    assert!(token::by_hash(app, "aa").is_some() && token::by_hash(app, "").is_none());
    assert_eq!(code(token::delete(app, &admin(), "root", &now()).await), "last-admin-token");
    let soon = gantry_types::Timestamp::from_unix_ms(app.clock.now().unix_ms() + 1000);
    token::create(app, &admin(), &request("soon", Role::Viewer, Some(soon)), "bb".into(), &now()).await.expect("made");
    assert!(token::by_hash(app, "bb").is_some());
    world.clock.advance(std::time::Duration::from_secs(2));
    assert!(token::by_hash(app, "bb").is_none());
}

#[tokio::test]
async fn a_join_token_lets_one_host_in() {
    let world = World::new().await;
    let controller = world.controller().await;
    let app = &*controller.app;
    let request = CreateToken { name: name("joiner"), role: Role::Join, expires_at: None };
    token::create(app, &admin(), &request, "cc".into(), &now()).await.expect("made");
    let joining = |host: &str| host::Joining {
        name: name(host),
        agent_address: "10.0.0.9:7443".into(),
        underlay_address: "10.0.0.9".into(),
        agent_key: "k1".into(),
        token: name("joiner"),
    };
    assert_eq!(code(host::join(app, &joining("host-1")).await), "already-exists");
    let expires_at = app.model.get::<ApiToken>("joiner").expect("a token").spec.expires_at.expect("not for ever");
    assert_eq!(expires_at.unix_ms() - app.clock.now().unix_ms(), 3_600_000);
    host::join(app, &joining("host-4")).await.expect("joins");
    assert_eq!(host::join(app, &joining("host-5")).await.expect_err("used").class, ErrorClass::Unauthenticated);
}

#[tokio::test]
async fn a_lost_host_joins_again_under_its_name_unless_it_may_run_vms() {
    let (world, controller, vm) = a_running_vm().await;
    let app = &*controller.app;
    let request = CreateToken { name: name("joiner"), role: Role::Join, expires_at: None };
    token::create(app, &admin(), &request, "cc".into(), &now()).await.expect("made");
    let joining = host::Joining {
        name: name("host-1"),
        agent_address: "10.0.0.9:7444".into(),
        underlay_address: "10.0.0.9".into(),
        agent_key: "k1".into(),
        token: name("joiner"),
    };
    let refused = host::join(app, &joining).await.expect_err("there is one that answers");
    assert!(refused.code() == "already-exists" && refused.remedy.expect("one").contains("stop its agent"));
    assert!(app.model.get::<ApiToken>("joiner").is_some(), "a refused join uses no token up");

    let elsewhere = host::Joining { name: name("host-9"), underlay_address: "10.0.0.1".into(), ..joining.clone() };
    assert_eq!(code(host::join(app, &elsewhere).await), "address-in-use");

    world.hosts.cut(&name("host-1"));
    world.hosts.cut(&name("host-2"));
    world.clock.advance(std::time::Duration::from_secs(5));
    host_failure_detector::pass(app, std::time::Duration::ZERO).await.expect("a store");
    // It may be cut off only, and its VM run on.
    let (full, empty) =
        if vm.status.host == Some(name("host-1")) { ("host-1", "host-2") } else { ("host-2", "host-1") };
    let refused =
        host::join(app, &host::Joining { name: name(full), ..joining.clone() }).await.expect_err("it has a VM");
    assert!(refused.code() == "host-has-vms" && refused.detail.contains("web"), "{refused:?}");
    assert!(refused.remedy.expect("one").contains("--force"));
    let before = app.model.get::<Host>(empty).expect("a host");
    let joined = host::join(app, &host::Joining { name: name(empty), ..joining }).await.expect("joins again");
    assert_eq!((joined.metadata.uuid, joined.status.agent_address.as_str()), (before.metadata.uuid, "10.0.0.9:7444"));
    assert_eq!(joined.status.agent_keys, ["k1"], "the former machine is out");
    assert_eq!(joined.status.state, HostState::Lost, "only a heartbeat says that it is there");
    assert!(app.model.get::<ApiToken>("joiner").is_none());
    assert!(app.model.list::<Event>().iter().any(|event| event.spec.reason == "HostRejoined"));
    world.hosts.mend(&name("host-1"));
    world.hosts.mend(&name("host-2"));
    world.reports(&controller).await;
    assert_eq!(app.model.get::<Host>(empty).expect("a host").status.state, HostState::Ready);
    assert_eq!(world.vm("web").await.expect("a VM").status.host, vm.status.host);
    world.check().await;
}

#[tokio::test]
async fn an_image_without_content_may_be_changed_and_its_url_is_fetched_again() {
    let world = World::new().await;
    let controller = world.controller().await;
    let app = &controller.app;
    let put = async |spec: serde_json::Value| {
        let sent = Image::new(name("tiny"), serde_json::from_value(spec).expect("a spec"));
        image::put(app, &admin(), "tiny", sent, &now()).await
    };
    put(json!({"sha256": "0".repeat(64)})).await.expect("made");
    let changed = put(json!({})).await.expect("it has no content yet").object;
    assert_eq!((changed.status.phase, changed.spec.sha256), (ImagePhase::Pending, None));
    *world.images.refuse.lock().expect("unpoisoned") = Some(Problem::invalid("image-storage", "not an image"));
    let url = json!({"source": {"url": "http://192.0.2.1/i.qcow2"}});
    for _ in 0..2 {
        let fetch = put(url.clone()).await.expect("fetched").operation.expect("an operation");
        assert_eq!(code(put(json!({})).await), "unchangeable");
        controller.execute(&fetch.metadata.name).await;
        assert_eq!(app.model.get::<Image>("tiny").expect("an image").status.phase, ImagePhase::Failed);
    }
    *world.images.refuse.lock().expect("unpoisoned") = None;
    let fetch = put(url.clone()).await.expect("fetched").operation.expect("an operation");
    controller.execute(&fetch.metadata.name).await;
    succeeded(&world.operation(fetch.name()).await);
    assert!(put(url).await.expect("as it is").operation.is_none());
    assert_eq!(code(put(json!({})).await), "unchangeable");
}

#[tokio::test]
async fn a_refused_import_says_why_and_can_be_repeated() {
    let world = World::new().await;
    let controller = world.controller().await;
    let app = &controller.app;
    *world.images.refuse.lock().expect("unpoisoned") =
        Some(Problem::invalid("image-storage", "PATH names a backing file"));
    controller.import().await;
    let image = app.model.get::<Image>("tiny").expect("an image");
    // The path in the data directory says nothing to whoever sent it.
    assert_eq!(image.status.reason.as_deref(), Some("(the uploaded content) names a backing file"));
    *world.images.refuse.lock().expect("unpoisoned") = None;
    let again = image::content_uploaded(app, &admin(), "tiny").await.expect("again").operation.expect("an operation");
    controller.execute(&again.metadata.name).await;
    succeeded(&world.operation(again.name()).await);
    assert_eq!(code(image::content_uploaded(app, &admin(), "tiny").await), "image-has-content");
}

#[tokio::test]
async fn a_finished_operation_is_not_cancelled_and_old_ones_are_dropped() {
    let (world, controller, _) = a_running_vm().await;
    let app = &controller.app;
    let finished = app.model.list::<Operation>();
    assert!(finished.iter().all(|operation| operation.status.phase == OperationPhase::Succeeded));
    let first = finished.first().expect("an operation").name().to_owned();
    assert_eq!(code(operation::cancel(app, &admin(), &first, &now()).await), "operation-finished");
    let mut config = app.config.clone();
    (config.max_events, config.max_finished_operations) = (1, 1);
    let strict = world.controller_with(config).await;
    assert!(gantry_controller::loops::event_trimmer::pass(&strict.app).await.expect("a store") > 0);
    assert_eq!((strict.app.model.list::<Event>().len(), strict.app.model.list::<Operation>().len()), (1, 1));
}
