//! Drain, sleep, wake, reboot and rolling update beyond what every operation is put through: obstacles, refusals, and
//! starts that wait for a host to wake.

use gantry_api::rest::{StopRequest, WriteQuery};
use gantry_controller::{
    Caller,
    app::{cluster, host, host_work, vm},
};
use gantry_types::{
    Event, HostPower, HostState, HostUpdate, Maintenance, OperationPhase, PowerDriverKind, Problem, Resource, Vm,
    VmPhase,
};

use crate::{
    scenarios::Scenario,
    world::{Controller, HOSTS, World, name, succeeded},
};

fn caller() -> Caller {
    Caller::controller()
}
fn now() -> WriteQuery {
    WriteQuery::default()
}

impl World {
    /// Reboots a host, so that it may be put to sleep.
    pub async fn prove_wake(&self, controller: &Controller, host: &str) {
        let mut wired = self.host(host).await;
        wired.spec.power = Some(HostPower { driver: PowerDriverKind::Lab, outlet: None });
        host::put(&controller.app, &caller(), host, wired, &now()).await.expect("wired");
        let reboots = host_work::reboot(&controller.app, &caller(), host, &now()).await.expect("accepted").operation;
        self.drive(controller, &reboots.expect("an operation").metadata.name).await;
        assert!(self.host(host).await.status.wake_proof.is_some());
        // VMs went elsewhere; the scenarios want them where they were.
        for vm in controller.app.model.list::<Vm>() {
            if vm.status.host != Some(name("host-1")) {
                let to = gantry_api::rest::MigrateRequest { to: Some(name("host-1")), ..Default::default() };
                let back = vm::migrate(&controller.app, &caller(), vm.name(), &to, &now()).await.expect("accepted");
                controller.execute(&back.operation.expect("an operation").metadata.name).await;
            }
        }
    }
}

/// How the hosts are after success.
pub async fn expect_hosts(world: &World, scenario: Scenario) {
    for host in HOSTS {
        let host = world.host(host).await;
        assert_eq!(host.status.operation, None, "{scenario:?} {host:?}");
        let is_target = host.name() == "host-1";
        let drained = is_target && scenario == Scenario::HostDrain;
        let expected = if drained { Maintenance::Drained } else { Maintenance::Off };
        assert_eq!((host.status.maintenance, host.spec.cordoned), (expected, drained), "{scenario:?} {host:?}");
        let asleep = is_target && scenario == Scenario::HostSleep;
        let expected = if asleep { HostState::Sleeping } else { HostState::Ready };
        assert_eq!(host.status.state, expected, "{scenario:?} {host:?}");
        assert_eq!(world.power.is_off(&host.metadata.name), asleep, "{scenario:?} {host:?}");
        let rebooted = scenario == Scenario::ClusterUpdate || (is_target && scenario == Scenario::HostReboot);
        assert!(!rebooted || host.status.wake_proof.is_some(), "{scenario:?} {host:?}");
    }
}

/// How they are after a failure or a cancel: nothing is cordoned, and nothing is at work.
pub async fn expect_back_to_work(world: &World) {
    for host in HOSTS {
        let host = world.host(host).await;
        let status = &host.status;
        let expected = (None, Maintenance::Off, false);
        assert_eq!((status.operation.clone(), status.maintenance, host.spec.cordoned), expected, "{host:?}");
    }
}

async fn with_vm() -> (World, Controller) {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    controller.running("web").await;
    world.heartbeats(&controller).await;
    (world, controller)
}

#[tokio::test]
async fn a_drain_names_each_vm_that_is_in_the_way_and_moves_the_rest() {
    let (world, controller) = with_vm().await;
    let app = &controller.app;
    controller.running("other").await;
    controller.running("idle").await;
    // All on host-1: the others are closed for a moment.
    for vm in ["other", "idle"] {
        let to = gantry_api::rest::MigrateRequest { to: Some(name("host-1")), ..Default::default() };
        let moved = vm::migrate(app, &caller(), vm, &to, &now()).await.expect("accepted");
        if let Some(operation) = moved.operation {
            controller.execute(&operation.metadata.name).await;
        }
    }
    let stop = StopRequest { grace_s: 0, force: true };
    let stopped = vm::stop(app, &caller(), "idle", stop, &now()).await.expect("stops").operation.expect("one");
    controller.execute(&stopped.metadata.name).await;
    for vm in ["web", "idle"] {
        let mut pinned = world.vm(vm).await.expect("a VM");
        pinned.spec.host = Some(name("host-1"));
        vm::put(app, &caller(), vm, pinned, &now()).await.expect("pinned");
    }

    let drain = host_work::drain(app, &caller(), "host-1", &now()).await.expect("begins").operation.expect("one");
    let busy = host_work::drain(app, &caller(), "host-1", &now()).await.expect_err("busy");
    assert_eq!(busy.code(), "host-busy");
    world.drive(&controller, &drain.metadata.name).await;
    let ended = world.operation(drain.name()).await;
    let error = ended.status.error.expect("web is in the way");
    assert_eq!((ended.status.phase, error.code()), (OperationPhase::Failed, "drain-obstacles"));
    assert!(error.detail.contains("VM 'web'") && error.detail.contains("spec.host"), "{error}");
    expect_back_to_work(&world).await;

    // Without the pin it works. What does not run goes, too, unless it can't: then it stays and is named with the reason.
    let mut free = world.vm("web").await.expect("a VM");
    free.spec.host = None;
    vm::put(app, &caller(), "web", free, &now()).await.expect("freed");
    let drain = host_work::drain(app, &caller(), "host-1", &now()).await.expect("begins").operation.expect("one");
    world.drive(&controller, &drain.metadata.name).await;
    succeeded(&world.operation(drain.name()).await);
    for (vm, stays) in [("web", false), ("other", false), ("idle", true)] {
        let at = world.vm(vm).await.expect("a VM").status.host;
        assert_eq!(at == Some(name("host-1")), stays, "{vm} is at {at:?}");
    }
    let told = app.model.list::<Event>();
    let drained = told.iter().find(|event| event.spec.reason == "HostDrained").expect("told");
    assert!(drained.spec.message.contains("'idle' (VM 'idle' may only run"), "{}", drained.spec.message);
    let again = host_work::drain(app, &caller(), "host-1", &now()).await.expect("nothing to do");
    assert!(again.operation.is_none());
    host_work::undrain(app, &caller(), "host-1", &now()).await.expect("back to work");
    expect_back_to_work(&world).await;
}

#[tokio::test]
async fn a_drain_moves_stopped_vms_and_a_reboot_leaves_them() {
    let (world, controller) = with_vm().await;
    let app = &controller.app;
    let stop = StopRequest { grace_s: 0, force: true };
    let stopped = vm::stop(app, &caller(), "web", stop, &now()).await.expect("stops").operation.expect("one");
    controller.execute(&stopped.metadata.name).await;
    let at = async || world.vm("web").await.expect("a VM").status.host;

    let reboot = host_work::reboot(app, &caller(), "host-1", &now()).await.expect("begins").operation.expect("one");
    world.drive(&controller, &reboot.metadata.name).await;
    succeeded(&world.operation(reboot.name()).await);
    assert_eq!(at().await, Some(name("host-1")));

    let drain = host_work::drain(app, &caller(), "host-1", &now()).await.expect("begins").operation.expect("one");
    world.drive(&controller, &drain.metadata.name).await;
    succeeded(&world.operation(drain.name()).await);
    let moved_to = at().await.expect("a host");
    assert_ne!(moved_to, name("host-1"));
    assert_eq!(world.on_hosts(), [format!("{moved_to}: web Stopped at epoch 2, content 0, 0 states kept")]);
}

#[tokio::test]
async fn a_host_sleeps_only_if_it_is_proved_that_it_can_be_woken() {
    let (world, controller) = with_vm().await;
    let app = &controller.app;
    let refused = host_work::sleep(app, &caller(), "host-3", &now()).await.expect_err("not proved");
    assert_eq!(refused.code(), "wake-not-proved");
    assert!(refused.remedy.as_deref().is_some_and(|text| text.contains("gantry host reboot host-3")));
    let broken = Problem::permanent("power-refused", "the outlet is broken");
    *world.power.refuse.lock().expect("unpoisoned") = Some(broken);
    let reboot = host_work::reboot(app, &caller(), "host-3", &now()).await.expect("begins").operation.expect("one");
    world.drive(&controller, &reboot.metadata.name).await;
    let ended = world.operation(reboot.name()).await;
    assert_eq!(ended.status.phase, OperationPhase::Failed);
    assert_eq!(world.host("host-3").await.status.wake_proof, None);
    expect_back_to_work(&world).await;
}

#[tokio::test]
async fn a_start_without_room_wakes_a_host_and_waits_for_it() {
    let (world, controller) = with_vm().await;
    let app = &controller.app;
    for host in ["host-2", "host-3"] {
        world.prove_wake(&controller, host).await;
        let sleeps = host_work::sleep(app, &caller(), host, &now()).await.expect("sleeps").operation.expect("one");
        world.drive(&controller, &sleeps.metadata.name).await;
        assert!(world.power.is_off(&name(host)));
    }
    // 4 GiB a host, web has 256 MiB of host-1.
    let big = |vm: &str| {
        let spec = serde_json::json!({"cpus": 1, "memory": "3500MiB", "image": "tiny"});
        Vm::new(name(vm), serde_json::from_value(spec).expect("a spec"))
    };
    for (vm, expected) in [("first", "host-1"), ("second", "host-2"), ("third", "host-3")] {
        let made = vm::create(app, &caller(), big(vm), &now()).await.expect("made").operation.expect("one");
        world.drive(&controller, &made.metadata.name).await;
        succeeded(&world.operation(made.name()).await);
        let at = world.vm(vm).await.expect("a VM").status.host;
        assert_eq!(at, Some(name(expected)), "{vm}");
    }
    let made = vm::create(app, &caller(), big("fourth"), &now()).await.expect("made").operation.expect("one");
    world.drive(&controller, &made.metadata.name).await;
    let error = world.operation(made.name()).await.status.error.expect("there is no room at all");
    assert_eq!(error.code(), "no-host-fits");
    world.check().await;
}

#[tokio::test]
async fn what_an_agent_said_before_its_host_slept_does_not_wake_it() {
    let (world, controller) = with_vm().await;
    let app = &controller.app;
    world.prove_wake(&controller, "host-3").await;
    let late = world.beats(&controller).await.pop().expect("host-3 reports");
    let sleeps = host_work::sleep(app, &caller(), "host-3", &now()).await.expect("sleeps").operation.expect("one");
    world.drive(&controller, &sleeps.metadata.name).await;
    let (host, mut beat) = late;
    beat.sequence += 1_000_000;
    gantry_controller::loops::intake::heartbeat(app, &host, beat).await.expect("taken in");
    assert_eq!(world.host("host-3").await.status.state, HostState::Sleeping);
}

#[tokio::test]
async fn a_rolling_update_stops_at_the_first_host_that_fails() {
    let (world, controller) = with_vm().await;
    let app = &controller.app;
    cluster::ensure_main(&app.objects, &*app.clock).await.expect("made");
    world.power.switch_off(&name("host-2"));
    let mut lost = world.host("host-2").await;
    lost.status.state = HostState::Lost;
    let mut change = gantry_controller::objects::Change::new();
    change.update(&lost).expect("writable");
    let revision = app.objects.commit(change).await.expect("written");
    app.model.wait_for(revision).await;
    let update = cluster::update(app, &caller(), "main", HostUpdate::Reboot, &now()).await.expect("begins");
    let update = update.operation.expect("an operation");
    let busy = cluster::update(app, &caller(), "main", HostUpdate::Reboot, &now()).await.expect_err("busy");
    assert_eq!(busy.code(), "cluster-busy");
    world.drive(&controller, &update.metadata.name).await;
    let error = world.operation(update.name()).await.status.error.expect("host-2 is lost");
    assert!(error.detail.contains("host-2") && error.detail.contains("not ready"), "{error}");
    assert!(world.host("host-1").await.status.wake_proof.is_some(), "host-1 comes first");
    assert!(world.host("host-3").await.status.wake_proof.is_none(), "host-3 is not reached");
    assert_eq!(world.vm("web").await.expect("a VM").status.phase, VmPhase::Running);
}

#[tokio::test]
async fn an_update_by_hand_waits_for_each_agent_to_be_started_anew() {
    let (world, controller) = with_vm().await;
    let app = &controller.app;
    cluster::ensure_main(&app.objects, &*app.clock).await.expect("made");
    let update = cluster::update(app, &caller(), "main", HostUpdate::AwaitRestart, &now()).await.expect("begins");
    let update = update.operation.expect("an operation").metadata.name;
    let by_hand = async {
        for host in HOSTS {
            while world.host(host).await.status.maintenance != Maintenance::Drained {
                tokio::task::yield_now().await;
            }
            world.power.restart_agent(&name(host));
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = world.drive(&controller, &update) => {}
        () = by_hand => {}
    }
    succeeded(&world.operation(update.as_str()).await);
    expect_back_to_work(&world).await;
}

#[tokio::test]
async fn a_host_that_is_worked_on_is_not_deleted_and_not_uncordoned() {
    let (_world, controller) = with_vm().await;
    let app = &controller.app;
    host_work::drain(app, &caller(), "host-1", &now()).await.expect("begins");
    let mut sent = gantry_types::Host::clone(&app.model.get::<gantry_types::Host>("host-1").expect("a host"));
    sent.metadata.revision = 0;
    sent.spec.cordoned = true;
    assert_eq!(host::put(app, &caller(), "host-1", sent, &now()).await.expect_err("busy").code(), "host-busy");
    assert_eq!(host::delete(app, &caller(), "host-1", &now()).await.expect_err("busy").code(), "host-busy");
    assert_eq!(host_work::undrain(app, &caller(), "host-1", &now()).await.expect_err("busy").code(), "host-busy");
}

/// The outlets of these tests are what the real ones are.
#[tokio::test]
async fn the_fake_outlets_conform() {
    let world = World::new().await;
    let controller = world.controller().await;
    let host = world.host("host-2").await;
    let driver = controller.app.power.of(&host).expect("a driver");
    gantry_controller::power::conformance::run(&*driver).await.unwrap_or_else(|why| panic!("{why}"));
    *world.power.refuse.lock().expect("unpoisoned") = Some(Problem::transient("power-strip", "it does not answer"));
    assert!(driver.off().await.is_err());
}
