//! Hosts that die or fall silent, and what the loops make of that.

use std::time::Duration;

use gantry_api::agent::MigrationState;
use gantry_controller::loops::{host_failure_detector, network_distributor, stray_vms};
use gantry_hostlink::fake::{Fault, When};
use gantry_types::{Event, Host, HostState, Name, OperationPhase, PowerState, Problem, VmPhase};

use crate::{
    scenarios::Scenario,
    world::{Controller, World, name, succeeded},
};

async fn lose_silent_hosts(world: &World, controller: &Controller) {
    world.clock.advance(Duration::from_secs(5));
    world.heartbeats(controller).await;
    host_failure_detector::pass(&controller.app, Duration::ZERO).await.expect("a store");
}

async fn a_running_vm() -> (World, Controller) {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    controller.running("web").await;
    world.reports(&controller).await;
    (world, controller)
}

async fn phase(world: &World) -> VmPhase {
    world.vm("web").await.expect("a VM").status.phase
}

fn state(controller: &Controller, host: &str) -> HostState {
    controller.app.model.get::<Host>(host).expect("a host").status.state
}

#[tokio::test]
async fn a_silent_host_is_lost_and_its_vms_are_unknown_until_it_is_back() {
    let (world, controller) = a_running_vm().await;
    world.hosts.cut(&name("host-1"));
    lose_silent_hosts(&world, &controller).await;
    assert_eq!((state(&controller, "host-1"), state(&controller, "host-2")), (HostState::Lost, HostState::Ready));
    assert_eq!(phase(&world).await, VmPhase::Unknown);
    let told: Vec<_> = controller.app.model.list::<Event>().iter().map(|event| event.spec.reason.clone()).collect();
    assert!(told.contains(&"HostLost".to_owned()) && told.contains(&"VmUnknown".to_owned()));
    // Its guests never stopped.
    world.hosts.mend(&name("host-1"));
    world.reports(&controller).await;
    assert_eq!((state(&controller, "host-1"), phase(&world).await), (HostState::Ready, VmPhase::Running));
    world.check().await;
}

#[tokio::test]
async fn a_silent_host_is_lost_at_once_if_its_power_is_off_and_waited_for_if_not() {
    let (world, controller) = a_running_vm().await;
    let mut host = world.host("host-1").await;
    host.spec.power = serde_json::from_value(serde_json::json!({"driver": "lab"})).expect("a driver");
    let mut change = gantry_controller::objects::Change::new();
    change.update(&host).expect("writable");
    controller.write(change).await;
    let look = async || {
        let host = world.host("host-1").await;
        host_failure_detector::look_at_power(&controller.app, &host, Duration::ZERO).await.expect("a store");
        host_failure_detector::pass(&controller.app, Duration::ZERO).await.expect("a store");
        state(&controller, "host-1")
    };
    // Its cable: an outlet says nothing about that.
    world.hosts.cut(&name("host-1"));
    world.clock.advance(Duration::from_millis(1_600));
    world.heartbeats(&controller).await;
    assert_eq!(look().await, HostState::Ready);
    world.hosts.mend(&name("host-1"));
    world.reports(&controller).await;
    // Its outlet is wrong: it has just been heard.
    world.power.switch_off(&name("host-1"));
    assert_eq!(look().await, HostState::Ready);
    world.clock.advance(Duration::from_millis(1_600));
    assert_eq!((look().await, phase(&world).await), (HostState::Lost, VmPhase::Unknown));
    let told = controller.app.model.list::<Event>();
    let lost = told.iter().find(|event| event.spec.reason == "HostLost").expect("told");
    assert!(lost.spec.message.contains("it is silent and its power is off"), "{}", lost.spec.message);
}

#[tokio::test]
async fn a_host_that_lost_power_comes_back_with_a_failed_vm_that_starts_again() {
    let (world, controller) = a_running_vm().await;
    world.hosts.unplug(&name("host-1"));
    lose_silent_hosts(&world, &controller).await;
    world.hosts.mend(&name("host-1"));
    world.reports(&controller).await;
    assert_eq!(phase(&world).await, VmPhase::Failed);
    let caller = gantry_controller::Caller::controller();
    let changed = gantry_controller::app::vm::start(&controller.app, &caller, "web", &Default::default()).await;
    controller.execute(&changed.expect("accepted").operation.expect("an operation").metadata.name).await;
    assert_eq!(phase(&world).await, VmPhase::Running);
    world.check().await;
}

#[tokio::test]
async fn a_guest_that_powers_off_stays_off() {
    let (world, controller) = a_running_vm().await;
    let vm = world.vm("web").await.expect("a VM");
    assert!(vm.status.ready);
    world.hosts.guest_powers_off(&name("host-1"), vm.metadata.uuid);
    world.reports(&controller).await;
    let vm = world.vm("web").await.expect("a VM");
    assert_eq!((vm.status.phase, vm.spec.power), (VmPhase::Stopped, PowerState::Stopped));
    assert!(!vm.status.ready);
}

/// Runs a migration up to the n-th call that the hosts get, then lets `happen` happen, and goes on.
async fn migrate_until(call: &'static str, skip: usize, happen: impl Fn(&World)) -> (World, Controller, Name) {
    scenario_until(Scenario::Migrate, call, skip, happen).await
}

async fn scenario_until(
    scenario: Scenario,
    call: &'static str,
    skip: usize,
    happen: impl Fn(&World),
) -> (World, Controller, Name) {
    let (world, operation) = scenario.prepare().await;
    let controller = world.controller().await;
    world.heartbeats(&controller).await;
    // The call is made to fail for as long as it takes to notice that it was made.
    let away = Problem::transient("away", "nobody answers");
    let fault = Fault { skip, times: usize::MAX, ..Fault::once(call, When::After, away) };
    world.hosts.inject(fault);
    let made = world.hosts.calls().iter().filter(|made| made.name == call).count();
    let arrived = async {
        while world.hosts.calls().iter().filter(|made| made.name == call).count() <= made + skip {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        // First, so that the hosts get no further than that.
        biased;
        () = arrived => {}
        _ = gantry_controller::operations::executor::execute(&controller.app, operation.as_str()) => {}
    }
    happen(&world);
    world.hosts.clear_faults();
    (world, controller, operation)
}

#[tokio::test]
async fn a_source_that_dies_while_sending_leaves_the_vm_where_it_was() {
    let (world, controller, operation) =
        migrate_until("migration_report", 1, |world| world.hosts.unplug(&name("host-1"))).await;
    lose_silent_hosts(&world, &controller).await;
    controller.execute(&operation).await;
    assert_eq!(world.operation(operation.as_str()).await.status.phase, OperationPhase::Failed);
    let vm = world.vm("web").await.expect("a VM");
    assert_eq!((vm.status.phase, vm.status.host), (VmPhase::Unknown, Some(name("host-1"))));
    assert!(world.hosts.vms_on(&name("host-3")).is_empty());
    world.hosts.mend(&name("host-1"));
    world.reports(&controller).await;
    assert_eq!(phase(&world).await, VmPhase::Failed);
    world.check().await;
}

#[tokio::test]
async fn a_source_that_falls_silent_while_sending_keeps_the_vm() {
    let (world, controller, operation) =
        migrate_until("migration_report", 1, |world| world.hosts.cut(&name("host-1"))).await;
    lose_silent_hosts(&world, &controller).await;
    controller.execute(&operation).await;
    assert_eq!(world.operation(operation.as_str()).await.status.phase, OperationPhase::Failed);
    world.hosts.mend(&name("host-1"));
    world.hosts.settle();
    world.reports(&controller).await;
    let vm = world.vm("web").await.expect("a VM");
    assert_eq!((vm.status.phase, vm.status.host), (VmPhase::Running, Some(name("host-1"))));
    world.check().await;
}

#[tokio::test]
async fn a_source_that_dies_after_the_destination_committed_does_not_matter() {
    let (world, controller, operation) =
        migrate_until("commit_migration", 0, |world| world.hosts.cut(&name("host-1"))).await;
    lose_silent_hosts(&world, &controller).await;
    controller.execute(&operation).await;
    succeeded(&world.operation(operation.as_str()).await);
    let vm = world.vm("web").await.expect("a VM");
    assert_eq!((vm.status.phase, vm.status.host), (VmPhase::Running, Some(name("host-3"))));
    // It comes back with the guest it had handed over, learns the outcome, and is rid of it.
    world.hosts.mend(&name("host-1"));
    world.hosts.settle();
    world.reports(&controller).await;
    stray_vms::pass(&controller.app).await;
    assert!(world.hosts.vms_on(&name("host-1")).is_empty());
    world.check().await;
}

#[tokio::test]
async fn what_a_vm_has_left_is_cleared_away_where_it_was_placed_again_since() {
    let (world, controller, operation) =
        migrate_until("commit_migration", 0, |world| world.hosts.cut(&name("host-1"))).await;
    lose_silent_hosts(&world, &controller).await;
    controller.execute(&operation).await;
    succeeded(&world.operation(operation.as_str()).await);
    // The host that it went to is lost, and it is to be where it came from before anybody has cleared that up.
    world.hosts.unplug(&name("host-3"));
    let mut vm = world.vm("web").await.expect("a VM");
    (vm.status.host, vm.status.epoch, vm.status.phase) = (Some(name("host-1")), 3, VmPhase::Failed);
    let mut change = gantry_controller::objects::Change::new();
    change.update(&vm).expect("writable");
    controller.write(change).await;
    world.hosts.mend(&name("host-1"));
    world.hosts.mend(&name("host-3"));
    world.hosts.settle();
    assert_eq!(world.hosts.vms_on(&name("host-1")).len(), 1);
    world.reports(&controller).await;
    stray_vms::pass(&controller.app).await;
    assert!(world.hosts.vms_on(&name("host-1")).is_empty());
    world.check().await;
}

#[tokio::test]
async fn a_vm_whose_new_host_is_lost_starts_where_it_came_from_beside_what_it_has_left_there() {
    let (world, controller, operation) = scenario_until(Scenario::MigrateInPool, "commit_migration", 0, |world| {
        world.hosts.cut(&name("host-1"));
    })
    .await;
    lose_silent_hosts(&world, &controller).await;
    controller.execute(&operation).await;
    succeeded(&world.operation(operation.as_str()).await);
    // Its source is back and has not heard what became of it, when the destination is lost.
    world.hosts.mend(&name("host-1"));
    world.reports(&controller).await;
    let left = world.hosts.vms_on(&name("host-1"));
    assert_eq!(left[0].migration.as_ref().map(|report| report.state), Some(MigrationState::Committing));
    world.lose(&controller, "host-3").await;
    let mut vm = world.vm("web").await.expect("a VM");
    assert_eq!((vm.status.host.clone(), vm.status.epoch), (Some(name("host-3")), 2));
    vm.status.phase = VmPhase::Unknown;
    let mut closed = world.host("host-2").await;
    closed.spec.cordoned = true;
    let mut change = gantry_controller::objects::Change::new();
    change.update(&vm).expect("writable").update(&closed).expect("writable");
    controller.write(change).await;

    let restarted = gantry_controller::app::vm::restart_elsewhere(&controller.app, "web").await.expect("accepted");
    controller.execute(&restarted.metadata.name).await;
    succeeded(&world.operation(restarted.metadata.name.as_str()).await);
    let vm = world.vm("web").await.expect("a VM");
    assert_eq!((vm.status.host, vm.status.epoch), (Some(name("host-1")), 3));
    assert_eq!(world.hosts.executing(vm.metadata.uuid), [name("host-1")]);
    world.check().await;
}

#[tokio::test]
async fn during_post_copy_the_vm_is_the_destinations_already_and_the_figures_come_at_the_end() {
    let (world, controller, operation) = scenario_until(Scenario::MigratePostCopy, "apply_networks", 1, |world| {
        let states = |host| world.hosts.vms_on(&name(host))[0].migration.as_ref().map(|report| report.state);
        assert_eq!(states("host-1"), Some(MigrationState::Committing));
        assert_eq!(states("host-3"), Some(MigrationState::Committed));
        // Every host sends the guest's frames to where it runs.
        let port = world.hosts.networks_on(&name("host-3")).networks[0].local[0].clone();
        assert!(port.active);
    })
    .await;
    let vm = world.vm("web").await.expect("a VM");
    assert_eq!((vm.status.host, vm.status.last_migration), (Some(name("host-3")), None));
    controller.execute(&operation).await;
    let ended = world.operation(operation.as_str()).await;
    succeeded(&ended);
    let figures = ended.status.figures.expect("figures");
    assert!(figures.memory_bytes > 0 && figures.from == "host-1" && figures.to == "host-3", "{figures:?}");
    assert_eq!(world.vm("web").await.expect("a VM").status.last_migration, Some(figures));
    world.check().await;
}

#[tokio::test]
async fn a_source_that_never_answers_again_after_the_commit_only_takes_the_figures_with_it() {
    let (world, controller, operation) = scenario_until(Scenario::MigratePostCopy, "commit_migration", 0, |world| {
        world.hosts.cut(&name("host-1"));
    })
    .await;
    // Recorded before anybody has noticed that the source is lost.
    let recorded = async {
        while world.vm("web").await.expect("a VM").status.host != Some(name("host-3")) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = recorded => {}
        _ = gantry_controller::operations::executor::execute(&controller.app, operation.as_str()) => {
            panic!("the source has not been given up");
        }
    }
    lose_silent_hosts(&world, &controller).await;
    controller.execute(&operation).await;
    let ended = world.operation(operation.as_str()).await;
    succeeded(&ended);
    assert_eq!(ended.status.figures, None);
    let vm = world.vm("web").await.expect("a VM");
    assert_eq!((vm.status.phase, vm.status.last_migration), (VmPhase::Running, None));
    world.check().await;
}

#[tokio::test]
async fn a_destination_that_dies_leaves_the_vm_running_at_the_source() {
    let (world, controller, operation) =
        migrate_until("migration_report", 1, |world| world.hosts.unplug(&name("host-3"))).await;
    lose_silent_hosts(&world, &controller).await;
    controller.execute(&operation).await;
    assert_eq!(world.operation(operation.as_str()).await.status.phase, OperationPhase::Failed);
    let vm = world.vm("web").await.expect("a VM");
    assert_eq!((vm.status.phase, vm.status.host), (VmPhase::Running, Some(name("host-1"))));
    world.check().await;
}

/// Puts a VM on a host of which no object knows.
async fn put_ghost(world: &World, host: &str) -> gantry_api::agent::Assignment {
    let ghost: gantry_api::agent::Assignment = serde_json::from_value(serde_json::json!({
        "uuid": uuid::Uuid::now_v7(), "name": "ghost", "epoch": 7, "arch": "x86_64", "cpus": 1, "memory": "64MiB",
        "firmware": "bios", "disk": {"size": "1MiB"}, "nics": [], "power": "running"
    }))
    .expect("an assignment");
    let host = world.hosts.host(&name(host));
    gantry_api::AgentApi::define_vm(&host, &ghost).await.expect("defined");
    ghost
}

fn told(controller: &Controller, reason: &str) -> Vec<gantry_types::EventSpec> {
    let events = controller.app.model.list::<Event>();
    events.iter().filter(|event| event.spec.reason == reason).map(|event| event.spec.clone()).collect()
}

#[tokio::test]
async fn a_vm_that_the_store_knows_nothing_of_is_told_of_once_and_left_alone() {
    let (world, controller) = a_running_vm().await;
    let ghost = put_ghost(&world, "host-2").await;
    for _ in 0..3 {
        world.heartbeats(&controller).await;
        stray_vms::pass(&controller.app).await;
    }
    assert_eq!(world.hosts.vms_on(&name("host-2")).len(), 1);
    let unknown = told(&controller, "UnknownVm");
    assert_eq!(unknown.len(), 1, "{unknown:?}");
    assert_eq!((unknown[0].regarding.uuid, unknown[0].host.clone()), (ghost.uuid, Some(name("host-2"))));
    assert!(unknown[0].message.contains("ghost") && unknown[0].message.contains("backup"), "{}", unknown[0].message);
    // Another controller on the same store does not repeat it.
    let next = world.controller().await;
    world.heartbeats(&next).await;
    stray_vms::pass(&next.app).await;
    assert_eq!((told(&next, "UnknownVm").len(), told(&next, "StrayVmRemoved").len()), (1, 0));
}

#[tokio::test]
async fn what_a_deleted_vm_left_on_a_host_is_removed_and_nothing_else() {
    let (world, controller) = a_running_vm().await;
    let ghost = put_ghost(&world, "host-2").await;
    let operation: gantry_types::Operation = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "vm-delete-1"},
        "spec": {"action": {"action": "vm_delete"}, "target": {"kind": "vm", "name": "ghost", "uuid": ghost.uuid},
                 "requested_by": "token/admin"},
        "status": {"phase": "succeeded"}
    }))
    .expect("an operation as older versions wrote it");
    let mut change = gantry_controller::objects::Change::new();
    change.create(&operation).expect("writable");
    let revision = controller.app.objects.commit(change).await.expect("a store");
    controller.app.model.wait_for(revision).await;
    world.heartbeats(&controller).await;
    stray_vms::pass(&controller.app).await;
    assert!(world.hosts.vms_on(&name("host-2")).is_empty());
    assert_eq!(world.hosts.vms_on(&name("host-1")).len(), 1);
    assert!(told(&controller, "UnknownVm").is_empty());
    world.check().await;
}

async fn delete_web(controller: &Controller, force: bool) -> Name {
    let caller = gantry_controller::Caller::controller();
    let deleted = gantry_controller::app::vm::delete(&controller.app, &caller, "web", force, &Default::default()).await;
    deleted.expect("accepted").operation.expect("an operation").metadata.name
}

#[tokio::test]
async fn a_vm_of_a_lost_host_is_deleted_by_force_and_removed_when_the_host_is_back() {
    let (world, controller) = a_running_vm().await;
    world.hosts.cut(&name("host-1"));
    lose_silent_hosts(&world, &controller).await;
    // Without force it waits, until that is cancelled; then deleting it goes on with force.
    let waiting = delete_web(&controller, false).await;
    let cancel = async {
        while world.operation(waiting.as_str()).await.status.steps[0].attempts < 2 {
            tokio::task::yield_now().await;
        }
        let caller = gantry_controller::Caller::controller();
        gantry_controller::app::operation::cancel(&controller.app, &caller, waiting.as_str(), &Default::default())
            .await
            .expect("asked");
    };
    tokio::join!(cancel, controller.execute(&waiting));
    assert_eq!(world.operation(waiting.as_str()).await.status.phase, OperationPhase::Cancelled);
    assert_eq!(phase(&world).await, VmPhase::Deleting);
    let forced = delete_web(&controller, true).await;
    controller.execute(&forced).await;
    succeeded(&world.operation(forced.as_str()).await);
    assert!(world.vm("web").await.is_none());
    let deleted = told(&controller, "VmDeleted").pop().expect("told");
    assert!(deleted.severity == gantry_types::Severity::Warning && deleted.message.contains("host-1"), "{deleted:?}");
    let network = controller.app.model.get::<gantry_types::Network>("default").expect("a network");
    assert!(network.status.leases.is_empty());
    assert_eq!(world.hosts.vms_on(&name("host-1")).len(), 1);

    world.hosts.mend(&name("host-1"));
    world.reports(&controller).await;
    stray_vms::pass(&controller.app).await;
    assert!(world.hosts.vms_on(&name("host-1")).is_empty());
    world.check().await;
}

#[tokio::test]
async fn force_does_not_spare_a_host_that_answers() {
    let (world, controller) = a_running_vm().await;
    let forced = delete_web(&controller, true).await;
    controller.execute(&forced).await;
    assert!(world.vm("web").await.is_none() && world.hosts.vms_on(&name("host-1")).is_empty());
    assert_eq!(told(&controller, "VmDeleted")[0].severity, gantry_types::Severity::Normal);
    world.check().await;
}

#[tokio::test]
async fn each_host_knows_where_the_others_ports_are() {
    let (world, controller) = a_running_vm().await;
    controller.running("db").await;
    network_distributor::pass(&controller.app, None).await;
    let (first, second) = (world.hosts.networks_on(&name("host-1")), world.hosts.networks_on(&name("host-2")));
    let ports = |networks: &gantry_types::HostNetworks| {
        let network = &networks.networks[0];
        (network.local[0].addresses[0].to_string(), network.remote[0].vtep.to_string(), network.local[0].active)
    };
    assert_eq!(ports(&first), ("10.9.0.2".to_owned(), "10.0.0.2".to_owned(), true));
    assert_eq!(ports(&second), ("10.9.0.3".to_owned(), "10.0.0.1".to_owned(), true));
    // A host without a port has no network.
    assert!(world.hosts.networks_on(&name("host-3")).networks.is_empty());
    // Saying it again changes nothing.
    let generation = first.generation;
    network_distributor::pass(&controller.app, None).await;
    assert_eq!(world.hosts.networks_on(&name("host-1")).generation, generation);
}

#[tokio::test]
async fn a_move_tells_how_long_the_guests_own_clock_stood_still() {
    let (world, operation) = Scenario::Migrate.prepare().await;
    let controller = world.controller().await;
    world.heartbeats(&controller).await;
    let vm = world.vm("web").await.expect("a VM").metadata.uuid;
    let lag_before_ms = 30;
    controller.app.model.overlay_mut(|overlay| {
        let report = overlay.hosts.get_mut("host-1").expect("it reported");
        let metrics = gantry_types::VmMetrics { guest_clock_lag_ms: Some(lag_before_ms), ..Default::default() };
        report.vms.get_mut(&vm).expect("it is there").metrics = Some(metrics);
    });
    controller.execute(&operation).await;
    let figures = world.operation(operation.as_str()).await.status.figures.expect("figures");
    let expected = gantry_hostlink::fake::CLOCK_LAG_MS - lag_before_ms;
    assert_eq!(figures.guest_gap_ms, Some(expected.unsigned_abs()));
}

#[tokio::test]
async fn a_move_that_is_cancelled_at_the_source_ends_as_cancelled() {
    let (world, operation) = Scenario::Migrate.prepare().await;
    let controller = world.controller().await;
    // The source tells of it before the operation knows.
    let cancelled = Problem::conflict("cancelled", "the migration was cancelled");
    world.hosts.inject(Fault::once("send_migration", When::Before, cancelled));
    controller.execute(&operation).await;
    let ended = world.operation(operation.as_str()).await;
    assert_eq!((ended.status.phase, ended.status.error), (OperationPhase::Cancelled, None));
    assert_eq!(phase(&world).await, VmPhase::Running);
    world.check().await;
}
