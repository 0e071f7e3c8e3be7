//! Backups by schedule: what is due, what is let go, what fails, and how many are made at a time.

use std::time::Duration;

use gantry_api::rest::{StopRequest, WriteQuery};
use gantry_controller::{
    Caller,
    app::{backup, vm},
    loops::backup_schedules,
};
use gantry_hostlink::fake::{Fault, When};
use gantry_types::{Backup, BackupPhase, BackupSchedule, Problem, Role};
use serde_json::json;

use crate::world::{Controller, REPOSITORY, World, name, succeeded};

fn admin() -> Caller {
    Caller::token("admin", Role::Admin)
}

async fn running(names: &[&str]) -> (World, Controller) {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    for one in names {
        controller.running(one).await;
    }
    (world, controller)
}

async fn schedule(world: &World, controller: &Controller, of: &str, kept: serde_json::Value) -> Result<(), Problem> {
    let mut vm = world.vm(of).await.expect("a VM");
    vm.spec.backups = serde_json::from_value(kept).expect("a schedule");
    vm::put(&controller.app, &admin(), of, vm, &WriteQuery::default()).await.map(drop)
}

fn daily(count: u32) -> serde_json::Value {
    json!({"repository": REPOSITORY, "hourly": 2, "daily": count})
}

/// Until there is nothing left to do.
async fn settle(world: &World, controller: &Controller) {
    for _ in 0..8 {
        backup_schedules::pass(&controller.app).await;
        for operation in world.unfinished().await {
            controller.execute(&operation).await;
        }
    }
}

async fn made(world: &World) -> Vec<String> {
    let mut names: Vec<String> = world.backups().await.iter().map(|one| one.short_name().to_owned()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn one_that_is_off_is_made_once_after_it_ran() {
    let (world, controller) = running(&["web"]).await;
    schedule(&world, &controller, "web", json!({"repository": REPOSITORY, "hourly": 24})).await.expect("changed");
    let hours = async |count: u32| {
        for _ in 0..count {
            world.clock.advance(Duration::from_secs(3600));
            settle(&world, &controller).await;
        }
        made(&world).await.len()
    };
    assert_eq!(hours(2).await, 2);
    let app = &controller.app;
    let force = StopRequest { grace_s: 0, force: true };
    for expected in [3, 4] {
        let stopped = vm::stop(app, &admin(), "web", force, &WriteQuery::default()).await.expect("accepted");
        controller.execute(&stopped.operation.expect("an operation").metadata.name).await;
        assert_eq!(hours(3).await, expected, "what it wrote last, and nothing since");
        let started = vm::start(app, &admin(), "web", &WriteQuery::default()).await.expect("accepted");
        controller.execute(&started.operation.expect("an operation").metadata.name).await;
    }
    world.check().await;
}

#[tokio::test]
async fn what_is_due_is_made_and_what_no_period_keeps_is_let_go() {
    let (world, controller) = running(&["web"]).await;
    let spec = serde_json::from_value(json!({"vm": "web", "repository": REPOSITORY})).expect("a spec");
    let by_hand = Backup::new(name("web-by-hand"), spec);
    let changed = backup::create(&controller.app, &admin(), by_hand, &WriteQuery::default()).await.expect("accepted");
    let operation = changed.operation.expect("an operation").metadata.name;
    controller.execute(&operation).await;
    succeeded(&world.operation(operation.as_str()).await);

    schedule(&world, &controller, "web", daily(2)).await.expect("changed");
    settle(&world, &controller).await;
    settle(&world, &controller).await;
    assert_eq!(made(&world).await.len(), 2, "one an hour: {:?}", made(&world).await);
    for _ in 0..30 {
        world.clock.advance(Duration::from_secs(3600));
        settle(&world, &controller).await;
    }
    // Two hours, the last of the day before, and what somebody made.
    let kept = made(&world).await;
    assert!(kept.len() == 4 && kept.contains(&"by-hand".to_owned()), "{kept:?}");
    let backups = world.backups().await;
    assert!(backups.iter().all(|one| one.status.phase == BackupPhase::Ready), "{backups:?}");
    assert_eq!(world.hosts.backups_in(REPOSITORY).len(), kept.len(), "nothing else is in the repository");
    world.check().await;

    // A schedule that is taken away leaves what there is.
    schedule(&world, &controller, "web", serde_json::Value::Null).await.expect("changed");
    world.clock.advance(Duration::from_secs(7200));
    settle(&world, &controller).await;
    assert_eq!(made(&world).await, kept);
}

#[tokio::test]
async fn what_fails_is_tried_again_later() {
    let (world, controller) = running(&["web"]).await;
    schedule(&world, &controller, "web", daily(1)).await.expect("changed");
    let gone = Problem::permanent("repository-missing", "there is nothing at the repository's place");
    world.hosts.inject(Fault { times: 100, ..Fault::once("back_up", When::Before, gone) });
    let tries = || world.hosts.calls().iter().filter(|call| call.name == "back_up").count();
    settle(&world, &controller).await;
    let first = tries();
    assert!(first > 0 && made(&world).await.is_empty());
    settle(&world, &controller).await;
    assert_eq!(tries(), first, "not again and again");
    world.hosts.clear_faults();
    world.clock.advance(Duration::from_secs(700));
    settle(&world, &controller).await;
    assert_eq!(made(&world).await.len(), 1);
}

#[tokio::test]
async fn few_are_made_on_a_host_at_a_time() {
    let (world, controller) = running(&["a", "b", "c", "d", "e", "f", "g", "h"]).await;
    for of in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        schedule(&world, &controller, of, daily(1)).await.expect("changed");
    }
    backup_schedules::pass(&controller.app).await;
    backup_schedules::pass(&controller.app).await;
    let mut hosts: Vec<String> =
        world.backups().await.iter().filter_map(|one| one.status.host.as_ref()).map(ToString::to_string).collect();
    hosts.sort();
    assert!(!hosts.is_empty() && hosts.len() < 8, "{hosts:?}");
    assert!(hosts.chunk_by(|one, other| one == other).all(|of_one| of_one.len() <= 2), "{hosts:?}");
    for _ in 0..4 {
        settle(&world, &controller).await;
    }
    assert_eq!(made(&world).await.len(), 8, "the others have their turn");
}

#[tokio::test]
async fn one_that_keeps_nothing_or_says_no_place_is_refused() {
    let (world, controller) = running(&["web"]).await;
    for wrong in [json!({"repository": REPOSITORY}), json!({"repository": "backup", "daily": 1})] {
        let refused = schedule(&world, &controller, "web", wrong).await.expect_err("must be refused");
        assert_eq!(refused.code(), "invalid-vm");
    }
    let kept: Option<BackupSchedule> = world.vm("web").await.expect("a VM").spec.backups;
    assert_eq!(kept, None);
}
