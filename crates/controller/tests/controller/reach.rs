//! What hosts have for networks: which of them a bridged network's VMs may be on, which MTU all can carry; and when hosts
//! learn of groups.

use gantry_api::rest::{MigrateRequest, WriteQuery};
use gantry_controller::{
    Caller,
    app::{explain, network, vm},
    loops::network_distributor,
    objects::Change,
};
use gantry_hostlink::fake::{Fault, When};
use gantry_types::{HostLinks, Network, PortRange, Problem, Router, SecurityGroup, Vm};
use serde_json::{Value, json};

use crate::networking::{create, fields, object, put};
use crate::world::{Controller, World, name};

async fn has(world: &World, controller: &Controller, host: &str, underlay_mtu: u32, interfaces: &[(&str, u32)]) {
    let mut host = world.host(host).await;
    let interfaces = interfaces.iter().map(|(name, mtu)| ((*name).to_owned(), *mtu)).collect();
    let inventory = host.status.inventory.as_mut().expect("an inventory");
    inventory.links = Some(HostLinks { underlay_mtu: Some(underlay_mtu), interfaces, ..HostLinks::default() });
    let mut change = Change::new();
    change.update(&host).expect("a host");
    controller.write(change).await;
}

pub async fn make(controller: &Controller, text: &str, spec: Value) -> Result<Network, Problem> {
    let (caller, write) = (Caller::controller(), WriteQuery::default());
    Ok(network::create(&controller.app, &caller, object(text, spec), &write).await?.object)
}

async fn start(controller: &Controller, text: &str, nic: Value) -> Vm {
    let spec = json!({"cpus": 1, "memory": "256MiB", "image": "tiny", "nics": [nic]});
    let (caller, write) = (Caller::controller(), WriteQuery::default());
    let made = vm::create(&controller.app, &caller, object::<Vm>(text, spec), &write).await.expect("made");
    controller.execute(&made.operation.expect("an operation").metadata.name).await;
    Vm::clone(&controller.app.model.get::<Vm>(text).expect("a VM"))
}

#[tokio::test]
async fn vms_of_a_bridged_network_and_of_those_that_lead_out_by_it_are_where_its_interface_is() {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    let office = json!({"type": "bridged", "interface": "eth1", "mtu": 1500, "subnet": {"cidr": "192.0.2.0/24"}});
    make(&controller, "office", office).await.expect("made");
    let web = json!({"subnet": {"cidr": "10.31.0.0/24", "gateway": "10.31.0.1"}});
    make(&controller, "web", web).await.expect("made");
    has(&world, &controller, "host-1", 1500, &[("eth2", 1500)]).await;
    has(&world, &controller, "host-2", 1500, &[("eth1", 1500)]).await;
    has(&world, &controller, "host-3", 1500, &[("eth1", 1400)]).await;

    let clerk = start(&controller, "clerk", json!({"network": "office"})).await;
    assert_eq!(clerk.status.host, Some(name("host-2")));
    let reasons = |vm: &str| {
        let told = explain::vm(&controller.app, &Caller::controller(), vm).expect("an explanation");
        let reason = move |host: &str| {
            told.hosts.iter().find(|verdict| verdict.host == name(host)).and_then(|verdict| verdict.reason.clone())
        };
        ["host-1", "host-2", "host-3"].map(reason)
    };
    let lacks = "does not reach network 'office': its interface 'eth1' is not there, or is used otherwise";
    let small = "does not reach network 'office': its interface 'eth1' has an MTU of 1400, less than its 1500";
    assert_eq!(reasons("clerk"), [Some(lacks.to_owned()), None, Some(small.to_owned())]);

    // Nothing else is held against a host without it, until the router of its network leads out by it.
    let front = start(&controller, "front", json!({"network": "web"})).await;
    assert!(reasons("front").iter().flatten().all(|reason| !reason.contains("network")), "{:?}", reasons("front"));
    create::<Router>(&controller, "out", json!({"networks": ["web"], "external": "office"})).await.expect("made");
    let [lacks, _, _] = reasons("front");
    let lacks = lacks.expect("it has no eth1");
    assert!(lacks.starts_with("does not reach network 'web'") && lacks.contains("out by network 'office'"), "{lacks}");
    // Somebody plugs it in.
    has(&world, &controller, "host-1", 1500, &[("eth1", 9000)]).await;
    assert!(!reasons("front")[0].as_ref().is_some_and(|reason| reason.contains("network")), "{front:?}");
}

#[tokio::test]
async fn a_host_without_a_link_takes_no_vms_of_networks_between_hosts_while_another_has_one() {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    let link = async |host: &str, up: bool| {
        let mut host = world.host(host).await;
        let without_link = if up { [].into() } else { ["eth0".to_owned()].into() };
        let links = HostLinks { underlay: Some("eth0".to_owned()), without_link, ..HostLinks::default() };
        host.status.inventory.as_mut().expect("an inventory").links = Some(links);
        let mut change = Change::new();
        change.update(&host).expect("a host");
        controller.write(change).await;
    };
    for host in ["host-1", "host-2", "host-3"] {
        link(host, false).await;
    }
    // No host is better than another.
    assert_eq!(start(&controller, "first", json!({"network": "default"})).await.status.host, Some(name("host-1")));
    link("host-3", true).await;
    assert_eq!(start(&controller, "second", json!({"network": "default"})).await.status.host, Some(name("host-3")));
    let told = explain::vm(&controller.app, &Caller::controller(), "second").expect("an explanation");
    let reason = told.hosts.iter().find(|verdict| verdict.host == name("host-2")).and_then(|it| it.reason.clone());
    let lacks = "does not reach network 'default': its underlay interface 'eth0' has no link";
    assert_eq!(reason.as_deref(), Some(lacks));
}

#[tokio::test]
async fn an_mtu_that_a_host_can_not_carry_is_refused_with_the_largest_that_all_can() {
    let world = World::new().await;
    let controller = world.controller().await;
    let of = |mtu: u32| json!({"mtu": mtu, "subnet": {"cidr": "10.31.0.0/24"}});
    // Hosts that have not told are believed.
    make(&controller, "before", json!({"mtu": 8950, "subnet": {"cidr": "10.30.0.0/24"}})).await.expect("made");
    has(&world, &controller, "host-1", 9000, &[]).await;
    has(&world, &controller, "host-2", 1500, &[]).await;
    let problem = make(&controller, "web", of(1451)).await.expect_err("too large");
    assert_eq!((problem.code(), fields(&problem)), ("underlay-mtu-too-small", vec!["spec.mtu"]));
    for part in ["network 'web'", "host 'host-2'", "at most 1450"] {
        assert!(problem.detail.contains(part), "{part}: {problem}");
    }
    assert!(problem.remedy.as_deref().is_some_and(|remedy| remedy.contains("1450 or less")), "{problem:?}");
    make(&controller, "web", of(1450)).await.expect("all can");
    let (caller, write) = (Caller::controller(), WriteQuery::default());
    let apply = async |mtu| network::put(&controller.app, &caller, "web", object("web", of(mtu)), &write).await;
    assert_eq!(apply(1500).await.expect_err("too large").code(), "underlay-mtu-too-small");
    assert_eq!(apply(1400).await.expect("smaller").object.spec.mtu, 1400);
    // A LAN is no overlay.
    let office = json!({"type": "bridged", "interface": "eth1", "mtu": 1500, "subnet": {"cidr": "192.0.2.0/24"}});
    make(&controller, "office", office).await.expect("made");
}

#[tokio::test]
async fn the_destination_has_the_groups_of_a_vm_before_its_memory_is_sent() {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    create::<SecurityGroup>(&controller, "db", json!({"rules": [{"protocol": "tcp", "ports": "5432"}]}))
        .await
        .expect("made");
    let vm = start(&controller, "db", json!({"network": "default", "security_groups": ["db"]})).await;
    world.heartbeats(&controller).await;
    let there = ["host-1", "host-2"].map(name).into_iter().find(|host| vm.status.host.as_ref() != Some(host));
    let there = there.expect("two hosts");
    let knows = || {
        let told = world.hosts.networks_on(&there);
        let ports: Vec<_> = told.networks.iter().flat_map(|network| &network.local).collect();
        let port = ports.iter().find(|port| port.id == vm.status.nics[0].port);
        port.is_some_and(|port| told.groups.iter().any(|group| port.groups == [group.uuid] && group.rules.len() == 1))
    };
    assert!(!knows());
    // The source is told to send, and does not hear it.
    let away = Problem::transient("away", "nobody answers");
    world.hosts.inject(Fault { times: usize::MAX, ..Fault::once("send_migration", When::Before, away) });
    let request = MigrateRequest { to: Some(there.clone()), ..MigrateRequest::default() };
    let (caller, write) = (Caller::controller(), WriteQuery::default());
    let moving = vm::migrate(&controller.app, &caller, "db", &request, &write).await.expect("accepted");
    let moving = moving.operation.expect("an operation").metadata.name;
    let asked = async {
        while !world.hosts.calls().iter().any(|call| call.name == "send_migration") {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = asked => {}
        () = controller.execute(&moving) => panic!("it ended"),
    }
    assert!(knows(), "{:?}", world.hosts.networks_on(&there));
    world.hosts.clear_faults();
}

#[tokio::test]
async fn a_host_that_was_away_learns_what_became_of_a_group() {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    let rules = |port: u16| json!({"rules": [{"protocol": "tcp", "ports": port}]});
    create::<SecurityGroup>(&controller, "web", rules(80)).await.expect("made");
    let nic = json!({"network": "default", "security_groups": ["web"]});
    let mut hosts = Vec::new();
    for (text, host) in [("here", "host-1"), ("away", "host-2")] {
        let spec = json!({"cpus": 1, "memory": "256MiB", "image": "tiny", "nics": [nic], "host": host});
        let (caller, write) = (Caller::controller(), WriteQuery::default());
        let made = vm::create(&controller.app, &caller, object::<Vm>(text, spec), &write).await.expect("made");
        controller.execute(&made.operation.expect("an operation").metadata.name).await;
        hosts.push(name(host));
    }
    let ports = || {
        let told = |host| world.hosts.networks_on(host).groups.first().and_then(|group| group.rules.first()?.ports);
        [told(&hosts[0]), told(&hosts[1])].map(|ports: Option<PortRange>| ports.expect("it has the group").first)
    };
    assert_eq!(ports(), [80, 80]);
    world.hosts.cut(&hosts[1]);
    for port in [81, 82] {
        put::<SecurityGroup>(&controller, "web", rules(port)).await.expect("changed");
        network_distributor::pass(&controller.app, None).await;
        assert_eq!(ports(), [port, 80]);
    }
    world.hosts.mend(&hosts[1]);
    network_distributor::pass(&controller.app, None).await;
    assert_eq!(ports(), [82, 82]);
}
