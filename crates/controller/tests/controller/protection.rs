//! Protected VMs: hosts are told, and what they did is told of.

use gantry_api::rest::WriteQuery;
use gantry_controller::{
    Caller,
    app::vm,
    loops::{intake::heartbeat, protection_distributor},
};
use gantry_hostlink::fake::{Fault, When};
use gantry_types::{Event, HaPolicy, Probe, ProbeKind, ProbeState, ProbeStatus, Problem, Vm, VmPhase};

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

fn probe(kind: ProbeKind, check: &str) -> Probe {
    Probe::new(kind, check.parse().expect("a check"))
}

#[tokio::test]
async fn a_host_is_told_of_probes_and_what_they_say_decides_whether_the_vm_is_ready() {
    let (world, controller) = a_running_vm().await;
    let mut sent = world.vm("web").await.expect("a VM");
    let readiness = probe(ProbeKind::Readiness, "exec:/usr/bin/pg_isready -q");
    sent.spec.probes = vec![readiness.clone()];
    let changed = vm::put(&controller.app, &Caller::controller(), "web", sent, &WriteQuery::default()).await;
    let vm = changed.expect("at any time").object;
    protection_distributor::pass(&controller.app).await;
    let host = vm.status.host.clone().expect("a host");
    assert_eq!(world.hosts.vms_on(&host)[0].ha.probes, std::slice::from_ref(&readiness));
    world.reports(&controller).await;
    let calls = world.hosts.calls().len();
    protection_distributor::pass(&controller.app).await;
    assert_eq!(world.hosts.calls().len(), calls, "a host that knows is not told again");

    let mut seen = Vec::new();
    for state in [ProbeState::Starting, ProbeState::Passing, ProbeState::Failing] {
        let message = (state == ProbeState::Failing).then(|| "/usr/bin/pg_isready ended with status 2".to_owned());
        let said = ProbeStatus { state, message, ..ProbeStatus::new(&readiness) };
        world.hosts.probes_say(&host, vm.metadata.uuid, vec![said.clone()]);
        world.reports(&controller).await;
        let status = world.vm("web").await.expect("a VM").status;
        assert_eq!((status.phase, status.guest_agent, status.probes), (VmPhase::Running, true, vec![said]));
        seen.push(status.ready);
    }
    assert_eq!(seen, [false, true, false]);
    let events = controller.app.model.list::<Event>();
    let told: Vec<_> = events.iter().filter(|event| event.spec.reason == "ProbeFailed").collect();
    assert_eq!(told.len(), 1);
    assert!(told[0].spec.message.ends_with("fails on host 'host-1': /usr/bin/pg_isready ended with status 2"));
    world.check().await;
}

#[tokio::test]
async fn probes_that_can_not_work_are_refused_and_change_nothing() {
    let (world, controller) = a_running_vm().await;
    let mut sent = world.vm("web").await.expect("a VM");
    let mut endless = probe(ProbeKind::Liveness, "exec:/bin/true");
    (endless.timeout_s, endless.success_threshold) = (0, 2);
    sent.spec.probes = vec![endless, probe(ProbeKind::Liveness, "http://wan:80/")];
    let refused = vm::put(&controller.app, &Caller::controller(), "web", sent, &WriteQuery::default()).await;
    let fields: Vec<_> = refused.expect_err("refused").fields.into_iter().map(|field| field.field).collect();
    let expected = ["spec.probes[0].timeout_s", "spec.probes[0].success_threshold", "spec.probes[1].check"];
    assert_eq!(fields, expected);
    assert_eq!(world.vm("web").await.expect("a VM").spec.probes, []);
}

#[tokio::test]
async fn a_watchdog_comes_and_goes_only_while_the_vm_is_stopped() {
    let (world, controller) = a_running_vm().await;
    let mut sent = world.vm("web").await.expect("a VM");
    sent.spec.ha.watchdog = true;
    let refused = vm::put(&controller.app, &Caller::controller(), "web", sent, &WriteQuery::default()).await;
    let refused = refused.expect_err("it runs");
    assert_eq!((refused.code(), refused.fields[0].field.as_str()), ("vm-not-stopped", "spec.ha.watchdog"));
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
