//! VMs' own disks that go to other pools, as a user asks for it: what is refused and why, and what is told.

use gantry_api::rest::{MigrateRequest, StopRequest, WriteQuery};
use gantry_controller::app::{snapshot, vm};
use gantry_types::{Event, Problem, RecoveryPoint, RecoveryPointKind, Snapshot, Timestamp, VmPhase};
use serde_json::json;
use uuid::Uuid;

use crate::storage::{admin, done, now, sent_pool};
use crate::world::{Controller, World, name};

fn to(pool: &str) -> MigrateRequest {
    MigrateRequest { pool: Some(name(pool)), ..MigrateRequest::default() }
}

async fn refused(controller: &Controller, request: &MigrateRequest) -> Problem {
    vm::migrate(&controller.app, &admin(), "web", request, &now()).await.expect_err("must be refused")
}

/// A VM on host-1, and a pool that all hosts reach.
async fn a_vm() -> (World, Controller) {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    controller.running("web").await;
    controller.shared_pool("nas").await;
    (world, controller)
}

#[tokio::test]
async fn a_pool_that_its_host_does_not_reach_or_that_is_not_there_is_refused() {
    let (world, controller) = a_vm().await;
    let app = &*controller.app;
    assert_eq!(refused(&controller, &to("nowhere")).await.fields[0].field, "pool");
    let mut elsewhere = sent_pool("third", "/srv/third");
    elsewhere.spec.hosts = vec![name("host-3")];
    done(&world, &controller, gantry_controller::app::pool::create(app, &admin(), elsewhere, &now()).await).await;
    let problem = refused(&controller, &to("third")).await;
    assert_eq!(problem.code(), "pool-not-reached");
    assert_eq!(problem.remedy.as_deref(), Some("move the VM there first: gantry vm migrate web --to host-3"));
    let both = MigrateRequest { to: Some(name("host-2")), ..to("nas") };
    assert_eq!(refused(&controller, &both).await.fields[0].field, "to");
    let policy = MigrateRequest { policy: Some(Default::default()), ..to("nas") };
    assert_eq!(refused(&controller, &policy).await.fields[0].field, "policy");

    let spec = serde_json::from_value(json!({"cpus": 1, "memory": "64MiB", "disk": "1GiB", "power": "stopped"}));
    let sent = gantry_types::Vm::new(name("fresh"), spec.expect("a spec"));
    vm::create(app, &admin(), sent, &now()).await.expect("made");
    let problem = vm::migrate(app, &admin(), "fresh", &to("nas"), &now()).await.expect_err("it has no disk");
    assert_eq!(problem.code(), "vm-without-disk");
    world.check().await;
}

#[tokio::test]
async fn snapshots_come_along_only_while_it_is_stopped() {
    let (world, controller) = a_vm().await;
    let app = &*controller.app;
    let uuid = world.vm("web").await.expect("a VM").metadata.uuid;
    let sent = Snapshot::new(name("web-a"), serde_json::from_value(json!({"vm": "web"})).expect("a spec"));
    done(&world, &controller, snapshot::create(app, &admin(), sent, &now()).await).await;
    let problem = refused(&controller, &to("nas")).await;
    assert_eq!(problem.code(), "vm-has-snapshots");
    assert!(problem.remedy.is_some_and(|remedy| remedy.contains("gantry vm stop web")));
    let stop = StopRequest { grace_s: 0, force: true };
    done(&world, &controller, vm::stop(app, &admin(), "web", stop, &now()).await).await;
    done(&world, &controller, vm::migrate(app, &admin(), "web", &to("nas"), &now()).await).await;
    world.check().await;
    assert_eq!(world.hosts.disk_on(&name("host-1"), uuid).expect("a disk").1.len(), 1);

    // It is there already: nothing is done.
    let again = vm::migrate(app, &admin(), "web", &to("nas"), &now()).await.expect("accepted");
    assert_eq!(again.operation, None);
    // And now it starts anywhere.
    done(&world, &controller, vm::start(app, &admin(), "web", &now()).await).await;
    let elsewhere = MigrateRequest { to: Some(name("host-2")), ..MigrateRequest::default() };
    done(&world, &controller, vm::migrate(app, &admin(), "web", &elsewhere, &now()).await).await;
    world.check().await;
}

#[tokio::test]
async fn recovery_points_that_stay_behind_are_told_of() {
    let (world, controller) = a_vm().await;
    let app = &*controller.app;
    let uuid = world.vm("web").await.expect("a VM").metadata.uuid;
    let at = Timestamp::from_unix_ms(1_700_000_000_000);
    let point = RecoveryPoint::new(Uuid::now_v7(), RecoveryPointKind::Good, at, None);
    world.hosts.keep_good(&name("host-1"), uuid, point.clone());
    world.reports(&controller).await;
    done(&world, &controller, vm::migrate(app, &admin(), "web", &to("nas"), &now()).await).await;
    let events = app.model.list::<Event>();
    let told = events.iter().find(|event| event.spec.reason == "VmDiskMoved").expect("an event");
    assert!(told.spec.message.contains(point.name.as_str()), "{}", told.spec.message);
    let vm = world.vm("web").await.expect("a VM");
    assert!(vm.status.recovery_points.is_empty() && vm.status.phase == VmPhase::Running, "{vm:?}");
}

#[tokio::test]
async fn a_dry_run_moves_nothing() {
    let (world, controller) = a_vm().await;
    let query = WriteQuery { dry_run: true, ..now() };
    let changed = vm::migrate(&controller.app, &admin(), "web", &to("nas"), &query).await.expect("accepted");
    assert!(changed.operation.is_some());
    assert_eq!(world.vm("web").await.expect("a VM").status.operation, None);
}
