//! Policies: advice is only written down, acting is done by operations, schedules move and wake, and nothing is done
//! without a reason.

use std::time::Duration;

use gantry_api::rest::WriteQuery;
use gantry_controller::{
    Caller,
    app::{cluster, explain, host, host_work, policy, vm},
    loops::policies,
    objects::Change,
};
use gantry_types::{
    Advice, Cluster, ClusterSpec, Event, HostState, Operation, Policy, PolicySpec, Problem, Resource, Vm, VmMetrics,
};
use serde_json::{Value, json};

use crate::world::{Controller, World, name, succeeded};

fn caller() -> Caller {
    Caller::controller()
}
fn now() -> WriteQuery {
    WriteQuery::default()
}
fn code<T: std::fmt::Debug>(result: Result<T, Problem>) -> String {
    result.expect_err("must be refused").code().to_owned()
}
fn policy_of(text: &str, spec: Value) -> Policy {
    let spec: PolicySpec = serde_json::from_value(spec).expect("a spec");
    Policy::new(name(text), spec)
}

/// Two VMs on host-1 that use a processor each.
async fn busy() -> (World, Controller) {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    for vm in ["a", "b"] {
        controller.running(vm).await;
        let to = gantry_api::rest::MigrateRequest { to: Some(name("host-1")), ..Default::default() };
        let moved = vm::migrate(&controller.app, &caller(), vm, &to, &now()).await.expect("accepted");
        if let Some(operation) = moved.operation {
            controller.execute(&operation.metadata.name).await;
        }
    }
    world.heartbeats(&controller).await;
    for vm in controller.app.model.list::<Vm>() {
        let metrics = VmMetrics { cpu_percent: 100.0, ..VmMetrics::default() };
        controller.app.model.overlay_mut(|overlay| overlay.vm_metrics.insert(vm.metadata.uuid, metrics));
    }
    (world, controller)
}

async fn look(controller: &Controller, policy: &str) -> Policy {
    let stored = controller.app.model.get::<Policy>(policy).expect("a policy");
    policies::pass(&controller.app, &stored).await.expect("a store");
    Policy::clone(&controller.app.model.get::<Policy>(policy).expect("a policy"))
}

fn asked_by(controller: &Controller, who: &str) -> Vec<std::sync::Arc<Operation>> {
    let all = controller.app.model.list::<Operation>();
    all.into_iter().filter(|operation| operation.spec.requested_by == who).collect()
}

#[tokio::test]
async fn balance_advises_or_acts_and_then_holds_still() {
    let (world, controller) = busy().await;
    let app = &controller.app;
    let rule = |mode: &str| json!({"balance": {"mode": mode, "comfortable_percent": 20, "hold_down_s": 300}});
    policy::create(app, &caller(), policy_of("balance", rule("advise")), &now()).await.expect("made");
    let found = look(&controller, "balance").await.status;
    // Only b was moved by the set-up, just now: it is left alone.
    let of_b = |advice: &Advice| matches!(advice, Advice::Move { vm, .. } if vm.as_str() == "b");
    assert!(found.recommendations.iter().all(|it| !of_b(&it.advice)), "{found:?}");
    world.clock.advance(std::time::Duration::from_secs(3600));
    let found = look(&controller, "balance").await.status;
    let Some(recommended) = found.recommendations.first() else { panic!("{found:?}") };
    assert!(matches!(&recommended.advice, Advice::Move { from, .. } if from.as_str() == "host-1"), "{recommended:?}");
    assert!(recommended.benefit > recommended.cost, "{recommended:?}");
    assert!(asked_by(&controller, "policy/balance").is_empty(), "it acted on its own advice");

    let mut acting = Policy::clone(&app.model.get::<Policy>("balance").expect("a policy"));
    acting.spec = serde_json::from_value(rule("automatic")).expect("a spec");
    policy::put(app, &caller(), "balance", acting, &now()).await.expect("changed");
    look(&controller, "balance").await;
    let begun = asked_by(&controller, "policy/balance");
    assert_eq!(begun.len(), 1, "never two on one host");
    controller.execute(&begun[0].metadata.name).await;
    succeeded(&world.operation(begun[0].name()).await);
    let told = app.model.list::<Event>();
    assert!(told.iter().any(|event| event.spec.reason == "PolicyActed"), "nobody is told");
    look(&controller, "balance").await;
    assert_eq!(asked_by(&controller, "policy/balance").len(), 1, "it does not hold still");
    world.check().await;
}

#[tokio::test]
async fn a_recommendation_is_carried_out_by_hand() {
    let (world, controller) = busy().await;
    let app = &controller.app;
    world.clock.advance(std::time::Duration::from_secs(3600));
    let rule = json!({"balance": {"mode": "advise", "comfortable_percent": 20}});
    policy::create(app, &caller(), policy_of("balance", rule), &now()).await.expect("made");
    let recommended = look(&controller, "balance").await.status.recommendations.remove(0);
    assert_eq!(code(policies::apply(app, &caller(), "balance", "luck").await), "not-recommended");
    let operation = policies::apply(app, &caller(), "balance", &recommended.id).await.expect("begins");
    controller.execute(&operation.metadata.name).await;
    succeeded(&world.operation(operation.name()).await);
}

#[tokio::test]
async fn power_puts_a_proved_idle_host_to_sleep_but_never_the_spare() {
    let (world, controller) = busy().await;
    let app = &controller.app;
    world.prove_wake(&controller, "host-3").await;
    world.clock.advance(std::time::Duration::from_secs(3600));
    world.heartbeats(&controller).await;
    let rule = |spare: u32| json!({"power": {"mode": "automatic", "spare": spare}});
    policy::create(app, &caller(), policy_of("power", rule(2)), &now()).await.expect("made");
    assert_eq!(look(&controller, "power").await.status.recommendations, [], "both empty hosts are spare");
    let mut lean = Policy::clone(&app.model.get::<Policy>("power").expect("a policy"));
    lean.spec = serde_json::from_value(rule(1)).expect("a spec");
    policy::put(app, &caller(), "power", lean, &now()).await.expect("changed");
    let found = look(&controller, "power").await.status;
    let sleeps = asked_by(&controller, "policy/power");
    assert_eq!(sleeps.len(), 1, "{found:?}");
    assert_eq!(sleeps[0].spec.target.name, name("host-3"), "host-2 is not proved");
    world.drive(&controller, &sleeps[0].metadata.name).await;
    assert_eq!(world.host("host-3").await.status.state, HostState::Sleeping);
    look(&controller, "power").await;
    assert_eq!(asked_by(&controller, "policy/power").len(), 1, "the last spare sleeps too");
}

#[tokio::test]
async fn a_schedule_wakes_its_hosts_and_moves_its_vms_there() {
    let (world, controller) = busy().await;
    let app = &controller.app;
    world.prove_wake(&controller, "host-3").await;
    let mut labelled = world.host("host-3").await;
    labelled.metadata.labels.0.insert("rack".into(), "a".into());
    host::put(app, &caller(), "host-3", labelled, &now()).await.expect("labelled");
    let mut mail = world.vm("a").await.expect("a VM");
    mail.metadata.labels.0.insert("app".into(), "mail".into());
    vm::put(app, &caller(), "a", mail, &now()).await.expect("labelled");
    let sleeps = host_work::sleep(app, &caller(), "host-3", &now()).await.expect("sleeps").operation.expect("one");
    world.drive(&controller, &sleeps.metadata.name).await;
    let rule = json!({"schedule": {"vms": "app=mail", "hosts": "rack=a", "from": "00:00", "until": "00:00"}});
    policy::create(app, &caller(), policy_of("morning", rule), &now()).await.expect("made");
    for _ in 0..2 {
        look(&controller, "morning").await;
        for operation in asked_by(&controller, "policy/morning") {
            if !operation.status.phase.is_finished() {
                world.drive(&controller, &operation.metadata.name).await;
            }
        }
    }
    assert_eq!(world.vm("a").await.expect("a VM").status.host, Some(name("host-3")));
    assert_eq!(world.vm("b").await.expect("a VM").status.host, Some(name("host-1")), "it is not mail");
    assert!(look(&controller, "morning").await.status.finding.contains("every VM is where it belongs"));
}

#[tokio::test]
async fn a_schedule_wakes_its_hosts_ahead_by_as_long_as_that_takes() {
    let (world, controller) = busy().await;
    let app = &controller.app;
    world.prove_wake(&controller, "host-3").await;
    let sleeps = host_work::sleep(app, &caller(), "host-3", &now()).await.expect("sleeps").operation.expect("one");
    world.drive(&controller, &sleeps.metadata.name).await;
    let took = Duration::from_millis(world.host("host-3").await.status.wake_proof.expect("proved").took_ms);
    // The minute in which it begins; by then it shall be awake.
    let minute = |moment: gantry_types::Timestamp| moment.unix_ms() as u64 / 60_000;
    let begins = minute(app.clock.now()) + 2 + took.as_secs().div_ceil(60);
    let from = format!("{:02}:{:02}", begins / 60 % 24, begins % 60);
    let until = format!("{:02}:{:02}", (begins / 60 + 1) % 24, begins % 60);
    let rule = json!({"schedule": {"vms": "app=mail", "hosts": "rack=a", "from": from, "until": until}});
    let mut named = world.host("host-3").await;
    named.metadata.labels.0.insert("rack".into(), "a".into());
    host::put(app, &caller(), "host-3", named, &now()).await.expect("labelled");
    policy::create(app, &caller(), policy_of("later", rule), &now()).await.expect("made");
    let found = look(&controller, "later").await.status;
    assert!(found.recommendations.is_empty() && found.finding.contains("does not hold now"), "{found:?}");
    let ahead = Duration::from_millis(begins * 60_000 - app.clock.now().unix_ms() as u64);
    world.clock.advance(ahead - took);
    let found = look(&controller, "later").await.status;
    assert!(found.finding.contains("does not hold yet"), "{found:?}");
    let wakes = asked_by(&controller, "policy/later");
    assert_eq!(wakes.len(), 1, "{found:?}");
    world.drive(&controller, &wakes[0].metadata.name).await;
    assert_eq!(world.host("host-3").await.status.state, HostState::Ready);
}

#[tokio::test]
async fn hosts_are_woken_ahead_of_demand_that_grows() {
    let (world, controller) = busy().await;
    let app = &controller.app;
    cluster::ensure_main(&app.objects, &*app.clock).await.expect("made");
    world.prove_wake(&controller, "host-3").await;
    let sleeps = host_work::sleep(app, &caller(), "host-3", &now()).await.expect("sleeps").operation.expect("one");
    world.drive(&controller, &sleeps.metadata.name).await;
    // Two processors are awake, one on each host.
    let mut change = Change::new();
    for text in ["host-1", "host-2", "host-3"] {
        let mut host = world.host(text).await;
        host.status.inventory.as_mut().expect("an inventory").cpu.count = 1;
        change.update(&host).expect("writable");
    }
    let revision = app.objects.commit(change).await.expect("a store");
    app.model.wait_for(revision).await;
    let rule = json!({"power": {"mode": "advise", "spare": 0, "interval_s": 60}});
    policy::create(app, &caller(), policy_of("power", rule), &now()).await.expect("made");
    let vms = app.model.list::<Vm>();
    let sample = |percent: f64| {
        app.model.overlay_mut(|overlay| {
            for vm in &vms {
                let metrics = VmMetrics { cpu_percent: percent, ..VmMetrics::default() };
                overlay.vm_metrics.insert(vm.metadata.uuid, metrics);
            }
        });
        app.sample_demands();
        world.clock.advance(Duration::from_secs(5));
    };
    let wakes = |policy: &Policy| {
        let advice = policy.status.recommendations.iter().map(|it| it.advice.clone());
        advice.filter(|advice| matches!(advice, Advice::Wake { host } if host.as_str() == "host-3")).count()
    };
    for _ in 0..40 {
        sample(60.0);
    }
    assert_eq!(wakes(&look(&controller, "power").await), 0, "what stays as it is fits");
    // It grows, and still fits.
    for at in 0..12 {
        sample(60.0 + 3.0 * f64::from(at));
    }
    let found = look(&controller, "power").await;
    assert_eq!(wakes(&found), 1, "{found:?}");
    let reason = &found.status.recommendations[0].reason;
    assert!(reason.contains("will be wanted"), "{reason}");
}

#[tokio::test]
async fn an_explanation_tells_of_every_host() {
    let (world, controller) = busy().await;
    let app = &controller.app;
    world.hosts.cut(&name("host-3"));
    let mut closed = world.host("host-2").await;
    closed.spec.cordoned = true;
    host::put(app, &caller(), "host-2", closed, &now()).await.expect("cordoned");
    let told = explain::vm(app, &caller(), "a").expect("an explanation");
    assert_eq!(told.host, Some(name("host-1")));
    assert_eq!(told.hosts.len(), 3, "{told:?}");
    let verdict = |host: &str| told.hosts.iter().find(|verdict| verdict.host.as_str() == host).expect("told");
    assert!(!verdict("host-2").fits && verdict("host-2").reason.as_deref().is_some_and(|it| it.contains("cordoned")));
    assert!(verdict("host-1").fits && !verdict("host-1").terms.is_empty(), "{told:?}");
    assert_eq!(code(explain::vm(app, &caller(), "none")), "not-found");
}

#[tokio::test]
async fn a_cluster_has_one_policy_of_a_sort_and_goes_last() {
    let world = World::new().await;
    let controller = world.controller().await;
    let app = &controller.app;
    cluster::ensure_main(&app.objects, &*app.clock).await.expect("made");
    assert_eq!(code(cluster::delete(app, &caller(), "main", &now()).await), "cluster-in-use");
    let balance = |text: &str, cluster: &str| policy_of(text, json!({"cluster": cluster, "balance": {}}));
    assert_eq!(code(policy::create(app, &caller(), balance("x", "none"), &now()).await), "invalid-policy");
    let weights = ClusterSpec { weights: [("luck".to_owned(), 1.0)].into(), ..ClusterSpec::default() };
    assert_eq!(
        code(cluster::create(app, &caller(), Cluster::new(name("batch"), weights), &now()).await),
        "invalid-cluster"
    );
    cluster::create(app, &caller(), Cluster::new(name("batch"), ClusterSpec::default()), &now()).await.expect("made");
    policy::create(app, &caller(), balance("x", "batch"), &now()).await.expect("made");
    assert_eq!(code(policy::create(app, &caller(), balance("y", "batch"), &now()).await), "policy-exists");
    let used = cluster::delete(app, &caller(), "batch", &now()).await.expect_err("used");
    assert!(used.detail.contains("policies x"), "{used}");
    policy::delete(app, &caller(), "x", &now()).await.expect("deleted");
    cluster::delete(app, &caller(), "batch", &now()).await.expect("unused");
}
