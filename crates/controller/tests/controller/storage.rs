//! Pools and volumes as a user asks for them: what is refused and why, what is told of pools, and that volumes outlive
//! their VMs.

use gantry_api::rest::{AttachRequest, Changed, MigrateRequest, WriteQuery};
use gantry_controller::{
    Caller,
    app::{host, pool, snapshot, vm, volume},
    loops::pool_keeper,
};
use gantry_types::{
    ByteSize, Event, Pool, PoolHealth, PoolSpec, Problem, Resource, Role, Severity, Snapshot, Volume, VolumePhase,
};
use serde_json::{Value, json};

use crate::world::{Controller, World, name, succeeded};

fn admin() -> Caller {
    Caller::token("admin", Role::Admin)
}
fn now() -> WriteQuery {
    WriteQuery::default()
}
fn refusal<T: std::fmt::Debug>(result: Result<T, Problem>) -> Problem {
    result.expect_err("must be refused")
}
fn field<T: std::fmt::Debug>(result: Result<T, Problem>) -> String {
    refusal(result).fields.first().map(|wrong| wrong.field.clone()).expect("a field")
}
fn code<T: std::fmt::Debug>(result: Result<T, Problem>) -> String {
    refusal(result).code().to_owned()
}
fn sent_pool(pool: &str, path: &str) -> Pool {
    Pool::new(name(pool), PoolSpec::dir(path, name("host-1")))
}
fn sent(volume: &str, spec: Value) -> Volume {
    Volume::new(name(volume), serde_json::from_value(spec).expect("a spec"))
}

async fn done<T>(world: &World, controller: &Controller, changed: Result<Changed<T>, Problem>) {
    let operation = changed.map_err(|problem| format!("{problem:?}")).expect("accepted").operation;
    let operation = operation.expect("an operation").metadata.name;
    controller.execute(&operation).await;
    succeeded(&world.operation(operation.as_str()).await);
}

/// A VM on host-1, a pool there, and a volume in it.
async fn a_volume() -> (World, Controller) {
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

async fn attach(world: &World, controller: &Controller, volume: &str) {
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

    // What would leave it behind, or tell it another past, is refused.
    let migrate = MigrateRequest { to: Some(name("host-2")), policy: None };
    assert_eq!(code(vm::migrate(app, &admin(), "web", &migrate, &now()).await), "vm-has-volumes");
    let memory =
        Snapshot::new(name("web-a"), serde_json::from_value(json!({"vm": "web", "memory": true})).expect("a spec"));
    assert_eq!(code(snapshot::create(app, &admin(), memory, &now()).await), "vm-has-volumes");

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
