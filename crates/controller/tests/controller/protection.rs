//! Protected VMs: hosts are told, and what they did is told of.

use gantry_api::rest::WriteQuery;
use gantry_controller::{
    Caller,
    app::vm,
    loops::{intake::heartbeat, protection_distributor},
};
use gantry_hostlink::fake::{Fault, When};
use gantry_types::{Event, HaPolicy, Problem, Vm, VmPhase};

use crate::world::{Controller, World, name};

async fn a_running_vm() -> (World, Controller) {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    controller.running("web").await;
    world.reports(&controller).await;
    (world, controller)
}

async fn protect(world: &World, controller: &Controller) -> Vm {
    let mut sent = world.vm("web").await.expect("a VM");
    sent.spec.ha.policy = HaPolicy::Restart;
    let changed = vm::put(&controller.app, &Caller::controller(), "web", sent, &WriteQuery::default()).await;
    let changed = changed.expect("at any time");
    assert_eq!(changed.operation, None);
    changed.object
}

fn on_host(world: &World, vm: &Vm) -> HaPolicy {
    world.hosts.vms_on(vm.status.host.as_ref().expect("a host"))[0].ha.spec.policy
}

#[tokio::test]
async fn a_host_is_told_of_a_vms_protection_until_it_knows_it() {
    let (world, controller) = a_running_vm().await;
    let vm = protect(&world, &controller).await;
    let lost = Problem::transient("lost", "the answer was lost");
    world.hosts.inject(Fault::once("protect_vm", When::Before, lost.clone()));
    protection_distributor::pass(&controller.app).await;
    assert_eq!(on_host(&world, &vm), HaPolicy::None);
    world.hosts.inject(Fault::once("protect_vm", When::After, lost));
    for _ in 0..2 {
        protection_distributor::pass(&controller.app).await;
        assert_eq!(on_host(&world, &vm), HaPolicy::Restart);
    }
    world.reports(&controller).await;
    let calls = world.hosts.calls().len();
    protection_distributor::pass(&controller.app).await;
    assert_eq!(world.hosts.calls().len(), calls, "a host that knows is not told again");
    world.check().await;
}

#[tokio::test]
async fn a_restart_by_the_host_is_told_once_and_a_late_report_takes_nothing_back() {
    let (world, controller) = a_running_vm().await;
    let vm = protect(&world, &controller).await;
    let host = vm.status.host.clone().expect("a host");
    let late = world.beats(&controller).await;
    world.hosts.guest_is_restarted(&host, vm.metadata.uuid, "the guest's kernel panicked");
    world.reports(&controller).await;
    for (host, beat) in late {
        heartbeat(&controller.app, &host, beat).await.expect("ignored");
    }
    let now = world.vm("web").await.expect("a VM");
    assert_eq!((now.status.phase, now.status.ha.restarts), (VmPhase::Running, 1));
    assert_eq!(now.status.ha.last_cause.as_deref(), Some("the guest's kernel panicked"));
    let events = controller.app.model.list::<Event>();
    let told: Vec<_> = events.iter().filter(|event| event.spec.reason == "VmRestarted").collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].spec.message, "VM 'web' was started again by host 'host-1': the guest's kernel panicked");
    assert_eq!(told[0].spec.host, Some(name("host-1")));
}

#[tokio::test]
async fn limits_that_make_no_sense_are_refused() {
    let (world, controller) = a_running_vm().await;
    let mut sent = world.vm("web").await.expect("a VM");
    (sent.spec.ha.restarts_per_hour, sent.spec.ha.hang_s) = (0, 5);
    let refused = vm::put(&controller.app, &Caller::controller(), "web", sent, &WriteQuery::default()).await;
    let fields: Vec<_> = refused.expect_err("refused").fields.into_iter().map(|field| field.field).collect();
    assert_eq!(fields, ["spec.ha.restarts_per_hour", "spec.ha.hang_s"]);
}
