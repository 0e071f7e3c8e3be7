//! Hosts that are shut out, and what becomes of their protected VMs: never twice, and again as soon as that is certain.

use std::time::Duration;

use gantry_api::AgentApi;
use gantry_api::agent::{PowerAction, PowerRequest};
use gantry_api::rest::{FenceRequest, WriteQuery};
use gantry_controller::{
    Caller,
    app::{cluster, fence, vm},
    loops::{cluster_keeper, failover, host_failure_detector, host_fencer},
};
use gantry_types::{
    Event, FenceProofKind, HaPolicy, Host, HostFence, Operation, PoolHealth, Priority, Probe, ProbeKind, ProbeState,
    ProbeStatus, Problem, Role, Vm, VmPhase,
};

use crate::world::{Controller, World, name};

fn query() -> WriteQuery {
    WriteQuery::default()
}

/// Three hosts that go by the same members, and power only where it is asked for.
async fn cluster_of_three() -> (World, Controller) {
    let world = World::new().await;
    let controller = world.controller().await;
    *world.power.absent.lock().expect("unpoisoned") = true;
    cluster::ensure_main(&controller.app.objects, &*controller.app.clock).await.expect("made");
    controller.import().await;
    controller.shared_pool("nas").await;
    for _ in 0..2 {
        world.heartbeats(&controller).await;
        cluster_keeper::pass(&controller.app).await.expect("a store");
    }
    world.reports(&controller).await;
    (world, controller)
}

async fn protect(world: &World, controller: &Controller, vm: &str, priority: Priority) {
    let mut sent = world.vm(vm).await.expect("a VM");
    (sent.spec.ha.policy, sent.spec.ha.priority) = (HaPolicy::Restart, priority);
    vm::put(&controller.app, &Caller::controller(), vm, sent, &query()).await.expect("at any time");
    gantry_controller::loops::protection_distributor::pass(&controller.app).await;
    world.reports(controller).await;
    assert!(world.vm(vm).await.expect("a VM").status.is_guarded());
}

/// A protected VM on host-1, its disk where all hosts reach it or not.
async fn protected(world: &World, controller: &Controller, vm: &str, pool: Option<&str>) {
    let operation = controller.create_in(vm, pool).await;
    controller.execute(&operation).await;
    world.reports(controller).await;
    protect(world, controller, vm, Priority::Medium).await;
}

async fn web(world: &World) -> Vm {
    world.vm("web").await.expect("a VM")
}

async fn cordon(world: &World, controller: &Controller, host: &str, cordoned: bool) {
    let mut sent = world.host(host).await;
    sent.spec.cordoned = cordoned;
    let changed = gantry_controller::app::host::put(&controller.app, &Caller::controller(), host, sent, &query()).await;
    changed.expect("done");
}

async fn fence_of(world: &World, host: &str) -> Option<HostFence> {
    world.host(host).await.status.fence
}

/// One round of everything that shuts hosts out.
async fn turn(controller: &Controller) {
    host_fencer::pass(&controller.app).await.expect("a store");
    for host in controller.app.model.list::<Host>() {
        if let Some(fence) = host.status.fence.clone().filter(|fence| fence.proof.is_none()) {
            host_fencer::store(&controller.app, &host, &fence).await;
            host_fencer::switch_off(&controller.app, &host, &fence).await;
        }
    }
    host_fencer::pass(&controller.app).await.expect("a store");
    host_fencer::pass(&controller.app).await.expect("a store");
}

async fn lose(world: &World, controller: &Controller, host: &str) {
    world.hosts.cut(&name(host));
    world.clock.advance(Duration::from_secs(5));
    world.heartbeats(controller).await;
    host_failure_detector::pass(&controller.app, Duration::ZERO).await.expect("a store");
}

/// Runs every operation that was begun.
async fn carry_out(controller: &Controller) {
    for operation in controller.app.model.list::<Operation>() {
        if !operation.status.phase.is_finished() {
            controller.execute(&operation.metadata.name).await;
        }
    }
}

async fn fail_over(controller: &Controller, memory: &mut failover::Memory) {
    failover::pass(&controller.app, memory).await.expect("a store");
    carry_out(controller).await;
}

fn reasons(controller: &Controller) -> Vec<String> {
    controller.app.model.list::<Event>().iter().map(|event| event.spec.reason.clone()).collect()
}

async fn by_hand(controller: &Controller, host: &str) -> Result<Host, Problem> {
    let request = FenceRequest { why: "smoke".to_owned() };
    let fenced = fence::fence(&controller.app, &Caller::controller(), host, request, &query()).await;
    fenced.map(|changed| changed.object)
}

#[tokio::test]
async fn a_protected_vm_of_a_lost_host_starts_elsewhere_after_the_proof_and_not_before() {
    let (world, controller) = cluster_of_three().await;
    protected(&world, &controller, "web", Some("nas")).await;
    let uuid = web(&world).await.metadata.uuid;
    let mut memory = failover::Memory::default();
    lose(&world, &controller, "host-1").await;
    turn(&controller).await;
    let fence = fence_of(&world, "host-1").await.expect("it is being shut out");
    assert_eq!((fence.record.by.as_str(), fence.proof), ("controller", None));
    for member in ["host-2", "host-3"] {
        assert_eq!(world.hosts.records_on(&name(member)).len(), 1, "{member}");
    }
    fail_over(&controller, &mut memory).await;
    assert_eq!(
        (web(&world).await.status.phase, web(&world).await.status.host),
        (VmPhase::Unknown, Some(name("host-1")))
    );
    assert_eq!(world.hosts.executing(uuid), [name("host-1")], "its host still runs it");

    // By its own clock it stops it before the controller counts on that.
    world.hosts.lease_ends(&name("host-1"));
    world.clock.advance(Duration::from_secs(5));
    turn(&controller).await;
    let proof = fence_of(&world, "host-1").await.and_then(|fence| fence.proof).expect("a proof");
    assert_eq!(proof.kind, FenceProofKind::LeaseOver);
    assert_eq!(web(&world).await.status.displaced.expect("displaced").from, name("host-1"));
    fail_over(&controller, &mut memory).await;
    let now = web(&world).await.status;
    assert_eq!((now.phase, now.host, now.epoch, now.displaced), (VmPhase::Running, Some(name("host-2")), 2, None));
    for told in ["HostFencing", "HostFenced", "VmDisplaced", "VmRunsAgain"] {
        assert!(reasons(&controller).contains(&told.to_owned()), "{told}: {:?}", reasons(&controller));
    }

    // Back again it hears of the fence first, stops what it has, and is let in; orders from before count no more.
    world.hosts.mend(&name("host-1"));
    let late = world.hosts.host(&name("host-1")).knowing_lifted(0);
    for _ in 0..3 {
        world.heartbeats(&controller).await;
        turn(&controller).await;
    }
    assert_eq!(fence_of(&world, "host-1").await, None);
    assert!(reasons(&controller).contains(&"HostFenceLifted".to_owned()));
    assert!(world.hosts.records_on(&name("host-2")).is_empty());
    let start = PowerRequest { epoch: 9, command: u64::MAX, action: PowerAction::Start };
    assert_eq!(late.power(uuid, &start).await.expect_err("old").code(), "stale-fence");
    world.reports(&controller).await;
    gantry_controller::loops::stray_vms::pass(&controller.app).await;
    world.check().await;
    assert_eq!(world.on_hosts().len(), 1, "{:?}", world.on_hosts());
}

#[tokio::test]
async fn a_vm_that_fails_and_is_to_start_elsewhere_does_or_where_it_was_if_it_has_to() {
    for (pool, expected) in [(Some("nas"), ("host-2", 2)), (None, ("host-1", 1))] {
        let (world, controller) = cluster_of_three().await;
        protected(&world, &controller, "web", pool).await;
        let vm = web(&world).await;
        world.hosts.guest_is_left_to_others(&name("host-1"), vm.metadata.uuid, "the guest's kernel panicked");
        // One report may be from before.
        for _ in 0..2 {
            world.reports(&controller).await;
        }
        assert_eq!(web(&world).await.status.phase, VmPhase::Failed);
        let mut memory = failover::Memory::default();
        fail_over(&controller, &mut memory).await;
        let now = web(&world).await.status;
        let at = now.host.as_ref().map_or("none", |host| host.as_str());
        assert_eq!((now.phase, (at, now.epoch), now.displaced), (VmPhase::Running, expected, None));
        let events = controller.app.model.list::<Event>();
        let told = events.iter().find(|event| event.spec.reason == "VmRunsAgain").expect("told");
        let message = format!("VM 'web' runs again on host '{}'; it had failed on host 'host-1'", expected.0);
        assert_eq!(told.spec.message, message);

        world.reports(&controller).await;
        gantry_controller::loops::stray_vms::pass(&controller.app).await;
        fail_over(&controller, &mut memory).await;
        assert_eq!(world.on_hosts().len(), 1, "{:?}", world.on_hosts());
        assert_eq!(web(&world).await.status.epoch, expected.1);
        world.check().await;
    }
}

#[tokio::test]
async fn restarts_elsewhere_are_limited_within_an_hour_whatever_becomes_of_the_controller() {
    let (world, mut controller) = cluster_of_three().await;
    protected(&world, &controller, "web", Some("nas")).await;
    let mut sent = web(&world).await;
    sent.spec.ha.restarts_per_hour = 2;
    vm::put(&controller.app, &Caller::controller(), "web", sent, &query()).await.expect("at any time");
    let fails_again = async |controller: &Controller| {
        let vm = web(&world).await;
        world.reports(controller).await;
        world.hosts.guest_is_left_to_others(&vm.status.host.expect("a host"), vm.metadata.uuid, "port 80 is closed");
        for _ in 0..2 {
            world.reports(controller).await;
        }
        // Longer than any pause.
        world.clock.advance(Duration::from_secs(400));
        fail_over(controller, &mut failover::Memory::default()).await;
        web(&world).await.status
    };
    for count in 1..=2 {
        let now = fails_again(&controller).await;
        assert_eq!((now.phase, now.failovers.len()), (VmPhase::Running, count));
        drop(controller);
        controller = world.controller().await;
    }
    let now = fails_again(&controller).await;
    assert_eq!((now.phase, now.failovers.len()), (VmPhase::Failed, 2));
    let waits = now.displaced.expect("displaced").waits.expect("it waits");
    assert_eq!(waits, "it was tried as often as it may be within an hour");

    // Whoever starts it takes that on himself; otherwise the hour passes.
    let admin = Caller::token("ann", Role::Admin);
    vm::start(&controller.app, &admin, "web", &query()).await.expect("accepted");
    carry_out(&controller).await;
    assert_eq!((web(&world).await.status.phase, web(&world).await.status.failovers.len()), (VmPhase::Running, 0));
    for count in 1..=2 {
        assert_eq!(fails_again(&controller).await.failovers.len(), count);
    }
    assert_eq!(fails_again(&controller).await.phase, VmPhase::Failed);
    world.clock.advance(Duration::from_secs(3600));
    fail_over(&controller, &mut failover::Memory::default()).await;
    assert_eq!(web(&world).await.status.phase, VmPhase::Running);
    world.check().await;
}

#[tokio::test]
async fn a_clock_that_is_put_on_or_back_neither_holds_a_start_elsewhere_up_nor_forgets_it() {
    let (world, controller) = cluster_of_three().await;
    protected(&world, &controller, "web", Some("nas")).await;
    let mut sent = web(&world).await;
    sent.spec.ha.restarts_per_hour = 2;
    vm::put(&controller.app, &Caller::controller(), "web", sent, &query()).await.expect("at any time");
    let mut memory = failover::Memory::default();
    let fails_again = async |memory: &mut failover::Memory| {
        let vm = web(&world).await;
        world.reports(&controller).await;
        world.hosts.guest_is_left_to_others(&vm.status.host.expect("a host"), vm.metadata.uuid, "port 80 is closed");
        for _ in 0..2 {
            world.reports(&controller).await;
        }
        // Longer than the first pause, which counts from the attempt before.
        world.clock.advance(Duration::from_secs(10));
        fail_over(&controller, memory).await;
        web(&world).await.status
    };
    assert_eq!(fails_again(&mut memory).await.phase, VmPhase::Running);
    let hour_ms = 3_600_000;
    world.clock.step(-2 * hour_ms);
    assert_eq!(fails_again(&mut memory).await.phase, VmPhase::Running, "it was tried once, ten seconds ago");
    world.clock.step(4 * hour_ms);
    let now = fails_again(&mut memory).await;
    assert_eq!((now.phase, now.failovers.len()), (VmPhase::Failed, 2), "it was tried twice within the hour");

    // Another controller has only what is written down, which is of a time to come: it waits, but not for that time.
    world.clock.step(-4 * hour_ms);
    let mut memory = failover::Memory::default();
    fail_over(&controller, &mut memory).await;
    assert_eq!(web(&world).await.status.phase, VmPhase::Failed);
    world.clock.advance(Duration::from_secs(3_600));
    fail_over(&controller, &mut memory).await;
    assert_eq!(web(&world).await.status.phase, VmPhase::Running);
    world.check().await;
}

#[tokio::test]
async fn a_vm_that_was_not_known_to_be_guarded_when_its_host_was_shut_out_starts_again_when_that_is_back() {
    let (world, controller) = cluster_of_three().await;
    protected(&world, &controller, "web", Some("nas")).await;
    // As right after its start: its host has not said yet that it guards it.
    let mut vm = web(&world).await;
    vm.status.guarded_epoch = None;
    let mut change = gantry_controller::objects::Change::new();
    change.update(&vm).expect("writable");
    controller.write(change).await;
    lose(&world, &controller, "host-1").await;
    by_hand(&controller, "host-1").await.expect("accepted");
    world.hosts.lease_ends(&name("host-1"));
    turn(&controller).await;
    world.clock.advance(Duration::from_secs(5));
    turn(&controller).await;
    assert!(fence_of(&world, "host-1").await.is_some_and(|fence| fence.proof.is_some()));
    let mut memory = failover::Memory::default();
    fail_over(&controller, &mut memory).await;
    assert_eq!(web(&world).await.status.phase, VmPhase::Unknown, "nobody has said that it ends with the lease");

    world.hosts.mend(&name("host-1"));
    for _ in 0..4 {
        world.heartbeats(&controller).await;
        turn(&controller).await;
    }
    assert_eq!(fence_of(&world, "host-1").await, None);
    fail_over(&controller, &mut memory).await;
    assert_eq!(web(&world).await.status.phase, VmPhase::Running);
    world.reports(&controller).await;
    gantry_controller::loops::stray_vms::pass(&controller.app).await;
    world.check().await;
}

async fn pool_is(world: &World, controller: &Controller, hosts: &[&str], health: PoolHealth) {
    let pool = world.pools().await.into_iter().find(|pool| pool.metadata.name == name("nas")).expect("a pool");
    for host in hosts {
        let fault = (health != PoolHealth::Healthy).then_some(health);
        world.hosts.change_pool(&name(host), pool.metadata.uuid, fault, None);
    }
    world.reports(controller).await;
}

#[tokio::test]
async fn a_vm_whose_host_has_lost_its_pool_is_given_up_once_another_host_that_has_it_can_take_it() {
    let (world, controller) = cluster_of_three().await;
    protected(&world, &controller, "web", Some("nas")).await;
    let uuid = web(&world).await.metadata.uuid;
    let everywhere = ["host-1", "host-2", "host-3"];
    pool_is(&world, &controller, &everywhere, PoolHealth::Missing).await;
    world.hosts.strand(&name("host-1"), uuid, "pool 'nas' is missing on its host");
    for _ in 0..2 {
        world.reports(&controller).await;
    }
    let vm = web(&world).await;
    assert!(vm.status.ha.stranded && reasons(&controller).contains(&"VmStranded".to_owned()), "{:?}", vm.status.ha);
    assert_eq!(world.hosts.executing(uuid), [name("host-1")], "nobody has the pool, so it stays");

    // The host with most room has the pool again only at last.
    cordon(&world, &controller, "host-3", true).await;
    pool_is(&world, &controller, &["host-3"], PoolHealth::Healthy).await;
    world.reports(&controller).await;
    assert_eq!(world.hosts.executing(uuid), [name("host-1")], "who has it takes no VMs");
    cordon(&world, &controller, "host-3", false).await;
    world.reports(&controller).await;
    assert_eq!(world.hosts.executing(uuid), [], "it is given up");
    world.reports(&controller).await;
    let mut memory = failover::Memory::default();
    fail_over(&controller, &mut memory).await;
    let now = web(&world).await.status;
    assert_eq!((now.phase, now.host, now.epoch), (VmPhase::Running, Some(name("host-3")), 2));
    for told in ["VmDisplaced", "VmRunsAgain"] {
        assert!(reasons(&controller).contains(&told.to_owned()), "{told}: {:?}", reasons(&controller));
    }
    world.reports(&controller).await;
    gantry_controller::loops::stray_vms::pass(&controller.app).await;
    assert_eq!(world.hosts.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_vm_that_was_given_up_waits_for_its_pool_if_the_other_hosts_have_lost_it_meanwhile() {
    let (world, controller) = cluster_of_three().await;
    protected(&world, &controller, "web", Some("nas")).await;
    let uuid = web(&world).await.metadata.uuid;
    pool_is(&world, &controller, &["host-1"], PoolHealth::Missing).await;
    world.hosts.strand(&name("host-1"), uuid, "pool 'nas' is missing on its host");
    world.reports(&controller).await;
    world.reports(&controller).await;
    assert_eq!(world.hosts.executing(uuid), []);
    pool_is(&world, &controller, &["host-2", "host-3"], PoolHealth::Missing).await;
    let mut memory = failover::Memory::default();
    fail_over(&controller, &mut memory).await;
    let waits = web(&world).await.status.displaced.and_then(|displaced| displaced.waits).expect("it waits");
    assert!(waits.contains("no other host can take it, and host 'host-1' does not reach pool 'nas'"), "{waits}");
    // Where it comes back first it runs again.
    pool_is(&world, &controller, &["host-1"], PoolHealth::Healthy).await;
    fail_over(&controller, &mut memory).await;
    let now = web(&world).await.status;
    assert_eq!((now.phase, now.host, now.displaced), (VmPhase::Running, Some(name("host-1")), None));
    world.check().await;
}

#[tokio::test]
async fn without_a_majority_nothing_is_proved_however_long_it_takes() {
    let (world, controller) = cluster_of_three().await;
    protected(&world, &controller, "web", Some("nas")).await;
    lose(&world, &controller, "host-2").await;
    lose(&world, &controller, "host-3").await;
    lose(&world, &controller, "host-1").await;
    for _ in 0..5 {
        turn(&controller).await;
        world.clock.advance(Duration::from_secs(60));
    }
    assert_eq!(fence_of(&world, "host-1").await.expect("begun").proof, None);
    world.hosts.mend(&name("host-2"));
    turn(&controller).await;
    assert_eq!(fence_of(&world, "host-1").await.expect("begun").proof, None, "its word counts from now");
    world.clock.advance(Duration::from_secs(5));
    world.hosts.lease_ends(&name("host-1"));
    turn(&controller).await;
    assert!(fence_of(&world, "host-1").await.expect("begun").proof.is_some());
}

#[tokio::test]
async fn a_controller_that_starts_anew_asks_again_and_counts_from_then() {
    let (world, controller) = cluster_of_three().await;
    protected(&world, &controller, "web", Some("nas")).await;
    lose(&world, &controller, "host-1").await;
    turn(&controller).await;
    world.clock.advance(Duration::from_secs(5));
    drop(controller);
    let controller = world.controller().await;
    turn(&controller).await;
    assert_eq!(fence_of(&world, "host-1").await.expect("known").proof, None);
    world.heartbeats(&controller).await;
    world.clock.advance(Duration::from_secs(5));
    world.hosts.lease_ends(&name("host-1"));
    turn(&controller).await;
    assert!(fence_of(&world, "host-1").await.expect("known").proof.is_some());
}

#[tokio::test]
async fn power_that_is_seen_off_is_the_faster_proof_and_a_host_shut_out_by_hand_is_switched_off() {
    let (world, controller) = cluster_of_three().await;
    *world.power.absent.lock().expect("unpoisoned") = false;
    protected(&world, &controller, "web", Some("nas")).await;
    let fenced = by_hand(&controller, "host-1").await.expect("accepted");
    assert!(fenced.spec.cordoned && fenced.status.fence.is_some_and(|fence| fence.power_off));
    turn(&controller).await;
    let proof = fence_of(&world, "host-1").await.and_then(|fence| fence.proof).expect("a proof");
    assert!(proof.kind == FenceProofKind::PowerOff && world.power.is_off(&name("host-1")));
    fail_over(&controller, &mut failover::Memory::default()).await;
    assert_eq!(web(&world).await.status.host, Some(name("host-2")));
    let again = by_hand(&controller, "host-1").await.expect("it is already");
    assert!(again.status.fence.is_some_and(|fence| fence.proof.is_some()));

    // A plug that was pulled: the record, and then the look at its power.
    world.reports(&controller).await;
    assert!(web(&world).await.status.is_guarded());
    world.power.switch_off(&name("host-2"));
    lose(&world, &controller, "host-2").await;
    turn(&controller).await;
    let fence = fence_of(&world, "host-2").await.expect("begun");
    assert_eq!(fence.record.by, "controller");
    assert_eq!(fence.proof.expect("a proof").kind, FenceProofKind::PowerOff);
}

#[tokio::test]
async fn a_host_that_is_alive_says_itself_that_it_is_clean_and_its_own_vms_start_there_again() {
    let (world, controller) = cluster_of_three().await;
    protected(&world, &controller, "web", None).await;
    let uuid = web(&world).await.metadata.uuid;
    by_hand(&controller, "host-1").await.expect("accepted");
    let mut memory = failover::Memory::default();
    turn(&controller).await;
    // It hears of the fence and stops what it guards; then it says so.
    world.heartbeats(&controller).await;
    assert_eq!(world.hosts.executing(uuid), []);
    world.heartbeats(&controller).await;
    let proof = fence_of(&world, "host-1").await.and_then(|fence| fence.proof).expect("a proof");
    assert_eq!(proof.kind, FenceProofKind::Acknowledged);
    turn(&controller).await;
    fail_over(&controller, &mut memory).await;
    let waits = web(&world).await.status.displaced.expect("displaced").waits.expect("it waits");
    assert_eq!(waits, "no other host reaches its disk; host 'host-1' starts it when it is back");
    world.heartbeats(&controller).await;
    assert_eq!(fence_of(&world, "host-1").await, None);
    fail_over(&controller, &mut memory).await;
    let now = web(&world).await.status;
    assert_eq!((now.phase, now.host, now.displaced), (VmPhase::Running, Some(name("host-1")), None));
    world.check().await;
}

#[tokio::test]
async fn the_more_important_come_first_and_what_finds_no_room_says_so() {
    let (world, controller) = cluster_of_three().await;
    for host in ["host-2", "host-3"] {
        cordon(&world, &controller, host, true).await;
    }
    for (vm, priority) in [("batch", Priority::Low), ("web", Priority::High)] {
        protected(&world, &controller, vm, Some("nas")).await;
        protect(&world, &controller, vm, priority).await;
    }
    let mut memory = failover::Memory::default();
    lose(&world, &controller, "host-1").await;
    turn(&controller).await;
    world.hosts.lease_ends(&name("host-1"));
    world.clock.advance(Duration::from_secs(5));
    turn(&controller).await;
    fail_over(&controller, &mut memory).await;
    let waits = |vm: Vm| vm.status.displaced.expect("displaced").waits.expect("it waits");
    let (first, second) = (waits(web(&world).await), waits(world.vm("batch").await.expect("a VM")));
    assert!(first.starts_with("no host can take VM 'web'") && first.contains("cordoned"), "{first}");
    assert_eq!(second, "VM 'web' has a higher priority and is not ready yet");

    // Room for both: one after the other.
    cordon(&world, &controller, "host-2", false).await;
    for _ in 0..2 {
        fail_over(&controller, &mut memory).await;
        assert_eq!(web(&world).await.status.phase, VmPhase::Running);
        assert_eq!(world.vm("batch").await.expect("a VM").status.phase, VmPhase::Failed);
    }
    // It runs and does not serve yet: what is below it waits on.
    let (uuid, host) = (web(&world).await.metadata.uuid, name("host-2"));
    let said = |state| {
        let probe = Probe::new(ProbeKind::Readiness, "exec:/usr/bin/pg_isready".parse().expect("a check"));
        vec![ProbeStatus { state, ..ProbeStatus::new(&probe) }]
    };
    world.hosts.probes_say(&host, uuid, said(ProbeState::Starting));
    world.reports(&controller).await;
    fail_over(&controller, &mut memory).await;
    assert!(!web(&world).await.status.ready);
    let waits = waits(world.vm("batch").await.expect("a VM"));
    assert_eq!(waits, "VM 'web' has a higher priority and is not ready yet");
    world.hosts.probes_say(&host, uuid, said(ProbeState::Passing));
    world.reports(&controller).await;
    fail_over(&controller, &mut memory).await;
    assert_eq!(world.vm("batch").await.expect("a VM").status.phase, VmPhase::Running);
    world.check().await;
}

#[tokio::test]
async fn what_it_depends_on_is_ready_before_it_starts() {
    let (world, controller) = cluster_of_three().await;
    for host in ["host-2", "host-3"] {
        cordon(&world, &controller, host, true).await;
    }
    for vm in ["db", "web"] {
        protected(&world, &controller, vm, Some("nas")).await;
    }
    cordon(&world, &controller, "host-2", false).await;
    let mut sent = web(&world).await;
    sent.spec.ha.depends_on = vec![name("db"), name("nobody"), name("db")];
    let refused = vm::put(&controller.app, &Caller::controller(), "web", sent.clone(), &query()).await;
    assert_eq!(refused.expect_err("twice").fields[0].field, "spec.ha.depends_on[2]");
    sent.spec.ha.depends_on.pop();
    vm::put(&controller.app, &Caller::controller(), "web", sent, &query()).await.expect("at any time");
    let mut memory = failover::Memory::default();
    lose(&world, &controller, "host-1").await;
    turn(&controller).await;
    world.hosts.lease_ends(&name("host-1"));
    world.clock.advance(Duration::from_secs(5));
    turn(&controller).await;
    for _ in 0..2 {
        fail_over(&controller, &mut memory).await;
        assert_eq!(world.vm("db").await.expect("a VM").status.phase, VmPhase::Running);
        let waits = web(&world).await.status.displaced.expect("displaced").waits;
        assert_eq!(waits.as_deref(), Some("VM 'db' is not ready yet"));
    }
    world.reports(&controller).await;
    fail_over(&controller, &mut memory).await;
    assert_eq!(web(&world).await.status.phase, VmPhase::Running);
    world.check().await;
}

#[tokio::test]
async fn what_its_host_has_not_confirmed_to_guard_stays_where_it_is() {
    let (world, controller) = cluster_of_three().await;
    let operation = controller.create_in("web", Some("nas")).await;
    controller.execute(&operation).await;
    world.reports(&controller).await;
    lose(&world, &controller, "host-1").await;
    // Too late: its host will not hear of it.
    let mut sent = web(&world).await;
    sent.spec.ha.policy = HaPolicy::Restart;
    vm::put(&controller.app, &Caller::controller(), "web", sent, &query()).await.expect("at any time");
    for _ in 0..3 {
        turn(&controller).await;
        world.clock.advance(Duration::from_secs(10));
        fail_over(&controller, &mut failover::Memory::default()).await;
    }
    assert_eq!(fence_of(&world, "host-1").await, None);
    assert_eq!(web(&world).await.status.phase, VmPhase::Unknown);
}

#[tokio::test]
async fn a_fence_needs_a_reason_and_a_way() {
    let (world, controller) = cluster_of_three().await;
    let request = FenceRequest { why: "  ".to_owned() };
    let refused = fence::fence(&controller.app, &Caller::controller(), "host-1", request, &query()).await;
    assert_eq!(refused.expect_err("refused").fields[0].field, "why");
    let alone = World::new().await;
    let lonely = alone.controller().await;
    *alone.power.absent.lock().expect("unpoisoned") = true;
    let refused = by_hand(&lonely, "host-1").await.expect_err("no members are known");
    assert_eq!(refused.code(), "not-fenceable");
    assert_eq!(by_hand(&controller, "nobody").await.expect_err("no such host").code(), "not-found");
    assert_eq!(fence_of(&world, "host-1").await, None);
}
