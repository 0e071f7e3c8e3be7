//! Load balancers: references, what hosts are told, health that decides who gets connections, and the trace through one.

use gantry_api::{
    heartbeat::MemberHealth,
    rest::{TraceQuery, TraceVerdict},
};
use gantry_controller::{
    Caller,
    app::{managed, port},
    loops::{intake::heartbeat, load_balancers, router_addresses},
};
use gantry_types::{FloatingIp, HostBalancer, LoadBalancer, Network, Protocol, Router, SecurityGroup, Vm};
use serde_json::{Value, json};

use crate::{
    networking::{create, delete, fields, object, put},
    world::{Controller, World, name},
};

const WEB: &str = r#"{"network": "web", "listeners": [{"port": 80, "target_port": 8080}], "members": "tier=web"}"#;

async fn start(controller: &Controller, text: &str, labels: Value, nics: Value) -> Vm {
    let spec = json!({"cpus": 1, "memory": "256MiB", "image": "tiny", "nics": nics});
    let mut vm: Vm = object(text, spec);
    vm.metadata.labels = serde_json::from_value(labels).expect("labels");
    let (caller, write) = (Caller::controller(), Default::default());
    let made = gantry_controller::app::vm::create(&controller.app, &caller, vm, &write).await.expect("made");
    controller.execute(&made.operation.expect("an operation").metadata.name).await;
    Vm::clone(&controller.app.model.get::<Vm>(text).expect("a VM"))
}

/// Every host reports; the members of `sick` do not serve, all others do.
async fn report(world: &World, controller: &Controller, sick: &[&str]) {
    let balancers = controller.app.model.list::<LoadBalancer>();
    for (host, mut beat) in world.beats(controller).await {
        for balancer in &balancers {
            for member in balancer.status.members.iter().filter(|member| member.host.as_ref() == Some(&host)) {
                let problem = sick.contains(&member.vm.as_str()).then(|| "port 8080 refuses connections".to_owned());
                let (balancer, port) = (balancer.metadata.uuid, member.port);
                beat.members.push(MemberHealth { balancer, port, problem });
            }
        }
        heartbeat(&controller.app, &host, beat).await.expect("taken in");
    }
    settle(controller).await;
}

async fn settle(controller: &Controller) {
    load_balancers::pass(&controller.app).await;
    router_addresses::pass(&controller.app).await;
    for host in crate::world::HOSTS {
        controller.app.distribute_now(&name(host)).await.expect("told");
    }
}

fn told(world: &World, host: &str) -> HostBalancer {
    let mut told = world.hosts.networks_on(&name(host)).balancers;
    assert_eq!(told.len(), 1, "{host}");
    told.remove(0)
}

fn healthy(balancer: &HostBalancer) -> usize {
    balancer.members.iter().filter(|member| member.healthy).count()
}

async fn site() -> (World, Controller) {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    let spec = json!({"subnet": {"cidr": "10.20.0.0/24", "gateway": "10.20.0.1"}});
    let network: Network = object("web", spec);
    let (caller, write) = (Caller::controller(), Default::default());
    gantry_controller::app::network::create(&controller.app, &caller, network, &write).await.expect("made");
    (world, controller)
}

#[tokio::test]
async fn what_is_wrong_is_refused_by_field_and_what_is_used_is_not_deleted() {
    let (_world, controller) = site().await;
    let spec = || serde_json::from_str::<Value>(WEB).expect("a spec");
    // Nothing balances in a network without a router.
    let problem = create::<LoadBalancer>(&controller, "shop", spec()).await.expect_err("no router");
    assert_eq!(fields(&problem), ["spec.network"]);
    assert!(problem.fields[0].message.contains("gantry router create"), "{problem:?}");
    create::<Router>(&controller, "main", json!({"networks": ["web"], "external": "default"})).await.expect("made");
    for (change, field) in [
        (json!({"network": "none"}), "spec.network"),
        (json!({"address": "10.21.0.1"}), "spec.address"),
        (json!({"members": ""}), "spec.members"),
        (json!({"listeners": [{"port": 0}]}), "spec.listeners[0].port"),
    ] {
        let mut wrong = spec();
        wrong.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        let problem = create::<LoadBalancer>(&controller, "shop", wrong).await.expect_err("wrong");
        assert_eq!(fields(&problem), [field]);
    }
    let mut with_address = spec();
    with_address["address"] = json!("10.20.0.100");
    let made = create::<LoadBalancer>(&controller, "shop", with_address.clone()).await.expect("made");
    assert_eq!(made.status.address.map(|address| address.to_string()).as_deref(), Some("10.20.0.100"));
    // Its address is taken, and stays.
    let problem = create::<LoadBalancer>(&controller, "other", with_address).await.expect_err("taken");
    assert!(problem.detail.contains("load-balancer 'shop'"), "{problem}");
    let problem = put::<LoadBalancer>(&controller, "shop", spec()).await.expect_err("fixed");
    assert_eq!(fields(&problem), ["spec.address"]);

    create::<FloatingIp>(&controller, "front", json!({"network": "default", "load_balancer": "shop"}))
        .await
        .expect("made");
    let both = json!({"network": "default", "load_balancer": "shop", "vm": "x"});
    assert_eq!(fields(&create::<FloatingIp>(&controller, "two", both).await.expect_err("two")), ["spec.port"]);
    assert!(
        delete::<LoadBalancer>(&controller, "shop").await.expect_err("used").detail.contains("floating-ip 'front'")
    );
    assert!(delete::<Router>(&controller, "main").await.expect_err("used").detail.contains("load-balancer 'shop'"));
    let without = json!({"networks": [], "external": "default"});
    assert_eq!(fields(&put::<Router>(&controller, "main", without).await.expect_err("used")), ["spec.networks"]);
    delete::<FloatingIp>(&controller, "front").await.expect("free");
    delete::<LoadBalancer>(&controller, "shop").await.expect("free");
    let network = controller.app.model.get::<Network>("web").expect("a network");
    assert!(network.status.leases.is_empty());
}

#[tokio::test]
async fn hosts_are_told_who_is_healthy_and_the_trace_says_where_connections_go() {
    let (world, controller) = site().await;
    create::<Router>(&controller, "main", json!({"networks": ["web"], "external": "default"})).await.expect("made");
    create::<SecurityGroup>(&controller, "open", json!({"rules": [{"protocol": "tcp", "ports": 8080}]}))
        .await
        .expect("made");
    create::<LoadBalancer>(&controller, "shop", serde_json::from_str(WEB).expect("a spec")).await.expect("made");
    let nics = json!([{"network": "web", "security_groups": ["open"]}]);
    let one = start(&controller, "one", json!({"tier": "web"}), nics.clone()).await;
    let two = start(&controller, "two", json!({"tier": "web"}), nics.clone()).await;
    let client = start(&controller, "client", json!({}), json!([{"network": "web"}])).await;
    settle(&controller).await;
    let host = client.status.host.clone().expect("a host");
    let balancer = told(&world, host.as_str());
    assert_eq!((balancer.members.len(), healthy(&balancer)), (2, 0), "nobody has been checked yet");

    let trace = |port: u16| {
        let to = controller.app.model.get::<LoadBalancer>("shop").expect("made").status.address.expect("an address");
        let query = TraceQuery { to, port: Some(port), protocol: Protocol::Tcp };
        port::trace(&controller.app, &Caller::controller(), "client", &query).expect("traced")
    };
    assert_eq!(trace(80).verdict, TraceVerdict::Unreachable);
    report(&world, &controller, &["two"]).await;
    let balancer = told(&world, host.as_str());
    assert_eq!(healthy(&balancer), 1);
    let chosen = balancer.members.iter().find(|member| member.healthy).expect("one");
    assert_eq!(chosen.port, one.status.nics[0].port);
    let found = trace(80);
    let text: Vec<_> = found.steps.iter().map(|step| step.what.as_str()).collect();
    assert_eq!(found.verdict, TraceVerdict::Allowed, "{text:?}");
    assert!(
        text.iter().any(|step| step.contains("port 8080 of one of VM 'one' (1 of 2 members are healthy)")),
        "{text:?}"
    );
    assert!(text.iter().any(|step| step.contains("allowed by security-group 'open'")), "{text:?}");
    assert_eq!(trace(81).verdict, TraceVerdict::Unreachable);

    // The one that serves no more is told of, and stays what it was while no host says otherwise.
    report(&world, &controller, &["one", "two"]).await;
    assert_eq!(healthy(&told(&world, host.as_str())), 0);
    let events = controller.app.model.list::<gantry_types::Event>();
    let told_of = events.iter().any(|event| {
        event.spec.reason == "MemberUnhealthy"
            && event.spec.message.contains("VM 'one'")
            && event.spec.message.contains("refuses")
    });
    assert!(told_of);
    let shown = controller.app.model.get::<LoadBalancer>("shop").expect("made");
    let reason = shown.status.members.iter().find(|member| member.vm == name("one")).and_then(|m| m.reason.clone());
    assert_eq!(reason.as_deref(), Some("port 8080 refuses connections"));
    report(&world, &controller, &[]).await;
    world.heartbeats(&controller).await;
    settle(&controller).await;
    assert_eq!(healthy(&told(&world, host.as_str())), 2);

    // From outside: one host has the address, and it stays that one.
    create::<FloatingIp>(&controller, "front", json!({"network": "default", "load_balancer": "shop"}))
        .await
        .expect("made");
    settle(&controller).await;
    settle(&controller).await;
    let floating = controller.app.model.get::<FloatingIp>("front").expect("made");
    let translates = floating.status.host.clone().expect("a host");
    assert!([&one, &two].iter().any(|vm| vm.status.host.as_ref() == Some(&translates)));
    assert_eq!(told(&world, translates.as_str()).floating, [floating.status.address.expect("an address")]);
    let routers = world.hosts.networks_on(&host).routers;
    let external = routers[0].external.as_ref().expect("a way out");
    assert_eq!(external.balancing_hosts.len(), 1, "the others know which host asks for it");
}

#[tokio::test]
async fn a_host_keeps_its_address_outside_until_it_says_that_nothing_comes_to_it_any_more() {
    let (world, controller) = site().await;
    let router = create::<Router>(&controller, "main", json!({"networks": ["web"], "external": "default"})).await;
    let router = router.expect("made");
    let vm = start(&controller, "one", json!({}), json!([{"network": "web"}])).await;
    settle(&controller).await;
    let held = || {
        let network = controller.app.model.get::<Network>("default").expect("a network");
        network.status.leases.values().filter(|lease| lease.holder.as_deref() == Some("router/main")).count()
    };
    assert_eq!(held(), 1);
    let (caller, write) = (Caller::controller(), Default::default());
    let gone = gantry_controller::app::vm::delete(&controller.app, &caller, "one", false, &write).await;
    controller.execute(&gone.expect("fine").operation.expect("an operation").metadata.name).await;
    world.heartbeats(&controller).await;
    settle(&controller).await;
    let host = vm.status.host.expect("a host");
    assert_eq!((held(), world.hosts.networks_on(&host).routers.len()), (1, 1), "nobody has said that it is idle");
    for (of, mut beat) in world.beats(&controller).await {
        beat.idle_routers = if of == host { vec![router.metadata.uuid] } else { Vec::new() };
        heartbeat(&controller.app, &of, beat).await.expect("taken in");
    }
    settle(&controller).await;
    assert_eq!((held(), world.hosts.networks_on(&host).routers.len()), (0, 0));
    managed::delete::<Router>(&controller.app, &caller, "main", &write).await.expect("free");
}
