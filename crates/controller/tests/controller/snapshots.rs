//! Snapshots and recovery as a user asks for them: what is refused and why, the tree, and that going back can be undone.

use gantry_api::rest::{Changed, MigrateRequest, RecoverRequest, RevertRequest, StopRequest, WriteQuery};
use gantry_controller::{
    Caller,
    app::{snapshot, vm},
    loops::snapshot_schedules,
};
use gantry_hostlink::fake::{Fault, When};
use gantry_types::{
    Event, Problem, RecoveryPoint, RecoveryPointKind, Resource, Role, Snapshot, SnapshotSchedule, Timestamp, Vm,
    VmPhase,
};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

use crate::world::{Controller, World, name, succeeded};

fn admin() -> Caller {
    Caller::token("admin", Role::Admin)
}
fn now() -> WriteQuery {
    WriteQuery::default()
}
fn refusal<T: std::fmt::Debug>(result: Result<T, Problem>) -> (String, String) {
    let problem = result.expect_err("must be refused");
    (problem.code().to_owned(), problem.remedy.unwrap_or_default())
}
fn code<T: std::fmt::Debug>(result: Result<T, Problem>) -> String {
    refusal(result).0
}
fn sent(short: &str, extra: Value) -> Snapshot {
    let mut spec = json!({"vm": "web"});
    for (key, value) in extra.as_object().expect("an object") {
        spec[key] = value.clone();
    }
    Snapshot::new(name(&format!("web-{short}")), serde_json::from_value(spec).expect("a spec"))
}

async fn a_running_vm() -> (World, Controller) {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    controller.running("web").await;
    (world, controller)
}

async fn done<T>(world: &World, controller: &Controller, changed: Result<Changed<T>, Problem>) {
    let operation = changed.map_err(|problem| format!("{problem:?}")).expect("accepted").operation;
    let operation = operation.expect("an operation").metadata.name;
    controller.execute(&operation).await;
    succeeded(&world.operation(operation.as_str()).await);
}

async fn take(world: &World, controller: &Controller, short: &str) {
    done(world, controller, snapshot::create(&controller.app, &admin(), sent(short, json!({})), &now()).await).await;
}

async fn stop(world: &World, controller: &Controller) {
    let request = StopRequest { grace_s: 0, force: true };
    done(world, controller, vm::stop(&controller.app, &admin(), "web", request, &now()).await).await;
}

fn shape(world: &[Snapshot]) -> Vec<(String, Option<String>)> {
    world.iter().map(|one| (one.name().to_owned(), one.status.parent.as_ref().map(ToString::to_string))).collect()
}

#[tokio::test]
async fn the_tree_grows_from_where_the_vm_is_and_closes_over_what_is_deleted() {
    let (world, controller) = a_running_vm().await;
    let app = &*controller.app;
    for short in ["a", "b", "c"] {
        take(&world, &controller, short).await;
    }
    done(&world, &controller, snapshot::revert(app, &admin(), "web-b", RevertRequest::default(), &now()).await).await;
    take(&world, &controller, "d").await;
    let line = |name: &str, parent: Option<&str>| (name.to_owned(), parent.map(str::to_owned));
    let expected =
        [line("web-a", None), line("web-b", Some("web-a")), line("web-c", Some("web-b")), line("web-d", Some("web-b"))];
    assert_eq!(shape(&world.snapshots().await), expected);

    done(&world, &controller, snapshot::delete(app, &admin(), "web-b", &now()).await).await;
    let expected = [line("web-a", None), line("web-c", Some("web-a")), line("web-d", Some("web-a"))];
    assert_eq!(shape(&world.snapshots().await), expected);
    done(&world, &controller, snapshot::delete(app, &admin(), "web-d", &now()).await).await;
    assert_eq!(world.vm("web").await.expect("a VM").status.snapshot, Some(name("web-a")));

    // With the VM its snapshots go.
    done(&world, &controller, vm::delete(app, &admin(), "web", false, &now()).await).await;
    assert_eq!(world.snapshots().await, []);
}

#[tokio::test]
async fn what_can_not_be_kept_is_refused_and_nothing_is_left_of_it() {
    let (world, controller) = a_running_vm().await;
    let app = &*controller.app;
    let create = async |snapshot: Snapshot| snapshot::create(app, &admin(), snapshot, &now()).await;
    assert_eq!(
        code(snapshot::create(app, &Caller::token("v", Role::Viewer), sent("a", json!({})), &now()).await),
        "denied"
    );
    assert_eq!(code(create(sent("a", json!({"memory": true, "quiesce": true}))).await), "invalid-snapshot");
    assert_eq!(code(create(sent("a", json!({"vm": "other"}))).await), "invalid-snapshot");
    assert_eq!(code(create(sent("a", json!({"quiesce": true}))).await), "no-guest-agent", "it is not ready yet");
    let dry = WriteQuery { dry_run: true, ..now() };
    snapshot::create(app, &admin(), sent("a", json!({})), &dry).await.expect("accepted");
    assert_eq!(world.snapshots().await, []);

    take(&world, &controller, "a").await;
    let (exists, remedy) = refusal(create(sent("a", json!({}))).await);
    assert!(exists == "already-exists" && remedy.contains("gantry snapshot delete web a"), "{remedy}");
    let (moves, remedy) = refusal(vm::migrate(app, &admin(), "web", &MigrateRequest::default(), &now()).await);
    assert!(moves == "vm-has-snapshots" && remedy.contains("gantry snapshot delete web a"), "{remedy}");

    let mut labelled = world.snapshots().await.remove(0);
    labelled.metadata.labels.0.insert("tier".into(), "gold".into());
    labelled.spec.description = Some("before the upgrade".into());
    snapshot::put(app, &admin(), "web-a", labelled.clone(), &now()).await.expect("changed");
    let other = Snapshot { spec: sent("a", json!({"memory": true})).spec, ..sent("a", json!({})) };
    assert_eq!(code(snapshot::put(app, &admin(), "web-a", other, &now()).await), "unchangeable");
    assert_eq!(world.snapshots().await[0].spec, labelled.spec);

    // Its memory fits only the machine that it was.
    done(&world, &controller, create(sent("m", json!({"memory": true}))).await).await;
    stop(&world, &controller).await;
    assert_eq!(code(create(sent("b", json!({"memory": true}))).await), "wrong-phase");
    let mut larger: Vm = world.vm("web").await.expect("a VM");
    larger.spec.cpus = 2;
    vm::put(app, &admin(), "web", larger, &now()).await.expect("changed");
    let back = async |request| snapshot::revert(app, &admin(), "web-m", request, &now()).await;
    let (changed, remedy) = refusal(back(RevertRequest::default()).await);
    assert!(changed == "machine-changed" && remedy.contains("--disk-only"), "{remedy}");
    done(&world, &controller, back(RevertRequest { disk_only: true }).await).await;
    let vm = world.vm("web").await.expect("a VM");
    assert_eq!(vm.status.phase, VmPhase::Stopped, "it was stopped before");
    assert_eq!(vm.status.recovery_points.len(), 1);
    world.check().await;
}

#[tokio::test]
async fn a_recovery_is_told_of_and_can_be_undone() {
    let (world, controller) = a_running_vm().await;
    let app = &*controller.app;
    let uuid = world.vm("web").await.expect("a VM").metadata.uuid;
    let host = name("host-1");
    let recover = async |request: RecoverRequest| vm::recover(app, &admin(), "web", &request, &now()).await;
    let undo = RecoverRequest { undo: true, to: None };
    let (none, remedy) = refusal(recover(RecoverRequest::default()).await);
    assert!(none == "no-recovery-point" && remedy.contains("300 s"), "{remedy}");
    assert_eq!(code(recover(undo.clone()).await), "no-recovery-point");

    let mut names = Vec::new();
    for second in [1_700_000_000, 1_700_000_100] {
        world.hosts.guest_writes(&host, uuid);
        let at = Timestamp::from_unix_ms(second * 1000);
        let point = RecoveryPoint::new(Uuid::now_v7(), RecoveryPointKind::Good, at, None);
        names.push(point.name.clone());
        world.hosts.keep_good(&host, uuid, point);
    }
    world.reports(&controller).await;
    world.hosts.guest_writes(&host, uuid);
    let content = || world.hosts.disk_on(&host, uuid).expect("a disk").0;
    assert_eq!(content(), 3);

    done(&world, &controller, recover(RecoverRequest::default()).await).await;
    assert_eq!(content(), 2, "the newest one");
    done(&world, &controller, recover(undo.clone()).await).await;
    assert_eq!(content(), 3);
    done(&world, &controller, recover(RecoverRequest { to: Some(names[0].clone()), undo: false }).await).await;
    assert_eq!(content(), 1);
    let both = RecoverRequest { to: Some(names[0].clone()), undo: true };
    assert_eq!(code(recover(both).await), "invalid-request");
    let unknown = RecoverRequest { to: Some(name("good-never")), undo: false };
    let (code_of, remedy) = refusal(recover(unknown).await);
    assert!(code_of == "no-recovery-point" && remedy.contains(names[0].as_str()), "{remedy}");

    // It brings a VM back that does not run, too.
    stop(&world, &controller).await;
    done(&world, &controller, recover(RecoverRequest::default()).await).await;
    assert_eq!(world.vm("web").await.expect("a VM").status.phase, VmPhase::Running);
    world.check().await;
    let told = app.model.list::<Event>();
    let recovered = told.iter().filter(|event| event.spec.reason == "VmRecovered").count();
    assert_eq!(recovered, 4);

    // They are in the disk that stays behind, and that is said.
    let to = MigrateRequest { to: Some(name("host-3")), ..MigrateRequest::default() };
    done(&world, &controller, vm::migrate(app, &admin(), "web", &to, &now()).await).await;
    let told = app.model.list::<Event>();
    let moved = told.iter().find(|event| event.spec.reason == "VmMigrated").expect("an event");
    assert!(moved.spec.message.contains(names[0].as_str()), "{}", moved.spec.message);
    assert_eq!(world.vm("web").await.expect("a VM").status.recovery_points, []);
}

#[tokio::test]
async fn a_schedule_takes_what_is_due_and_lets_go_what_no_period_keeps() {
    let (world, controller) = a_running_vm().await;
    let app = &*controller.app;
    let names = async || {
        let mut all: Vec<String> = world.snapshots().await.iter().map(|one| one.short_name().to_owned()).collect();
        all.sort();
        all
    };
    // Until there is nothing left to do.
    let settle = async || {
        for _ in 0..8 {
            snapshot_schedules::pass(app).await;
            for operation in world.unfinished().await {
                controller.execute(&operation).await;
            }
        }
    };
    take(&world, &controller, "by-hand").await;
    let mut scheduled = world.vm("web").await.expect("a VM");
    scheduled.spec.snapshots = SnapshotSchedule { hourly: 2, daily: 2, ..SnapshotSchedule::default() };
    vm::put(app, &admin(), "web", scheduled.clone(), &now()).await.expect("changed");
    settle().await;
    settle().await;
    assert_eq!(names().await.len(), 2, "one an hour: {:?}", names().await);
    for _ in 0..5 {
        world.clock.advance(Duration::from_secs(3600));
        settle().await;
    }
    let kept = names().await;
    assert!(kept.len() <= 4 && kept.len() >= 3 && kept.contains(&"by-hand".to_owned()), "{kept:?}");
    world.check().await;

    // What fails is not tried again and again.
    world.clock.advance(Duration::from_secs(3600));
    let full = Problem::permanent("snapshot-not-taken", "the pool is full");
    world.hosts.inject(Fault { times: 100, ..Fault::once("take_snapshot", When::Before, full) });
    settle().await;
    let tries = world.hosts.calls().iter().filter(|call| call.name == "take_snapshot").count();
    settle().await;
    assert_eq!(world.hosts.calls().iter().filter(|call| call.name == "take_snapshot").count(), tries);
    world.hosts.clear_faults();
    world.clock.advance(Duration::from_secs(700));
    settle().await;
    assert!(names().await != kept, "it is taken when there is room again");

    // A schedule that is taken away leaves what there is.
    let there = names().await;
    let mut none = world.vm("web").await.expect("a VM");
    none.spec.snapshots = SnapshotSchedule::default();
    vm::put(app, &admin(), "web", none, &now()).await.expect("changed");
    world.clock.advance(Duration::from_secs(7200));
    settle().await;
    assert_eq!(names().await, there);
    let mut many = world.vm("web").await.expect("a VM");
    many.spec.snapshots.hourly = 61;
    assert_eq!(code(vm::put(app, &admin(), "web", many, &now()).await), "invalid-vm");
}
