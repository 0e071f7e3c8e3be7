//! Alarms on what hosts and objects tell of volumes and networks.

use std::time::Duration;

use gantry_api::{
    heartbeat::{Heartbeat, HostTraffic},
    rest::WriteQuery,
};
use gantry_controller::{
    Caller,
    alarms::turn::Pending,
    app::managed,
    loops::{alarm_keeper, intake},
    objects::{Change, Objects},
};
use gantry_types::{Alarm, ByteSize, HostLinks, Name, Port, PortTraffic, Resource};
use serde_json::json;

use crate::{
    networking::create,
    reach::make,
    storage::a_volume,
    world::{Controller, World, name},
};

async fn alarm(controller: &Controller, metric: &str, above: f64) {
    let spec = json!({"condition": {"metric": {"metric": metric, "above": above}}});
    let alarm = json!({"kind": "alarm", "metadata": {"name": metric.replace('_', "-")}, "spec": spec});
    let alarm: Alarm = serde_json::from_value(alarm).expect("an alarm");
    let (caller, write, called) = (Caller::controller(), WriteQuery::default(), alarm.name().to_owned());
    managed::put(&controller.app, &caller, &called, alarm, &write).await.expect("accepted");
}

/// Every host reports, with what `edit` makes of it.
async fn beats(world: &World, controller: &Controller, edit: impl Fn(&Name, &mut Heartbeat)) {
    for (host, mut beat) in world.beats(controller).await {
        edit(&host, &mut beat);
        intake::heartbeat(&controller.app, &host, beat).await.expect("taken in");
    }
}

/// What is told for each object that the alarm on this metric fires for.
async fn fires(world: &World, controller: &Controller, metric: &str) -> Vec<String> {
    let app = &controller.app;
    app.model.wait_for(app.objects.store().revision().await.expect("a store").0).await;
    alarm_keeper::pass(app, &mut Pending::default()).await;
    let alarm: Alarm =
        Objects::new(std::sync::Arc::clone(&world.store)).get(&metric.replace('_', "-")).await.expect("it is there");
    alarm.status.firings.into_iter().map(|firing| firing.message).collect()
}

#[tokio::test]
async fn a_volume_is_told_of_by_what_it_takes_and_by_what_its_guest_does() {
    let (world, controller) = a_volume().await;
    alarm(&controller, "volume_allocated_percent", 90.0).await;
    alarm(&controller, "volume_bytes_per_s", 50e6).await;
    let uuid = world.volume("data").await.expect("a volume").metadata.uuid;
    let does = async |bytes_per_s: u64| {
        beats(&world, &controller, |host, beat| {
            let told = beat.pools.iter_mut().flat_map(|pool| &mut pool.volumes);
            let its = told.filter(|volume| volume.volume == uuid && *host == name("host-1"));
            its.for_each(|volume| volume.io_bytes_per_s = bytes_per_s);
        })
        .await;
    };
    world.hosts.fill_volume(&name("host-1"), uuid, ByteSize::mib(512));
    does(50_000_000).await;
    let both = async || {
        let allocated = fires(&world, &controller, "volume_allocated_percent").await;
        (allocated, fires(&world, &controller, "volume_bytes_per_s").await)
    };
    assert_eq!(both().await, (vec![], vec![]));

    world.hosts.fill_volume(&name("host-1"), uuid, ByteSize::mib(1000));
    does(123_000_000).await;
    let full = "volume 'data' takes 98 % of its size in its pool".to_owned();
    let busy = "volume 'data' reads and writes 123.0 MB a second".to_owned();
    assert_eq!(both().await, (vec![full.clone()], vec![busy.clone()]));
    // Nobody can say any more: what fires goes on.
    world.lose(&controller, "host-1").await;
    assert_eq!(both().await, (vec![full], vec![busy]));
    world.hosts.mend(&name("host-1"));
    world.hosts.fill_volume(&name("host-1"), uuid, ByteSize::mib(10));
    does(0).await;
    assert_eq!(both().await, (vec![], vec![]));
}

#[tokio::test]
async fn a_network_is_told_of_when_its_addresses_are_nearly_all_given() {
    let world = World::new().await;
    let controller = world.controller().await;
    world.heartbeats(&controller).await;
    alarm(&controller, "network_addresses_percent", 60.0).await;
    let small = json!({"subnet": {"cidr": "10.31.0.0/29", "gateway": "10.31.0.1"}});
    make(&controller, "small", small).await.expect("made");
    for port in 1..=5 {
        let told = fires(&world, &controller, "network_addresses_percent").await;
        let expected = (port > 4).then(|| "network 'small' has given 80 % of its addresses: 4 of 5 of IPv4".to_owned());
        assert_eq!(told, Vec::from_iter(expected), "before port {port}");
        create::<Port>(&controller, &format!("port-{port}"), json!({"network": "small"})).await.expect("made");
    }
}

#[tokio::test]
async fn a_network_is_told_of_by_what_its_ports_carry_once_hosts_have_counted_twice() {
    let world = World::new().await;
    let controller = world.controller().await;
    world.heartbeats(&controller).await;
    alarm(&controller, "network_bytes_per_s", 1e6).await;
    create::<Port>(&controller, "first", json!({"network": "default"})).await.expect("made");
    create::<Port>(&controller, "second", json!({"network": "default"})).await.expect("made");
    let ports: Vec<_> = controller.app.model.list::<Port>().iter().map(|port| port.metadata.uuid).collect();
    // One port on each of two hosts.
    let carried = async |bytes: u64| {
        world.clock.advance(Duration::from_secs(2));
        beats(&world, &controller, |host, beat| {
            let traffic = PortTraffic { received_bytes: bytes, sent_bytes: bytes, ..PortTraffic::default() };
            let port = ["host-1", "host-2"].iter().position(|its| host.as_str() == *its);
            let counted = port.map(|port| (ports[port], traffic));
            beat.traffic = Some(HostTraffic { ports: counted.into_iter().collect(), rules: Default::default() });
        })
        .await;
        fires(&world, &controller, "network_bytes_per_s").await
    };
    assert!(carried(1_000_000_000).await.is_empty(), "one figure is no rate");
    assert!(carried(1_000_400_000).await.is_empty());
    assert_eq!(carried(1_002_400_000).await, ["network 'default' carries 4.0 MB a second for its guests"]);
    assert!(carried(1_002_400_000).await.is_empty());
}

#[tokio::test]
async fn a_network_is_told_of_while_a_host_that_reports_has_no_link_for_it() {
    let world = World::new().await;
    let controller = world.controller().await;
    alarm(&controller, "network_unlinked", 0.0).await;
    let office = json!({"type": "bridged", "interface": "lan0", "subnet": {"cidr": "192.0.2.0/24"}});
    make(&controller, "office", office).await.expect("made");
    let unlinked = async |interface: &str| {
        let mut host = world.host("host-2").await;
        let without_link = [interface.to_owned()].into();
        let links = HostLinks { underlay: Some("eth0".to_owned()), without_link, ..HostLinks::default() };
        host.status.inventory.as_mut().expect("an inventory").links = Some(links);
        let mut change = Change::new();
        change.update(&host).expect("a host");
        controller.write(change).await;
        fires(&world, &controller, "network_unlinked").await
    };
    let told = |network, interface| {
        format!("network '{network}' does not reach all hosts: interface '{interface}' of host 'host-2' has no link")
    };
    assert_eq!(unlinked("lan0").await, [told("office", "lan0")]);
    assert_eq!(unlinked("eth0").await, [told("default", "eth0")]);
    assert!(unlinked("other").await.is_empty());
}
