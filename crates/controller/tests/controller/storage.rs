//! Pools and volumes as a user asks for them: what is refused and why, what is told of pools, and that volumes outlive
//! their VMs.

use gantry_api::{
    AgentApi,
    agent::{PowerAction, PowerRequest},
    overview::SearchQuery,
    rest::{AttachRequest, Changed, ListQuery, MigrateRequest, StopRequest, WriteQuery},
};
use gantry_controller::{
    Caller,
    app::{host, list, pool, search, snapshot, vm, volume},
    loops::{pool_keeper, stray_vms},
};
use gantry_types::{
    ByteSize, Event, Pool, PoolHealth, PoolSpec, Problem, Resource, Role, Severity, Snapshot, Vm, VmPhase, Volume,
    VolumePhase,
};
use serde_json::{Value, json};

use crate::world::{Controller, World, name, succeeded};

pub fn admin() -> Caller {
    Caller::token("admin", Role::Admin)
}
pub fn now() -> WriteQuery {
    WriteQuery::default()
}
pub fn refusal<T: std::fmt::Debug>(result: Result<T, Problem>) -> Problem {
    result.expect_err("must be refused")
}
fn field<T: std::fmt::Debug>(result: Result<T, Problem>) -> String {
    refusal(result).fields.first().map(|wrong| wrong.field.clone()).expect("a field")
}
fn code<T: std::fmt::Debug>(result: Result<T, Problem>) -> String {
    refusal(result).code().to_owned()
}
pub fn sent_pool(pool: &str, path: &str) -> Pool {
    Pool::new(name(pool), PoolSpec::dir(path, name("host-1")))
}
fn sent(volume: &str, spec: Value) -> Volume {
    Volume::new(name(volume), serde_json::from_value(spec).expect("a spec"))
}

pub async fn done<T>(world: &World, controller: &Controller, changed: Result<Changed<T>, Problem>) {
    let operation = changed.map_err(|problem| format!("{problem:?}")).expect("accepted").operation;
    let operation = operation.expect("an operation").metadata.name;
    controller.execute(&operation).await;
    succeeded(&world.operation(operation.as_str()).await);
}

/// A VM on host-1, a pool there, and a volume in it.
pub async fn a_volume() -> (World, Controller) {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    controller.running("web").await;
    let app = &*controller.app;
    done(&world, &controller, pool::create(app, &admin(), sent_pool("fast", "/srv/fast"), &now()).await).await;
    let made = volume::create(app, &admin(), sent("data", json!({"pool": "fast", "size": "1GiB"})), &now()).await;
    done(&world, &controller, made).await;
    (world, controller)
}

pub async fn attach(world: &World, controller: &Controller, volume: &str) {
    let request = AttachRequest { vm: name("web") };
    done(world, controller, volume::attach(&controller.app, &admin(), volume, &request, &now()).await).await;
}

#[tokio::test]
async fn a_pool_is_of_hosts_that_are_there_and_of_a_place_of_its_own() {
    let (_world, controller) = a_volume().await;
    let app = &*controller.app;
    let create = async |pool: Pool| pool::create(app, &admin(), pool, &now()).await;
    assert_eq!(
        code(pool::create(app, &Caller::token("v", Role::Viewer), sent_pool("a", "/a"), &now()).await),
        "denied"
    );
    assert_eq!(field(create(sent_pool("local-x", "/a")).await), "metadata.name");
    assert_eq!(field(create(sent_pool("a", "relative")).await), "spec.path");
    for taken in ["/srv/fast", "/srv/fast/below", "/srv"] {
        assert_eq!(field(create(sent_pool("a", taken)).await), "spec.path", "{taken}");
    }
    let strange = Pool::new(name("a"), PoolSpec::dir("/a", name("nowhere")));
    assert_eq!(field(create(strange).await), "spec.hosts[0]");
    assert_eq!(code(create(sent_pool("fast", "/other")).await), "already-exists");
    // Beside it, or on another host, is another place.
    let elsewhere = Pool::new(name("a"), PoolSpec::dir("/srv/fast", name("host-2")));
    create(elsewhere).await.expect("accepted");
    create(sent_pool("b", "/srv/faster")).await.expect("accepted");

    let mut changed: Pool = app.objects.get("fast").await.expect("a pool");
    changed.spec.alarm_percent = 50;
    pool::put(app, &admin(), "fast", changed.clone(), &now()).await.expect("changed");
    changed.metadata.revision = 0;
    changed.spec.path = "/elsewhere".to_owned();
    assert_eq!(field(pool::put(app, &admin(), "fast", changed, &now()).await), "spec.path");
    let in_use = refusal(pool::delete(app, &admin(), "fast", &now()).await);
    assert!(in_use.code() == "pool-in-use" && in_use.detail.contains("'data'"), "{in_use}");
}

#[tokio::test]
async fn what_a_host_finds_wrong_with_a_directory_leaves_no_pool() {
    let world = World::new().await;
    let controller = world.controller().await;
    let app = &*controller.app;
    let accepted = pool::create(app, &admin(), sent_pool("fast", "/srv/fast"), &now()).await.expect("accepted");
    let uuid = accepted.object.metadata.uuid;
    world.hosts.inject(gantry_hostlink::fake::Fault::nth(
        0,
        gantry_hostlink::fake::When::Before,
        Problem::permanent("pool-read-only", "its file system is read-only").remedy("mount it writable"),
    ));
    let operation = accepted.operation.expect("an operation").metadata.name;
    controller.execute(&operation).await;
    let ended = world.operation(operation.as_str()).await;
    assert_eq!(ended.status.error.expect("an error").code(), "pool-read-only");
    assert!(world.pools().await.is_empty() && world.hosts.pool_reports(&name("host-1")).is_empty(), "{uuid}");
}

#[tokio::test]
async fn a_volume_needs_a_pool_with_room_and_never_shrinks() {
    let (world, controller) = a_volume().await;
    let app = &*controller.app;
    let create = async |spec: Value| volume::create(app, &admin(), sent("more", spec), &now()).await;
    assert_eq!(field(create(json!({"pool": "slow", "size": "1GiB"})).await), "spec.pool");
    assert_eq!(field(create(json!({"pool": "fast", "size": "0B"})).await), "spec.size");
    // 100 GiB, of which twice as much may be promised.
    world.reports(&controller).await;
    assert_eq!(field(create(json!({"pool": "fast", "size": "200GiB"})).await), "spec.size");
    create(json!({"pool": "fast", "size": "199GiB"})).await.expect("accepted");

    let change = async |edit: fn(&mut Volume)| {
        let mut volume: Volume = app.objects.get("data").await.expect("a volume");
        volume.metadata.revision = 0;
        edit(&mut volume);
        volume::put(app, &admin(), "data", volume, &now()).await
    };
    assert_eq!(field(change(|volume| volume.spec.size = ByteSize::mib(512)).await), "spec.size");
    assert_eq!(field(change(|volume| volume.spec.size = ByteSize::gib(300)).await), "spec.size");
    let moved = refusal(change(|volume| volume.spec.pool = name("other")).await);
    assert_eq!(moved.fields[0].field, "spec.pool");
    // A label is not felt by anybody.
    let labelled = change(|volume| drop(volume.metadata.labels.0.insert("a".into(), "b".into()))).await;
    assert!(labelled.expect("changed").operation.is_none());
}

#[tokio::test]
async fn a_volume_from_an_image_needs_one_that_is_ready_and_fits() {
    let (_world, controller) = a_volume().await;
    let app = &*controller.app;
    let create = async |spec: Value| volume::create(app, &admin(), sent("more", spec), &now()).await;
    let of = |size: &str, image: &str| json!({"pool": "fast", "size": size, "image": image});
    assert_eq!(field(create(of("1GiB", "nothing")).await), "spec.image");
    assert_eq!(field(create(of("1MiB", "tiny")).await), "spec.size");
    let both = json!({"pool": "fast", "size": "1GiB", "image": "tiny", "clone_of": "data"});
    assert_eq!(field(create(both).await), "spec.image");
    let mut other: Volume = app.objects.get("data").await.expect("a volume");
    other.spec.image = Some(name("tiny"));
    assert_eq!(field(volume::put(app, &admin(), "data", other, &now()).await), "spec.image");
}

#[tokio::test]
async fn what_a_vm_has_is_kept_from_others_and_outlives_it() {
    let (world, controller) = a_volume().await;
    let app = &*controller.app;
    attach(&world, &controller, "data").await;
    let attached = world.volume("data").await.expect("a volume");
    assert_eq!((attached.status.phase, attached.status.slot), (VolumePhase::Attached, Some(0)));
    // Again is success, to another VM a refusal.
    let again = volume::attach(app, &admin(), "data", &AttachRequest { vm: name("web") }, &now()).await;
    assert!(again.expect("it is there").operation.is_none());
    controller.running("db").await;
    let other = refusal(volume::attach(app, &admin(), "data", &AttachRequest { vm: name("db") }, &now()).await);
    assert!(other.code() == "volume-in-use" && other.detail.contains("'web'"), "{other}");
    let deleted = refusal(volume::delete(app, &admin(), "data", &now()).await);
    assert!(deleted.code() == "volume-in-use" && deleted.detail.contains("'web'"), "{deleted}");

    // What would leave it behind is refused.
    let migrate = MigrateRequest { to: Some(name("host-2")), ..MigrateRequest::default() };
    assert_eq!(code(vm::migrate(app, &admin(), "web", &migrate, &now()).await), "vm-has-volumes");

    let more = volume::create(app, &admin(), sent("logs", json!({"pool": "fast", "size": "1GiB"})), &now()).await;
    done(&world, &controller, more).await;
    attach(&world, &controller, "logs").await;
    assert_eq!(world.volume("logs").await.expect("a volume").status.slot, Some(1));

    done(&world, &controller, vm::delete(app, &admin(), "web", false, &now()).await).await;
    for left in ["data", "logs"] {
        let volume = world.volume(left).await.expect("it outlives its VM");
        assert_eq!((volume.status.phase, volume.status.vm, volume.status.slot), (VolumePhase::Ready, None, None));
    }
    assert_eq!(world.hosts.volumes_on(&name("host-1")).len(), 2);
    world.check().await;
    let host = refusal(host::delete(app, &admin(), "host-1", &now()).await);
    assert_eq!(host.code(), "host-in-use");
}

#[tokio::test]
async fn a_vm_gets_only_what_its_host_reaches_and_only_so_much() {
    let (world, controller) = a_volume().await;
    let app = &*controller.app;
    let away = Pool::new(name("away"), PoolSpec::dir("/srv/fast", name("host-2")));
    done(&world, &controller, pool::create(app, &admin(), away, &now()).await).await;
    let far = volume::create(app, &admin(), sent("far", json!({"pool": "away", "size": "1GiB"})), &now()).await;
    done(&world, &controller, far).await;
    let request = AttachRequest { vm: name("web") };
    let refused = refusal(volume::attach(app, &admin(), "far", &request, &now()).await);
    assert!(refused.code() == "pool-not-reached" && refused.remedy.expect("a remedy").contains("--to host-2"));
    assert_eq!(code(volume::attach(app, &admin(), "none", &request, &now()).await), "not-found");
    assert_eq!(
        code(volume::attach(app, &admin(), "data", &AttachRequest { vm: name("none") }, &now()).await),
        "not-found"
    );
    for index in 0..8 {
        let volume = format!("v{index}");
        let made = volume::create(app, &admin(), sent(&volume, json!({"pool": "fast", "size": "1GiB"})), &now()).await;
        done(&world, &controller, made).await;
        attach(&world, &controller, &volume).await;
    }
    assert_eq!(code(volume::attach(app, &admin(), "data", &request, &now()).await), "volume-limit");
    done(&world, &controller, volume::detach(app, &admin(), "v3", &now()).await).await;
    attach(&world, &controller, "data").await;
    assert_eq!(world.volume("data").await.expect("a volume").status.slot, Some(3), "the free place is taken");
}

#[tokio::test]
async fn somebody_hears_of_a_pool_before_it_is_full_and_when_it_breaks() {
    let (world, controller) = a_volume().await;
    let app = &*controller.app;
    let uuid = app.objects.get::<Pool>("fast").await.expect("a pool").metadata.uuid;
    let host = name("host-1");
    let mut told = Vec::new();
    for (health, free_gib, expected) in [
        (None, 100, PoolHealth::Healthy),
        (None, 14, PoolHealth::NearlyFull),
        // Around the alarm it does not go to and fro.
        (None, 16, PoolHealth::NearlyFull),
        (None, 30, PoolHealth::Healthy),
        (Some(PoolHealth::Full), 0, PoolHealth::Full),
        (Some(PoolHealth::Missing), 0, PoolHealth::Missing),
        (None, 90, PoolHealth::Healthy),
    ] {
        world.hosts.change_pool(&host, uuid, health, Some(ByteSize::gib(free_gib)));
        world.reports(&controller).await;
        for _ in 0..2 {
            pool_keeper::pass(app).await.expect("a store");
        }
        let status = app.model.view::<Pool>("fast").expect("a pool").status;
        assert_eq!((status.health, status.volumes, status.promised), (expected, 1, ByteSize::gib(1)));
        assert_eq!(status.reason.is_some(), expected != PoolHealth::Healthy);
        told.push(status.space.expect("measured").free);
    }
    assert_eq!(told.last(), Some(&ByteSize::gib(90)));
    let events = app.model.list::<Event>();
    let of_pool = |event: &&std::sync::Arc<Event>| event.spec.regarding.name.as_str() == "fast";
    let reasons: Vec<_> = events
        .iter()
        .filter(of_pool)
        .filter(|event| event.spec.reason != "PoolCreated")
        .map(|event| (event.spec.severity, event.spec.reason.as_str()))
        .collect();
    let expected = [
        (Severity::Warning, "PoolNearlyFull"),
        (Severity::Normal, "PoolHealthy"),
        (Severity::Warning, "PoolFull"),
        (Severity::Warning, "PoolBroken"),
        (Severity::Normal, "PoolHealthy"),
    ];
    assert_eq!(reasons, expected);
}

#[tokio::test]
async fn a_hosts_own_place_is_a_pool_and_goes_with_the_host() {
    let world = World::new().await;
    let controller = world.controller().await;
    let app = &*controller.app;
    let mut beats = world.beats(&controller).await;
    for (host, mut beat) in beats.drain(..) {
        beat.inventory.pools[0].path = "/var/lib/gantry/agent/pool".to_owned();
        gantry_controller::loops::intake::heartbeat(app, &host, beat).await.expect("taken in");
    }
    for _ in 0..2 {
        pool_keeper::pass(app).await.expect("a store");
    }
    let pools = world.pools().await;
    assert_eq!(pools.iter().map(Resource::name).collect::<Vec<_>>(), ["local-host-1", "local-host-2", "local-host-3"]);
    for pool in &pools {
        controller.execute(pool.status.operation.as_ref().expect("an operation")).await;
    }
    assert_eq!(code(pool::delete(app, &admin(), "local-host-1", &now()).await), "pool-of-host");
    host::delete(app, &admin(), "host-1", &now()).await.expect("deleted");
    assert_eq!(world.pools().await.len(), 2);
}

/// A VM that runs on host-1, with its disk in a pool that all hosts reach.
async fn a_vm_in_a_shared_pool() -> (World, Controller) {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    controller.shared_pool("nas").await;
    let started = controller.create_in("web", Some("nas")).await;
    controller.execute(&started).await;
    (world, controller)
}

async fn web(world: &World) -> Vm {
    world.vm("web").await.expect("a VM")
}

#[tokio::test]
async fn a_vms_disk_is_in_a_pool_that_its_host_reaches() {
    let (world, controller) = a_vm_in_a_shared_pool().await;
    let app = &*controller.app;
    let create = async |spec: Value| {
        let mut all = json!({"cpus": 1, "memory": "256MiB", "disk": "1GiB"});
        all.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
        let sent = Vm::new(name("more"), serde_json::from_value(all).expect("a spec"));
        vm::create(app, &admin(), sent, &WriteQuery { dry_run: true, ..now() }).await
    };
    assert_eq!(field(create(json!({"pool": "nowhere"})).await), "spec.pool");
    let mut elsewhere = sent_pool("third", "/srv/third");
    elsewhere.spec.hosts = vec![name("host-3")];
    done(&world, &controller, pool::create(app, &admin(), elsewhere, &now()).await).await;
    assert_eq!(field(create(json!({"pool": "third", "host": "host-1"})).await), "spec.pool");
    create(json!({"pool": "third", "host": "host-3"})).await.expect("accepted");
    let mut moved = web(&world).await;
    moved.spec.pool = Some(name("third"));
    assert_eq!(field(vm::put(app, &admin(), "web", moved, &now()).await), "spec.pool");

    // Placement obeys.
    let started = controller.create_in("third", Some("third")).await;
    controller.execute(&started).await;
    assert_eq!(world.vm("third").await.expect("a VM").status.host, Some(name("host-3")));
    let to = MigrateRequest { to: Some(name("host-1")), ..MigrateRequest::default() };
    let refused = vm::migrate(app, &admin(), "third", &to, &now()).await.expect("accepted").operation;
    let refused = refused.expect("an operation").metadata.name;
    controller.execute(&refused).await;
    let ended = world.operation(refused.as_str()).await.status.error.expect("an error");
    assert!(ended.detail.contains("has no storage pool 'third'"), "{ended}");

    // A pool knows what is in it.
    world.reports(&controller).await;
    pool_keeper::pass(app).await.expect("a store");
    let nas: Pool = app.objects.get("nas").await.expect("a pool");
    assert_eq!((nas.status.vms, nas.status.volumes, nas.status.health), (1, 0, PoolHealth::Healthy));
    assert_eq!(Some(nas.status.promised), web(&world).await.status.disk);
    let in_use = refusal(pool::delete(app, &admin(), "nas", &now()).await);
    assert!(in_use.code() == "pool-in-use" && in_use.detail.contains("VM 'web'"), "{in_use}");
}

#[tokio::test]
async fn snapshots_and_volumes_in_a_shared_pool_move_with_their_vm() {
    let (world, controller) = a_vm_in_a_shared_pool().await;
    let app = &*controller.app;
    let uuid = web(&world).await.metadata.uuid;
    let sent_snapshot = Snapshot::new(name("web-a"), serde_json::from_value(json!({"vm": "web"})).expect("a spec"));
    done(&world, &controller, snapshot::create(app, &admin(), sent_snapshot, &now()).await).await;
    let made = volume::create(app, &admin(), sent("data", json!({"pool": "nas", "size": "1GiB"})), &now()).await;
    done(&world, &controller, made).await;
    attach(&world, &controller, "data").await;
    let to = MigrateRequest { to: Some(name("host-3")), ..MigrateRequest::default() };
    done(&world, &controller, vm::migrate(app, &admin(), "web", &to, &now()).await).await;
    world.check().await;
    assert_eq!(world.hosts.executing(uuid), [name("host-3")]);
    assert_eq!(world.hosts.disk_on(&name("host-3"), uuid).expect("a disk").1.len(), 1);
    assert_eq!(world.hosts.attached_on(&name("host-3"), uuid).len(), 1);

    // One that only this host reaches does not.
    done(&world, &controller, pool::create(app, &admin(), third_pool(), &now()).await).await;
    let made = volume::create(app, &admin(), sent("own", json!({"pool": "third", "size": "1GiB"})), &now()).await;
    done(&world, &controller, made).await;
    attach(&world, &controller, "own").await;
    let stuck = refusal(vm::migrate(app, &admin(), "web", &MigrateRequest::default(), &now()).await);
    assert!(stuck.code() == "vm-has-volumes" && stuck.detail.ends_with("its volumes own"), "{stuck}");
}

fn third_pool() -> Pool {
    Pool::new(name("third"), PoolSpec::dir("/srv/third", name("host-3")))
}

/// As after its host has fallen silent.
async fn nobody_knows(world: &World, controller: &Controller) {
    let mut unknown = web(world).await;
    unknown.status.phase = VmPhase::Unknown;
    let mut change = gantry_controller::objects::Change::new();
    change.update(&unknown).expect("writable");
    controller.write(change).await;
}

#[tokio::test]
async fn a_host_that_comes_back_lets_a_vm_go_that_was_adopted_meanwhile() {
    let (world, controller) = a_vm_in_a_shared_pool().await;
    let app = &*controller.app;
    let uuid = web(&world).await.metadata.uuid;
    world.hosts.guest_writes(&name("host-1"), uuid);
    world.lose(&controller, "host-1").await;
    nobody_knows(&world, &controller).await;
    assert_eq!(code(vm::start(app, &admin(), "web", &now()).await), "wrong-phase", "nobody has proof that it is down");

    let restarted = vm::restart_elsewhere(app, "web").await.expect("accepted");
    controller.execute(&restarted.metadata.name).await;
    succeeded(&world.operation(restarted.metadata.name.as_str()).await);
    let vm = web(&world).await;
    assert_eq!((vm.status.host, vm.status.epoch, vm.status.phase), (Some(name("host-2")), 2, VmPhase::Running));
    assert_eq!(world.hosts.disk_on(&name("host-2"), uuid).expect("a disk").0, 1, "what was written is there");

    // It would start it again, and may not.
    world.hosts.mend(&name("host-1"));
    let start = PowerRequest { epoch: 1, command: u64::MAX, action: PowerAction::Start };
    assert_eq!(code(world.hosts.host(&name("host-1")).power(uuid, &start).await), "disk-elsewhere");
    world.reports(&controller).await;
    stray_vms::pass(app).await;
    assert_eq!(world.hosts.vms_on(&name("host-1")), []);
    let stop = StopRequest { grace_s: 0, force: true };
    done(&world, &controller, vm::stop(app, &admin(), "web", stop, &now()).await).await;
    done(&world, &controller, vm::start(app, &admin(), "web", &now()).await).await;
    world.check().await;
    assert_eq!(world.hosts.executing(uuid), [name("host-2")], "its disk is still there");
}

#[tokio::test]
async fn a_guest_that_still_runs_keeps_its_disk_whatever_is_believed_of_its_host() {
    let (world, controller) = a_vm_in_a_shared_pool().await;
    let uuid = web(&world).await.metadata.uuid;
    world.lose(&controller, "host-1").await;
    // It was cut off, not switched off: its guest goes on.
    world.hosts.mend(&name("host-1"));
    let power = PowerRequest { epoch: 1, command: u64::MAX, action: PowerAction::Start };
    world.hosts.host(&name("host-1")).power(uuid, &power).await.expect("it runs");
    world.hosts.cut(&name("host-1"));
    nobody_knows(&world, &controller).await;
    let restarted = vm::restart_elsewhere(&controller.app, "web").await.expect("accepted");
    controller.execute(&restarted.metadata.name).await;
    let failed = world.operation(restarted.metadata.name.as_str()).await;
    assert_eq!(failed.status.error.expect("an error").code(), "disk-in-use");
    assert_eq!(world.hosts.executing(uuid), [name("host-1")]);
    assert_eq!(world.hosts.violations(), Vec::<String>::new());

    // When it is back, what it has is ended, and the disk is the other's.
    world.hosts.mend(&name("host-1"));
    world.reports(&controller).await;
    stray_vms::pass(&controller.app).await;
    done(&world, &controller, vm::start(&controller.app, &admin(), "web", &now()).await).await;
    world.check().await;
    assert_eq!(world.hosts.executing(uuid), [name("host-2")]);
}

#[tokio::test]
async fn a_host_that_is_deleted_leaves_its_shared_pools() {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.shared_pool("nas").await;
    host::delete(&controller.app, &admin(), "host-2", &now()).await.expect("deleted");
    let nas: Pool = controller.app.objects.get("nas").await.expect("a pool");
    assert_eq!(nas.spec.hosts, [name("host-1"), name("host-3")]);
}

#[tokio::test]
async fn what_a_vm_has_is_listed_by_the_vm_and_found_by_name() {
    let (world, controller) = a_volume().await;
    let app = &*controller.app;
    let made = volume::create(app, &admin(), sent("spare", json!({"pool": "fast", "size": "1GiB"})), &now()).await;
    done(&world, &controller, made).await;
    let of = |query: ListQuery| -> Vec<String> {
        let page = list::<Volume>(app, &admin(), &query).expect("a page");
        page.items.iter().map(|volume| volume.name().to_owned()).collect()
    };
    let of_web = || of(ListQuery { vm: Some("web".to_owned()), ..ListQuery::default() });
    assert_eq!(of_web(), Vec::<String>::new());
    attach(&world, &controller, "data").await;
    assert_eq!(of_web(), ["data"]);
    let with = |text: &str| of(ListQuery { q: Some(text.to_owned()), ..ListQuery::default() });
    assert_eq!((with("web"), with("fast")), (vec!["data".into()], vec!["data".into(), "spare".into()]));
    let query = SearchQuery { q: "data".to_owned(), ..SearchQuery::default() };
    let found = search::search(app, &admin(), &query).expect("a result").items;
    assert_eq!(
        found.iter().map(|one| (&*one.kind, &*one.name, one.vm.as_deref())).collect::<Vec<_>>(),
        [("volume", "data", Some("web"))]
    );
}

#[tokio::test]
async fn a_clone_needs_a_volume_that_nobody_has_and_no_less_room() {
    let (world, controller) = a_volume().await;
    let app = &*controller.app;
    let clone = async |size: &str, of: &str| {
        let spec = json!({"pool": "fast", "size": size, "clone_of": of});
        volume::create(app, &admin(), sent("copy", spec), &now()).await
    };
    assert_eq!(field(clone("1GiB", "nothing").await), "spec.clone_of");
    assert_eq!(field(clone("1MiB", "data").await), "spec.size");
    attach(&world, &controller, "data").await;
    assert_eq!(code(clone("1GiB", "data").await), "volume-in-use");
    done(&world, &controller, volume::detach(app, &admin(), "data", &now()).await).await;
    let begun = clone("2GiB", "data").await;
    // Until it is copied it stays as it is.
    assert_eq!(code(volume::delete(app, &admin(), "data", &now()).await), "volume-busy");
    done(&world, &controller, begun).await;
    world.check().await;
    let mut other = world.volume("copy").await.expect("a volume");
    assert_eq!(other.spec.size, ByteSize::gib(2));
    other.spec.clone_of = None;
    assert_eq!(field(volume::put(app, &admin(), "copy", other, &now()).await), "spec.clone_of");
    done(&world, &controller, volume::delete(app, &admin(), "data", &now()).await).await;
    assert!(world.volume("copy").await.is_some());
}
