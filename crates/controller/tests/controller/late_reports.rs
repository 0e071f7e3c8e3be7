//! Heartbeats that were made before an operation ended and arrive after it: they tell of nothing new.

use gantry_api::agent::VmRunState;
use gantry_controller::{
    Caller,
    app::vm,
    loops::{intake::heartbeat, stray_vms},
};
use gantry_types::{Event, Name, PowerState, VmPhase};

use crate::{
    scenarios::Scenario,
    world::{Controller, World, name, succeeded},
};

fn told(controller: &Controller, reason: &str) -> bool {
    controller.app.model.list::<Event>().iter().any(|event| event.spec.reason == reason)
}

/// Carries the operation out, with a heartbeat of each host on its way meanwhile.
async fn with_late_reports(world: &World, controller: &Controller, operation: &Name) {
    world.reports(controller).await;
    let late = world.beats(controller).await;
    controller.execute(operation).await;
    succeeded(&world.operation(operation.as_str()).await);
    let calls = world.hosts.calls();
    // By what was known before, then by what arrives late, then by what is so.
    stray_vms::pass(&controller.app).await;
    for (host, beat) in late {
        heartbeat(&controller.app, &host, beat).await.expect("taken in");
    }
    stray_vms::pass(&controller.app).await;
    assert_eq!(world.hosts.calls(), calls, "something was removed that was gone already");
    world.reports(controller).await;
    stray_vms::pass(&controller.app).await;
    assert!(!told(controller, "StrayVmRemoved"));
    world.check().await;
}

#[tokio::test]
async fn a_vm_that_has_moved_is_no_stray_where_it_was() {
    let (world, operation) = Scenario::Migrate.prepare().await;
    let controller = world.controller().await;
    with_late_reports(&world, &controller, &operation).await;
    let vm = world.vm("web").await.expect("a VM");
    assert_eq!((vm.status.phase, vm.status.host), (VmPhase::Running, Some(name("host-3"))));
    // There and back again: what its first host says of it counts once more.
    let request = serde_json::from_value(serde_json::json!({"to": "host-1"})).expect("a request");
    let back = vm::migrate(&controller.app, &Caller::controller(), "web", &request, &Default::default()).await;
    let back = back.expect("accepted").operation.expect("an operation").metadata.name;
    with_late_reports(&world, &controller, &back).await;
    let vm = world.vm("web").await.expect("a VM");
    assert_eq!((vm.status.phase, vm.status.host), (VmPhase::Running, Some(name("host-1"))));
    world.hosts.guest_powers_off(&name("host-1"), vm.metadata.uuid);
    world.reports(&controller).await;
    assert_eq!(world.vm("web").await.expect("a VM").status.phase, VmPhase::Stopped);
}

#[tokio::test]
async fn what_was_said_before_an_operation_ended_is_no_news_to_the_next_controller_either() {
    let (world, operation) = Scenario::Migrate.prepare().await;
    let controller = world.controller().await;
    controller.execute(&operation).await;
    let vm = world.vm("web").await.expect("a VM");
    let mut late = world.beats(&controller).await;
    for observation in late.iter_mut().flat_map(|(_, beat)| &mut beat.vms) {
        observation.state = VmRunState::Stopped;
    }
    drop(controller);
    let successor = world.controller().await;
    for (host, beat) in late {
        heartbeat(&successor.app, &host, beat).await.expect("taken in");
    }
    let now = world.vm("web").await.expect("a VM");
    assert_eq!((now.status.phase, now.spec.power), (VmPhase::Running, PowerState::Running));
    world.reports(&successor).await;
    assert_eq!(world.vm("web").await.expect("a VM").status.phase, VmPhase::Running);
    world.hosts.guest_powers_off(&name("host-3"), vm.metadata.uuid);
    world.reports(&successor).await;
    assert_eq!(world.vm("web").await.expect("a VM").status.phase, VmPhase::Stopped);
}

#[tokio::test]
async fn what_an_agent_has_said_before_it_was_restarted_is_no_news_after_its_successors_reports() {
    let (world, operation) = Scenario::Start.prepare().await;
    let controller = world.controller().await;
    controller.execute(&operation).await;
    world.reports(&controller).await;
    let mut late = world.beats(&controller).await;
    for observation in late.iter_mut().flat_map(|(_, beat)| &mut beat.vms) {
        observation.state = VmRunState::Failed;
        observation.ha.status.elsewhere = true;
    }
    for _ in 0..2 {
        world.power.restart_agent(&name("host-1"));
        world.reports(&controller).await;
        for (host, beat) in late.clone() {
            heartbeat(&controller.app, &host, beat).await.expect("taken in");
        }
        let vm = world.vm("web").await.expect("a VM");
        assert_eq!((vm.status.phase, vm.status.ha.elsewhere), (VmPhase::Running, false));
    }
    // The one that is there now is believed.
    let vm = world.vm("web").await.expect("a VM");
    world.hosts.guest_powers_off(&name("host-1"), vm.metadata.uuid);
    world.reports(&controller).await;
    assert_eq!(world.vm("web").await.expect("a VM").status.phase, VmPhase::Stopped);
}

#[tokio::test]
async fn a_report_of_an_agent_that_was_restarted_is_no_news_to_a_controller_that_has_heard_of_its_successor_only() {
    let (world, operation) = Scenario::Start.prepare().await;
    let controller = world.controller().await;
    controller.execute(&operation).await;
    world.reports(&controller).await;
    let late = world.beats(&controller).await;
    world.power.restart_agent(&name("host-1"));
    drop(controller);
    let successor = world.controller().await;
    world.reports(&successor).await;
    for (host, beat) in late {
        heartbeat(&successor.app, &host, beat).await.expect("taken in");
    }
    // The one that is there now is believed.
    let vm = world.vm("web").await.expect("a VM");
    world.hosts.guest_powers_off(&name("host-1"), vm.metadata.uuid);
    world.reports(&successor).await;
    assert_eq!(world.vm("web").await.expect("a VM").status.phase, VmPhase::Stopped);
}

#[tokio::test]
async fn a_vm_that_waits_for_room_is_not_paused_for_good_where_it_moves_to() {
    let (world, operation) = Scenario::Migrate.prepare().await;
    let controller = world.controller().await;
    controller.execute(&operation).await;
    let vm = world.vm("web").await.expect("a VM");
    world.hosts.guest_waits_for_room(&name("host-3"), vm.metadata.uuid);
    world.reports(&controller).await;
    assert_eq!(world.vm("web").await.expect("a VM").status.phase, VmPhase::Paused);
    let request = serde_json::from_value(serde_json::json!({"to": "host-1"})).expect("a request");
    let back = vm::migrate(&controller.app, &Caller::controller(), "web", &request, &Default::default()).await;
    controller.execute(&back.expect("accepted").operation.expect("an operation").metadata.name).await;
    for _ in 0..2 {
        let vm = world.vm("web").await.expect("a VM");
        assert_eq!((vm.status.phase, vm.status.host), (VmPhase::Running, Some(name("host-1"))));
        world.reports(&controller).await;
    }
    // One that a user has paused stays so.
    let paused = vm::pause(&controller.app, &Caller::controller(), "web", &Default::default()).await;
    controller.execute(&paused.expect("accepted").operation.expect("an operation").metadata.name).await;
    let request = serde_json::from_value(serde_json::json!({"to": "host-3"})).expect("a request");
    let there = vm::migrate(&controller.app, &Caller::controller(), "web", &request, &Default::default()).await;
    controller.execute(&there.expect("accepted").operation.expect("an operation").metadata.name).await;
    world.reports(&controller).await;
    let vm = world.vm("web").await.expect("a VM");
    assert_eq!((vm.status.phase, vm.status.host), (VmPhase::Paused, Some(name("host-3"))));
}

#[tokio::test]
async fn a_vm_that_was_deleted_is_no_stray_either() {
    let (world, operation) = Scenario::Delete.prepare().await;
    let controller = world.controller().await;
    with_late_reports(&world, &controller, &operation).await;
    assert!(!told(&controller, "UnknownVm"));
}

#[tokio::test]
async fn what_a_host_keeps_although_it_was_removed_is_found_all_the_same() {
    let (world, operation) = Scenario::Delete.prepare().await;
    let controller = world.controller().await;
    world.reports(&controller).await;
    let vm = world.vm("web").await.expect("a VM");
    let late = world.beats(&controller).await;
    controller.execute(&operation).await;
    let kept = late.iter().find_map(|(host, beat)| {
        beat.vms.iter().find(|seen| seen.uuid == vm.metadata.uuid).map(|seen| (host.clone(), seen.clone()))
    });
    let (host, kept) = kept.expect("it was there");
    for _ in 0..3 {
        for (at, mut beat) in world.beats(&controller).await {
            if at == host {
                beat.vms.push(kept.clone());
            }
            heartbeat(&controller.app, &at, beat).await.expect("taken in");
        }
    }
    stray_vms::pass(&controller.app).await;
    assert!(told(&controller, "StrayVmRemoved"));
}
