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
async fn during_post_copy_the_vm_is_the_destinations_already_and_the_figures_come_at_the_end() {
    let (world, controller, operation) = scenario_until(Scenario::MigratePostCopy, "check_liveness", 0, |world| {
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

#[tokio::test]
async fn what_a_forgotten_vm_left_on_a_host_is_removed_and_nothing_else() {
    let (world, controller) = a_running_vm().await;
    let stray: gantry_api::agent::Assignment = serde_json::from_value(serde_json::json!({
        "uuid": uuid::Uuid::now_v7(), "name": "ghost", "epoch": 7, "arch": "x86_64", "cpus": 1, "memory": "64MiB",
        "firmware": "bios", "disk": {"size": "1MiB"}, "nics": [], "power": "running"
    }))
    .expect("an assignment");
    let host = world.hosts.host(&name("host-2"));
    gantry_api::AgentApi::define_vm(&host, &stray).await.expect("defined");
    world.heartbeats(&controller).await;
    stray_vms::pass(&controller.app).await;
    assert!(world.hosts.vms_on(&name("host-2")).is_empty());
    assert_eq!(world.hosts.vms_on(&name("host-1")).len(), 1);
    world.check().await;
}

#[tokio::test]
async fn each_host_knows_where_the_others_ports_are() {
    let (world, controller) = a_running_vm().await;
    controller.running("db").await;
    network_distributor::pass(&controller.app).await;
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
    network_distributor::pass(&controller.app).await;
    assert_eq!(world.hosts.networks_on(&name("host-1")).generation, generation);
}
