//! Subnets, ports, security groups and address sets: references, users, and what hosts are told.

use gantry_api::rest::WriteQuery;
use gantry_controller::{
    Caller,
    app::{managed, network, vm},
};
use gantry_types::{
    AddressSet, HostNetworks, HostPeer, Network, NetworkSubnet, PeerAddresses, Port, Problem, Resource, Router,
    SecurityGroup, Vm,
};
use serde_json::{Value, json};

use crate::world::{Controller, World, name};

pub fn object<T: Resource>(text: &str, spec: Value) -> T {
    serde_json::from_value(json!({"kind": T::KIND, "metadata": {"name": text}, "spec": spec})).expect("an object")
}

pub async fn create<T: managed::Managed>(controller: &Controller, text: &str, spec: Value) -> Result<T, Problem> {
    let write = WriteQuery::default();
    let made = managed::create(&controller.app, &Caller::controller(), object::<T>(text, spec), &write).await?;
    Ok(made.object)
}

pub async fn put<T: managed::Managed>(controller: &Controller, text: &str, spec: Value) -> Result<T, Problem> {
    let (caller, write) = (Caller::controller(), WriteQuery::default());
    Ok(managed::put(&controller.app, &caller, text, object::<T>(text, spec), &write).await?.object)
}

pub async fn delete<T: managed::Managed>(controller: &Controller, text: &str) -> Result<(), Problem> {
    let write = WriteQuery::default();
    managed::delete::<T>(&controller.app, &Caller::controller(), text, &write).await.map(drop)
}

pub fn fields(problem: &Problem) -> Vec<&str> {
    problem.fields.iter().map(|field| field.field.as_str()).collect()
}

async fn start(controller: &Controller, text: &str, nics: Value) -> Vm {
    let spec = json!({"cpus": 1, "memory": "256MiB", "image": "tiny", "nics": nics});
    let sent = object::<Vm>(text, spec);
    let made = vm::create(&controller.app, &Caller::controller(), sent, &WriteQuery::default()).await.expect("made");
    controller.execute(&made.operation.expect("an operation").metadata.name).await;
    Vm::clone(&controller.app.model.get::<Vm>(text).expect("a VM"))
}

fn told(world: &World, vm: &Vm) -> HostNetworks {
    world.hosts.networks_on(vm.status.host.as_ref().expect("a host"))
}

#[tokio::test]
async fn what_is_wrong_is_refused_by_field_and_what_is_used_is_not_deleted() {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    let wrong = json!({"rules": [
        {"group": "none"}, {"address_set": "none"}, {"protocol": "icmp", "ports": 80}, {"cidr": "10.0.0.1/8"},
    ]});
    let problem = create::<SecurityGroup>(&controller, "web", wrong).await.expect_err("wrong");
    assert_eq!(fields(&problem), ["spec.rules[2].ports", "spec.rules[3].cidr"]);
    let unknown = json!({"rules": [{"group": "none"}, {"address_set": "none"}, {"group": "web"}]});
    let problem = create::<SecurityGroup>(&controller, "web", unknown).await.expect_err("unknown");
    assert_eq!(
        (problem.code(), fields(&problem)),
        ("invalid-security-group", vec!["spec.rules[0].group", "spec.rules[1].address_set"])
    );
    create::<AddressSet>(&controller, "office", json!({"addresses": ["192.0.2.0/24"]})).await.expect("made");
    create::<SecurityGroup>(&controller, "web", json!({"rules": [{"address_set": "office"}]})).await.expect("made");
    let problem = delete::<AddressSet>(&controller, "office").await.expect_err("used");
    assert_eq!(problem.code(), "address-set-in-use");
    assert!(problem.detail.contains("security-group 'web'"), "{problem}");

    let problem = create::<NetworkSubnet>(&controller, "two", json!({"network": "default", "cidr": "10.9.0.128/25"}))
        .await
        .expect_err("overlaps");
    assert!(problem.fields[0].message.contains("overlaps 10.9.0.0/24"), "{problem:?}");
    let spec = json!({"network": "default", "cidr": "fd00:9::/64", "gateway": "fd00:9::1"});
    create::<NetworkSubnet>(&controller, "six", spec).await.expect("made");
    let problem = put::<NetworkSubnet>(&controller, "six", json!({"network": "default", "cidr": "fd00:8::/64"}));
    assert_eq!(fields(&problem.await.expect_err("fixed")), ["spec.cidr"]);

    let spec = json!({"network": "default", "addresses": ["10.9.0.50"], "security_groups": ["web"]});
    let port: Port = create(&controller, "db", spec.clone()).await.expect("made");
    assert_eq!(port.status.addresses, ["10.9.0.50", "fd00:9::2"].map(|text| text.parse::<std::net::IpAddr>().unwrap()));
    assert_eq!(create::<Port>(&controller, "db2", spec).await.expect_err("taken").code(), "no-address");
    for problem in [
        delete::<SecurityGroup>(&controller, "web").await.expect_err("used"),
        delete::<NetworkSubnet>(&controller, "six").await.expect_err("used"),
        network::delete(&controller.app, &Caller::controller(), "default", &WriteQuery::default())
            .await
            .expect_err("used"),
    ] {
        assert!(problem.detail.contains("port 'db'"), "{problem}");
    }
    delete::<Port>(&controller, "db").await.expect("free");
    let network = controller.app.model.get::<Network>("default").expect("a network");
    assert!(network.status.leases.is_empty());
    delete::<SecurityGroup>(&controller, "web").await.expect("free");
    delete::<AddressSet>(&controller, "office").await.expect("free");
}

#[tokio::test]
async fn a_port_made_beforehand_outlives_its_vms_and_one_made_with_a_vm_goes_with_it() {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    create::<Port>(&controller, "front", json!({"network": "default", "addresses": ["10.9.0.80"]}))
        .await
        .expect("made");
    let nics = json!([{"network": "default", "port": "front"}, {"network": "default"}]);
    let web = start(&controller, "web", nics.clone()).await;
    assert_eq!(web.status.nics[0].address.to_string(), "10.9.0.80");
    let second = controller.app.model.get::<Port>("web-eth1").expect("made with the VM");
    assert_eq!((second.metadata.uuid, second.status.goes_with_vm), (web.status.nics[1].port, true));
    // It is taken.
    let sent = object::<Vm>("other", json!({"cpus": 1, "memory": "256MiB", "image": "tiny", "nics": nics}));
    let problem = vm::create(&controller.app, &Caller::controller(), sent, &WriteQuery::default()).await;
    assert_eq!(fields(&problem.expect_err("taken")), ["spec.nics[0].port"]);
    assert!(delete::<Port>(&controller, "front").await.expect_err("used").detail.contains("VM 'web'"));
    let write = WriteQuery::default();
    let gone = vm::delete(&controller.app, &Caller::controller(), "web", false, &write).await.expect("fine");
    controller.execute(&gone.operation.expect("an operation").metadata.name).await;
    assert!(controller.app.model.get::<Port>("web-eth1").is_none());
    let network = controller.app.model.get::<Network>("default").expect("a network");
    let left: Vec<_> = network.status.leases.values().map(|lease| lease.described()).collect();
    assert_eq!(left, ["port 'front'"]);
    let next = start(&controller, "next", json!([{"network": "default", "port": "front"}])).await;
    assert_eq!(next.status.nics[0].mac, web.status.nics[0].mac);
}

#[tokio::test]
async fn hosts_are_told_the_groups_of_their_ports_and_the_addresses_that_these_name() {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    create::<SecurityGroup>(&controller, "app", json!({})).await.expect("made");
    let rules = json!({"rules": [{"protocol": "tcp", "ports": "5432", "group": "app"}]});
    create::<SecurityGroup>(&controller, "db", rules).await.expect("made");
    let db = start(&controller, "db", json!([{"network": "default", "security_groups": ["db"]}])).await;
    let members = |networks: &HostNetworks| {
        let group = networks.groups.iter().find(|group| group.name == name("db")).expect("the group");
        match &group.rules[0].peer {
            HostPeer::Set(set) => match &set.addresses {
                PeerAddresses::InNetworks(members) => members.clone(),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    };
    assert!(members(&told(&world, &db)).is_empty());
    let app = start(&controller, "app", json!([{"network": "default", "security_groups": ["app"]}])).await;
    controller.app.distribute_now(db.status.host.as_ref().expect("a host")).await.expect("told");
    let vni = controller.app.model.get::<Network>("default").expect("a network").status.vni;
    assert_eq!(members(&told(&world, &db)), [(vni, app.status.nics[0].address)]);
    let own: Vec<_> = told(&world, &app).groups.iter().map(|group| group.name.to_string()).collect();
    let together = app.status.host == db.status.host;
    assert_eq!(own.contains(&"db".to_owned()), together, "a host has the groups of its own ports only");
    // A port that changes its groups changes what its host is told.
    put::<Port>(&controller, "app-eth0", json!({"network": "default"})).await.expect("changed");
    controller.app.distribute_now(db.status.host.as_ref().expect("a host")).await.expect("told");
    assert!(members(&told(&world, &db)).is_empty());
}

async fn network(controller: &Controller, text: &str, spec: Value) -> Result<Network, Problem> {
    let (caller, write) = (Caller::controller(), WriteQuery::default());
    Ok(network::create(&controller.app, &caller, object::<Network>(text, spec), &write).await?.object)
}

#[tokio::test]
async fn nothing_leads_out_of_an_isolated_network_and_an_interface_has_one_bridged_one() {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    let vault = json!({"type": "isolated", "subnet": {"cidr": "10.30.0.0/24"}});
    network(&controller, "vault", vault).await.expect("made");
    let office = json!({"type": "bridged", "interface": "eth1", "subnet": {"cidr": "192.0.2.0/24"}});
    network(&controller, "office", office.clone()).await.expect("made");
    let problem = network(&controller, "other", office).await.expect_err("taken");
    assert_eq!(problem.code(), "interface-in-use");
    assert!(problem.detail.contains("network 'office' has it") && problem.remedy.is_some(), "{problem}");

    let routed = json!({"subnet": {"cidr": "10.31.0.0/24", "gateway": "10.31.0.1"}});
    network(&controller, "web", routed).await.expect("made");
    let wrong = json!({"networks": ["web", "office"], "external": "vault"});
    let problem = create::<Router>(&controller, "out", wrong).await.expect_err("they are no routed networks");
    assert_eq!(fields(&problem), ["spec.networks[1]", "spec.external"]);
    let problem = create::<Router>(&controller, "out", json!({"networks": ["vault"]})).await.expect_err("isolated");
    assert_eq!(fields(&problem), ["spec.networks[0]"]);
    let by_the_lan = json!({"networks": ["web"], "external": "office"});
    create::<Router>(&controller, "out", by_the_lan).await.expect("out by the LAN");
    let way_out = json!({"network": "vault", "cidr": "10.32.0.0/24", "gateway": "10.32.0.1"});
    let problem = create::<NetworkSubnet>(&controller, "more", way_out).await.expect_err("no gateway there");
    assert_eq!(fields(&problem), ["spec.gateway"]);
    let opened = object::<Network>("vault", json!({"subnet": {"cidr": "10.30.0.0/24"}}));
    let (caller, write) = (Caller::controller(), WriteQuery::default());
    let problem = network::put(&controller.app, &caller, "vault", opened, &write).await.expect_err("fixed");
    assert_eq!(fields(&problem), ["spec.type"]);

    let vm = start(&controller, "clerk", json!([{"network": "vault"}, {"network": "office"}])).await;
    let told = told(&world, &vm);
    let found = |name: &str| told.networks.iter().find(|network| network.name == name).expect("it is told");
    assert!(found("vault").isolated && !found("office").isolated);
    assert_eq!((found("vault").interface.as_deref(), found("office").interface.as_deref()), (None, Some("eth1")));
}
